// A camera's frames to the service and its masks back. Each mask is shown over the very frame that it was made from.

import { openStream, Problem, whyNoStream } from "./service.js";

const SIDE = { width: { ideal: 1280 }, height: { ideal: 720 } };
const QUALITY = 0.85;
const AHEAD = 2; // one frame in work and one that waits: as many as the service keeps

// The reason why this page cannot have a camera; empty if it can.
export function whyNoCamera() {
  if (!isSecureContext) return "A browser gives a camera only to pages from https or from localhost.";
  if (!navigator.mediaDevices?.getUserMedia) return "This browser gives no page a camera.";
  if (!("WebSocket" in globalThis)) return "This browser has no WebSockets.";
  return "";
}

async function openCamera(facing) {
  try {
    return await navigator.mediaDevices.getUserMedia({ video: { ...SIDE, facingMode: { ideal: facing } }, audio: false });
  } catch (error) {
    const reasons = {
      NotAllowedError: "The camera was refused to this page; the browser's site settings can allow it again.",
      NotFoundError: "There is no camera here.",
      NotReadableError: "The camera is in use elsewhere.",
    };
    throw new Problem(reasons[error.name] ?? `The camera did not start: ${error.message}`, { title: "No camera" });
  }
}

// Frames until stop(). onFrame({ canvas, blob, document, answer, rate, delay }); onMiss(problem) of a frame that may go better the
// next time; onEnd(problem or null), once.
export class Live {
  constructor(query, { facing = "environment", onFrame, onMiss, onEnd }) {
    Object.assign(this, { query, facing, onFrame, onMiss, onEnd });
    this.video = Object.assign(document.createElement("video"), { muted: true, playsInline: true });
    this.sent = new Map(); // frame_id -> { canvas, begun }
    this.next = 0;
    this.shown = []; // when, of late
    this.ended = false;
  }

  async start() {
    try {
      this.media = await openCamera(this.facing);
      if (this.ended) return this.release();
      this.media.getVideoTracks()[0].addEventListener("ended", () => this.end(new Problem("The camera was taken away.")));
      this.video.srcObject = this.media;
      await this.video.play();
      this.socket = openStream(this.query);
      this.socket.addEventListener("open", () => this.feed());
      this.socket.addEventListener("message", ({ data }) => this.take(data));
      this.socket.addEventListener("close", async ({ reason }) => {
        if (!this.ended) this.end(reason ? new Problem(reason, { title: "The stream has ended" }) : await whyNoStream(this.query));
      });
    } catch (problem) {
      this.end(problem instanceof Problem ? problem : new Problem(problem.message));
    }
    return undefined;
  }

  stop() { this.end(null); }

  end(problem) {
    if (this.ended) return;
    this.ended = true;
    this.release();
    this.onEnd(problem);
  }

  release() {
    this.media?.getTracks().forEach((track) => track.stop());
    this.video.srcObject = null;
    this.socket?.close();
  }

  async feed() {
    if (this.ended || this.feeding || this.sent.size >= AHEAD || this.socket.readyState !== WebSocket.OPEN) return;
    this.feeding = true;
    await nextFrame(this.video);
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [this.video.videoWidth, this.video.videoHeight];
    canvas.getContext("2d").drawImage(this.video, 0, 0);
    const blob = await new Promise((done) => { canvas.toBlob(done, "image/jpeg", QUALITY); });
    this.feeding = false;
    if (this.ended || !blob || this.socket.readyState !== WebSocket.OPEN) return;
    const id = String(this.next);
    this.next += 1;
    this.sent.set(id, { canvas, blob, begun: performance.now() });
    this.socket.send(JSON.stringify({ frame_id: id, stamp: new Date().toISOString() }));
    this.socket.send(blob);
    this.feed();
  }

  take(data) {
    if (typeof data !== "string") {
      this.show(JSON.parse(new TextDecoder().decode(data)));
      return;
    }
    this.answer = JSON.parse(data);
    const { outcome, frame_id: id } = this.answer;
    this.frame = this.sent.get(id);
    this.sent.delete(id);
    if (outcome === "error") {
      const { detail, title, status, request_id: requestId } = this.answer;
      const problem = new Problem(detail, { title, status, requestId });
      if (problem.passing) this.onMiss(problem);
      else this.end(problem);
    }
    this.feed();
  }

  show(document) {
    if (this.ended) return;
    const now = performance.now();
    this.shown = [...this.shown.slice(-9), now];
    const rate = this.shown.length > 1 ? ((this.shown.length - 1) * 1000) / (now - this.shown[0]) : 0;
    this.onFrame({ ...this.frame, document, answer: this.answer, rate, delay: now - this.frame.begun });
  }
}

// The camera's next picture; a hidden page is given none, and sends none.
function nextFrame(video) {
  return new Promise((done) => {
    if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(done);
    else requestAnimationFrame(done);
  });
}
