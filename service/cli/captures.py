"""``fcn-serve captures``: the frames that a service has kept for the next training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.captures.export import export as export_captures
from service.captures.store import Entry, entries
from service.cli import FAILED, tables
from service.errors import BadSetting
from service.settings import Settings


def captures(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="The folder of captures; FCN_CAPTURE_DIR if left out.")
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(metavar="OUT", help="Write images and tasks for Label Studio and CVAT into a new folder, or a .zip."),
    ] = None,
) -> None:
    """List the frames that a service has kept (FCN_CAPTURE_DIR), or export them."""
    folder = folder or Settings.load().capture_dir
    if folder is None:
        raise BadSetting("FCN_CAPTURE_DIR is not set: name the folder of captures")
    try:
        found = entries(folder)
    except OSError as error:
        raise BadSetting(f"cannot read the captures in {folder}: {error.strerror}") from error
    unread = _listed(found) if export is None else _exported(found, export)
    for sentence in unread:
        typer.echo(f"  {sentence}", err=True)
    if unread:
        raise typer.Exit(FAILED)


def _exported(found: list[Entry], out: Path) -> list[str]:
    try:
        count, unread = export_captures(found, out)
    except OSError as error:
        raise BadSetting(f"cannot write {out}: {error.strerror}") from error
    typer.echo(f"{count} captures in {out}: images, labelstudio.json, annotations.xml (CVAT for images 1.1), captures.jsonl")
    return unread


def _listed(found: list[Entry]) -> list[str]:
    table = tables.table("capture", "confidence", "reason", "size", "model", "MB")
    unread = []
    for entry in found:
        try:
            facts = entry.facts()
            height, width = facts["size"]
            model = f"{facts['model']['name']}@{facts['model']['version']}"
            row = (f"{facts['confidence']:.3f}", str(facts["reason"]), f"{width} x {height}", model)
        except (OSError, ValueError, LookupError, TypeError) as error:
            unread.append(f"{entry.name}: {error}")
            continue
        table.add_row(entry.name, *row, f"{entry.size_bytes / 1e6:.2f}")
    tables.show(table)
    typer.echo(f"{len(found)} captures, {sum(entry.size_bytes for entry in found) / 1e6:.1f} MB")
    return unread
