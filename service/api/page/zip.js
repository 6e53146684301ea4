// A zip of files as they are (APPNOTE 6.3.10, method 0): masks are compressed already.

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let rest = byte;
  for (let bit = 0; bit < 8; bit += 1) rest = rest & 1 ? 0xedb88320 ^ (rest >>> 1) : rest >>> 1;
  return rest;
});

function crc32(bytes) {
  let sum = 0xffffffff;
  for (const byte of bytes) sum = TABLE[(sum ^ byte) & 255] ^ (sum >>> 8);
  return (sum ^ 0xffffffff) >>> 0;
}

const little = (...fields) => fields.flatMap(([value, size]) => Array.from({ length: size }, (_, at) => (value >>> (8 * at)) & 255));

// files: [[name, Blob], ...]. A name that comes twice gets a number.
export async function zipOf(files) {
  const parts = [];
  const index = [];
  const taken = new Set();
  let at = 0;
  for (const [wanted, blob] of files) {
    const name = new TextEncoder().encode(unique(wanted, taken));
    const bytes = new Uint8Array(await blob.arrayBuffer());
    const about = little([20, 2], [0x800, 2], [0, 2], [0, 2], [0x21, 2], [crc32(bytes), 4], [bytes.length, 4], [bytes.length, 4], [name.length, 2], [0, 2]);
    const head = [new Uint8Array([0x50, 0x4b, 3, 4, ...about]), name, bytes];
    index.push(new Uint8Array([0x50, 0x4b, 1, 2, 20, 0, ...about, ...little([0, 2], [0, 2], [0, 2], [0, 4], [at, 4])]), name);
    parts.push(...head);
    at += head.reduce((sum, { length }) => sum + length, 0);
  }
  const size = index.reduce((sum, { length }) => sum + length, 0);
  const end = little([0, 2], [0, 2], [files.length, 2], [files.length, 2], [size, 4], [at, 4], [0, 2]);
  return new Blob([...parts, ...index, new Uint8Array([0x50, 0x4b, 5, 6, ...end])], { type: "application/zip" });
}

function unique(wanted, taken) {
  const [, stem, ending] = /^(.*?)((?:\.[^.]*){0,2})$/s.exec(wanted);
  let name = wanted;
  for (let copy = 2; taken.has(name.toLowerCase()); copy += 1) name = `${stem}-${copy}${ending}`;
  taken.add(name.toLowerCase());
  return name;
}
