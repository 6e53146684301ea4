// Which parts of the page are seen, and what went wrong. A shown result stays until another one takes its place.

import { $ } from "./dom.js";
import { key } from "./service.js";
import { wordsFor } from "./words.js";

// state: empty | busy | result | live | problem. said: for people who hear the page.
export function setStage(s, state, said) {
  document.body.dataset.state = state;
  document.body.classList.toggle("had", Boolean(s.mask));
  $("busy").hidden = !s.work;
  $("problem").hidden = state !== "problem";
  $("view").hidden = !s.mask;
  if (said !== undefined) $("state").textContent = said;
  document.body.classList.toggle("scan", Boolean(s.mask?.sides));
  $("frame").hidden = Boolean(s.mask?.sides);
  $("planes").hidden = !s.mask?.sides;
  if (!$("view").hidden) for (const view of s.views) view.draw();
}

// The stage of what is shown.
export const rest = (s) => (s.mask ? "result" : "empty");

// about: the name of the file that it happened to. command: a line for a terminal that does what the page cannot.
export function fail(s, problem, about = "", command = "") {
  if (problem.status === 401) {
    $("key-form").hidden = false;
    $("key").focus();
    if (!key()) { // the first visit: a question, not a fault
      setStage(s, rest(s), "");
      return;
    }
  }
  const [title, advice] = wordsFor(problem);
  $("problem-title").textContent = [about, title].filter(Boolean).join(": ");
  $("problem-advice").textContent = advice;
  $("problem-detail").textContent = `${problem.message[0]?.toUpperCase() ?? ""}${problem.message.slice(1)}`;
  $("problem-command").textContent = command;
  $("problem-command").parentElement.hidden = !command;
  $("problem-id").textContent = problem.requestId ? `Request ${problem.requestId}` : "";
  $("again").hidden = !problem.passing;
  $("again").textContent = problem.retryAfter ? `Try again (in ${problem.retryAfter} s or later)` : "Try again";
  setStage(s, "problem", "");
}

export function note(text) {
  $("note").textContent = text;
  $("note").hidden = !text;
}
