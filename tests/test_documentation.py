"""What the documentation says of the code is read from the code. ``python tests/test_documentation.py`` rewrites it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest

from service.api.schemas import FormatRow, SegmentQuery
from service.encodings import FORMATS
from service.encodings.tables import SENSES, TABLES
from service.settings import PREFIX, Settings
from tests.live import ROOT, live_server

DOCS = Path(__file__).resolve().parent.parent / "docs"
SETTINGS = DOCS / "settings.md"
FORMATS_PAGE = DOCS / "formats.md"


def settings_page() -> str:
    """The page of settings, from the class."""
    lines = ["# Settings", "", " ".join((Settings.__doc__ or "").split()), "", "| variable | default | what |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "shipped `models/artifacts`" if name == "models_dir" else f"`{field.default}`"
        default = "" if field.default in (None, (), "") else default
        allowed = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        choice = f" One of {', '.join(f'`{word}`' for word in allowed)}." if allowed else ""
        what = " ".join((field.description or "").replace("``", "`").split())
        lines.append(f"| `{PREFIX}{name.upper()}` | {default} | {what}{choice} |")
    return "\n".join(lines) + "\n"


def test_the_page_of_settings_is_the_class_of_settings() -> None:
    """Every setting is documented with its own default and sentence."""
    assert SETTINGS.read_text("utf-8") == settings_page(), "rewrite it: python tests/test_documentation.py"


def test_every_setting_has_a_sentence() -> None:
    """A setting without an explanation cannot be used."""
    assert all(field.description and field.description.endswith(".") for field in Settings.model_fields.values())


def senses_table() -> list[str]:
    """The rows of the table of class names."""
    labels, trains, autoware = (
        {row.name: row.id for row in TABLES[name]} for name in ("cityscapes-label", "cityscapes-train", "autoware")
    )
    lines = ["| class names | Cityscapes: label id, train id | Autoware | why |", "|---|---|---|---|"]
    for sense in SENSES:
        city = (
            f"{sense.cityscapes}: {labels[sense.cityscapes]}, {trains.get(sense.cityscapes, '255')}"
            if sense.cityscapes
            else "255"
        )
        car = f"{sense.autoware}: {autoware[sense.autoware]}" if sense.autoware else "255"
        lines.append(f"| {', '.join(sense.names)} | {city} | {car} | {sense.reason} |")
    return lines


def formats_table() -> list[str]:
    """The rows of the table of formats, from the registry."""
    lines = ["| format | media type | what | several images | back into labels |", "|---|---|---|---|---|"]
    several = {None: "", "application/zip": "a zip", "application/json": "a list"}
    for form in FORMATS.values():
        row = FormatRow.of(form)
        joined = "one document" if form.gather and form.gather.merges else several[row.several]
        lines.append(f"| `{row.name}` | `{row.media_type}` | {row.about} | {joined} | {row.labels} |")
    return lines


def options_table() -> list[str]:
    """The options that only some formats take, from the query's own schema."""
    lines = ["| query | what, and for which formats |", "|---|---|"]
    for option, field in SegmentQuery.model_fields.items():
        if any(option in form.takes for form in FORMATS.values()):
            lines.append(f"| `{option}=` | {' '.join((field.description or '').split())} |")
    return lines


def formats_page() -> str:
    """The page of formats, with its tables from the code."""
    page = FORMATS_PAGE.read_text("utf-8")
    for name, lines in {"formats": formats_table(), "options": options_table(), "senses": senses_table()}.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        before, _, rest = page.partition(begin)
        page = before + begin + "\n".join(lines) + "\n" + end + rest.partition(end)[2]
    return page


def test_the_page_of_formats_has_every_row_of_the_code() -> None:
    """Which class goes where, and why, is written once."""
    assert FORMATS_PAGE.read_text("utf-8") == formats_page(), "rewrite it: python tests/test_documentation.py"


# pycocotools 2.0.11 with numpy 2 says this of itself on each decode.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
def test_every_snippet_of_the_page_of_formats_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after another, with the shipped network and the documented street; their own assertions judge."""
    snippets = re.findall(r"```python\n(.*?)```", FORMATS_PAGE.read_text("utf-8"), re.DOTALL)
    assert len(snippets) > 8
    (tmp_path / "street.jpg").write_bytes((DOCS / "images" / "street.jpg").read_bytes())
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    with live_server(Settings(models_dir=ROOT / "models" / "artifacts")) as url:
        for number, snippet in enumerate(snippets):
            assert "assert" in snippet or "def " in snippet or "file.write" in snippet
            code = compile(snippet.replace("http://127.0.0.1:8000", url), f"formats.md, snippet {number}", "exec")
            exec(code, names)
    assert (tmp_path / "overlay.png").stat().st_size > 10_000


if __name__ == "__main__":
    os.chdir(ROOT)
    SETTINGS.write_text(settings_page(), "utf-8")
    FORMATS_PAGE.write_text(formats_page(), "utf-8")
