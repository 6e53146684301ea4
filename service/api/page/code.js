// As code: curl, Python and C++ that fetch what is on the screen.

import { $ } from "./dom.js";
import { fileName, nothingOn, outName, showOptions, wanted } from "./query.js";
import { address, key, queryText } from "./service.js";

const LANGUAGES = ["curl", "python", "cpp"];

export function showCode(s) {
  showOptions(s);
  const empty = nothingOn(s);
  $("download").disabled = $("download-all").disabled = empty || !s.picture?.file;
  $("format-note").textContent = empty ? "Every class is switched off: there is nothing to take." : s.format.about.replaceAll("`", "");
  $("copy").disabled = empty;
  $("curl").textContent = curl(s);
  $("python").textContent = python(s);
  $("cpp").textContent = cpp(s);
}

export function showLanguage(chosen) {
  for (const language of LANGUAGES) {
    $(`as-${language}`).setAttribute("aria-pressed", String(language === chosen));
    $(language).hidden = language !== chosen;
  }
}

export const shownCode = () => $(LANGUAGES.find((language) => !$(language).hidden));

function curl(s) {
  const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const head = key() ? ' -H "X-API-Key: $KEY"' : "";
  const to = `${quote(address(`segment?${queryText(wanted(s))}`))} -o ${quote(outName(s))}`;
  return s.picture?.origin === "sample"
    ? `curl -s ${quote(address(`page/${fileName(s)}`))} | curl${head} -F image=@- ${to}`
    : `curl${head} -F image=@${quote(fileName(s))} ${to}`;
}

function python(s) {
  const text = JSON.stringify; // a JSON string is a Python string
  const options = wanted(s).filter(([name]) => name !== "format").map(([name, value]) => `${name}=${text(value)}`);
  const open = [text(address("").replace(/\/$/, "")), ...(key() ? ['api_key=os.environ["KEY"]'] : [])].join(", ");
  return [
    ...(key() ? ["import os", ""] : []),
    "from service.client import Client",
    "",
    `with Client(${open}) as client:`,
    `    made = client.segment_as(${[text(fileName(s)), text(s.format.name), ...options].join(", ")})`,
    `with open(${text(outName(s))}, "wb") as file:`,
    "    file.write(made.body)",
  ].join("\n");
}

function cpp(s) {
  const text = JSON.stringify;
  const header = key() ? ['    auto headers = curl_slist_append(nullptr, ("X-API-Key: " + std::string(std::getenv("KEY"))).c_str());',
    "    curl_easy_setopt(call, CURLOPT_HTTPHEADER, headers);"] : [];
  return [
    ...(key() ? ["#include <cstdlib>"] : []),
    "#include <cstdio>",
    ...(key() ? ["#include <string>"] : []),
    "#include <curl/curl.h>  // -lcurl",
    "",
    "int main() {",
    "    CURL *call = curl_easy_init();",
    "    curl_mime *form = curl_mime_init(call);",
    "    curl_mimepart *part = curl_mime_addpart(form);",
    '    curl_mime_name(part, "image");',
    `    curl_mime_filedata(part, ${text(fileName(s))});`,
    `    std::FILE *mask = std::fopen(${text(outName(s))}, "wb");`,
    `    curl_easy_setopt(call, CURLOPT_URL, ${text(address(`segment?${queryText(wanted(s))}`))});`,
    "    curl_easy_setopt(call, CURLOPT_MIMEPOST, form);",
    "    curl_easy_setopt(call, CURLOPT_WRITEDATA, mask);",
    "    curl_easy_setopt(call, CURLOPT_FAILONERROR, 1L);",
    ...header,
    "    const CURLcode result = curl_easy_perform(call);",
    "    std::fclose(mask);",
    "    curl_mime_free(form);",
    "    curl_easy_cleanup(call);",
    "    return result;",
    "}",
  ].join("\n");
}
