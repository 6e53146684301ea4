// The classes that were found, with their shares; each one can be switched off.

import { $, made, percent, rgb } from "./dom.js";
import { UNLABELLED } from "./mask.js";

function shares(s) {
  const { found, pixels, shown } = s.mask;
  const rows = s.classes.filter(({ id }) => found[id]).map((row) => ({ ...row, share: pixels[row.id] / shown.length }));
  return { rows: rows.sort((a, b) => found[b.id] - found[a.id] || a.id - b.id), unlabelled: pixels[UNLABELLED] / shown.length };
}

export function spokenShares(s) {
  return shares(s).rows.map(({ name, share }) => `${name} ${percent(share)}`).join(", ");
}

// refresh: called when a row is switched or pointed at.
export function showLegend(s, refresh) {
  const { rows, unlabelled } = shares(s);
  const list = $("legend");
  const had = new Map([...list.children].map((row) => [row.dataset.id, row]));
  const wanted = rows.map((row) => fillRow(s, had.get(String(row.id)) ?? newRow(s, row, refresh), row));
  if (unlabelled) wanted.push(made("li", { className: "plain" }, made("i"), made("span", { textContent: "unlabelled" }), made("b", { textContent: percent(unlabelled) })));
  const focused = document.activeElement;
  if (wanted.length !== list.children.length || wanted.some((row, at) => row !== list.children[at])) list.replaceChildren(...wanted);
  if (list.contains(focused)) focused.focus(); // a row that moved must not drop it
}

function newRow(s, { id, name }, refresh) {
  const button = made("button", { type: "button" }, made("i"), made("span", { textContent: name }), made("b"), made("em"));
  button.addEventListener("click", () => {
    if (!s.hidden.delete(id)) s.hidden.add(id);
    refresh();
  });
  const point = (to) => {
    s.pointed = s.hidden.has(id) ? null : to;
    refresh();
  };
  button.addEventListener("pointerenter", ({ pointerType }) => { if (pointerType === "mouse") point(id); });
  button.addEventListener("pointerleave", () => point(null));
  const row = made("li", {}, button);
  row.dataset.id = id;
  return row;
}

function fillRow(s, row, { id, share, color }) {
  const [button] = row.children;
  button.setAttribute("aria-pressed", String(!s.hidden.has(id)));
  const ml = s.mask.ml?.[id];
  button.querySelector("b").textContent = ml === undefined ? percent(share) : `${ml.toFixed(ml < 10 ? 1 : 0)} ml · ${percent(share)}`;
  button.querySelector("em").style.width = `${share * 100}%`;
  for (const tag of ["i", "em"]) button.querySelector(tag).style.background = rgb(color);
  return row;
}
