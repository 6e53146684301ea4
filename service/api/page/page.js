// Sends an image to /segment, draws the mask over it. The run-length form is asked for, so that classes can be told apart here.

const $ = (id) => document.getElementById(id);
const STAGES = ["decode", "queue", "infer", "labels", "encode"];
const UNLABELLED = 255;

let models = [];
let file = null;
let mask = null; // { height, width, labels: Uint8Array }
let hidden = new Set();
let latest = 0; // only the newest request may draw

async function call(path, options = {}) {
  const headers = $("key").value ? { "X-API-Key": $("key").value } : {};
  const reply = await fetch(path, { ...options, headers });
  if (reply.ok) return reply;
  if (reply.status === 401) $("key-row").hidden = false;
  const problem = await reply.json().catch(() => ({}));
  throw new Error(problem.detail ?? `the service answered ${reply.status}`);
}

async function loadModels() {
  const { default: standard, models: served } = await (await call("models")).json();
  models = served;
  $("model").replaceChildren(...served.map(({ name }) => new Option(name, name, name === standard, name === standard)));
  $("problem").hidden = true;
  showCurl();
}

async function segment() {
  if (!file) return;
  const turn = ++latest;
  $("problem").hidden = true;
  $("state").textContent = `Segmenting ${file.name} …`;
  try {
    const body = new FormData();
    body.append("image", file);
    const begun = performance.now();
    const query = new URLSearchParams({ format: "rle", model: $("model").value });
    const reply = await call(`segment?${query}`, { method: "POST", body });
    const document = await reply.json();
    const spent = performance.now() - begun;
    const picture = await createImageBitmap(file).catch(() => null); // no browser shows TIFF
    if (turn !== latest) return;
    hidden = new Set();
    mask = decode(document);
    drawImage(picture);
    drawMask();
    showLegend(document.classes);
    showTiming(reply.headers.get("Server-Timing") ?? "", spent);
    $("size").textContent = `${mask.width} × ${mask.height}`;
    $("state").textContent = `${file.name}, by ${reply.headers.get("X-Model")}`;
    $("drop").classList.add("small");
    $("view").hidden = false;
  } catch (error) {
    if (turn !== latest) return;
    $("state").textContent = "";
    forget();
    $("problem").textContent = `${file.name}: ${error.message}`;
    $("problem").hidden = false;
  }
}

// An old mask beside a new file's name would be taken for its own.
function forget() {
  mask = null;
  $("view").hidden = true;
  $("drop").classList.remove("small");
}

function decode({ size: [height, width], labels: values, lengths }) {
  const labels = new Uint8Array(height * width);
  let at = 0;
  values.forEach((value, run) => labels.fill(value, at, (at += lengths[run])));
  return { height, width, labels };
}

function drawImage(picture) {
  const canvas = $("image");
  [canvas.width, canvas.height] = [mask.width, mask.height];
  $("view").style.setProperty("--ratio", mask.width / mask.height);
  if (picture) canvas.getContext("2d").drawImage(picture, 0, 0, mask.width, mask.height);
}

function drawMask() {
  const colors = new Uint32Array(256); // 0xAABBGGRR; what has no class stays clear
  for (const { id, color: [red, green, blue] } of classes()) {
    if (!hidden.has(id)) colors[id] = (0xff000000 | (blue << 16) | (green << 8) | red) >>> 0;
  }
  const canvas = $("mask");
  [canvas.width, canvas.height] = [mask.width, mask.height];
  const pixels = new Uint32Array(mask.labels.length);
  mask.labels.forEach((label, at) => { pixels[at] = colors[label]; });
  const data = new ImageData(new Uint8ClampedArray(pixels.buffer), mask.width, mask.height);
  canvas.getContext("2d").putImageData(data, 0, 0);
}

const classes = () => models.find(({ name }) => name === $("model").value)?.classes ?? [];

function showLegend(present) {
  const rows = [...present].sort((a, b) => b.share - a.share).map(({ id, name, share }) => {
    const swatch = document.createElement("i");
    swatch.style.background = `rgb(${(classes().find((entry) => entry.id === id)?.color ?? [128, 128, 128]).join(" ")})`;
    const button = Object.assign(document.createElement("button"), { type: "button" });
    button.append(swatch, name, Object.assign(document.createElement("b"), { textContent: `${(share * 100).toFixed(1)} %` }));
    button.setAttribute("aria-pressed", "true");
    button.addEventListener("click", () => {
      if (!hidden.delete(id)) hidden.add(id);
      button.setAttribute("aria-pressed", String(!hidden.has(id)));
      drawMask();
    });
    const row = document.createElement("li");
    row.append(button);
    return row;
  });
  $("legend").replaceChildren(...rows);
}

function showTiming(header, spent) {
  const ms = Object.fromEntries([...header.matchAll(/(\w+);dur=([\d.]+)/g)].map(([, stage, time]) => [stage, Number(time)]));
  const known = STAGES.filter((stage) => stage in ms);
  $("total").textContent = `${spent.toFixed(0)} ms there and back`;
  $("bar").replaceChildren(...known.map((stage) => {
    const part = document.createElement("span");
    part.style.flexGrow = ms[stage];
    part.style.background = `var(--${stage})`;
    return part;
  }));
  $("timing").replaceChildren(...known.flatMap((stage) => {
    const term = Object.assign(document.createElement("dt"), { textContent: stage });
    term.style.setProperty("--stage", `var(--${stage})`);
    return [term, Object.assign(document.createElement("dd"), { textContent: `${ms[stage].toFixed(1)} ms` })];
  }));
}

function showCurl() {
  const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const address = new URL(`segment?${new URLSearchParams({ format: "overlay", model: $("model").value })}`, location.href);
  const key = $("key").value ? ' -H "X-API-Key: $KEY"' : "";
  $("curl").textContent = `curl${key} -F image=@${quote(file?.name ?? "street.jpg")} ${quote(address.href)} -o overlay.png`;
}

function choose(chosen) {
  if (!chosen) return;
  file = chosen;
  showCurl();
  segment();
}

function fail(error) {
  $("problem").textContent = error.message;
  $("problem").hidden = false;
}

$("file").addEventListener("change", (event) => { choose(event.target.files[0]); event.target.value = ""; });
$("model").addEventListener("change", () => { showCurl(); segment(); });
$("key").addEventListener("change", () => loadModels().then(segment, fail));
$("opacity").addEventListener("input", ({ target }) => {
  $("mask").style.opacity = target.value / 100;
  $("opacity-value").textContent = `${target.value} %`;
});
$("copy").addEventListener("click", async () => {
  if (!navigator.clipboard) { // only https and localhost have one
    getSelection().selectAllChildren($("curl"));
    return;
  }
  await navigator.clipboard.writeText($("curl").textContent);
  $("copy").textContent = "Copied";
  setTimeout(() => { $("copy").textContent = "Copy"; }, 1500);
});
$("view").addEventListener("pointermove", (event) => {
  if (!mask) return;
  const box = $("mask").getBoundingClientRect();
  const x = Math.floor(((event.clientX - box.left) / box.width) * mask.width);
  const y = Math.floor(((event.clientY - box.top) / box.height) * mask.height);
  const label = x >= 0 && y >= 0 && x < mask.width && y < mask.height ? mask.labels[y * mask.width + x] : UNLABELLED;
  $("hover").textContent = classes().find(({ id }) => id === label)?.name ?? "";
});
$("view").addEventListener("pointerleave", () => { $("hover").textContent = ""; });
addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dragging"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("dragging"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  choose(event.dataTransfer.files[0]);
});
addEventListener("paste", (event) => choose(event.clipboardData.files[0]));

$("mask").style.opacity = $("opacity").value / 100;
loadModels().catch(fail);
