// NIfTI-1 and NIfTI-2 files, plain or compressed: the scan that was chosen, and the label volume that comes back.
// The layout is that of nifti1.h and nifti2.h (NIH). What the service has accepted is well formed; the rest is an error.

const GETTERS = { 2: ["getUint8", 1], 4: ["getInt16", 2], 8: ["getInt32", 4], 16: ["getFloat32", 4], 64: ["getFloat64", 8], 256: ["getInt8", 1], 512: ["getUint16", 2], 768: ["getUint32", 4], 1024: ["getBigInt64", 8], 1280: ["getBigUint64", 8] };
const SAMPLE = 100_000; // voxels from which the range of greys is taken
const [LOWEST, HIGHEST] = [0.005, 0.995]; // shares of them that are black and white

// Gives { sides: [X, Y, Z], affine: 3 rows of 4, read(at): the number of a voxel; at counts along X first }.
export async function readNifti(blob) {
  const magic = new Uint8Array(await blob.slice(0, 2).arrayBuffer());
  const packed = magic[0] === 0x1f && magic[1] === 0x8b;
  const stream = packed ? blob.stream().pipeThrough(new DecompressionStream("gzip")) : blob.stream();
  const data = new DataView(await new Response(stream).arrayBuffer());
  const little = [348, 540].includes(data.getInt32(0, true));
  const head = data.getInt32(0, little) === 348 ? first(data, little) : second(data, little);
  const [getter, size] = GETTERS[head.datatype] ?? [];
  const [x, y, z] = head.sides;
  if (!getter || head.offset + x * y * z * size > data.byteLength) throw new Error("not a NIfTI file that the page can show");
  const scaled = head.slope && Number.isFinite(head.slope) ? [head.slope, head.intercept] : [1, 0];
  const read = (at) => Number(data[getter](head.offset + at * size, little)) * scaled[0] + scaled[1];
  return { sides: head.sides, affine: affineOf(head), read };
}

const three = (get) => [1, 2, 3].map(get);
const rows = (get) => [0, 1, 2].map((row) => [0, 1, 2, 3].map((column) => get(4 * row + column)));

function first(data, little) {
  const short = (at) => data.getInt16(at, little);
  const real = (at) => data.getFloat32(at, little);
  return {
    sides: three((k) => Math.max(short(40 + 2 * k), 1)), datatype: short(70), pixdim: [0, 1, 2, 3].map((k) => real(76 + 4 * k)), offset: real(108),
    slope: real(112), intercept: real(116), qform: short(252), sform: short(254), turn: [0, 1, 2].map((k) => real(256 + 4 * k)),
    shift: [0, 1, 2].map((k) => real(268 + 4 * k)), rows: rows((k) => real(280 + 4 * k)),
  };
}

function second(data, little) {
  const long = (at) => Number(data.getBigInt64(at, little));
  const real = (at) => data.getFloat64(at, little);
  return {
    sides: three((k) => Math.max(long(16 + 8 * k), 1)), datatype: data.getInt16(12, little), pixdim: [0, 1, 2, 3].map((k) => real(104 + 8 * k)), offset: long(168),
    slope: real(176), intercept: real(184), qform: data.getInt32(344, little), sform: data.getInt32(348, little), turn: [0, 1, 2].map((k) => real(352 + 8 * k)),
    shift: [0, 1, 2].map((k) => real(376 + 8 * k)), rows: rows((k) => real(400 + 8 * k)),
  };
}

// The sform, then the qform, then the voxel's sides alone: the order of the service.
function affineOf({ sform, qform, rows: given, turn: [b, c, d], shift, pixdim: [flip, dx, dy, dz] }) {
  if (sform > 0) return given;
  if (!(qform > 0)) return [[dx || 1, 0, 0, 0], [0, dy || 1, 0, 0], [0, 0, dz || 1, 0]];
  const a = Math.sqrt(Math.max(0, 1 - b * b - c * c - d * d));
  const z = (flip < 0 ? -1 : 1) * dz;
  return [
    [(a * a + b * b - c * c - d * d) * dx, 2 * (b * c - a * d) * dy, 2 * (b * d + a * c) * z, shift[0]],
    [2 * (b * c + a * d) * dx, (a * a + c * c - b * b - d * d) * dy, 2 * (c * d - a * b) * z, shift[1]],
    [2 * (b * d - a * c) * dx, 2 * (c * d + a * b) * dy, (a * a + d * d - b * b - c * c) * z, shift[2]],
  ];
}

// Every number as a grey, 0..255; the range is that of most voxels, so that a few bright ones do not make the rest dark.
export function greys({ sides: [x, y, z], read }) {
  const count = x * y * z;
  const step = Math.max(1, Math.floor(count / SAMPLE));
  const sample = Float64Array.from({ length: Math.ceil(count / step) }, (_, k) => read(k * step)).filter(Number.isFinite).sort();
  const [low, high] = [LOWEST, HIGHEST].map((share) => sample[Math.floor((sample.length - 1) * share)] ?? 0);
  const found = new Uint8ClampedArray(count); // a number that is none becomes 0
  for (let at = 0; at < count; at += 1) found[at] = ((read(at) - low) * 255) / (high - low || 1);
  return found;
}
