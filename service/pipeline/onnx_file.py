"""An ONNX file as bytes, before ONNX Runtime opens it: its format, the files that hold its weights, its graph in halves.

An ONNX file is a protobuf message. It may keep its tensors in files beside it (the external-data form, which weights beyond
2 GiB need): then all files together are the artifact. ONNX Runtime does not name these files, and its errors about torn or
incomplete files are unclear. So the few fields that matter are read here; weights are skipped.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
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

NODE, INITIALIZER, INPUT, OUTPUT = 1, 5, 11, 12
"""Fields of GraphProto."""

NODE_INPUT, NODE_OUTPUT, NODE_NAME, OPERATOR, ATTRIBUTE = 1, 2, 3, 4, 5
"""Fields of NodeProto."""

TENSOR_NAME = 8
"""A field of TensorProto."""

COPIED = frozenset(("Constant", "DequantizeLinear"))
"""Operators that both halves of a graph may run: they cost next to nothing, and what they are made of is smaller."""

ELEMENTS = {
    "tensor(float)": 1,
    "tensor(uint8)": 2,
    "tensor(int8)": 3,
    "tensor(uint16)": 4,
    "tensor(int16)": 5,
    "tensor(int32)": 6,
    "tensor(int64)": 7,
    "tensor(bool)": 9,
    "tensor(float16)": 10,
    "tensor(double)": 11,
    "tensor(uint32)": 12,
    "tensor(uint64)": 13,
    "tensor(bfloat16)": 16,
}
"""TensorProto's numbers for ONNX Runtime's names of types."""

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


@dataclass(frozen=True)
class Halves:
    """A graph in two: a model that gives some of its outputs, and one that goes on from there to the others."""

    first: bytes
    """The model with the operators that these outputs need. It gives these and what lies between."""
    between: tuple[str, ...]
    """The tensors that the rest reads of it."""
    _rest: tuple[bytes, bytes, bytes] | None
    """The model before its graph, the graph of all further operators, the model behind it; None where no output is left."""

    def rest(self, values: Mapping[str, tuple[str, Sequence[object]]]) -> bytes | None:
        """Return the model of the further operators.

        Takes:
            values: what ONNX Runtime tells of each value between: its type, and its sides: a number where one is fixed,
                something else where it is free, none at all where not even their count is known. Only where that is known does
                ONNX Runtime compute in 8 bits with channels last, which takes 0.9 of the time
        Gives:
            None where there is no such model: no output is left, or something other than a tensor of numbers lies between
        """
        if self._rest is None or not ELEMENTS.keys() >= {values[name][0] for name in self.between}:
            return None
        before, graph, behind = self._rest
        inputs = [_value(name, *values[name]) for name in self.between]
        whole = graph + b"".join(_message(INPUT, value) for value in inputs)
        return before + _message(GRAPH, whole) + behind


def halves(path: Path, outputs: Sequence[str]) -> Halves:
    """Cut a graph behind the operators that some outputs need.

    Takes:
        path: an ONNX file that holds its own weights
        outputs: names of the outputs that the first half gives
    Raises:
        BadArtifact: if it cannot be read, or is damaged
    """
    try:
        with path.open("rb") as file:
            data = _Bytes(file)
            fields = list(_fields(data, 0, data.size))
            (graph,) = (field for field in fields if field.number == GRAPH)
            before, behind = data.slice(0, graph.at), data.slice(graph.end, data.size)
            first, between, rest = _cut(data, graph, outputs)
    except OSError as error:
        raise BadArtifact(f"{path.name}: cannot be read: {error.strerror}", cause="unreadable") from error
    except (ValueError, RecursionError):
        raise _damage(path, "is damaged") from None
    return Halves(before + _message(GRAPH, first) + behind, between, None if rest is None else (before, rest, behind))


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


class _Operator(NamedTuple):
    """A node of a graph."""

    field: _Field
    kind: str
    reads: frozenset[str]
    makes: frozenset[str]
    """Both without the empty names of optional inputs and outputs that are left out."""

    @classmethod
    def of(cls, data: _Bytes, field: _Field) -> _Operator:
        """Read a node."""
        parts = [part for part in _fields(data, field.start, field.end) if part.number in (NODE_OUTPUT, OPERATOR)]
        kind = next((_text(data, part) for part in parts if part.number == OPERATOR), "")
        makes = frozenset(_text(data, part) for part in parts if part.number == NODE_OUTPUT)
        return cls(field, kind, frozenset(_reads(data, field)) - {""}, makes - {""})


def _cut(data: _Bytes, graph: _Field, outputs: Sequence[str]) -> tuple[bytes, tuple[str, ...], bytes | None]:
    """Return the two halves of a graph, and the names of what lies between them; the second is None if it has no output."""
    fields = list(_fields(data, graph.start, graph.end))
    operators = [_Operator.of(data, field) for field in fields if field.number == NODE]
    first = _needed(operators, outputs)
    made = frozenset[str]().union(*(operator.makes for operator in first))
    given = [_named(data, field) for field in fields if field.number == OUTPUT]
    further = [name for name in given if name not in made]
    only_first = {operator.field.at for operator in first if operator.kind not in COPIED}
    rest = _needed([one for one in operators if one.field.at not in only_first], further)
    read = frozenset[str]().union(*(operator.reads for operator in rest))
    between = tuple(sorted((read & made) - frozenset[str]().union(*(operator.makes for operator in rest))))
    halves = [_half(data, fields, kept, given) for kept in (first, rest)]
    new = b"".join(_message(OUTPUT, _message(1, name.encode())) for name in between if name not in given)
    return halves[0] + new, between, halves[1] if further else None


def _needed(operators: Sequence[_Operator], outputs: Sequence[str]) -> list[_Operator]:
    """Return the operators that some tensors need, in the graph's order, which need not be the one in which they run."""
    makers = {name: operator for operator in operators for name in operator.makes}
    needed: set[int] = set()
    left = list(outputs)
    while left:
        operator = makers.get(left.pop())
        if operator is not None and operator.field.at not in needed:
            needed.add(operator.field.at)
            left.extend(operator.reads)
    return [operator for operator in operators if operator.field.at in needed]


def _half(data: _Bytes, fields: Sequence[_Field], kept: Sequence[_Operator], outputs: Sequence[str]) -> bytes:
    """Return a graph with some of its operators, the inputs and weights that they read, and the outputs that they make."""
    nodes = {operator.field.at for operator in kept}
    read = frozenset[str]().union(*(operator.reads for operator in kept))
    made = frozenset[str]().union(*(operator.makes for operator in kept)) & frozenset(outputs)
    parts = []
    for field in fields:
        names = {INPUT: read, OUTPUT: made, INITIALIZER: read}.get(field.number)
        if field.at in nodes if field.number == NODE else names is None or _named(data, field) in names:
            parts.append(data.slice(field.at, field.end))
    return b"".join(parts)


def _named(data: _Bytes, field: _Field) -> str:
    """The name of a graph's input, output or weight."""
    number = TENSOR_NAME if field.number == INITIALIZER else 1
    return next((_text(data, part) for part in _fields(data, field.start, field.end) if part.number == number), "")


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


def _value(name: str, kind: str, sides: Sequence[object]) -> bytes:
    """A ValueInfoProto: a tensor with these sides, of which only numbers are fixed; of any shape if there are none."""
    element = _as_varint(1 << 3 | VARINT) + _as_varint(ELEMENTS[kind])
    fixed = [_as_varint(1 << 3 | VARINT) + _as_varint(side) if isinstance(side, int) else b"" for side in sides]
    shape = _message(2, b"".join(_message(1, side) for side in fixed)) if fixed else b""
    return _message(1, name.encode()) + _message(2, _message(1, element + shape))


def _message(number: int, content: bytes) -> bytes:
    """A field that holds bytes."""
    return _as_varint(number << 3 | BYTES) + _as_varint(len(content)) + content


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
