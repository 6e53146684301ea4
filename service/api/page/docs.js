// Shows /openapi.json. Written here because the usual viewers are fetched from another host, and a car has no internet.

const MAIN = "/segment"; // stands first, and open
const $ = (id) => document.getElementById(id);

function element(tag, ...children) {
  const made = document.createElement(tag);
  made.append(...children.filter((child) => child !== ""));
  return made;
}

const card = (...children) => Object.assign(element("details", ...children), { className: "card" });
const code = (text) => element("code", text);
const prose = (text) => text.split("`").map((part, at) => (at % 2 ? code(part) : part));

function kind(schema = {}) {
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  if (schema.enum) return schema.enum.join(" | ");
  if (schema.anyOf) return schema.anyOf.map(kind).join(" or ");
  if (schema.items) return `list of ${kind(schema.items)}`;
  const bounds = [["minimum", "≥"], ["exclusiveMinimum", ">"], ["maximum", "≤"]]
    .flatMap(([name, sign]) => (name in schema ? [`${sign} ${schema[name]}`] : []));
  return [schema.format ?? schema.type ?? "anything", ...bounds].join(", ");
}

function table(title, rows) {
  if (!rows.length) return "";
  const body = rows.map(([name, text, note]) =>
    element("tr", element("td", code(name)), element("td", ...prose(text), note ? element("small", note) : "")));
  return element("section", element("h3", title), element("table", element("tbody", ...body)));
}

function forms(content = {}) {
  return Object.entries(content).map(([type, { schema }]) => `${type}: ${kind(schema)}`).join("; ");
}

function call(path, method, { summary, description, parameters = [], requestBody, responses }) {
  const head = element("summary", code(`${method.toUpperCase()} ${path}`), element("span", (description ?? summary).split("\n")[0]));
  const shown = card(
    head,
    table("Parameters", parameters.map(({ name, in: place, description: text = "", required, schema }) =>
      [name, text, `${place}${required ? ", required" : ""}: ${kind(schema)}`])),
    table("Body", requestBody ? Object.keys(requestBody.content).map((type) => [type, requestBody.description ?? ""]) : []),
    table("Replies", Object.entries(responses).map(([status, { description: text, content }]) => [status, text, forms(content)])),
  );
  shown.open = path === MAIN;
  return shown;
}

function schema(name, { description = "", properties = {} }) {
  const rows = Object.entries(properties).map(([field, type]) => [field, type.description ?? "", kind(type)]);
  return card(element("summary", code(name), element("span", description.split("\n")[0])), table("Fields", rows));
}

const openapi = await (await fetch("openapi.json")).json();
$("version").textContent = openapi.info.version;
$("about").textContent = openapi.info.description;
$("calls").append(
  element("h2", "Calls"),
  ...Object.entries(openapi.paths).sort(([a], [b]) => (b === MAIN) - (a === MAIN)).flatMap(([path, calls]) => Object.entries(calls).map(([method, one]) => call(path, method, one))),
  element("h2", "What travels"),
  ...Object.entries(openapi.components.schemas).map(([name, one]) => schema(name, one)),
);
