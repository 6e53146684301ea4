// The pictures that were chosen, one after another to the service; the strip of their thumbnails; the one that is shown.

import { showCard } from "./card.js";
import { stopCamera } from "./live.js";
import { $, made, percent } from "./dom.js";
import { spokenShares } from "./legend.js";
import { fromRuns } from "./mask.js";
import { isScan, modelFor, readLabels, showScan, takesScans } from "./scan.js";
import { askSecond, offerSecond } from "./second.js";
import { Problem, segment } from "./service.js";
import { refresh, showMask } from "./show.js";
import { fail, rest, setStage } from "./stage.js";
import { showTiming } from "./timing.js";

const VIDEO = /\.(mp4|m4v|mov|mkv|webm|avi|mts|m2ts|ts|3gp|flv|asf|wmv|h264|hevc|mcap|bag|db3)$/i;
const IMAGE = /\.(jpe?g|png|webp|tiff?|bmp|gif|avif|hei[cf]|p[gpn]m|dng|nii(\.gz)?|dcm)$/i;
const UNSURE = 0.2; // share of uncertain pixels from which on the page says so

// A picture: { file, origin, status: waiting | done | failed, answer, problem, mask, unsure, asking, askingThings, row }.
const picture = (file, origin) => ({ file, origin, status: "waiting", answer: null, problem: null, mask: null, unsure: null, asking: null, askingThings: null });

// origin: file | clipboard | sample | camera.
export function choose(s, files, origin) {
  const chosen = files.length > 1 ? files.filter(({ name, type }) => !name.startsWith(".") && (type.startsWith("image/") || IMAGE.test(name) || isVideo({ name, type }))) : files;
  if (!chosen.length) {
    if (files.length) fail(s, new Problem("None of these files is an image.", { title: "No image among them" }));
    return;
  }
  stopCamera(s);
  const video = chosen.find(isVideo);
  const fresh = chosen.filter((file) => !isVideo(file)).map((file) => picture(file, origin));
  if (video) failVideo(s, video);
  if (!fresh.length) return;
  s.pictures.push(...fresh);
  s.hidden = new Set();
  showStrip(s);
  segmentAll(s, fresh[0]);
}

const isVideo = ({ name, type }) => type.startsWith("video/") || VIDEO.test(name);

function failVideo(s, { name }) {
  const problem = new Problem("The page takes single images. A film goes through the command line, with the same network and the same classes.", {
    title: "That is a video or a recording",
  });
  fail(s, problem, name, `fcn-serve segment '${name.replaceAll("'", "'\\''")}'`);
}

// Segments a picture, shows it, and goes on with all that wait.
export async function segmentAll(s, first) {
  s.work?.abort();
  const mine = s.work = new AbortController();
  s.wanted = first;
  for (let next = first; next && !mine.signal.aborted; next = s.pictures.find(({ status }) => status === "waiting")) {
    await segmentOne(s, next, mine);
  }
  if (s.work !== mine) return;
  s.work = null;
  $("busy").hidden = true;
  if (document.body.dataset.state === "busy") setStage(s, rest(s));
}

async function segmentOne(s, one, mine) {
  const showing = s.wanted === one;
  showBusy(s, one, 0);
  if (showing) setStage(s, "busy", `Sending ${one.file.name}`);
  try {
    const query = [["format", isScan(one.file) ? "nifti" : "rle"], ["model", modelFor(s, one.file)], ["statistics", isScan(one.file) ? "" : "true"]];
    const answer = await segment(one.file, query, { signal: mine.signal, onProgress: (done) => showBusy(s, one, done) });
    Object.assign(one, { answer, status: "done", problem: null });
  } catch (problem) {
    if (problem.name === "AbortError") {
      if (s.work === mine) cancelled(s, one);
      return;
    }
    Object.assign(one, { status: "failed", problem });
    if (s.pictures.length === 1) s.pictures = [];
  }
  showStrip(s);
  if (s.wanted === one) await show(s, one);
}

// What waits is dropped; what is shown stays.
function cancelled(s, one) {
  s.pictures = s.pictures.filter(({ status }) => status !== "waiting");
  s.work = null;
  if (s.wanted === one) s.wanted = s.picture;
  showStrip(s);
  setStage(s, rest(s), "Cancelled");
}

// Shows a picture that is done, or why there is no mask of it.
export async function show(s, one) {
  s.wanted = one;
  if (one.status === "failed") {
    fail(s, one.problem, one.file.name);
    return;
  }
  if (one.status === "waiting") return; // it is shown when its turn comes
  if (isScan(one.file)) {
    await showVolume(s, one);
    return;
  }
  followModel(s, one);
  const [runs, source] = await Promise.all([
    one.answer.blob.text().then(JSON.parse),
    createImageBitmap(one.file, { imageOrientation: "from-image" }).catch(() => null),
  ]);
  if (s.wanted !== one) return;
  if (s.picture && s.picture !== one) Object.assign(s.picture, { mask: null, asking: null, askingThings: null }); // memory: one mask at a time
  Object.assign(one, { mask: fromRuns(runs), asking: null, askingThings: null, unsure: one.answer.unsure });
  s.picture = one;
  showMask(s, source, unsureNote(one.unsure));
  showTiming(one.answer.timing, one.answer.spent);
  $("caption").textContent = `${one.file.name} · ${one.mask.width} × ${one.mask.height} · ${one.answer.model}`;
  setStage(s, "result", `${one.file.name} is segmented. ${spokenShares(s)}`);
  showStrip(s);
  askSecond(s);
}

async function showVolume(s, one) {
  one.mask = await readLabels(one.answer.blob);
  if (!(await showScan(s, one))) return;
  if (s.picture && s.picture !== one) s.picture.mask = null;
  s.picture = one;
  followModel(s, one);
  askSecond(s);
  setStage(s, "result");
  refresh(s);
  showTiming(one.answer.timing, one.answer.spent);
  $("caption").textContent = `${one.file.name} · ${one.mask.sides.join(" × ")} voxels · ${one.answer.model}`;
  setStage(s, "result", `${one.file.name} is segmented. ${spokenShares(s)}`);
  showStrip(s);
}

// The model that answered, where the chosen one is of the other kind: for scans, or for pictures.
function followModel(s, { file, answer }) {
  const name = answer.model?.split("@")[0];
  if (takesScans(s.model) === isScan(file) || !s.models.some((model) => model.name === name)) return;
  $("model").value = name;
  s.hidden = new Set();
  offerSecond(s);
  showCard(s);
}

function unsureNote(unsure) {
  if (!(unsure > UNSURE)) return "";
  return `The network is not sure of ${percent(unsure)} of this picture. It may be unlike the pictures that the network learned from. `;
}

function showBusy(s, { file }, done) {
  const sending = done < 1;
  const left = s.pictures.filter(({ status }) => status === "waiting").length;
  if (sending && done) $("progress").value = done;
  else $("progress").removeAttribute("value");
  const more = left > 1 ? ` · ${left - 1} more` : "";
  $("busy-word").textContent = (sending ? `Sending ${file.name} ${done ? percent(done) : "…"}` : `Segmenting ${file.name} …`) + more;
  $("busy").hidden = false;
}

// --- the strip -----------------------------------------------------------------------------------------------------------

export function showStrip(s) {
  $("strip").hidden = s.pictures.length < 2;
  $("download-all").hidden = s.pictures.filter(({ status }) => status === "done").length < 2;
  for (const one of s.pictures) fillRow(one, one.row ?? newRow(s, one), s.picture);
  $("strip").replaceChildren(...s.pictures.map(({ row }) => row));
}

function newRow(s, one) {
  const image = made("img", { alt: "", loading: "lazy", width: 96, height: 64 });
  image.src = URL.createObjectURL(one.file);
  const button = made("button", { type: "button" }, image, made("span", { textContent: one.file.name }));
  image.addEventListener("error", () => image.remove());
  button.addEventListener("click", () => {
    if (one.status === "waiting" && !s.work) segmentAll(s, one);
    else show(s, one);
  });
  one.row = made("li", {}, button);
  return one.row;
}

function fillRow(one, row, shown) {
  const [button] = row.children;
  row.dataset.status = one.status;
  button.setAttribute("aria-current", String(one === shown));
  button.setAttribute("aria-label", one.status === "done" ? one.file.name : `${one.file.name}, ${one.status}`);
}

// The files of a drop, those inside folders too.
export async function droppedFiles(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some(({ isDirectory }) => isDirectory)) return [...transfer.files];
  return (await Promise.all(entries.map(filesOf))).flat();
}

async function filesOf(entry) {
  if (entry.isFile) return [await new Promise((done, failed) => { entry.file(done, failed); })];
  const reader = entry.createReader();
  const found = [];
  for (;;) { // a reader gives a hundred at a time
    const some = await new Promise((done, failed) => { reader.readEntries(done, failed); });
    if (!some.length) return (await Promise.all(found.map(filesOf))).flat();
    found.push(...some);
  }
}
