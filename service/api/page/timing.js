// Where the time went.

import { $, made } from "./dom.js";

const STAGES = ["decode", "queue", "infer", "labels", "encode"];

export function showTiming(ms, spent, words = "there and back") {
  const known = STAGES.filter((stage) => stage in ms);
  const rest = Math.max(spent - known.reduce((sum, stage) => sum + ms[stage], 0), 0);
  const rows = [...known.map((stage) => [stage, ms[stage]]), ["way", rest]];
  $("total").textContent = `${spent.toFixed(0)} ms ${words}`;
  $("bar").replaceChildren(...rows.map(([stage, time]) => {
    const part = made("span");
    part.style.flexGrow = time;
    part.style.background = `var(--${stage})`;
    return part;
  }));
  $("timing").replaceChildren(...rows.flatMap(([stage, time]) => {
    const term = made("dt", { textContent: stage === "way" ? "upload, download" : stage });
    term.style.setProperty("--dot", `var(--${stage})`);
    return [term, made("dd", { textContent: `${time.toFixed(1)} ms` })];
  }));
}
