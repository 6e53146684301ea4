// Label maps. Class ids are decoded here, number by number: a canvas may alter colours, and an id must not change.

export const UNLABELLED = 255;

// A mask: { height, width, labels, shown, found, pixels, confidence }. labels are class ids, shown is what a filter leaves of them;
// found and pixels count the pixels of each id in either. confidence is how sure the network is (0..255), once it was fetched; things are the
// single objects (see things.js), once they were.

// The document of format=rle: labels[i] fills the next lengths[i] pixels, row by row.
export function fromRuns({ size: [height, width], labels: values, lengths }) {
  const labels = new Uint8Array(height * width);
  let at = 0;
  for (let run = 0; run < values.length; run += 1) labels.fill(values[run], at, (at += lengths[run]));
  if (at !== labels.length) throw new Error(`the runs fill ${at} of ${labels.length} pixels`);
  const found = count(labels);
  return { height, width, labels, shown: labels, found, pixels: found, confidence: null };
}

// Pixels of which the network is less sure than this lose their class; the service's own rule, for the same pixels.
export function dropUncertain(mask, minimum) {
  const { labels, confidence } = mask;
  if (!minimum || !confidence) {
    [mask.shown, mask.pixels] = [labels, mask.found];
    return;
  }
  const bound = minimum * 255;
  mask.shown = new Uint8Array(labels.length);
  for (let at = 0; at < labels.length; at += 1) mask.shown[at] = confidence[at] >= bound ? labels[at] : UNLABELLED;
  mask.pixels = count(mask.shown);
}

// Pixels by class id.
export function count(labels) {
  const pixels = new Uint32Array(256);
  for (let at = 0; at < labels.length; at += 1) pixels[labels[at]] += 1;
  return pixels;
}

// An 8-bit grey PNG, exactly: { height, width, pixels }.
export async function readGrayPng(blob) {
  const picture = await readPng(blob);
  if (picture.channels !== 1) throw new Error("not a grey PNG");
  return picture;
}

// An 8-bit grey or RGB PNG, exactly: { height, width, channels, pixels }.
export async function readPng(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  const data = new DataView(bytes.buffer);
  const parts = [];
  let [width, height, channels] = [0, 0, 0];
  for (let at = 8; at < bytes.length;) {
    const length = data.getUint32(at);
    const type = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    if (type === "IHDR") {
      [width, height] = [data.getUint32(at + 8), data.getUint32(at + 12)];
      const [depth, color, , , interlace] = bytes.subarray(at + 16, at + 21);
      channels = { 0: 1, 2: 3 }[color];
      if (depth !== 8 || !channels || interlace !== 0) throw new Error("not an 8-bit grey or RGB PNG");
    }
    if (type === "IDAT") parts.push(bytes.subarray(at + 8, at + 8 + length));
    at += length + 12;
  }
  const inflated = new Response(new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate")));
  const pixels = unfiltered(new Uint8Array(await inflated.arrayBuffer()), height, width * channels, channels);
  return { height, width, channels, pixels };
}

// Undoes PNG's five filters (PNG 1.2, section 6). across: bytes a row; back: bytes a pixel.
function unfiltered(lines, height, across, back) {
  const pixels = new Uint8Array(height * across);
  for (let y = 0; y < height; y += 1) {
    const from = y * (across + 1);
    const filter = lines[from];
    const to = y * across;
    for (let x = 0; x < across; x += 1) {
      const left = x >= back ? pixels[to + x - back] : 0;
      const up = y ? pixels[to + x - across] : 0;
      const corner = x >= back && y ? pixels[to + x - across - back] : 0;
      let guess = 0;
      if (filter === 1) guess = left;
      else if (filter === 2) guess = up;
      else if (filter === 3) guess = (left + up) >> 1;
      else if (filter === 4) {
        const [a, b, c] = [Math.abs(up - corner), Math.abs(left - corner), Math.abs(left + up - 2 * corner)];
        guess = a <= b && a <= c ? left : b <= c ? up : corner;
      }
      pixels[to + x] = lines[from + 1 + x] + guess;
    }
  }
  return pixels;
}
