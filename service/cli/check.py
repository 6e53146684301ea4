"""``fcn-serve check``."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from service.cli import FAILED, tables
from service.cli.opened import opened
from service.compose import open_predictor
from service.errors import BadArtifact, ServiceError
from service.pipeline.engine import Engine
from service.pipeline.inspection import inspect
from service.pipeline.manifest import Manifest
from service.pipeline.predictor import Predictor
from service.pipeline.segmentation import Timing
from service.settings import Settings

TIMED_RUNS = 5


def check(
    artifact: Annotated[
        Path | None, typer.Argument(help="Any ONNX file; every artifact of the models folder if left out.")
    ] = None,
) -> None:
    """Open every artifact, run it and time a frame.

    The command proves that each runs where it should. Exit code 1 if any is broken.

    With ARTIFACT, explain that file, ours or foreign: what it takes and gives, and what it lacks to be served.
    """
    settings = Settings.load()
    if artifact is not None:
        _explain(artifact, settings)
        return
    with opened(settings) as predictor:
        repository = predictor.repository
        table = tables.table("model", "file", "sha256", "provider", "frame", "network", "whole")
        broken = list(repository.broken.values())
        for engine in repository.engines():
            height, width = engine.manifest.input.working_size
            try:
                timing = _timed(predictor, engine)
            except ServiceError as error:
                broken.append(f"{engine.path.name}: {error.message}")
                continue
            table.add_row(
                engine.manifest.name,
                engine.path.name,
                engine.sha256[:12],
                engine.provider,
                f"{width} x {height}",
                f"{1000 * timing.infer_s:.1f} ms",
                f"{1000 * timing.total_s:.1f} ms",
            )
        tables.show(table)
        tables.list_broken(broken)
    if broken:
        raise typer.Exit(FAILED)


def _explain(path: Path, settings: Settings) -> None:
    """Everything is tried before anything is said: what cannot be opened is one line."""
    found = inspect(path)
    file, manifest = found.file, found.manifest
    data_files = "".join(f" + {part.name}" for part in file.data_files)
    rows = [
        ("file", f"{path}{data_files}, {file.size_bytes / 1e6:.3g} MB"),
        ("sha256", file.sha256()),
        ("format", f"ONNX IR {file.ir_version}, opset {file.opset}{f', by {file.producer}' if file.producer else ''}"),
        *(("input", str(port)) for port in found.inputs),
        *(("output", str(port)) for port in found.outputs),
    ]
    if manifest is not None:
        rows += _manifest_rows(manifest)
        with contextlib.closing(open_predictor(settings, path)) as predictor:
            if reason := next(iter(predictor.repository.broken.values()), None):
                raise BadArtifact(reason)
            engine = predictor.repository.get()
            timing = _timed(predictor, engine)
            rows.append(
                ("runs on", f"{engine.provider}: network {1000 * timing.infer_s:.1f} ms, whole {1000 * timing.total_s:.1f} ms")
            )
    rows.append(("providers", ", ".join(found.providers)))
    rows += [("missing", reason) for reason in found.missing]
    if found.command is not None:
        rows.append(("to add it", found.command))
    for name, value in rows:
        typer.echo(f"{name:<10} {value}")
    if manifest is None:
        raise typer.Exit(FAILED)


def _manifest_rows(manifest: Manifest) -> list[tuple[str, str]]:
    """Return an artifact's manifest as pairs of name and text."""
    policy, parity = manifest.input, manifest.parity
    height, width = policy.working_size
    field, halo = ("unknown" if side is None else f"{side} pixels" for side in (manifest.receptive_field, manifest.halo))
    rows = [
        ("model", f"{manifest.name}@{manifest.version}, {manifest.architecture}, {manifest.precision}"),
        ("classes", f"{len(manifest.classes)}: {', '.join(entry.name for entry in manifest.classes)}"),
        ("runs at", f"{policy.fit} of {width} x {height}, sides multiples of {policy.multiple}"),
        ("reach", f"stride {manifest.stride}, receptive field {field}, halo {halo}"),
    ]
    if parity is not None:
        rows.append(("parity", f"scores within {parity.max_score_difference:.1e}, winners {parity.argmax_agreement:.4%}"))
        if parity.switches:
            ties = f"{parity.moved_switches} of {parity.switches} recorded maxima tie up to a rounding and are other pixels"
            rows.append(("unpooling", ties))
    return rows


def _timed(predictor: Predictor, engine: Engine) -> Timing:
    """The run with the median time: milliseconds by step, for an image of the working size that is decoded already."""
    height, width = engine.manifest.input.working_size
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    runs = [predictor.segment(image, engine).timing for _ in range(TIMED_RUNS)]
    return sorted(runs, key=lambda timing: timing.total_s)[TIMED_RUNS // 2]
