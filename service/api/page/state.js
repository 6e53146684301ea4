// Everything that the page knows at a moment: one object, made by page.js and passed to each function that needs it.

import { $ } from "./dom.js";

export class State {
  constructor() {
    this.models = [];
    this.formats = []; // the rows of GET /formats
    this.bright = []; // [[r, g, b], ...]: colours that can be told apart
    this.pictures = []; // see pictures.js
    this.picture = null; // the one that is shown
    this.wanted = null; // the one that is to be shown
    this.hidden = new Set(); // ids of the classes that are switched off
    this.pointed = null; // the id of the class that the legend is pointed at
    this.work = null; // AbortController of the newest request: only that one may draw
    this.live = null; // the camera, while it runs
    this.view = null;
    this.planes = []; // the views of a scan's three planes
    this.second = null; // the view of another model's mask
    this.secondMask = null;
    this.unable = ""; // the value of a format's volumes that the shown one cannot have
  }

  get mask() { return this.picture?.mask ?? null; }

  // What is on the screen: the picture, or a scan's planes.
  get views() { return this.mask?.sides ? this.planes : [this.view]; }

  get model() { return this.models.find(({ name }) => name === $("model").value); }

  get classes() { return this.colored(this.model); }

  get format() { return this.formats.find(({ name }) => name === $("format").value) ?? { name: "", takes: [], suffix: "", about: "" }; }

  get isBright() { return $("palette").value === "bright"; }

  // A model's classes in the colours that were chosen.
  colored(model) {
    const rows = model?.classes ?? [];
    return this.isBright && this.bright.length ? rows.map((row, at) => ({ ...row, color: this.bright[at % this.bright.length] })) : rows;
  }
}
