// Another model's mask of the same picture, beside the first, at the same place and zoom.

import { $ } from "./dom.js";
import { fromRuns } from "./mask.js";
import { segment } from "./service.js";
import { note } from "./stage.js";

export function offerSecond(s) {
  const others = s.models.filter(({ name }) => name !== $("model").value);
  const before = $("second-model").value;
  $("second-model").replaceChildren(new Option("no other model", ""), ...others.map(({ name }) => new Option(name, name, false, name === before)));
  $("second-model").parentElement.hidden = !others.length;
}

// Asks the second model for the shown picture, where one is chosen.
export async function askSecond(s) {
  const name = $("second-model").value;
  const { picture } = s;
  s.secondMask = null;
  $("second").hidden = true;
  document.body.classList.toggle("two", Boolean(name));
  s.view.draw();
  if (!name || !picture?.file || s.mask?.sides) return;
  try {
    const answer = await segment(picture.file, [["format", "rle"], ["model", name]]);
    const mask = fromRuns(JSON.parse(await answer.blob.text()));
    if (s.picture !== picture || $("second-model").value !== name) return;
    s.secondMask = mask;
    $("second").hidden = false;
    $("second-caption").textContent = answer.model;
    s.second.show(s.view.source, mask);
    follow(s);
    paintSecond(s);
  } catch (problem) {
    note(`No mask of ${name}: ${problem.message}`);
  }
}

// Classes that were switched off are off here too, by name: another model may have other ids.
export function paintSecond(s) {
  if (!s.secondMask) return;
  const model = s.models.find(({ name }) => name === $("second-model").value);
  const off = new Set(s.classes.filter(({ id }) => s.hidden.has(id)).map(({ name }) => name));
  s.second.outlines = s.view.outlines;
  s.second.paint(s.colored(model).filter(({ name }) => !off.has(name)).map(({ id, color }) => [id, color, 1]));
}

// Moves the second view to where the first one is.
export function follow({ view, second, secondMask }) {
  if (!secondMask) return;
  Object.assign(second, { zoom: view.zoom, left: view.left, top: view.top });
  second.draw();
}
