"""Hooks of the documentation site: files of the repository that pages link to become part of the site.

The pages of ``docs`` link to files outside, such as ``../CONTRIBUTING.md``, as a forge shows them. mkdocs sees its own folder
only. So each such file is added below ``repository/``, and the links are rewritten.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = "repository/"
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)")
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)
ALWAYS = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the files outside of ``docs`` that pages link to, and those that they link to in turn."""
    pending = [file.src_uri for file in files.documentation_pages()] + [OUTSIDE + name for name in ALWAYS]
    for uri in pending:
        if uri.startswith(OUTSIDE):
            if files.get_file_from_path(uri):
                continue
            path = ROOT / uri.removeprefix(OUTSIDE)
            files.append(File.generated(config, uri, abs_src_path=str(path)))
        if uri.endswith(".md"):
            text = CODE.sub("", (ROOT / place_of(uri)).read_text("utf-8"))
            pending += [found for link in LINK.findall(text) if (found := uri_of(link, uri)).startswith(OUTSIDE)]
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: object) -> str:
    """Rewrite links that leave ``docs``, and links of the repository's pages."""
    here = page.file.src_uri
    kept: list[str] = []

    def keep(code: re.Match[str]) -> str:
        kept.append(code.group())
        return f"\0{len(kept) - 1}\0"

    def rewritten(link: re.Match[str]) -> str:
        return posixpath.relpath(uri_of(link[1], here), posixpath.dirname(here) or ".")

    text = LINK.sub(rewritten, CODE.sub(keep, markdown))
    return re.sub(r"\0(\d+)\0", lambda number: kept[int(number[1])], text)


def place_of(uri: str) -> str:
    """Return the path in the repository of a file of the site."""
    return uri.removeprefix(OUTSIDE) if uri.startswith(OUTSIDE) else f"docs/{uri}"


def uri_of(link: str, uri: str) -> str:
    """Return the place in the site that a link of a page leads to; a folder is its README."""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(place_of(uri)), link))
    if (ROOT / target).is_dir():
        target = f"{target}/README.md"
    return target.removeprefix("docs/") if target.startswith("docs/") else OUTSIDE + target
