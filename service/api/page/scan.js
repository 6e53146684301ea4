// Scans: a slice of each of the three planes with the labels over it, and a slider for each.

import { $ } from "./dom.js";
import { count } from "./mask.js";
import { greys, readNifti } from "./nifti.js";
import { isolate } from "./show.js";
import { note } from "./stage.js";
import { View } from "./view.js";

const SCAN = /\.(nii(\.gz)?|dcm|dicom|ima|zip)$/i;
const PLANES = { axial: [2, 0, 1], coronal: [1, 0, 2], sagittal: [0, 1, 2] }; // axes across, along columns, along rows: 0 right, 1 anterior, 2 superior

export const isScan = ({ name }) => SCAN.test(name);

export const takesScans = (model) => model?.input?.dimensions === 3 || Boolean(model?.input?.planes?.length);

// The model to ask for a file: the chosen one, or the service's own choice where that is of the other kind.
export function modelFor(s, file) {
  if (takesScans(s.model) === isScan(file)) return $("model").value;
  return isScan(file) ? "" : s.standard ?? "";
}

// Reads an answer in NIfTI. Gives { sides, affine, labels, shown, found, pixels, ml, sliced }: as of mask.js, with millilitres of each id, and
// for each plane how its slices are cut.
export async function readLabels(blob) {
  const { sides, affine, read } = await readNifti(blob);
  const labels = Uint8Array.from({ length: sides[0] * sides[1] * sides[2] }, (_, at) => read(at));
  const found = count(labels);
  const [[a, b, c], [d, e, f], [g, h, i]] = affine;
  const voxel = Math.abs(a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)) / 1000;
  const ml = Float64Array.from(found, (voxels) => voxels * voxel);
  return { sides, affine, labels, shown: labels, found, pixels: found, confidence: null, ml, sliced: cuts(sides, affine) };
}

// The voxel axis that lies nearest to each axis of the patient, and whether it grows to the right, anterior and superior.
function axesOf(affine) {
  const length = [0, 1, 2].map((axis) => Math.hypot(...affine.map((row) => row[axis])) || 1);
  const near = (world, axis) => Math.abs(affine[world][axis]) / length[axis];
  const orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
  const fit = (order) => order.reduce((sum, axis, world) => sum + near(world, axis), 0);
  const best = orders.reduce((one, other) => (fit(other) > fit(one) ? other : one));
  return best.map((axis, world) => ({ axis, grows: affine[world][axis] >= 0, mm: length[axis] }));
}

// Head up, the patient's right on the left, as in radiology; sagittal slices have the front on the right.
function cuts(sides, affine) {
  const axes = axesOf(affine);
  const steps = [1, sides[0], sides[0] * sides[1]];
  const walk = ({ axis, grows, mm }, forward) => ({
    from: grows === forward ? 0 : (sides[axis] - 1) * steps[axis], step: grows === forward ? steps[axis] : -steps[axis], length: sides[axis], mm,
  });
  return Object.fromEntries(Object.entries(PLANES).map(([plane, [across, columns, rows]]) =>
    [plane, { across: walk(axes[across], true), columns: walk(axes[columns], columns !== 0), rows: walk(axes[rows], false) }]));
}

// Slice number `at` of a plane, of any array in the order of the file.
function slice(values, { across, columns, rows }, at, kind) {
  const found = new kind(columns.length * rows.length);
  const start = across.from + at * across.step + columns.from + rows.from;
  for (let y = 0, to = 0; y < rows.length; y += 1) {
    for (let x = 0, from = start + y * rows.step; x < columns.length; x += 1, from += columns.step, to += 1) found[to] = values[from];
  }
  return found;
}

export function makePlanes(s) {
  s.planes = Object.keys(PLANES).map((plane) => {
    const view = new View($(`${plane}-frame`), $(`${plane}-image`), $(`${plane}-mask`), {
      onProbe: (at) => tell(s, plane, view, at),
      onPick: (at) => isolate(s, view.id(at)),
    });
    $(plane).addEventListener("input", () => showSlice(s, plane));
    return view;
  });
}

// Shows a scan that is segmented: the middle slices first.
export async function showScan(s, one) {
  const scan = await readNifti(one.file).catch(() => null); // DICOM, or a kind of number that the page does not read
  const same = scan && scan.sides.every((side, axis) => side === one.mask.sides[axis]);
  if (s.wanted !== one) return false;
  one.mask.grey = same ? greys(scan) : null;
  note(same ? "" : "The page cannot show this kind of scan: the labels are shown alone.");
  for (const plane of Object.keys(PLANES)) {
    const { length } = one.mask.sliced[plane].across;
    Object.assign($(plane), { min: 1, max: length, value: Math.ceil((length + 1) / 2) });
    $(`${plane}-frame`).classList.toggle("bare", !same);
    showSlice(s, plane, one.mask);
  }
  $("sure").value = $("cut").value = 0;
  return true;
}

function showSlice(s, plane, mask = s.mask) {
  if (!mask?.sides) return;
  const cut = mask.sliced[plane];
  const at = Number($(plane).value) - 1;
  const [width, height] = [cut.columns.length, cut.rows.length];
  $(`${plane}-value`).value = `${at + 1} of ${cut.across.length}`;
  const view = s.planes[Object.keys(PLANES).indexOf(plane)];
  view.show(mask.grey ? drawn(slice(mask.grey, cut, at, Uint8Array), width, height) : null, {
    width, height, shown: slice(mask.shown, cut, at, Uint8Array), pixel: cut.columns.mm / cut.rows.mm,
  });
}

function drawn(grey, width, height) {
  const pixels = new Uint32Array(grey.length);
  for (let at = 0; at < grey.length; at += 1) pixels[at] = (0xff000000 | (grey[at] * 0x010101)) >>> 0;
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(pixels.buffer), width, height), 0, 0);
  return canvas;
}

// The class under the pointer, in the plane's own line.
function tell(s, plane, view, at) {
  const row = at && s.classes.find(({ id }) => id === view.id(at));
  $(`${plane}-told`).textContent = at ? row?.name ?? "unlabelled" : "";
}
