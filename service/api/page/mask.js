// Label maps. Class ids are decoded here, number by number: a canvas may alter colours, and an id must not change.

export const UNLABELLED = 255;

// A mask: { height, width, labels, shown, found, pixels, confidence }. labels are class ids, shown is what a filter leaves of them;
// found and pixels count the pixels of each id in either. confidence is how sure the network is (0..255), once it was fetched.

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
function count(labels) {
  const pixels = new Uint32Array(256);
  for (let at = 0; at < labels.length; at += 1) pixels[labels[at]] += 1;
  return pixels;
}

// An 8-bit grey PNG, exactly: { height, width, pixels }.
export async function readGrayPng(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  const data = new DataView(bytes.buffer);
  const parts = [];
  let width = 0;
  let height = 0;
  for (let at = 8; at < bytes.length;) {
    const length = data.getUint32(at);
    const type = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    if (type === "IHDR") {
      [width, height] = [data.getUint32(at + 8), data.getUint32(at + 12)];
      const [depth, color, , , interlace] = bytes.subarray(at + 16, at + 21);
      if (depth !== 8 || color !== 0 || interlace !== 0) throw new Error("not an 8-bit grey PNG");
    }
    if (type === "IDAT") parts.push(bytes.subarray(at + 8, at + 8 + length));
    at += length + 12;
  }
  const inflated = new Response(new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate")));
  return { height, width, pixels: unfiltered(new Uint8Array(await inflated.arrayBuffer()), height, width) };
}

// PNG's five filters undone (PNG 1.2, section 6), for one byte a pixel.
function unfiltered(lines, height, width) {
  const pixels = new Uint8Array(height * width);
  for (let y = 0; y < height; y += 1) {
    const from = y * (width + 1);
    const filter = lines[from];
    const to = y * width;
    for (let x = 0; x < width; x += 1) {
      const left = x ? pixels[to + x - 1] : 0;
      const up = y ? pixels[to + x - width] : 0;
      const corner = x && y ? pixels[to + x - width - 1] : 0;
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
