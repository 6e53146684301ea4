// One pixel: its class, and how sure the network is of it.

import { $, percent, rgb } from "./dom.js";
import { readGrayPng } from "./mask.js";
import { segment } from "./service.js";
import { note } from "./stage.js";
import { askThings, thingAt } from "./things.js";

// at: { x, y } in image pixels, or null. by: "pointer" | "keys".
export function tellProbe(s, at, by) {
  const { mask, view, classes } = s;
  if (!at || !mask) {
    clearProbe(s);
    return;
  }
  askConfidence(s);
  askThings(s)?.then(() => { if (s.mask === mask && view.probe === at) tellThing(s, at); });
  const row = classes.find(({ id }) => id === view.id(at));
  const name = row?.name ?? "unlabelled";
  const sure = mask.confidence ? ` ${percent(mask.confidence[at.y * mask.width + at.x] / 255)}` : "";
  const [swatch, label, place] = $("probe").children;
  swatch.style.background = row ? rgb(row.color) : "transparent";
  label.textContent = `${name}${sure}`;
  place.textContent = `${at.x}, ${at.y}`;
  $("probe").hidden = $("cross").hidden = false;
  if (mask.things) tellThing(s, at);
  placeProbe(s);
  if (by === "keys") $("spoken").textContent = `${label.textContent}, x ${at.x}, y ${at.y}`;
}

// The thing under the probe in place of its class alone: "car 3, 92 %".
function tellThing({ mask, view, classes }, at) {
  const thing = thingAt(mask, at);
  const name = thing && classes.find(({ id }) => id === view.id(at))?.name;
  if (name) $("probe").children[1].textContent = `${name} ${thing.instance}, ${percent(thing.score)}`;
}

export function placeProbe({ view }) {
  if (!view.probe || $("probe").hidden) return;
  const [across, along] = view.place(view.probe);
  for (const element of [$("cross"), $("probe")]) {
    element.style.left = `${across}%`;
    element.style.top = `${along}%`;
  }
  $("probe").classList.toggle("lower", along < 18);
  $("probe").style.setProperty("--across", Math.min(100, Math.max(0, across)));
}

export function clearProbe({ view }) {
  view.probe = null;
  $("probe").hidden = $("cross").hidden = true;
}

// Fetches the confidence of every pixel when the first one is asked for; most visits need the mask alone.
export function askConfidence(s) {
  const { picture } = s;
  if (s.live || !picture?.file || !picture.mask || picture.mask.sides) return null;
  picture.asking ??= fetchConfidence(s, picture).catch((problem) => note(`No confidence: ${problem.message}`));
  return picture.asking;
}

async function fetchConfidence(s, picture) {
  const { mask } = picture;
  const { blob } = await segment(picture.file, [["format", "confidence"], ["model", $("model").value]]);
  const { pixels, height, width } = await readGrayPng(blob);
  if (mask !== s.mask || height !== mask.height || width !== mask.width) return;
  mask.confidence = pixels;
  if (s.view.probe) tellProbe(s, s.view.probe, document.activeElement === $("frame") ? "keys" : "pointer");
}
