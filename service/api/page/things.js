// The things that a panoptic network tells apart: for the pointer ("car 3, 92 %") and for outlines.

import { $ } from "./dom.js";
import { readPng } from "./mask.js";
import { segment } from "./service.js";
import { note } from "./stage.js";

// Fetches the things of the shown picture once; null where the model has not learned them.
export function askThings(s) {
  const { picture } = s;
  if (s.live || !picture?.file || !picture.mask || s.model?.instances !== "learned") return null;
  picture.askingThings ??= fetchThings(s, picture).catch((problem) => note(`No single things: ${problem.message}`));
  return picture.askingThings;
}

async function fetchThings(s, picture) {
  const { mask } = picture;
  const { blob } = await segment(picture.file, [["format", "panoptic"], ["model", $("model").value]]);
  const { png_string: text, segments_info: segments } = JSON.parse(await blob.text());
  const { pixels, height, width, channels } = await readPng(new Blob([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))]));
  if (mask !== s.mask || channels !== 3 || height !== mask.height || width !== mask.width) return;
  const ids = new Uint32Array(height * width); // of segments: R + 256 G + 65536 B
  for (let at = 0; at < ids.length; at += 1) ids[at] = pixels[3 * at] | (pixels[3 * at + 1] << 8) | (pixels[3 * at + 2] << 16);
  mask.things = { ids, rows: new Map(segments.filter(({ instance }) => instance).map((row) => [row.id, row])) };
}

// The thing at a pixel: { instance, score }, or undefined.
export const thingAt = (mask, { x, y }) => mask.things?.rows.get(mask.things.ids[y * mask.width + x]);
