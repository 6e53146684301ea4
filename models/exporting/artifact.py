"""An artifact on disk: a graph with its manifest inside, in one file, or beyond 2 GiB with its weights in a second one."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
from onnx.external_data_helper import convert_model_to_external_data

from models.exporting.card import write_card
from service.pipeline.manifest import Manifest

SELF_CONTAINED_BYTES = 2**31 - 2**24
"""Of weights. A protobuf message ends at 2 GiB; beyond, they lie in a file beside it: ONNX's external-data form."""


def is_large(model: onnx.ModelProto) -> bool:
    """Whether a graph's weights do not fit into one file with it."""
    weights: int = sum(tensor.ByteSize() for tensor in model.graph.initializer)
    return weights > SELF_CONTAINED_BYTES


def write(model: onnx.ModelProto, manifest: Manifest, file: Path) -> None:
    """Save a graph with a manifest inside, in the place of any that it had.

    Weights that lie in a second file are written once and then let go: to change the manifest, write to the same file again.
    """
    kept = {entry.key: entry.value for entry in model.metadata_props} | manifest.to_metadata()
    onnx.helper.set_model_props(model, kept)
    if is_large(model):
        convert_model_to_external_data(model, location=weights_file(file).name)
    file.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, file)


def rewrite(file: Path, manifest: Manifest) -> None:
    """Give an artifact another manifest, and write its card again; the graph stays as it is."""
    model = onnx.load(file)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        made = Path(folder) / file.name
        write(model, manifest, made)
        move(made, file)
    write_card(manifest, file, file.with_suffix(".md"))


def weights_file(file: Path) -> Path:
    """Where an artifact keeps its weights if they do not fit into it."""
    return file.with_name(f"{file.name}.data")


def move(file: Path, out: Path) -> None:
    """Bring an artifact to its place, the weights beside it first, an older one's place taken whole.

    Takes:
        file: as written by :func:`write`, under the name that it will have
    """
    if weights_file(file).exists():
        weights_file(file).replace(weights_file(out))
        file.replace(out)
    else:
        file.replace(out)
        weights_file(out).unlink(missing_ok=True)
