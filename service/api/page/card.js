// What the model says of itself.

import { $, made, percent, rgb } from "./dom.js";

const SCORES = { mean_iou: "mean IoU", pixel_accuracy: "pixel accuracy", mean_accuracy: "mean accuracy", frequency_weighted_iou: "frequency-weighted IoU" };
const NAMED = 12; // classes in the headline

export function showCard(s) {
  const chosen = s.model;
  const splits = Object.entries(chosen.scores ?? {}).filter(([, scores]) => typeof scores === "object" && scores);
  const [[split, first] = []] = splits;
  $("headline-classes").textContent = headline(chosen);
  $("card-name").textContent = chosen.name;
  $("card-score").textContent = first?.mean_iou ? `mean IoU ${percent(first.mean_iou)} · ${split}` : `version ${chosen.version}`;
  $("headline-why").textContent = $("card-why").textContent = why(s);
  $("card-about").textContent = chosen.description ?? "";
  const facts = {
    version: chosen.version,
    architecture: chosen.architecture,
    classes: chosen.classes.length,
    "working size": (chosen.input?.working_size ?? []).slice().reverse().join(" × "),
    precision: chosen.precision,
    stride: chosen.stride,
    "receptive field": chosen.receptive_field && `${chosen.receptive_field} px`,
    provider: chosen.provider,
    "trained on": chosen.training?.data,
    licence: chosen.training?.licence,
    sha256: chosen.sha256?.slice(0, 16),
  };
  $("card-facts").replaceChildren(...Object.entries(facts).filter(([, value]) => value).flatMap(([name, value]) =>
    [made("dt", { textContent: name }), made("dd", { textContent: value })]));
  $("card-scores").replaceChildren(...splits.map(([name, scores]) => scoreTable(s, name, scores)));
  $("card-notes").textContent = chosen.training?.notes ?? "";
}

function headline({ classes }) {
  const names = classes.slice(0, NAMED).map(({ name }) => name);
  const more = classes.length > NAMED ? `, and ${classes.length - NAMED} more` : "";
  return `A neural network gives each pixel one of ${classes.length} classes: ${names.join(", ")}${more}.`;
}

// Which variant answers requests that name no model, and the service's own reason: "int8: this processor has AVX-512 VNNI; ...".
function why({ model, standard, reason }) {
  if (!reason) return "";
  const answer = model.name === standard ? "Answers requests that name no model" : `${standard} answers requests that name no model`;
  return `${answer}, in ${reason}.`;
}

function scoreTable(s, split, scores) {
  const row = (name, value, color) => {
    const meter = made("em");
    meter.style.width = `${value * 100}%`;
    if (color) meter.style.background = rgb(color);
    return made("tr", {}, made("th", { scope: "row", textContent: name }), made("td", {}, meter), made("td", { textContent: percent(value) }));
  };
  const rows = Object.entries(SCORES).filter(([name]) => typeof scores[name] === "number").map(([name, title]) => row(title, scores[name]));
  const colors = Object.fromEntries(s.classes.map(({ name, color }) => [name, color]));
  rows.push(...Object.entries(scores.iou ?? {}).map(([name, value]) => row(name, value, colors[name])));
  const frames = scores.frames ? `, ${scores.frames} frames` : "";
  return made("table", {}, made("caption", { textContent: `${split}${frames}` }), made("tbody", {}, ...rows));
}
