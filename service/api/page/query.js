// The query for what is on the screen, in the format that was chosen.

import { $, made } from "./dom.js";

const choices = (schema = {}) => schema.enum ?? schema.anyOf?.flatMap(choices) ?? [];
const typeOf = (schema = {}) => schema.type ?? (schema.anyOf ?? []).map(typeOf).find((type) => type !== "null");
const ELSEWHERE = ["format", "model", "classes", "min_confidence", "palette"]; // asked for by other parts of the page

// Offers the formats of GET /formats, and every option of the query that the OpenAPI document lists.
export function showQuery(s, parameters, changed) {
  const before = $("format").value || "overlay";
  $("format").replaceChildren(...s.formats.map(({ name }) => new Option(name, name, false, name === before)));
  const offered = parameters.filter(({ name, schema }) => !ELSEWHERE.includes(name)
    && (choices(schema).length || ["boolean", "integer", "number"].includes(typeOf(schema))));
  $("options").replaceChildren(...offered.map(({ name, schema, description = "" }) => {
    const control = controlFor(schema);
    control.dataset.query = name;
    control.addEventListener("input", changed);
    return made("label", { title: description.replaceAll("`", "") }, control, made("span", { textContent: name.replaceAll("_", " ") }));
  }));
}

function controlFor(schema) {
  if (choices(schema).length) {
    return made("select", {}, new Option("as the model", ""), ...choices(schema).map((value) => new Option(value, value)));
  }
  if (typeOf(schema) === "boolean") return made("input", { type: "checkbox" });
  const step = typeOf(schema) === "integer" ? "1" : "any";
  return made("input", { type: "number", min: schema.minimum ?? 0, max: schema.maximum ?? "", step, placeholder: "0" });
}

// Offers the formats that the shown picture or scan has.
function showFormats(s) {
  const unable = s.mask?.sides ? "no" : "only";
  for (const option of $("format").options) option.hidden = option.disabled = s.formats.find(({ name }) => name === option.value)?.volumes === unable;
  if (s.unable && s.unable !== unable) $("format").value = s.mask?.sides ? "nifti" : "overlay";
  s.unable = unable;
}

// Hides the options that the chosen format does not take; they leave the query too.
export function showOptions(s) {
  showFormats(s);
  const { takes, things } = s.format;
  const special = new Set(s.formats.flatMap((row) => row.takes));
  for (const label of $("options").children) {
    const { query } = label.firstChild.dataset;
    label.hidden = special.has(query) && !takes.includes(query);
    if (query === "min_area" && !things && !$("options").querySelector('[data-query="instances"]')?.checked) label.hidden = true;
  }
}

// Gives [[name, value], ...].
export function wanted(s) {
  const query = [["format", s.format.name], ["model", $("model").value]];
  const kept = s.classes.filter(({ id }) => !s.hidden.has(id));
  if (kept.length < s.classes.length) {
    const byName = kept.every(({ name }) => !name.includes(","));
    query.push(["classes", kept.map(({ name, id }) => (byName ? name : id)).join(",")]);
  }
  if (Number($("sure").value)) query.push(["min_confidence", String(Number($("sure").value) / 100)]);
  if (s.isBright && s.format.takes.includes("palette")) query.push(["palette", "bright"]);
  for (const control of $("options").querySelectorAll("label:not([hidden]) [data-query]")) {
    query.push([control.dataset.query, valueOf(control)]);
  }
  return query.filter(([, value]) => value !== "");
}

function valueOf(control) {
  if (control.type === "checkbox") return control.checked ? "true" : "";
  return control.type === "number" && (!control.checkValidity() || Number(control.value) === 0) ? "" : control.value;
}

export const nothingOn = (s) => s.classes.length > 0 && s.classes.every(({ id }) => s.hidden.has(id));

export const fileName = (s) => s.picture?.file?.name ?? (s.picture?.origin === "camera" ? "camera.jpg" : "street.jpg");

export const outName = (s, name = fileName(s)) => `${name.replace(/(\.nii)?\.[^.]*$/, "")}.${s.format.name}${s.format.suffix}`;
