// The camera on the page: frames as they come, and the last one kept as a picture like any other.

import { Live } from "./camera.js";
import { showCode } from "./code.js";
import { $ } from "./dom.js";
import { showLegend } from "./legend.js";
import { fromRuns } from "./mask.js";
import { tellProbe } from "./probe.js";
import { refresh, showMask } from "./show.js";
import { fail, note, rest, setStage } from "./stage.js";
import { showTiming } from "./timing.js";

export function toggleCamera(s) {
  if (s.live) {
    s.live.stop();
    return;
  }
  s.work?.abort();
  s.work = null;
  s.hidden = new Set();
  $("sure").value = 0;
  $("sure-value").value = "any";
  const picture = { file: null, origin: "camera", status: "done", mask: null, asking: null };
  let last = null;
  s.live = new Live([["format", "rle"], ["model", $("model").value]], {
    onFrame: (frame) => {
      last = frame;
      showFrame(s, picture, frame);
    },
    onMiss: (problem) => note(`A frame was left out: ${problem.message}`),
    onEnd: (problem) => {
      s.live = null;
      showCamera(s);
      if (last) keep(s, picture, last);
      if (problem) fail(s, problem);
      else if (!last) setStage(s, rest(s), "The camera is off");
    },
  });
  s.picture = s.wanted = picture;
  document.body.classList.remove("two");
  $("second").hidden = true;
  s.secondMask = null;
  showCamera(s);
  showCode(s);
  setStage(s, "live", "The camera is starting");
  $("caption").textContent = "The camera is starting …";
  s.live.start();
}

function showFrame(s, picture, { canvas, document: runs, answer, rate, delay }) {
  const first = !picture.mask;
  picture.mask = fromRuns(runs);
  if (first) {
    showMask(s, canvas, "");
    setStage(s, "live", "The camera is on");
  } else {
    note("");
    s.view.show(canvas, picture.mask);
    showLegend(s, () => refresh(s));
    if (s.view.probe) tellProbe(s, s.view.probe, "pointer");
  }
  showTiming(answer.timing, delay, "from frame to mask");
  $("caption").textContent = `Camera · ${picture.mask.width} × ${picture.mask.height} · ${rate.toFixed(1)} frames/s · ${answer.model}`;
}

// Ends the camera without keeping a frame: another picture takes its place.
export function stopCamera(s) {
  if (!s.live) return;
  s.live.onEnd = () => {};
  s.live.stop();
  s.live = null;
  showCamera(s);
}

export function showCamera({ live }) {
  $("camera-word").textContent = live ? "Stop the camera" : "Use the camera";
  $("sure").disabled = Boolean(live); // a stream brings the classes alone
}

function keep(s, picture, { blob }) {
  picture.file = new File([blob], "camera.jpg", { type: "image/jpeg" });
  setStage(s, "result", "The camera is off; its last frame is kept");
  $("caption").textContent = $("caption").textContent.replace("Camera", "camera.jpg");
  showCode(s);
}
