// The picture and its mask, at any zoom. Both are drawn with one transform, at the screen's own resolution: an image of fifty
// megapixels costs no more to draw than a small one.

import { UNLABELLED } from "./mask.js";

const DEEPEST = 64; // screen pixels an image pixel
const LONGEST = 2600; // of a canvas, in its own pixels
const STILL = 4; // screen pixels that a pointer may move in a click

// Clears every pixel with the same id on all sides: what is left are lines between ids, two pixels wide.
function keepOutlines(pixels, ids, width) {
  for (let at = 0; at < ids.length; at += 1) {
    const id = ids[at];
    const inside = (at % width === 0 || ids[at - 1] === id) && (at % width === width - 1 || ids[at + 1] === id)
      && (ids[at - width] ?? id) === id && (ids[at + width] ?? id) === id;
    if (inside) pixels[at] = 0;
  }
}

export class View {
  // frame: the element that holds both canvases. onProbe({ x, y } in image pixels, or null; by: "pointer" | "keys"): a pixel is
  // asked for. onPick({ x, y }): a pixel is clicked.
  constructor(frame, picture, mask, { onProbe, onPick }) {
    Object.assign(this, { frame, onProbe, onPick, picture, layer: mask, pointers: new Map(), outlines: false });
    this.source = null; // anything that drawImage takes; null if the browser cannot show the file
    this.mask = null;
    this.colors = new Uint32Array(256); // 0xAABBGGRR
    this.reset();
    new ResizeObserver(() => this.draw()).observe(frame);
    this.listen();
  }

  show(source, mask) {
    const same = this.mask?.width === mask.width && this.mask?.height === mask.height;
    const width = mask.width * (mask.pixel ?? 1); // voxels need not be square
    Object.assign(this, { source, mask });
    this.frame.style.setProperty("--ratio", width / mask.height);
    this.frame.style.aspectRatio = `${width} / ${mask.height}`;
    if (!same) this.reset();
    this.draw();
  }

  reset() {
    Object.assign(this, { zoom: 1, left: 0, top: 0, probe: null });
    this.frame.classList.remove("zoomed");
  }

  // colors: [[id, [r, g, b], alpha 0..1]]; every other id stays clear.
  paint(colors) {
    this.colors.fill(0);
    for (const [id, [red, green, blue], alpha] of colors) {
      this.colors[id] = ((Math.round(alpha * 255) << 24) | (blue << 16) | (green << 8) | red) >>> 0;
    }
    this.drawMask();
  }

  draw() {
    const { mask, picture } = this;
    if (!mask || !this.frame.clientWidth) return;
    const { clientWidth, clientHeight } = this.frame;
    const sharp = Math.min(devicePixelRatio || 1, LONGEST / Math.max(clientWidth, clientHeight));
    const [width, height] = [Math.round(clientWidth * sharp), Math.round(clientHeight * sharp)];
    for (const canvas of [picture, this.layer]) {
      if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    }
    // Screen pixels an image pixel, each way: the frame's sides are whole pixels, so the two may differ in the third digit.
    [this.scaleX, this.scaleY] = [(width / mask.width) * this.zoom, (height / mask.height) * this.zoom];
    this.left = Math.min(Math.max(this.left, 0), mask.width - width / this.scaleX);
    this.top = Math.min(Math.max(this.top, 0), mask.height - height / this.scaleY);
    const context = picture.getContext("2d");
    context.clearRect(0, 0, width, height);
    context.imageSmoothingEnabled = this.scaleX < 3; // nearer, single pixels are to be seen
    context.imageSmoothingQuality = this.scaleX < 0.5 ? "high" : "low"; // "high" costs where it shows nothing
    if (this.source) {
      context.drawImage(this.source, this.left, this.top, width / this.scaleX, height / this.scaleY, 0, 0, width, height);
    }
    this.drawMask();
    this.moved?.();
  }

  drawMask() {
    const { mask, colors, layer } = this;
    if (!mask || !layer.width) return;
    const { width, height } = layer;
    const columns = Uint32Array.from({ length: width }, (_, x) => Math.min(this.left + (x + 0.5) / this.scaleX, mask.width - 1));
    const ids = new Uint32Array(width * height); // what outlines separate: things where they are known, otherwise classes
    const things = mask.things?.ids;
    const pixels = new Uint32Array(width * height);
    for (let y = 0, at = 0; y < height; y += 1) {
      const row = Math.min(Math.floor(this.top + (y + 0.5) / this.scaleY), mask.height - 1) * mask.width;
      for (let x = 0; x < width; x += 1, at += 1) {
        const id = mask.shown[row + columns[x]];
        ids[at] = things && id !== UNLABELLED ? 256 + things[row + columns[x]] : id;
        pixels[at] = colors[id];
      }
    }
    if (this.outlines) keepOutlines(pixels, ids, width);
    layer.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(pixels.buffer), width, height), 0, 0);
  }

  // The image pixel under a point of the window.
  at(clientX, clientY) {
    const { left, top, width, height } = this.layer.getBoundingClientRect();
    const [u, v] = [(clientX - left) / width, (clientY - top) / height];
    const x = Math.floor(this.left + (u * this.layer.width) / this.scaleX);
    const y = Math.floor(this.top + (v * this.layer.height) / this.scaleY);
    return u >= 0 && v >= 0 && u < 1 && v < 1 && this.mask ? { x, y } : null;
  }

  // Where an image pixel's centre is, in percent of the frame.
  place({ x, y }) {
    return [
      (((x + 0.5 - this.left) * this.scaleX) / this.layer.width) * 100,
      (((y + 0.5 - this.top) * this.scaleY) / this.layer.height) * 100,
    ];
  }

  id({ x, y }) { return this.mask.shown[y * this.mask.width + x] ?? UNLABELLED; }

  // By a factor, about an image pixel that stays where it is.
  zoomBy(factor, about = this.probe ?? this.middle()) {
    if (!this.mask) return;
    const fit = this.scaleX / this.zoom;
    const zoom = Math.min(Math.max(this.zoom * factor, 1), Math.max(DEEPEST / fit, 1));
    this.left = about.x - ((about.x - this.left) * this.zoom) / zoom;
    this.top = about.y - ((about.y - this.top) * this.zoom) / zoom;
    this.zoom = zoom;
    this.frame.classList.toggle("zoomed", zoom > 1);
    this.draw();
  }

  fit() {
    const { probe } = this;
    this.reset();
    this.probe = probe;
    this.draw();
  }

  middle() {
    return { x: this.left + this.layer.width / this.scaleX / 2, y: this.top + this.layer.height / this.scaleY / 2 };
  }

  tell(probe, by) {
    this.probe = probe;
    this.onProbe(probe, by);
  }

  listen() {
    const { frame, pointers } = this;
    frame.addEventListener("click", ({ clientX, clientY, pointerType }) => {
      const at = this.at(clientX, clientY);
      const still = this.down && Math.hypot(clientX - this.down.clientX, clientY - this.down.clientY) < STILL;
      if (at && still && pointerType !== "touch") this.onPick(at); // a finger asks for a pixel; it cannot point first
    });
    frame.addEventListener("pointerdown", (event) => {
      this.down = event;
      pointers.set(event.pointerId, event);
      if (this.zoom > 1 || pointers.size > 1) frame.setPointerCapture(event.pointerId);
      this.tell(this.at(event.clientX, event.clientY), "pointer");
    });
    frame.addEventListener("pointermove", (event) => {
      const before = pointers.get(event.pointerId);
      if (before && pointers.size === 2) this.pinch(before, event);
      else if (before && this.zoom > 1) this.pan(before, event);
      if (before) pointers.set(event.pointerId, event);
      if (event.pointerType === "mouse" || before) this.tell(this.at(event.clientX, event.clientY), "pointer");
    });
    for (const kind of ["pointerup", "pointercancel"]) {
      frame.addEventListener(kind, ({ pointerId }) => { pointers.delete(pointerId); });
    }
    frame.addEventListener("pointerleave", ({ pointerType }) => {
      if (pointerType === "mouse") this.tell(null, "pointer"); // what a finger asked for stays to be read
    });
    frame.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return; // a wheel alone scrolls the page
      event.preventDefault();
      this.zoomBy(2 ** (-event.deltaY / 100), this.at(event.clientX, event.clientY) ?? this.middle());
    }, { passive: false });
    frame.addEventListener("dblclick", (event) => {
      if (this.zoom > 1) this.fit();
      else this.zoomBy(4, this.at(event.clientX, event.clientY) ?? this.middle());
    });
    frame.addEventListener("keydown", (event) => {
      if (this.mask && !event.ctrlKey && !event.metaKey && !event.altKey && this.press(event)) event.preventDefault();
    });
  }

  press({ key, shiftKey }) {
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (key in ways) {
      this.step(ways[key], shiftKey);
      return true;
    }
    const deeds = { "+": () => this.zoomBy(2), "=": () => this.zoomBy(2), "-": () => this.zoomBy(0.5), 0: () => this.fit() };
    if (key === "Escape" && this.probe) deeds[key] = () => this.tell(null, "keys");
    if (key === "Enter" && this.probe) deeds[key] = () => this.onPick(this.probe);
    if (!(key in deeds)) return false;
    deeds[key]();
    if (this.probe) this.tell(this.probe, "keys");
    return true;
  }

  step([right, down], exactly) {
    const { mask } = this;
    if (this.probe) {
      const far = exactly ? 1 : Math.max(1, Math.round(16 / (this.scaleX * (this.frame.clientWidth / this.layer.width))));
      this.probe = {
        x: Math.min(Math.max(this.probe.x + right * far, 0), mask.width - 1),
        y: Math.min(Math.max(this.probe.y + down * far, 0), mask.height - 1),
      };
    } else {
      const { x, y } = this.middle();
      this.probe = { x: Math.floor(x), y: Math.floor(y) };
    }
    const [across, along] = this.place(this.probe);
    if (across < 0 || across > 100) this.left = this.probe.x - this.layer.width / this.scaleX / 2;
    if (along < 0 || along > 100) this.top = this.probe.y - this.layer.height / this.scaleY / 2;
    if (across < 0 || across > 100 || along < 0 || along > 100) this.draw();
    this.tell(this.probe, "keys");
  }

  pan(before, now) {
    const sharp = this.layer.width / this.frame.clientWidth;
    this.left -= ((now.clientX - before.clientX) * sharp) / this.scaleX;
    this.top -= ((now.clientY - before.clientY) * sharp) / this.scaleY;
    this.draw();
  }

  pinch(before, now) {
    const other = [...this.pointers.values()].find(({ pointerId }) => pointerId !== now.pointerId);
    const spread = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
    const about = this.at((now.clientX + other.clientX) / 2, (now.clientY + other.clientY) / 2);
    if (about && spread(before)) this.zoomBy(spread(now) / spread(before), about);
    this.pan(
      { clientX: (before.clientX + other.clientX) / 2, clientY: (before.clientY + other.clientY) / 2 },
      { clientX: (now.clientX + other.clientX) / 2, clientY: (now.clientY + other.clientY) / 2 },
    );
  }
}
