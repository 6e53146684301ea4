"""``fcn-serve models``."""

from __future__ import annotations

import typer

from service.cli import tables
from service.cli.opened import opened
from service.settings import Settings


def models() -> None:
    """List the models that would be served."""
    with opened(Settings.load()) as predictor:
        repository = predictor.repository
        table = tables.table("", "model", "version", "architecture", "classes", "runs at", "stride", "mean IoU")
        for engine in repository.engines():
            manifest = engine.manifest
            height, width = manifest.input.working_size
            table.add_row(
                "*" if manifest.name == repository.default else "",
                manifest.name,
                manifest.version,
                manifest.architecture,
                str(len(manifest.classes)),
                f"{width} x {height}",
                str(manifest.stride),
                ", ".join(f"{split} {scores.mean_iou:.3f}" for split, scores in manifest.scores.items()),
            )
        tables.show(table)
        typer.echo(f"* answers when a request names none ({repository.default_reason})")
        tables.list_broken(repository.broken.values())
