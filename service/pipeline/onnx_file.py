"""An ONNX file as bytes, before ONNX Runtime opens it: its format, the files that hold its weights, its graph pruned.

An ONNX file is a protobuf message. It may keep its tensors in files beside it (the external-data form, which weights beyond
2 GiB need): then all files together are the artifact. ONNX Runtime does not name these files, and its errors about torn or
incomplete files are unclear. So the few fields that matter are read here; weights are skipped.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from service.errors import BadArtifact

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Protobuf's wire types."""

IR_VERSION, PRODUCER, PRODUCER_VERSION, GRAPH, OPSET, METADATA = 1, 2, 3, 7, 8, 14
"""Fields of ModelProto."""

EXTERNAL_DATA, DATA_LOCATION = 13, 14
"""Fields of TensorProto."""

NODE, INITIALIZER, OUTPUT = 1, 5, 12
"""Fields of GraphProto."""

NODE_INPUT, NODE_OUTPUT, NODE_NAME, OPERATOR, ATTRIBUTE = 1, 2, 3, 4, 5
"""Fields of NodeProto."""

TENSOR_NAME = 8
"""A field of TensorProto."""

MEASURING = frozenset(("Shape", "Size"))
"""Operators that read the sides of a tensor, and none of its values."""

BODIES = (6, 11)
"""Fields of AttributeProto that hold the graphs of loops and branches."""

_INSIDE: dict[str, dict[int, str]] = {
    "model": {GRAPH: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
"""Message and field -> message, on the ways that lead to tensors."""


class Outline(NamedTuple):
    """The facts in the file itself, whether or not its data files are there."""

    ir_version: int
    opset: int
    producer: str
    metadata: dict[str, str]
    """Its ``metadata_props``."""
    extents: dict[str, int]
    """By location: up to which byte of that file beside it its weights reach."""


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file whose parts are all there."""

    path: Path
    ir_version: int
    opset: int
    """The version of the standard operators; 0 if there are none."""
    producer: str
    """The program that wrote it, and its version; may be empty."""
    data_files: tuple[Path, ...]
    """The files beside it that hold its weights, sorted; none if it is self-contained."""
    locations: tuple[str, ...] = ()
    """Their names inside the file."""

    @property
    def size_bytes(self) -> int:
        """The length of all its files together."""
        return sum(path.stat().st_size for path in (self.path, *self.data_files))

    def sha256(self) -> str:
        """Return the hash of the file followed by its data files, as of ``cat FILE.onnx FILE.onnx.data | sha256sum``."""
        digest = hashlib.sha256()
        for path in (self.path, *self.data_files):
            with path.open("rb") as file:
                hashlib.file_digest(file, lambda: digest)
        return digest.hexdigest()


class _Field(NamedTuple):
    number: int
    value: int
    """The number that a varint holds."""
    at: int
    """Where the field begins."""
    start: int
    """Where its bytes begin, after tag and length."""
    end: int


class _Truncated(ValueError):
    """The file ends before a field does."""


class _Bytes:
    """A file's bytes, read as they are asked for. The file is not mapped: reading a map of a file that is cut short ends the
    process.
    """

    PAGE = 1 << 16

    def __init__(self, file: BinaryIO) -> None:
        self._descriptor = file.fileno()
        self.size = os.fstat(self._descriptor).st_size
        self._page, self._page_start = b"", 0

    def byte(self, at: int) -> int:
        """One of them."""
        within = at - self._page_start
        if not 0 <= within < len(self._page):
            self._page, self._page_start, within = self.slice(at, min(at + self.PAGE, self.size)), at, 0
        return self._page[within]

    def slice(self, start: int, end: int) -> bytes:
        """Those from ``start`` to ``end``."""
        found = os.pread(self._descriptor, end - start, start)
        if len(found) < end - start:
            raise _Truncated
        return found


def read(path: Path) -> OnnxFile:
    """Read a file's outline, and find its parts.

    Raises:
        BadArtifact: if it cannot be read, is not an ONNX file, is damaged, or lacks a data file or a part of one
    """
    found = outline(path)
    locations = tuple(sorted(found.extents))
    data_files = tuple(_data_file(path, location, found.extents[location]) for location in locations)
    return OnnxFile(path, found.ir_version, found.opset, found.producer, data_files, locations)


def outline(path: Path) -> Outline:
    """Read a file's outline.

    Raises:
        BadArtifact: if it cannot be read, is not an ONNX file, or is damaged
    """
    try:
        with path.open("rb") as file:
            data = _Bytes(file)
            if not data.size:
                raise BadArtifact(f"{path.name}: is empty", cause="truncated")
            return _outline(path, data)
    except OSError as error:
        raise BadArtifact(f"{path.name}: cannot be read: {error.strerror}", cause="unreadable") from error


def pruned(path: Path, outputs: Collection[str]) -> bytes:
    """Return a file's bytes without the outputs that are not named, and without the operators that only these need.

    Takes:
        path: an ONNX file that holds its own weights; weights that become unused stay in it
        outputs: names of the outputs to keep
    Raises:
        BadArtifact: if it cannot be read, or is damaged
    """
    try:
        with path.open("rb") as file:
            data = _Bytes(file)
            parts = []
            for field in _fields(data, 0, data.size):
                if field.number == GRAPH:
                    graph = _pruned_graph(data, field, frozenset(outputs))
                    parts.append(_as_varint(GRAPH << 3 | BYTES) + _as_varint(len(graph)) + graph)
                else:
                    parts.append(data.slice(field.at, field.end))
            return b"".join(parts)
    except OSError as error:
        raise BadArtifact(f"{path.name}: cannot be read: {error.strerror}", cause="unreadable") from error
    except (ValueError, RecursionError):
        raise _damage(path, "is damaged") from None


def shape_arithmetic(path: Path) -> frozenset[tuple[str, str]]:
    """Return name and operator of the nodes that compute with the sides of tensors and constants alone, never with values.

    Takes:
        path: an ONNX file
    Raises:
        BadArtifact: if it cannot be read, or is damaged
    """
    try:
        with path.open("rb") as file:
            data = _Bytes(file)
            graph = next(field for field in _fields(data, 0, data.size) if field.number == GRAPH)
            return frozenset(_shape_nodes(data, graph))
    except OSError as error:
        raise BadArtifact(f"{path.name}: cannot be read: {error.strerror}", cause="unreadable") from error
    except (ValueError, RecursionError, StopIteration):
        raise _damage(path, "is damaged") from None


def _shape_nodes(data: _Bytes, graph: _Field) -> Iterator[tuple[str, str]]:
    fields = list(_fields(data, graph.start, graph.end))
    constants = {""}  # the name of an input that is left out
    sides: set[str] = set()
    for field in fields:
        if field.number == INITIALIZER:
            constants.update(_texts(data, field, TENSOR_NAME))
    for field in fields:  # operators stand in the order in which they run
        if field.number == NODE:
            (operator,) = _texts(data, field, OPERATOR)
            read, made = set(_reads(data, field)), _texts(data, field, NODE_OUTPUT)
            if read <= constants:
                constants.update(made)
            elif operator in MEASURING or read <= constants | sides:
                sides.update(made)
                yield next(iter(_texts(data, field, NODE_NAME)), ""), operator


def _texts(data: _Bytes, message: _Field, number: int) -> list[str]:
    """The texts of a message's fields of one number."""
    return [_text(data, part) for part in _fields(data, message.start, message.end) if part.number == number]


def _pruned_graph(data: _Bytes, graph: _Field, outputs: frozenset[str]) -> bytes:
    """Return a graph's bytes with the operators that these outputs need."""
    fields = list(_fields(data, graph.start, graph.end))
    needed = set(outputs)
    kept = []
    for field in reversed(fields):  # operators stand in the order in which they run
        if field.number == OUTPUT:
            name = next(_text(data, part) for part in _fields(data, field.start, field.end) if part.number == 1)
            if name not in outputs:
                continue
        elif field.number == NODE:
            parts = list(_fields(data, field.start, field.end))
            if needed.isdisjoint(_text(data, part) for part in parts if part.number == NODE_OUTPUT):
                continue
            needed.update(_reads(data, field))
        kept.append(data.slice(field.at, field.end))
    return b"".join(reversed(kept))


def _reads(data: _Bytes, node: _Field) -> Iterator[str]:
    """The names that an operator reads, and those that the operators inside its loops and branches read."""
    for part in _fields(data, node.start, node.end):
        if part.number == NODE_INPUT:
            yield _text(data, part)
        elif part.number == ATTRIBUTE:
            for inside in _fields(data, part.start, part.end):
                if inside.number in BODIES:
                    for field in _fields(data, inside.start, inside.end):
                        if field.number == NODE:
                            yield from _reads(data, field)
                        elif field.number == OUTPUT:  # may be a name of the graph around it
                            yield from (_text(data, name) for name in _fields(data, field.start, field.end) if name.number == 1)


def _as_varint(value: int) -> bytes:
    """The bytes of a number, as :func:`_varint` reads them."""
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)


def _outline(path: Path, data: _Bytes) -> Outline:
    ir_version, opset, producer, has_graph = 0, 0, ["", ""], False
    metadata: dict[str, str] = {}
    extents: dict[str, int] = {}
    try:
        for field in _fields(data, 0, data.size):
            if field.number == IR_VERSION:
                ir_version = field.value
            elif field.number in (PRODUCER, PRODUCER_VERSION):
                producer[field.number - PRODUCER] = _text(data, field)
            elif field.number == OPSET:
                operators = list(_fields(data, field.start, field.end))
                if not any(part.number == 1 and _text(data, part) not in ("", "ai.onnx") for part in operators):
                    opset = next((part.value for part in operators if part.number == 2), 0)
            elif field.number == METADATA:
                key, value = _entry(data, field)
                metadata[key] = value
            has_graph |= field.number == GRAPH
        if ir_version and has_graph:
            for location, end in _external(data, "model", 0, data.size):
                extents[location] = max(extents.get(location, 0), end)
    except _Truncated:
        raise _damage(path, "is truncated" if ir_version else "is not an ONNX file") from None
    except (ValueError, RecursionError):
        raise _damage(path, "is damaged" if ir_version else "is not an ONNX file") from None
    if not (ir_version and has_graph):
        raise _damage(path, "is not an ONNX file")
    return Outline(ir_version, opset, " ".join(filter(None, producer)), metadata, extents)


def _damage(path: Path, how: str) -> BadArtifact:
    return BadArtifact(f"{path.name}: {how}", cause="truncated" if how == "is truncated" else "damaged")


def _data_file(path: Path, location: str, end: int) -> Path:
    """A data file of at least ``end`` bytes in the artifact's own folder."""
    within = PurePosixPath(location)
    if within.is_absolute() or ".." in within.parts:
        raise BadArtifact(f"{path.name}: keeps its weights in {location}, outside its own folder", cause="data")
    file = path.parent / within
    if not file.is_file():
        raise BadArtifact(f"{path.name}: keeps its weights in {location}, which is missing beside it", cause="data")
    size = file.stat().st_size
    if size < end:
        raise BadArtifact(
            f"{path.name}: keeps its weights in {location}, which is truncated: {size} of {end} bytes", cause="data"
        )
    return file


def _external(data: _Bytes, message: str, start: int, end: int) -> Iterator[tuple[str, int]]:
    """(location, end in bytes) of every tensor that lies in another file."""
    if message == "tensor":
        fields = list(_fields(data, start, end))
        if any(field.number == DATA_LOCATION and field.value == 1 for field in fields):
            facts = dict(_entry(data, field) for field in fields if field.number == EXTERNAL_DATA)
            yield facts.get("location", ""), int(facts.get("offset", 0)) + int(facts.get("length", 0))
        return
    inside = _INSIDE[message]
    for field in _fields(data, start, end):
        if field.number in inside:
            yield from _external(data, inside[field.number], field.start, field.end)


def _entry(data: _Bytes, field: _Field) -> tuple[str, str]:
    """A StringStringEntryProto."""
    parts = {part.number: _text(data, part) for part in _fields(data, field.start, field.end)}
    return parts.get(1, ""), parts.get(2, "")


def _text(data: _Bytes, field: _Field) -> str:
    return data.slice(field.start, field.end).decode()


def _fields(data: _Bytes, at: int, end: int) -> Iterator[_Field]:
    """The fields of the message that lies there.

    Raises:
        ValueError: if these bytes are not a message; :class:`_Truncated` if they end early
    """
    while at < end:
        began = at
        tag, at = _varint(data, at, end)
        number, wire_type = tag >> 3, tag & 7
        value = size = 0
        if wire_type == VARINT:
            value, at = _varint(data, at, end)
        elif wire_type == BYTES:
            size, at = _varint(data, at, end)
        elif wire_type in (FIXED32, FIXED64):
            size = 4 if wire_type == FIXED32 else 8
        if number == 0 or wire_type not in (VARINT, FIXED64, BYTES, FIXED32):
            raise ValueError("no field of a message")
        if at + size > end:
            raise _Truncated
        yield _Field(number, value, began, at, at + size)
        at += size


def _varint(data: _Bytes, at: int, end: int) -> tuple[int, int]:
    """A number, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise _Truncated
        byte = data.byte(at)
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("no number")
