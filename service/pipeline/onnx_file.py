"""What an ONNX file says of itself before ONNX Runtime opens it: its format, and the files that hold its weights.

An ONNX file is a protobuf message. It may keep its tensors in files beside it (the external-data form, for which weights beyond
2 GiB have no alternative): then all of them together are the artifact. ONNX Runtime does not say which they are, and explains
a file that is torn or incomplete in words of its own; so the few fields that matter are read here, the weights skipped.

May import: the standard library, ``service.errors``.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from service.errors import BadArtifact

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Protobuf's wire types."""

IR_VERSION, PRODUCER, PRODUCER_VERSION, GRAPH, OPSET = 1, 2, 3, 7, 8
"""Fields of ModelProto."""

EXTERNAL_DATA, DATA_LOCATION = 13, 14
"""Fields of TensorProto."""

_INSIDE: dict[str, dict[int, str]] = {
    "model": {GRAPH: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
"""Message and field -> message, on the ways that lead to tensors."""


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file whose parts are all there."""

    path: Path
    ir_version: int
    opset: int
    """Of the standard operators; 0 if there are none."""
    producer: str
    """Who wrote it, and which version; may be empty."""
    data_files: tuple[Path, ...]
    """The files beside it that hold its weights, sorted; none if it is self-contained."""

    @property
    def size_bytes(self) -> int:
        """Of all its files."""
        return sum(path.stat().st_size for path in (self.path, *self.data_files))

    def sha256(self) -> str:
        """Of the file, followed by its data files: what ``cat FILE.onnx FILE.onnx.data | sha256sum`` says."""
        digest = hashlib.sha256()
        for path in (self.path, *self.data_files):
            with path.open("rb") as file:
                hashlib.file_digest(file, lambda: digest)
        return digest.hexdigest()


class _Field(NamedTuple):
    number: int
    value: int
    """Of a varint."""
    start: int
    end: int
    """Where the bytes of anything else lie."""


class _Truncated(ValueError):
    """The file ends before a field does."""


def read(path: Path) -> OnnxFile:
    """Read a file's outline, and find its parts.

    Raises:
        BadArtifact: if it cannot be read, is no ONNX file, is damaged, or lacks a data file or a part of one
    """
    try:
        with path.open("rb") as file:
            if not path.stat().st_size:
                raise BadArtifact(f"{path.name}: is empty")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _outline(path, data)
    except OSError as error:
        raise BadArtifact(f"{path.name}: cannot be read: {error.strerror}") from error


def _outline(path: Path, data: mmap.mmap) -> OnnxFile:
    ir_version, opset, producer, has_graph = 0, 0, ["", ""], False
    extents: dict[str, int] = {}
    try:
        for field in _fields(data, 0, len(data)):
            if field.number == IR_VERSION:
                ir_version = field.value
            elif field.number in (PRODUCER, PRODUCER_VERSION):
                producer[field.number - PRODUCER] = _text(data, field)
            elif field.number == OPSET:
                operators = list(_fields(data, field.start, field.end))
                if not any(part.number == 1 and _text(data, part) not in ("", "ai.onnx") for part in operators):
                    opset = next((part.value for part in operators if part.number == 2), 0)
            has_graph |= field.number == GRAPH
        if ir_version and has_graph:
            for location, end in _external(data, "model", 0, len(data)):
                extents[location] = max(extents.get(location, 0), end)
    except _Truncated:
        raise BadArtifact(f"{path.name}: {'is truncated' if ir_version else 'is no ONNX file'}") from None
    except (ValueError, RecursionError):
        raise BadArtifact(f"{path.name}: {'is damaged' if ir_version else 'is no ONNX file'}") from None
    if not (ir_version and has_graph):
        raise BadArtifact(f"{path.name}: is no ONNX file")
    data_files = tuple(_data_file(path, location, end) for location, end in sorted(extents.items()))
    return OnnxFile(path, ir_version, opset, " ".join(filter(None, producer)), data_files)


def _data_file(path: Path, location: str, end: int) -> Path:
    """A data file of at least ``end`` bytes in the artifact's own folder."""
    within = PurePosixPath(location)
    if within.is_absolute() or ".." in within.parts:
        raise BadArtifact(f"{path.name}: keeps its weights in {location}, outside its own folder")
    file = path.parent / within
    if not file.is_file():
        raise BadArtifact(f"{path.name}: keeps its weights in {location}, which is missing beside it")
    size = file.stat().st_size
    if size < end:
        raise BadArtifact(f"{path.name}: keeps its weights in {location}, which is truncated: {size} of {end} bytes")
    return file


def _external(data: mmap.mmap, message: str, start: int, end: int) -> Iterator[tuple[str, int]]:
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


def _entry(data: mmap.mmap, field: _Field) -> tuple[str, str]:
    """A StringStringEntryProto."""
    parts = {part.number: _text(data, part) for part in _fields(data, field.start, field.end)}
    return parts.get(1, ""), parts.get(2, "")


def _text(data: mmap.mmap, field: _Field) -> str:
    return data[field.start : field.end].decode()


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[_Field]:
    """The fields of the message that lies there.

    Raises:
        ValueError: if these bytes are no message; :class:`_Truncated` if they end early
    """
    while at < end:
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
        yield _Field(number, value, at, at + size)
        at += size


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """A number, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise _Truncated
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("no number")
