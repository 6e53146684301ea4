"""Describe an ONNX file, and what it lacks to be served: any file, ours or foreign.

An artifact of ours needs three things: its layout (``image`` with channels last in, ``scores`` out), a manifest, and a graph
that does what the manifest says. A segmentation network from elsewhere (float pixels or voxels in, scores or labels out) lacks
the first two, and one command adds them.
"""

from __future__ import annotations

import shlex
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

CHANNELS = {4: (1, 3), 5: (1,)}
"""Channels of a picture and of a volume, by the rank of the input: a scan's file holds one volume."""

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
    def is_integer(self) -> bool:
        """Whether its numbers are integers."""
        return self.dtype in INTEGERS

    @property
    def channel_axis(self) -> int:
        """The axis of an input's channels: the one whose number is fixed as that of channels; 1 where both are, or neither."""
        first, last = self.shape[1], self.shape[-1]
        known = CHANNELS[len(self.shape)]
        return len(self.shape) - 1 if first not in known and last in known else 1

    @property
    def is_pixels(self) -> bool:
        """Whether it may be float N x C x sides or N x sides x C: pictures of 1 or 3 channels, or volumes of 1."""
        return self.dtype in FLOATS and len(self.shape) in CHANNELS and (self._may_be_channels(1) or self._may_be_channels(-1))

    def _may_be_channels(self, axis: int) -> bool:
        return isinstance(self.shape[axis], str) or self.shape[axis] in CHANNELS[len(self.shape)]

    def is_answer(self, source: Port) -> bool:
        """Whether it may be the scores or the labels of this input: a class axis first or last, or none."""
        rank = len(source.shape)
        if self.dtype in FLOATS:
            return len(self.shape) in (rank, rank - 1)
        single = len(self.shape) == rank and 1 in (self.shape[1], self.shape[-1])
        return self.is_integer and (single or len(self.shape) == rank - 1)


@dataclass(frozen=True)
class Inspection:
    """A description of an ONNX file."""

    file: OnnxFile
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    manifest: Manifest | None
    missing: tuple[str, ...]
    """Reasons why it cannot be served, a sentence each; empty if it can."""
    command: str | None
    """The command that would remedy all of them; None where nothing is missing, or no command can help."""
    providers: tuple[str, ...]
    """The providers that this ONNX Runtime was built for, in its order of preference."""


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
    if len(inputs) != 1 or not inputs[0].is_pixels:
        wanted = "pictures N x 3 x H x W or N x H x W x 3 (or 1 channel), or volumes N x 1 x D x H x W or N x D x H x W x 1"
        raise BadArtifact(f"it takes {_listed(inputs)}; export it with one float input: {wanted}")
    return inputs[0]


def network_outputs(outputs: tuple[Port, ...], source: Port) -> list[Port]:
    """The outputs of a foreign network that may be its scores or its labels.

    Takes:
        source: its input
    Raises:
        BadArtifact: if there is none
    """
    found = [port for port in outputs if port.is_answer(source)]
    if not found:
        wanted = "N x K x H x W float scores or N x H x W integer labels"
        raise BadArtifact(f"it gives {_listed(outputs)}, not {wanted}: it is not a segmentation network")
    return found


def _missing(path: Path, inputs: tuple[Port, ...], outputs: tuple[Port, ...]) -> tuple[tuple[str, ...], str | None]:
    """Return what a file without a manifest lacks, and the command that adds it."""
    manifest = "a manifest: the names and colours of its classes, the size at which it was trained"
    if [port.name for port in inputs] == [INPUT] and inputs[0].dtype == "uint8" and OUTPUT in [port.name for port in outputs]:
        return (manifest,), "python -m models.export ARCHITECTURE --weights FILE --classes TABLE --name NAME --out FILE.onnx"
    try:
        source = network_input(inputs)
        found = network_outputs(outputs, source)
    except BadArtifact as error:
        return (manifest, error.message), None
    volumes = len(source.shape) == 5
    ours = "float32 N x D x H x W x C" if volumes else "uint8 N x H x W x 3"
    missing = (
        f"an input '{INPUT}' of {ours}, normalised inside the graph: it takes {source}",
        f"an output '{OUTPUT}' of float32 N x K x {'d x ' if volumes else ''}h x w: it gives {_listed(tuple(found))}",
        manifest,
    )
    planes = None if found[0].is_integer or len(found[0].shape) < len(source.shape) else found[0].shape[1]
    classes = "TABLE" if not isinstance(planes, int) else KNOWN_TABLES.get(planes, "FILE.json")
    words = ["python -m models.adopt", shlex.quote(str(path)), f"--classes {classes}"]
    if 3 in (source.shape[1], source.shape[-1]) or not volumes:
        words.append("--mean R,G,B --std R,G,B --order rgb|bgr")
    else:
        words.append("--mean M --std S")
    sides = [side for at, side in enumerate(source.shape) if at not in (0, source.channel_axis)]
    if not all(isinstance(side, int) for side in sides):
        words.append("--input-size DxHxW" if volumes else "--input-size HxW")
    if len(found) > 1:
        words.append("--output NAME")
    return missing, " ".join([*words, "--name NAME --out OUT.onnx"])


def _listed(ports: tuple[Port, ...]) -> str:
    return "; ".join(map(str, ports)) or "nothing"


def _dtype(kind: str) -> str:
    """ONNX Runtime's ``tensor(float)`` in numpy's words."""
    name = kind.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(name, name)
