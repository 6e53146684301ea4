"""What the documentation says of the code is read from the code. ``python tests/test_documentation.py`` writes it anew."""

from __future__ import annotations

from pathlib import Path

from service.settings import PREFIX, Settings

DOCS = Path(__file__).resolve().parent.parent / "docs"
SETTINGS = DOCS / "settings.md"


def settings_page() -> str:
    """The page of settings, from the class."""
    lines = ["# Settings", "", (Settings.__doc__ or "").strip(), "", "| variable | default | what |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "shipped `models/artifacts`" if name == "models_dir" else f"`{field.default}`"
        default = "" if field.default in (None, ()) else default
        lines.append(
            f"| `{PREFIX}{name.upper()}` | {default} | {' '.join((field.description or '').replace('``', '`').split())} |"
        )
    return "\n".join(lines) + "\n"


def test_the_page_of_settings_is_the_class_of_settings() -> None:
    """Every setting is documented with its own default and sentence."""
    assert SETTINGS.read_text("utf-8") == settings_page(), "write it anew: python tests/test_documentation.py"


def test_every_setting_has_a_sentence() -> None:
    """A setting without an explanation cannot be used."""
    assert all(field.description and field.description.endswith(".") for field in Settings.model_fields.values())


if __name__ == "__main__":
    SETTINGS.write_text(settings_page(), "utf-8")
