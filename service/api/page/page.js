// The page: an image goes to the service, and what comes back is shown, asked, filtered and taken away.

import { Live, whyNoCamera } from "./camera.js";
import { dropUncertain, fromRuns, readGrayPng, UNLABELLED } from "./mask.js";
import { address, get, key, Problem, queryText, segment, setKey } from "./service.js";
import { View } from "./view.js";

const $ = (id) => document.getElementById(id);
const STAGES = ["decode", "queue", "infer", "labels", "encode"];
const FAINT = 0.12; // what is left of the other classes while one is pointed at
const FORMATS = { // what is known of them here; which ones there are, the service says
  png: ["png", "Indexed PNG: the pixel value is the class id, the palette its colour."],
  rle: ["json", "JSON: run lengths, row by row, with the shares of the classes."],
  coco: ["json", "JSON: one compressed COCO run-length encoding a class, for pycocotools."],
  "coco-uncompressed": ["json", "JSON: COCO run lengths a class, as plain counts."],
  labelstudio: ["json", "JSON: a prediction of brush masks for Label Studio."],
  cvat: ["json", "JSON: mask shapes for CVAT."],
  polygons: ["json", "JSON: rings with holes for each class."],
  autoware: ["bin", "Five bytes a run, row by row, as Autoware packs them."],
  overlay: ["png", "PNG: the colours laid half over the image."],
  color: ["png", "PNG: the colours alone."],
  gray: ["png", "8-bit PNG: the pixel value is the class id."],
  npy: ["npy", "The label map for numpy.load: height × width, uint8."],
  confidence: ["png", "8-bit PNG: the winner's probability times 255."],
};

let models = [];
let file = null;
let origin = "file"; // file | clipboard | sample | camera
let mask = null; // see mask.js
let hidden = new Set(); // ids of the classes that are switched off
let pointed = null; // the id of the class that the legend is pointed at
let work = null; // AbortController of the newest request: only that one may draw
let asking = null; // the promise of this image's confidence
let live = null;

const view = new View($("frame"), $("image"), $("mask"), { onProbe: tellProbe });
view.moved = () => {
  $("zoom").value = `${view.zoom < 10 ? Number(view.zoom.toFixed(1)) : Math.round(view.zoom)}×`;
  $("out").disabled = $("fit").disabled = view.zoom <= 1;
  placeProbe();
};

const model = () => models.find(({ name }) => name === $("model").value);
const classes = () => model()?.classes ?? [];
const percent = (share) => `${(share * 100).toFixed(share && share < 0.1 ? 1 : 0)} %`;
const made = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};
const rgb = ([red, green, blue]) => `rgb(${red} ${green} ${blue})`;

function setState(state, said) {
  document.body.dataset.state = state;
  if (state !== "busy") document.body.classList.toggle("had", ["result", "live"].includes(state)); // keeps its place for the next
  $("busy").hidden = state !== "busy";
  $("problem").hidden = state !== "problem";
  $("view").hidden = !["result", "live"].includes(state) && !(state === "busy" && mask);
  if (said !== undefined) $("state").textContent = said;
  if (!$("view").hidden) view.draw();
}

// --- the service -------------------------------------------------------------------------------------------------------

async function meetService() {
  try {
    const [{ default: standard, models: served }, openapi] = await Promise.all([get("models"), get("openapi.json")]);
    models = served;
    $("model").replaceChildren(...served.map(({ name }) => new Option(name, name, name === standard, name === standard)));
    $("model").disabled = false;
    $("key-form").hidden = true;
    showQuery(openapi.paths["/segment"].post.parameters.filter((parameter) => parameter.in === "query"));
    showCard();
    showCurl();
    if (document.body.dataset.state === "problem") setState("empty");
    return true;
  } catch (problem) {
    fail(problem);
    return false;
  }
}

function fail(problem, about = "") {
  mask = null;
  stopCamera();
  if (problem.status === 401) {
    $("key-form").hidden = false;
    $("key").focus();
    if (!key()) { // nobody did anything wrong yet
      setState("empty", "");
      return;
    }
  }
  $("problem-title").textContent = [about, problem.title || "That did not work"].filter(Boolean).join(": ");
  $("problem-detail").textContent = `${problem.message[0]?.toUpperCase() ?? ""}${problem.message.slice(1)}`;
  $("problem-id").textContent = problem.requestId ? `Request ${problem.requestId}` : "";
  $("again").hidden = !problem.passing;
  $("again").textContent = problem.retryAfter ? `Try again (in ${problem.retryAfter} s or later)` : "Try again";
  setState("problem", "");
}

// --- an image ----------------------------------------------------------------------------------------------------------

function choose(files, from) {
  const [first] = files;
  if (!first) return;
  stopCamera();
  file = first;
  origin = from;
  hidden = new Set();
  mask = null;
  segmentIt(files.length > 1 ? `The first of ${files.length} files is shown. ` : "");
}

async function segmentIt(note = "") {
  if (!file) return;
  work?.abort();
  const mine = work = new AbortController();
  showBusy(0);
  setState("busy", `Sending ${file.name}`);
  try {
    const query = [["format", "rle"], ["model", $("model").value]];
    const [answer, source] = await Promise.all([
      segment(file, query, { signal: mine.signal, onProgress: showBusy }),
      createImageBitmap(file, { imageOrientation: "from-image" }).catch(() => null),
    ]);
    const runs = JSON.parse(await answer.blob.text());
    if (work !== mine) return;
    showMask(fromRuns(runs), source, note);
    showTiming(answer.timing, answer.spent);
    $("caption").textContent = `${file.name} · ${mask.width} × ${mask.height} · ${answer.model}`;
    setState("result", `${file.name} is segmented. ${spokenShares()}`);
  } catch (problem) {
    if (work !== mine) return;
    if (problem.name === "AbortError") setState("empty", "Cancelled");
    else fail(problem, file.name);
  }
}

function showBusy(done) {
  const sending = done < 1;
  if (sending && done) $("progress").value = done;
  else $("progress").removeAttribute("value");
  $("busy-word").textContent = sending ? `Sending ${file.name} ${done ? percent(done) : "…"}` : `Segmenting ${file.name} …`;
}

function showMask(fresh, source, note) {
  asking = null;
  mask = fresh;
  if (source && (source.width !== mask.width || source.height !== mask.height)) {
    // A mask on a picture that is turned or scaled otherwise would lie.
    note += `This browser reads the file as ${source.width} × ${source.height}, the service as ${mask.width} × ${mask.height}: `
      + "the mask is shown alone.";
    source = null;
  } else if (!source) {
    note += "This browser cannot show this kind of file: the mask is shown alone.";
  }
  $("note").textContent = note;
  $("note").hidden = !note;
  $("frame").classList.toggle("bare", !source);
  $("frame").style.setProperty("--opacity", source ? $("opacity").value / 100 : 1);
  clearProbe();
  view.show(source, mask);
  if (Number($("sure").value)) filter();
  else refresh();
}

// What is switched on, in the colours of the model.
function refresh() {
  if (!mask) return;
  const strong = (id) => (pointed === null || pointed === id ? 1 : FAINT);
  view.paint(classes().filter(({ id }) => !hidden.has(id)).map(({ id, color }) => [id, color, strong(id)]));
  showLegend();
  showCurl();
}

// --- legend ------------------------------------------------------------------------------------------------------------

function shares() {
  const { found, pixels, shown } = mask;
  const rows = classes().filter(({ id }) => found[id]).map((row) => ({ ...row, share: pixels[row.id] / shown.length }));
  return { rows: rows.sort((a, b) => found[b.id] - found[a.id] || a.id - b.id), unlabelled: pixels[UNLABELLED] / shown.length };
}

function spokenShares() {
  return shares().rows.map(({ name, share }) => `${name} ${percent(share)}`).join(", ");
}

function showLegend() {
  const { rows, unlabelled } = shares();
  const list = $("legend");
  const had = new Map([...list.children].map((row) => [row.dataset.id, row]));
  const wanted = rows.map((row) => fillRow(had.get(String(row.id)) ?? newRow(row), row));
  if (unlabelled) wanted.push(made("li", { className: "plain" }, made("i"), made("span", { textContent: "unlabelled" }), made("b", { textContent: percent(unlabelled) })));
  const focused = document.activeElement;
  if (wanted.length !== list.children.length || wanted.some((row, at) => row !== list.children[at])) list.replaceChildren(...wanted);
  if (list.contains(focused)) focused.focus(); // a row that moved must not drop it
}

function newRow({ id, name, color }) {
  const swatch = made("i");
  swatch.style.background = rgb(color);
  const button = made("button", { type: "button" }, swatch, made("span", { textContent: name }), made("b"), made("em"));
  button.lastChild.style.background = rgb(color);
  button.addEventListener("click", () => {
    if (!hidden.delete(id)) hidden.add(id);
    refresh();
  });
  const point = (to) => () => {
    pointed = hidden.has(id) ? null : to;
    refresh();
  };
  button.addEventListener("pointerenter", ({ pointerType }) => { if (pointerType === "mouse") point(id)(); });
  button.addEventListener("pointerleave", point(null));
  const row = made("li", {}, button);
  row.dataset.id = id;
  return row;
}

function fillRow(row, { id, share }) {
  const [button] = row.children;
  button.setAttribute("aria-pressed", String(!hidden.has(id)));
  button.querySelector("b").textContent = percent(share);
  button.querySelector("em").style.width = `${share * 100}%`;
  return row;
}

// --- one pixel ---------------------------------------------------------------------------------------------------------

function tellProbe(at, by) {
  if (!at || !mask) {
    clearProbe();
    return;
  }
  askConfidence();
  const id = view.id(at);
  const name = classes().find((row) => row.id === id)?.name ?? "unlabelled";
  const sure = mask.confidence ? ` ${percent(mask.confidence[at.y * mask.width + at.x] / 255)}` : "";
  const [swatch, label, place] = $("probe").children;
  const color = classes().find((row) => row.id === id)?.color;
  swatch.style.background = color ? rgb(color) : "transparent";
  label.textContent = `${name}${sure}`;
  place.textContent = `${at.x}, ${at.y}`;
  $("probe").hidden = $("cross").hidden = false;
  placeProbe();
  if (by === "keys") $("spoken").textContent = `${name}${sure}, x ${at.x}, y ${at.y}`;
}

function placeProbe() {
  if (!view.probe || $("probe").hidden) return;
  const [across, along] = view.place(view.probe);
  for (const element of [$("cross"), $("probe")]) {
    element.style.left = `${across}%`;
    element.style.top = `${along}%`;
  }
  $("probe").classList.toggle("lower", along < 18);
  $("probe").classList.toggle("leftward", across > 60);
}

function clearProbe() {
  view.probe = null;
  $("probe").hidden = $("cross").hidden = true;
}

// The confidence of every pixel, once somebody asks for one: most look at the mask alone.
function askConfidence() {
  if (live || asking || !file || !mask) return asking;
  const asked = mask;
  asking = (async () => {
    const { blob } = await segment(file, [["format", "confidence"], ["model", $("model").value]]);
    const { pixels, height, width } = await readGrayPng(blob);
    if (asked !== mask || height !== mask.height || width !== mask.width) return;
    mask.confidence = pixels;
    if (view.probe) tellProbe(view.probe, document.activeElement === $("frame") ? "keys" : "pointer");
  })().catch((problem) => {
    $("note").textContent = `No confidence: ${problem.message}`;
    $("note").hidden = false;
  });
  return asking;
}

async function filter() {
  const minimum = Number($("sure").value) / 100;
  $("sure-value").value = minimum ? percent(minimum) : "any";
  if (!mask) return;
  if (minimum && !mask.confidence) await askConfidence();
  dropUncertain(mask, Number($("sure").value) / 100); // it may have moved on meanwhile
  refresh();
}

// --- time --------------------------------------------------------------------------------------------------------------

function showTiming(ms, spent, words = "there and back") {
  const known = STAGES.filter((stage) => stage in ms);
  const rest = Math.max(spent - known.reduce((sum, stage) => sum + ms[stage], 0), 0);
  const rows = [...known.map((stage) => [stage, ms[stage]]), ["way", rest]];
  $("total").textContent = `${spent.toFixed(0)} ms ${words}`;
  $("bar").replaceChildren(...rows.map(([stage, time]) => {
    const part = made("span");
    part.style.flexGrow = time;
    part.style.background = `var(--${stage})`;
    return part;
  }));
  $("timing").replaceChildren(...rows.flatMap(([stage, time]) => {
    const term = made("dt", { textContent: stage === "way" ? "upload, download" : stage });
    term.style.setProperty("--dot", `var(--${stage})`);
    return [term, made("dd", { textContent: `${time.toFixed(1)} ms` })];
  }));
}

// --- take it with you --------------------------------------------------------------------------------------------------

const choices = (schema = {}) => schema.enum ?? schema.anyOf?.flatMap(choices) ?? [];
const isSwitch = (schema = {}) => schema.type === "boolean" || (schema.anyOf ?? []).some(isSwitch);

// The formats, and every other choice that the service offers with them, as its OpenAPI document lists them.
function showQuery(parameters) {
  const formats = choices(parameters.find(({ name }) => name === "format").schema);
  const before = $("format").value || "overlay";
  $("format").replaceChildren(...formats.map((name) => new Option(name, name, false, name === before)));
  const others = parameters.filter(({ name, schema }) => !["format", "model", "classes", "min_confidence"].includes(name)
    && (choices(schema).length || isSwitch(schema)));
  $("options").replaceChildren(...others.map(({ name, schema, description = "" }) => {
    const control = isSwitch(schema)
      ? made("input", { type: "checkbox" })
      : made("select", {}, new Option("as the model", ""), ...choices(schema).map((value) => new Option(value, value)));
    control.dataset.query = name;
    control.addEventListener("change", showCurl);
    const label = made("label", { title: description.replaceAll("`", "") }, control, made("span", { textContent: name.replaceAll("_", " ") }));
    label.dataset.only = description.match(/^(`[^:]+|JSON formats):/)?.[1] ?? "";
    return label;
  }));
}

// What belongs to other formats than the chosen one is out of the way, and out of the query.
function showOptions() {
  const format = $("format").value;
  for (const label of $("options").children) {
    const { only } = label.dataset;
    label.hidden = only === "JSON formats" ? FORMATS[format]?.[0] !== "json" : Boolean(only) && !only.includes(`\`${format}\``);
  }
}

// The query for what is on the screen, in the format that was chosen.
function wanted() {
  const query = [["format", $("format").value], ["model", $("model").value]];
  const kept = classes().filter(({ id }) => !hidden.has(id));
  if (kept.length < classes().length) {
    const byName = kept.every(({ name }) => !name.includes(","));
    query.push(["classes", kept.map(({ name, id }) => (byName ? name : id)).join(",")]);
  }
  if (Number($("sure").value)) query.push(["min_confidence", String(Number($("sure").value) / 100)]);
  for (const control of $("options").querySelectorAll("label:not([hidden]) [data-query]")) {
    const value = control.type === "checkbox" ? (control.checked ? "true" : "") : control.value;
    query.push([control.dataset.query, value]);
  }
  return query;
}

const fileName = () => file?.name ?? (origin === "camera" ? "camera.jpg" : "street.jpg");

function outName() {
  const stem = fileName().replace(/\.[^.]*$/, "");
  const format = $("format").value;
  return `${stem}.${format}.${FORMATS[format]?.[0] ?? "out"}`;
}

function showCurl() {
  const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  showOptions();
  const empty = classes().length > 0 && classes().every(({ id }) => hidden.has(id));
  $("download").disabled = empty || !file;
  $("format-note").textContent = empty ? "Every class is switched off: there is nothing to take." : FORMATS[$("format").value]?.[1] ?? "";
  const head = key() ? ' -H "X-API-Key: $KEY"' : "";
  const to = `${quote(address(`segment?${queryText(wanted())}`))} -o ${quote(outName())}`;
  $("curl").textContent = origin === "sample"
    ? `curl -s ${quote(address(`page/${file.name}`))} | curl${head} -F image=@- ${to}`
    : `curl${head} -F image=@${quote(fileName())} ${to}`;
  $("copy").disabled = empty;
}

async function download() {
  $("take-problem").hidden = true;
  $("download").disabled = true;
  $("state").textContent = "Preparing the download";
  try {
    const { blob } = await segment(file, wanted());
    const link = made("a", { href: URL.createObjectURL(blob), download: outName() });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    $("state").textContent = `${link.download} is ready`;
  } catch (problem) {
    $("take-problem").textContent = problem.message;
    $("take-problem").hidden = false;
  }
  $("download").disabled = false;
}

async function copy() {
  const button = $("copy");
  if (navigator.clipboard) {
    await navigator.clipboard.writeText($("curl").textContent).catch(() => getSelection().selectAllChildren($("curl")));
    button.textContent = "Copied";
    $("state").textContent = "The curl command is in the clipboard";
  } else { // only https and localhost have one
    getSelection().selectAllChildren($("curl"));
    button.textContent = "Selected";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}

// --- the model ---------------------------------------------------------------------------------------------------------

const SCORES = { mean_iou: "mean IoU", pixel_accuracy: "pixel accuracy", mean_accuracy: "mean accuracy", frequency_weighted_iou: "frequency-weighted IoU" };

function showCard() {
  const chosen = model();
  const splits = Object.entries(chosen.scores ?? {}).filter(([, scores]) => typeof scores === "object" && scores);
  const [[split, first] = []] = splits;
  $("card-name").textContent = chosen.name;
  $("card-score").textContent = first?.mean_iou ? `mean IoU ${percent(first.mean_iou)} · ${split}` : `version ${chosen.version}`;
  $("card-about").textContent = chosen.description ?? "";
  const facts = {
    version: chosen.version,
    architecture: chosen.architecture,
    classes: chosen.classes.length,
    "working size": (chosen.input?.working_size ?? []).slice().reverse().join(" × "),
    stride: chosen.stride,
    "receptive field": chosen.receptive_field && `${chosen.receptive_field} px`,
    provider: chosen.provider,
    "trained on": chosen.training?.data,
    licence: chosen.training?.licence,
    sha256: chosen.sha256?.slice(0, 16),
  };
  $("card-facts").replaceChildren(...Object.entries(facts).filter(([, value]) => value).flatMap(([name, value]) =>
    [made("dt", { textContent: name }), made("dd", { textContent: value })]));
  $("card-scores").replaceChildren(...splits.map(([name, scores]) => scoreTable(name, scores)));
  $("card-notes").textContent = chosen.training?.notes ?? "";
}

function scoreTable(split, scores) {
  const row = (name, value, color) => {
    const meter = made("em");
    meter.style.width = `${value * 100}%`;
    if (color) meter.style.background = rgb(color);
    return made("tr", {}, made("th", { scope: "row", textContent: name }), made("td", {}, meter), made("td", { textContent: percent(value) }));
  };
  const rows = Object.entries(SCORES).filter(([name]) => typeof scores[name] === "number").map(([name, title]) => row(title, scores[name]));
  const colors = Object.fromEntries(classes().map(({ name, color }) => [name, color]));
  rows.push(...Object.entries(scores.iou ?? {}).map(([name, value]) => row(name, value, colors[name])));
  const frames = scores.frames ? `, ${scores.frames} frames` : "";
  return made("table", {}, made("caption", { textContent: `${split}${frames}` }), made("tbody", {}, ...rows));
}

// --- the camera --------------------------------------------------------------------------------------------------------

function toggleCamera() {
  if (live) {
    live.stop();
    return;
  }
  work?.abort();
  work = null;
  mask = null;
  hidden = new Set();
  $("sure").value = 0;
  $("sure-value").value = "any";
  let last = null;
  live = new Live([["format", "rle"], ["model", $("model").value]], {
    onFrame: (frame) => {
      last = frame;
      showFrame(frame);
    },
    onMiss: (problem) => {
      $("note").textContent = `A frame was left out: ${problem.message}`;
      $("note").hidden = false;
    },
    onEnd: (problem) => {
      live = null;
      showCamera();
      if (problem) fail(problem);
      else if (last) keep(last);
      else setState("empty", "The camera is off");
    },
  });
  showCamera();
  origin = "camera";
  file = null;
  showCurl();
  setState("live", "The camera is starting");
  $("caption").textContent = "The camera is starting …";
  $("view").hidden = true;
  live.start();
}

function showFrame({ canvas, document: runs, answer, rate, delay }) {
  const first = !mask;
  mask = fromRuns(runs);
  if (first) {
    showMask(mask, canvas, "");
    setState("live", "The camera is on");
  } else {
    $("note").hidden = true;
    view.show(canvas, mask);
    showLegend();
    if (view.probe) tellProbe(view.probe, "pointer");
  }
  showTiming(answer.timing, delay, "from frame to mask");
  $("caption").textContent = `Camera · ${mask.width} × ${mask.height} · ${rate.toFixed(1)} frames/s · ${answer.model}`;
}

function stopCamera() {
  if (!live) return;
  live.onEnd = () => {};
  live.stop();
  live = null;
  showCamera();
}

function showCamera() {
  $("camera-word").textContent = live ? "Stop the camera" : "Use the camera";
  $("sure").disabled = Boolean(live); // a stream brings the classes alone
}

// The last frame stays, as an image like any other.
function keep({ blob }) {
  file = new File([blob], "camera.jpg", { type: "image/jpeg" });
  setState("result", "The camera is off; its last frame is kept");
  $("caption").textContent = $("caption").textContent.replace("Camera", "camera.jpg");
  asking = null;
  showCurl();
}

// --- what people do ----------------------------------------------------------------------------------------------------

$("file").addEventListener("change", ({ target }) => {
  choose([...target.files], "file");
  target.value = "";
});
for (const button of document.querySelectorAll("[data-sample]")) {
  button.addEventListener("click", async () => {
    const name = button.dataset.sample;
    const reply = await fetch(`page/${name}`).catch(() => null);
    if (reply?.ok) choose([new File([await reply.blob()], name, { type: "image/jpeg" })], "sample");
    else fail(new Problem("It may have ended, or the connection was cut.", { title: "The service does not answer" }));
  });
}
$("model").addEventListener("change", () => {
  hidden = new Set();
  showCard();
  showCurl();
  if (live) {
    stopCamera();
    toggleCamera();
  } else segmentIt();
});
$("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  setKey($("key").value);
  if (await meetService()) segmentIt();
});
$("again").addEventListener("click", async () => {
  if (!models.length && !(await meetService())) return;
  segmentIt();
});
$("cancel").addEventListener("click", () => work?.abort());
$("camera").addEventListener("click", toggleCamera);
$("opacity").addEventListener("input", ({ target }) => {
  $("frame").style.setProperty("--opacity", target.value / 100);
  $("opacity-value").value = `${target.value} %`;
});
$("sure").addEventListener("input", filter);
$("all").addEventListener("click", () => { hidden = new Set(); refresh(); });
$("none").addEventListener("click", () => { hidden = new Set(classes().map(({ id }) => id)); refresh(); });
$("in").addEventListener("click", () => view.zoomBy(2));
$("out").addEventListener("click", () => view.zoomBy(0.5));
$("fit").addEventListener("click", () => view.fit());
$("format").addEventListener("change", showCurl);
$("download").addEventListener("click", download);
$("copy").addEventListener("click", copy);
$("frame").addEventListener("blur", clearProbe);

const bringsFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.toggle("dragging", bringsFiles(event));
});
addEventListener("dragleave", ({ relatedTarget }) => { if (!relatedTarget) document.body.classList.remove("dragging"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  if (event.dataTransfer.files.length) choose([...event.dataTransfer.files], "file");
  else fail(new Problem("Drop an image file: what was dropped is a link or a text, and this service fetches nothing.", { title: "Not a file" }));
});
addEventListener("paste", ({ clipboardData, target }) => {
  if (clipboardData.files.length) choose([...clipboardData.files], "clipboard");
  else if (!target.matches?.("input")) fail(new Problem("Copy an image, and paste it again: there is none in the clipboard.", { title: "No image to paste" }));
});
addEventListener("keydown", ({ key: pressed }) => {
  if (pressed === "Escape" && document.body.dataset.state === "busy") work?.abort();
});
addEventListener("pagehide", () => stopCamera());

const reason = whyNoCamera();
$("camera").disabled = Boolean(reason);
$("camera-note").hidden = !reason;
$("camera-note").textContent = reason;
$("camera").setAttribute("aria-describedby", "camera-note");
$("frame").style.setProperty("--opacity", $("opacity").value / 100);
$("opacity-value").value = `${$("opacity").value} %`;
$("sure").value = 0;
// On a phone the image stays in sight above the legend, and lets go of the screen when that has passed behind it.
new IntersectionObserver(
  ([{ isIntersecting, boundingClientRect }]) => document.body.classList.toggle("past", !isIntersecting && boundingClientRect.top < 0),
  { rootMargin: "-45% 0px 0px" },
).observe($("legend"));
meetService();
