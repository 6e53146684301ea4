// The page: pictures go to the service, and their masks are shown, asked, filtered and taken away. This file makes the state and
// ties it to the controls; each other file does one thing with it.

import { whyNoCamera } from "./camera.js";
import { showCard } from "./card.js";
import { showCode, showLanguage } from "./code.js";
import { $ } from "./dom.js";
import { showCamera, stopCamera, toggleCamera } from "./live.js";
import { choose, droppedFiles, segmentAll } from "./pictures.js";
import { clearProbe, placeProbe, tellProbe } from "./probe.js";
import { showQuery } from "./query.js";
import { makePlanes } from "./scan.js";
import { askSecond, follow, offerSecond } from "./second.js";
import { get, Problem, setKey } from "./service.js";
import { filter, isolate, refresh } from "./show.js";
import { fail, rest, setStage } from "./stage.js";
import { State } from "./state.js";
import { copy, download, downloadAll } from "./take.js";
import { View } from "./view.js";

async function meetService(s) {
  try {
    const [{ default: standard, default_reason: reason, models }, openapi, formats, { bright }] = await Promise.all(["models", "openapi.json", "formats", "palettes"].map(get));
    Object.assign(s, { models, standard, reason, formats, bright });
    $("model").replaceChildren(...models.map(({ name }) => new Option(name, name, name === standard, name === standard)));
    $("model").disabled = false;
    $("key-form").hidden = true;
    showQuery(s, openapi.paths["/segment"].post.parameters.filter((parameter) => parameter.in === "query"), () => showCode(s));
    offerSecond(s);
    showCard(s);
    showCode(s);
    if (document.body.dataset.state === "problem") setStage(s, rest(s));
    return true;
  } catch (problem) {
    fail(s, problem);
    return false;
  }
}

// Segments what is wanted, again or for the first time.
function again(s) {
  const next = s.wanted ?? s.pictures[0];
  if (!next?.file) return;
  if (!s.pictures.includes(next)) s.pictures.push(next);
  for (const one of s.pictures) one.status = "waiting";
  segmentAll(s, next);
}

function cancel(s) {
  s.work?.abort();
}

function listenToPictures(s) {
  for (const input of [$("file"), $("folder")]) {
    input.addEventListener("change", () => {
      choose(s, [...input.files], "file");
      input.value = "";
    });
  }
  $("choose-folder").addEventListener("click", () => $("folder").click());
  for (const button of document.querySelectorAll("[data-sample]")) {
    button.addEventListener("click", async () => {
      const name = button.dataset.sample;
      const reply = await fetch(`page/${name}`).catch(() => null);
      if (reply?.ok) choose(s, [new File([await reply.blob()], name, { type: "image/jpeg" })], "sample");
      else fail(s, new Problem("It may have ended, or the connection was cut.", { title: "The service does not answer" }));
    });
  }
  addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.toggle("dragging", [...(event.dataTransfer?.types ?? [])].includes("Files"));
  });
  addEventListener("dragleave", ({ relatedTarget }) => { if (!relatedTarget) document.body.classList.remove("dragging"); });
  addEventListener("drop", async (event) => {
    event.preventDefault();
    document.body.classList.remove("dragging");
    const files = await droppedFiles(event.dataTransfer);
    if (files.length) choose(s, files, "file");
    else fail(s, new Problem("A link or a text was dropped, and this service fetches nothing. Drop an image file.", { title: "Not a file" }));
  });
  addEventListener("paste", ({ clipboardData, target }) => {
    if (clipboardData.files.length) choose(s, [...clipboardData.files], "clipboard");
    else if (!target.matches?.("input")) fail(s, new Problem("The clipboard holds no image. Copy one, and paste it again.", { title: "No image to paste" }));
  });
  $("cancel").addEventListener("click", () => cancel(s));
  addEventListener("keydown", ({ key }) => { if (key === "Escape" && s.work) cancel(s); });
}

function listenToService(s) {
  $("model").addEventListener("change", () => {
    s.hidden = new Set();
    offerSecond(s);
    showCard(s);
    showCode(s);
    if (s.live) {
      stopCamera(s);
      toggleCamera(s);
    } else again(s);
  });
  $("key-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    setKey($("key").value);
    if (await meetService(s)) again(s);
  });
  $("again").addEventListener("click", async () => {
    if (!s.models.length && !(await meetService(s))) return;
    again(s);
  });
  $("camera").addEventListener("click", () => toggleCamera(s));
  addEventListener("pagehide", () => stopCamera(s));
}

function listenToView(s) {
  s.view = new View($("frame"), $("image"), $("mask"), {
    onProbe: (at, by) => tellProbe(s, at, by),
    onPick: (at) => { if (!s.live) isolate(s, s.view.id(at)); },
  });
  makePlanes(s);
  s.second = new View($("second-frame"), $("second-image"), $("second-mask"), { onProbe: () => {}, onPick: () => {} });
  s.view.moved = () => {
    $("zoom").value = `${s.view.zoom < 10 ? Number(s.view.zoom.toFixed(1)) : Math.round(s.view.zoom)}×`;
    $("out").disabled = $("fit").disabled = s.view.zoom <= 1;
    placeProbe(s);
    follow(s);
  };
  $("in").addEventListener("click", () => s.view.zoomBy(2));
  $("out").addEventListener("click", () => s.view.zoomBy(0.5));
  $("fit").addEventListener("click", () => s.view.fit());
  $("frame").addEventListener("blur", () => clearProbe(s));
  $("opacity").addEventListener("input", showOpacity);
  $("cut").addEventListener("input", showCut);
  $("sure").addEventListener("input", () => filter(s));
  $("outlines").addEventListener("change", () => refresh(s));
  $("palette").addEventListener("change", () => {
    if (s.model) showCard(s);
    refresh(s);
  });
  $("second-model").addEventListener("change", () => askSecond(s));
  $("all").addEventListener("click", () => { s.hidden = new Set(); refresh(s); });
  $("none").addEventListener("click", () => { s.hidden = new Set(s.classes.map(({ id }) => id)); refresh(s); });
}

function listenToTake(s) {
  $("format").addEventListener("change", () => showCode(s));
  $("download").addEventListener("click", () => download(s));
  $("download-all").addEventListener("click", () => downloadAll(s));
  $("copy").addEventListener("click", copy);
  for (const language of ["curl", "python", "cpp"]) $(`as-${language}`).addEventListener("click", () => showLanguage(language));
}

function showOpacity() {
  for (const frame of [$("frame"), $("second-frame"), $("planes")]) frame.style.setProperty("--opacity", $("opacity").value / 100);
  $("opacity-value").value = `${$("opacity").value} %`;
}

// Left of the cut the picture is shown as it is, right of it with its mask.
function showCut() {
  const cut = Number($("cut").value);
  $("frame").style.setProperty("--cut", `${cut}%`);
  $("cut-line").hidden = !cut;
  $("cut-value").value = cut ? `${cut} %` : "off";
}

function begin() {
  const s = new State();
  listenToView(s);
  listenToPictures(s);
  listenToService(s);
  listenToTake(s);
  const reason = whyNoCamera();
  $("camera").disabled = Boolean(reason);
  $("camera-note").hidden = !reason;
  $("camera-note").textContent = reason;
  $("camera").setAttribute("aria-describedby", "camera-note");
  showCamera(s);
  showOpacity();
  $("cut").value = $("sure").value = 0;
  showCut();
  // On a phone the image stays in sight above the legend, and lets go of the screen when that has passed behind it.
  new IntersectionObserver(
    ([{ isIntersecting, boundingClientRect }]) => document.body.classList.toggle("past", !isIntersecting && boundingClientRect.top < 0),
    { rootMargin: "-45% 0px 0px" },
  ).observe($("legend"));
  meetService(s);
}

begin();
