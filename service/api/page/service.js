// The service, as the page talks to it. Every address is relative, so that the page works wherever it is mounted.

const KEY = "fcn-serve.key";
let memory = "";

// The key stays in this tab: never in an address, a cookie or a store that outlives it.
export function key() {
  try { return sessionStorage.getItem(KEY) ?? memory; } catch { return memory; }
}

export function setKey(value) {
  memory = value;
  try { sessionStorage.setItem(KEY, value); } catch { /* storage may be forbidden: then until the page is left */ }
}

export const address = (path, base = location.href) => new URL(path, base).href;

// An error, in the service's own words.
export class Problem extends Error {
  constructor(detail, { title = "", status = 0, code = "", requestId = "", retryAfter = 0 } = {}) {
    super(detail);
    Object.assign(this, { title, status, code, requestId, retryAfter });
  }

  get passing() { return [0, 429, 503, 504].includes(this.status); } // the same request may pass later
}

function problemOf(status, text, retryAfter) {
  let document = {};
  try { document = JSON.parse(text); } catch { /* something in between answered */ }
  return new Problem(document.detail ?? `The service, or something before it, answered ${status} and gave no reason.`, {
    title: document.title, status, code: document.code, requestId: document.request_id, retryAfter: Number(retryAfter) || 0,
  });
}

const silence = () => new Problem("It may have ended, or the connection was cut.", { title: "The service does not answer" });

export async function get(path) {
  const headers = key() ? { "X-API-Key": key() } : {};
  const reply = await fetch(path, { headers }).catch(() => { throw silence(); });
  const text = await reply.text();
  if (!reply.ok) throw problemOf(reply.status, text, reply.headers.get("Retry-After"));
  return text ? JSON.parse(text) : null;
}

// POST /segment. XMLHttpRequest, because fetch tells nothing of an upload's progress.
// Gives { blob, timing: {stage: ms}, model, unsure: share of uncertain pixels or NaN, spent: ms }.
export function segment(file, query, { signal, onProgress = () => {} } = {}) {
  const { promise, resolve, reject } = Promise.withResolvers?.() ?? deferred();
  const request = new XMLHttpRequest();
  const begun = performance.now();
  request.open("POST", `segment?${queryText(query)}`);
  request.responseType = "blob";
  if (key()) request.setRequestHeader("X-API-Key", key());
  request.upload.onprogress = ({ loaded, total }) => onProgress(total ? loaded / total : 0);
  request.upload.onload = () => onProgress(1);
  request.onerror = () => reject(silence());
  request.onabort = () => reject(new DOMException("cancelled", "AbortError"));
  request.onload = async () => {
    const spent = performance.now() - begun;
    const { status, response: blob } = request;
    if (status !== 200) {
      reject(problemOf(status, await blob.text(), request.getResponseHeader("Retry-After")));
      return;
    }
    const timing = timingOf(request.getResponseHeader("Server-Timing") ?? "");
    const unsure = Number(request.getResponseHeader("X-Uncertain") ?? NaN);
    resolve({ blob, timing, model: request.getResponseHeader("X-Model"), unsure, spent });
  };
  signal?.addEventListener("abort", () => request.abort(), { once: true });
  const body = new FormData();
  body.append("image", file, file.name);
  if (signal?.aborted) request.onabort();
  else request.send(body);
  return promise;
}

function deferred() {
  const made = {};
  made.promise = new Promise((resolve, reject) => Object.assign(made, { resolve, reject }));
  return made;
}

// [[name, value], ...] as a query that a person can read.
export function queryText(query) {
  return new URLSearchParams(query.filter(([, value]) => value !== "")).toString().replaceAll("%2C", ",");
}

export function timingOf(header) {
  return Object.fromEntries([...header.matchAll(/([\w-]+);dur=([\d.]+)/g)].map(([, stage, ms]) => [stage, Number(ms)]));
}

// WS /stream. A page can set no header there: the key travels as a protocol that is offered.
export function openStream(query) {
  const url = new URL(`stream?${queryText(query)}`, location.href);
  url.protocol = url.protocol.replace("http", "ws");
  const protocols = ["fcn-serve"];
  if (key()) {
    const bytes = String.fromCharCode(...new TextEncoder().encode(key()));
    protocols.push(`fcn-serve.key.${btoa(bytes).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "")}`);
  }
  const socket = new WebSocket(url, protocols);
  socket.binaryType = "arraybuffer";
  return socket;
}

// Browsers keep a refused stream's reason from the page; the same address, asked without an upgrade, says it.
export async function whyNoStream(query) {
  try {
    await get(`stream?${queryText(query)}`);
  } catch (problem) {
    if (problem.status === 404 && problem.title === "Not Found") return new Problem("This service has no stream for a camera.");
    if (problem.status !== 426) return problem;
  }
  return new Problem("The stream was cut. Something between here and the service may not let WebSockets through.", {
    title: "No connection for the camera",
  });
}
