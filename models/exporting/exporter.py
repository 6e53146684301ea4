"""From a network to its artifact: traced, compared with PyTorch, if wanted in a lower precision, written in one step."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from models.exporting.artifact import is_large, move, write
from models.exporting.loss import Labelled, check_loss, measure_loss
from models.exporting.parity import TOLERANCES, ParityError
from models.exporting.precision import to_fp16
from models.exporting.quantisation.recipe import Quantisation, quantise
from models.exporting.slicing import in_slices
from models.exporting.torch_parity import check_parity
from models.exporting.tracing import to_onnx
from models.nets.network import Network
from service.pipeline.manifest import Loss, Manifest
from service.pipeline.plan import fit_size


@dataclass(frozen=True)
class Evidence:
    """Frames that a lower precision is made with, and judged by."""

    frames: Sequence[NDArray[np.uint8]] = ()
    """1 x h x w x 3 uint8 each, to calibrate int8 with."""
    labelled: Sequence[Labelled] = ()
    """Frames on which the loss is measured."""


def export(net: Network, manifest: Manifest, out: Path, evidence: Evidence | None = None) -> Manifest:
    """Write an artifact, or nothing.

    The float32 graph must agree with PyTorch whatever the precision: the loss of int8 is then the quantisation's alone.

    Takes:
        net: ready to predict
        manifest: all but ``parity`` and the losses, which are measured here; its ``precision`` is written
        out: the file; an old one is replaced only by a new one that agrees
        evidence: for a lower precision
    Gives:
        the manifest as written
    Raises:
        ParityError: if ONNX Runtime and PyTorch disagree, or a lower precision loses too much
        ValueError: if a lower precision is asked for and the network is too large for the tools
    """
    evidence = evidence or Evidence()
    lower = manifest.precision != "fp32"
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        exact = candidate = Path(folder) / "fp32" / out.name
        model = to_onnx(net, manifest.input)
        large = is_large(model)
        if lower and large:
            raise ValueError(f"weights beyond 2 GiB are exported in fp32 only, not in {manifest.precision}")
        if not (lower or large) and manifest.input.dimensions == 2:  # both lower precisions have smaller maps
            model = in_slices(model, fit_size(*manifest.input.working_size, manifest.input))
        write(model, manifest.model_copy(update={"precision": "fp32", "reduced": None}), exact)
        onnx.checker.check_model(exact, full_check=True)
        parity = check_parity(net, exact, manifest.input)
        if lower:
            candidate = Path(folder) / out.name
            quantisation = quantise(model, list(evidence.frames)) if manifest.precision == "int8" else None
            model = to_fp16(model) if quantisation is None else quantisation.model()
            write(model, manifest, candidate)
            try:
                parity = check_parity(net, candidate, manifest.input, TOLERANCES[manifest.precision])
            except ParityError as error:
                raise ParityError(f"in {manifest.precision}, {error}. In float32 it agrees: leave --precision out") from error
            manifest = _with_losses(manifest, _losses(exact, candidate, evidence, quantisation))
        complete = manifest.model_copy(update={"parity": parity})
        write(model, complete, candidate)  # the weights, if they lie beside it, are not written again
        move(candidate, out)
    return complete


def _losses(exact: Path, candidate: Path, evidence: Evidence, quantisation: Quantisation | None) -> dict[str, Loss]:
    """The loss on every labelled split.

    Raises:
        ParityError: if one is too large
    """
    found: dict[str, Loss] = {}
    for labelled in evidence.labelled:
        found[labelled.name] = measure_loss(exact, candidate, labelled)
        check_loss(found[labelled.name], labelled, quantisation, list(evidence.frames))
    return found


def _with_losses(manifest: Manifest, losses: dict[str, Loss]) -> Manifest:
    if manifest.reduced is None:
        return manifest
    reduced = manifest.reduced.model_copy(update={"losses": {**manifest.reduced.losses, **losses}})
    return manifest.model_copy(update={"reduced": reduced})
