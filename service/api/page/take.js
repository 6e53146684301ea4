// Taking masks away: one, or all of the strip as a zip; and the code that does the same.

import { shownCode } from "./code.js";
import { $, made } from "./dom.js";
import { outName, wanted } from "./query.js";
import { segment } from "./service.js";
import { zipOf } from "./zip.js";

export async function download(s) {
  await prepared(s, async () => save((await segment(s.picture.file, wanted(s))).blob, outName(s)));
}

export async function downloadAll(s) {
  await prepared(s, async () => {
    const done = s.pictures.filter(({ status }) => status === "done");
    const files = [];
    for (const { file } of done) {
      $("state").textContent = $("take-progress").textContent = `Mask ${files.length + 1} of ${done.length}`;
      files.push([outName(s, file.name), (await segment(file, wanted(s))).blob]);
    }
    save(await zipOf(files), `masks.${s.format.name}.zip`);
  });
  $("take-progress").textContent = "";
}

async function prepared(s, work) {
  const buttons = [$("download"), $("download-all")];
  $("take-problem").hidden = true;
  for (const button of buttons) button.disabled = true;
  $("state").textContent = "Preparing the download";
  try {
    await work();
  } catch (problem) {
    $("take-problem").textContent = problem.message;
    $("take-problem").hidden = false;
  }
  for (const button of buttons) button.disabled = false;
}

function save(blob, name) {
  const link = made("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  $("state").textContent = `${name} is ready`;
}

export async function copy() {
  const [button, code] = [$("copy"), shownCode()];
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(code.textContent).catch(() => getSelection().selectAllChildren(code));
    button.textContent = "Copied";
    $("state").textContent = "The code is in the clipboard";
  } else { // only https and localhost have one
    getSelection().selectAllChildren(code);
    button.textContent = "Selected";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}
