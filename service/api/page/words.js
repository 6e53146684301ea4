// Errors of the service in words for people: what happened, and what to do. The service's own sentence stands below.

const READS = "Choose a photo: JPEG, PNG, WebP, TIFF, BMP or GIF.";

const WORDS = {
  unsupported_image: ["This file is not an image that can be read", READS],
  corrupt_image: ["This image is damaged", "Open it in a viewer and save it again, or choose another one."],
  image_too_large: ["This image has too many pixels", "Scale it down and try again."],
  body_too_large: ["This file is too large", "Save it with more compression, or scale it down."],
  empty_body: ["This file is empty", "Choose another one."],
  overloaded: ["The service is busy", "Wait a moment and try again."],
  deadline_exceeded: ["It took too long", "The service is busy, or the image is large. Try again, or scale it down."],
  not_ready: ["The service is starting or stopping", "Wait a moment and try again."],
  inference_failed: ["The network failed on this image", "Try another image. If it happens again, tell the operator the request's name."],
  unknown_model: ["This model is gone", "Reload the page to see the models that there are now."],
  unauthorized: ["The key does not open this service", "Check the key, or ask the operator for one."],
  unsupported_format: ["These choices do not go together", "Choose another format, or switch an option off."],
  bad_parameter: ["One of the choices makes no sense", "Change it and try again."],
  unknown_class: ["The model does not know this class", "Switch other classes on."],
};

// Gives [title, advice]; the service's own title where the code is not known.
export function wordsFor(problem) {
  return WORDS[problem.code] ?? [problem.title || "That did not work", ""];
}
