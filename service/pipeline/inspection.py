"""What an ONNX file is, and what it lacks to be served: any file, ours or foreign.

An artifact of ours needs three things: its layout (uint8 N x H x W x 3 ``image`` in, float32 N x K x h x w ``scores`` out), a
manifest, and a graph that does what the manifest says. A segmentation network from elsewhere (float N x 3 x H x W in, scores or
labels out) lacks the first two, and one command adds them.

May import: onnxruntime, ``service.errors``, and the pipeline's ``engine``, ``manifest`` and ``onnx_file``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort

from service.errors import BadArtifact
from service.pipeline import onnx_file
from service.pipeline.engine import check_graph, load
from service.pipeline.manifest import INPUT, METADATA_KEY, OUTPUT, Manifest, read_manifest
from service.pipeline.onnx_file import OnnxFile

FLOATS = ("float32", "float16")
INTEGERS = ("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8")

KNOWN_TABLES = {11: "camvid", 19: "cityscapes", 21: "voc", 150: "ade20k"}
"""The class table that a number of score planes suggests."""


@dataclass(frozen=True)
class Port:
    """One input or output of a graph."""

    name: str
    dtype: str
    """As numpy says it: ``float32``; ONNX Runtime's own word for what is not a tensor."""
    shape: tuple[int | str, ...]
    """A number where a side is fixed, its name where it is free."""

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} {' x '.join(map(str, self.shape)) or 'scalar'}"

    @property
    def is_planes(self) -> bool:
        """Whether it may be N x C x H x W numbers."""
        return self.dtype in FLOATS and len(self.shape) == 4

    @property
    def is_labels(self) -> bool:
        """Whether it may be N x H x W, or N x 1 x H x W, class ids."""
        return self.dtype in INTEGERS and (len(self.shape) == 3 or (len(self.shape) == 4 and self.shape[1] == 1))


@dataclass(frozen=True)
class Inspection:
    """What an ONNX file is, and what it lacks."""

    file: OnnxFile
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    manifest: Manifest | None
    missing: tuple[str, ...]
    """What it lacks to be served, a sentence each; nothing if it can be."""
    command: str | None
    """What would add all of that; None where nothing is missing, or no command can help."""
    providers: tuple[str, ...]
    """What this ONNX Runtime was built for, in its order of preference."""


def inspect(path: Path) -> Inspection:
    """Describe an ONNX file.

    Whether an artifact of ours also runs as its manifest says is for ``Engine.open`` to find out.

    Raises:
        BadArtifact: if it is not an ONNX file, or incomplete, or ONNX Runtime cannot load it, or its manifest is refused or
            contradicts its graph
    """
    file = onnx_file.read(path)
    session = load(path)
    inputs, outputs = (
        tuple(Port(node.name, _dtype(node.type), tuple(side or "?" for side in node.shape)) for node in nodes)
        for nodes in (session.get_inputs(), session.get_outputs())
    )
    metadata = session.get_modelmeta().custom_metadata_map
    providers = tuple(ort.get_available_providers())
    if METADATA_KEY in metadata:
        manifest = read_manifest(metadata, source=path.name)
        check_graph(session, manifest, path.name)
        return Inspection(file, inputs, outputs, manifest, (), None, providers)
    missing, command = _missing(path, inputs, outputs)
    return Inspection(file, inputs, outputs, None, missing, command, providers)


def network_input(inputs: tuple[Port, ...]) -> Port:
    """The input of a foreign segmentation network.

    Raises:
        BadArtifact: if it takes anything else, or anything beside it
    """
    if len(inputs) != 1 or not inputs[0].is_planes or not _may_be(3, inputs[0].shape[1]):
        raise BadArtifact(
            f"it takes {_listed(inputs)}; a network that can be adopted takes float N x 3 x H x W and nothing else"
        )
    return inputs[0]


def network_outputs(outputs: tuple[Port, ...]) -> list[Port]:
    """The outputs of a foreign network that may be its scores or its labels.

    Raises:
        BadArtifact: if there is none
    """
    found = [port for port in outputs if port.is_planes or port.is_labels]
    if not found:
        wanted = "N x K x H x W float scores or N x H x W integer labels"
        raise BadArtifact(f"it gives {_listed(outputs)}, and no {wanted}: it is not a segmentation network")
    return found


def _missing(path: Path, inputs: tuple[Port, ...], outputs: tuple[Port, ...]) -> tuple[tuple[str, ...], str | None]:
    """What a file without a manifest lacks, and the command that adds it."""
    manifest = "a manifest: the names and colours of its classes, the size at which it was trained"
    if [port.name for port in inputs] == [INPUT] and inputs[0].dtype == "uint8" and OUTPUT in [port.name for port in outputs]:
        return (manifest,), "python -m models.export ARCHITECTURE --weights FILE --classes TABLE --name NAME --out FILE.onnx"
    try:
        source, found = network_input(inputs), network_outputs(outputs)
    except BadArtifact as error:
        return (manifest, error.message), None
    missing = (
        f"an input '{INPUT}' of uint8 N x H x W x 3, normalised inside the graph: it takes {source}",
        f"an output '{OUTPUT}' of float32 N x K x h x w: it gives {_listed(tuple(found))}",
        manifest,
    )
    planes = found[0].shape[1] if found[0].is_planes else None
    classes = "TABLE" if not isinstance(planes, int) else KNOWN_TABLES.get(planes, "FILE.json")
    words = [f"python -m models.adopt {path} --classes {classes} --mean R,G,B --std R,G,B --order rgb|bgr"]
    if not all(isinstance(side, int) for side in source.shape[2:]):
        words.append("--input-size HxW")
    if len(found) > 1:
        words.append("--output NAME")
    return missing, " ".join([*words, "--name NAME --out OUT.onnx"])


def _may_be(number: int, side: int | str) -> bool:
    return isinstance(side, str) or side == number


def _listed(ports: tuple[Port, ...]) -> str:
    return "; ".join(map(str, ports)) or "nothing"


def _dtype(kind: str) -> str:
    """ONNX Runtime's ``tensor(float)`` in numpy's words."""
    name = kind.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(name, name)
