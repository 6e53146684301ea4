// The mask over its picture, in the classes that are switched on.

import { askConfidence, clearProbe } from "./probe.js";
import { showCode } from "./code.js";
import { $, percent } from "./dom.js";
import { showLegend } from "./legend.js";
import { dropUncertain } from "./mask.js";
import { paintSecond } from "./second.js";
import { note } from "./stage.js";
import { askThings } from "./things.js";

const FAINT = 0.12; // what is left of the other classes while one is pointed at

export function showMask(s, source, said) {
  const { mask } = s;
  let told = said;
  let shown = source;
  if (source && (source.width !== mask.width || source.height !== mask.height)) {
    // A mask on a picture that is turned or scaled otherwise would lie.
    told += `This browser reads the file as ${source.width} × ${source.height}, the service as ${mask.width} × ${mask.height}: `
      + "the mask is shown alone.";
    shown = null;
  } else if (!source) {
    told += "This browser cannot show this kind of file: the mask is shown alone.";
  }
  note(told);
  $("frame").classList.toggle("bare", !shown);
  $("frame").style.setProperty("--opacity", shown ? $("opacity").value / 100 : 1);
  clearProbe(s);
  s.view.show(shown, mask);
  if (Number($("sure").value)) filter(s);
  else refresh(s);
}

// Paints what is switched on, in the colours that were chosen.
export function refresh(s) {
  if (!s.mask) return;
  const strong = (id) => (s.pointed === null || s.pointed === id ? 1 : FAINT);
  for (const view of s.views) {
    view.outlines = $("outlines").checked;
    view.paint(s.classes.filter(({ id }) => !s.hidden.has(id)).map(({ id, color }) => [id, color, strong(id)]));
  }
  if (s.view.outlines && !s.mask.sides && !s.mask.things) askThings(s)?.then(() => s.view.drawMask());
  paintSecond(s);
  showLegend(s, () => refresh(s));
  showCode(s);
}

// Drops the pixels of which the network is less sure than asked for.
export async function filter(s) {
  const { mask } = s;
  const minimum = () => Number($("sure").value) / 100;
  $("sure-value").value = minimum() ? percent(minimum()) : "any";
  if (!mask || mask.sides) return;
  if (minimum() && !mask.confidence) await askConfidence(s);
  if (s.mask !== mask) return;
  dropUncertain(mask, minimum()); // the slider may have moved on meanwhile
  refresh(s);
}

// Shows one class alone; again, all of them.
export function isolate(s, id) {
  const others = s.classes.filter((row) => row.id !== id).map((row) => row.id);
  if (!s.classes.some((row) => row.id === id)) return;
  const alone = !s.hidden.has(id) && others.every((other) => s.hidden.has(other));
  s.hidden = new Set(alone ? [] : others);
  refresh(s);
}
