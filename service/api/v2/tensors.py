"""Tensors of the Open Inference Protocol, read from a body and written into one. No HTTP here.

A body is JSON; or JSON and, behind it, the bytes of its tensors one after another: little-endian, row-major, an element of
``BYTES`` as its length (4 bytes) and itself. Nothing that a body says is believed before it is compared with what there is.

The numbers of a JSON tensor never become Python objects: ten megabytes of them (1280 x 720) would keep the interpreter to
themselves for a quarter of a second. Read with numpy they take half of that, in steps that let others in between.
"""

from __future__ import annotations

import binascii
import json
import math
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from service.api.v2.memory import NO_REGIONS, Placement, Regions
from service.api.v2.schemas import INPUT, InferReply, InferRequest, InputTensor, OutputTensor, TensorMetadata
from service.api.v2.schemas import read as wire_read
from service.encodings import png
from service.errors import BadParameter, EmptyBody
from service.pipeline.segmentation import Segmentation
from service.serving.scheduler import Priority

Image = NDArray[np.uint8]
Array = NDArray[np.uint8] | NDArray[np.float32]

MAX_IMAGES = 64
"""A request."""
MAX_JSON_BYTES = 64 * 1024
"""The limit on a request's JSON, the data of its tensor left out."""
MAX_JSON_VALUES = 1 << 22
"""Numbers of an output that may come back as JSON: 4 bytes each and more."""
BLOCK = 1 << 18
"""Characters or numbers that are worked on at a time."""

_DATA = re.compile(rb'"data"\s*:\s*\[')
_DATATYPE = re.compile(rb'"datatype"\s*:\s*"([A-Z0-9]{1,16})"')
_NUMERIC = b"0123456789,[] \t\r\n"
_FOREIGN = np.ones(256, bool)
"""For each byte, whether it cannot be part of ``data``."""
_FOREIGN[list(_NUMERIC + b'"+/=\\ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz')] = False
_TEXTS = np.array([list(f"{value},".ljust(4).encode()) for value in range(256)], np.uint8)
"""256 x 4: each number and a comma."""
_USED = np.not_equal(_TEXTS, ord(" "))


@dataclass(frozen=True)
class Output:
    """One thing that can be asked for."""

    datatype: str
    dimensions: int
    """The dimensions of one image's tensor."""
    make: Callable[[Segmentation], Array | bytes]


OUTPUTS = {
    "labels": Output("UINT8", 2, lambda result: result.labels),
    "labels_png": Output("BYTES", 0, lambda result: png.encode_indexed(result.labels, result.manifest.palette())),
    "confidence": Output("UINT8", 2, lambda result: result.confidence()),
    "scores": Output("FP32", 3, lambda result: result.scores),
}
"""By name, the first is the one that comes where none is named."""

INPUTS = [TensorMetadata(name=INPUT, datatype="BYTES", shape=[-1])]


def output_metadata() -> list[TensorMetadata]:
    """The outputs, of a batch of images."""
    return [
        TensorMetadata(name=name, datatype=output.datatype, shape=[-1] * (1 + output.dimensions))
        for name, output in OUTPUTS.items()
    ]


@dataclass(frozen=True)
class Wanted:
    """An output that is asked for."""

    name: str
    binary: bool
    place: Placement | None = None
    """The place in shared memory that it goes to."""


@dataclass(frozen=True)
class Order:
    """A request, understood."""

    images: Sequence[bytes | Image]
    """Files, or H x W x 3 uint8 RGB."""
    outputs: tuple[Wanted, ...]
    is_batch: bool = True
    """Whether outputs have a first dimension that counts images."""
    id: str | None = None
    model: tuple[str | None, str | None] = (None, None)
    """Name and version, where they are said."""
    timeout_ms: float | None = None
    priority: Priority = Priority.NORMAL
    says_final: bool = False
    """Whether the reply is to say that no other one follows."""


@dataclass(frozen=True)
class Part:
    """One output of one image, ready to be joined with those of the others."""

    shape: tuple[int, ...]
    data: bytes


InMemory = Callable[[Placement], memoryview]
"""Gives the bytes of a tensor in shared memory."""

_NOT_IN_MEMORY: InMemory = partial(NO_REGIONS.read, hold=lambda _: None)


def read(body: bytes, json_size: int | None, in_memory: InMemory = _NOT_IN_MEMORY) -> Order:
    """Understand a request.

    Takes:
        body: all of it
        json_size: bytes of the JSON at its beginning; None is all of them, and 0 says that the body is one image file
        in_memory: gives the bytes of an input that is in shared memory
    Raises:
        BadParameter: naming what is wrong and what would be right
        EmptyBody: if there is nothing
    """
    if not body:
        raise EmptyBody("the body is empty: send an inference request")
    if json_size == 0:
        return Order([body], (Wanted(next(iter(OUTPUTS)), binary=True),))
    if json_size is not None and json_size > len(body):
        raise _bad("Inference-Header-Content-Length", f"is {json_size}, and the body has {len(body)} bytes")
    text, tail = (body, None) if json_size is None else (body[:json_size], memoryview(body)[json_size:])
    text, data = _take_data(text)
    if len(text) > MAX_JSON_BYTES:
        raise _bad("inputs", f"the JSON has more than {MAX_JSON_BYTES} bytes beside the tensor's data")
    request = wire_read(InferRequest, text)
    return order_of(request, lambda tensor: _tensor_bytes(tensor, tail, data), in_memory)


def order_of(
    request: InferRequest, content_of: Callable[[InputTensor], memoryview | list[bytes] | None], in_memory: InMemory
) -> Order:
    """Understand a request whose tensors may have come in any way.

    Takes:
        content_of: gives the content of an input: its bytes, or the elements of ``BYTES`` one by one; None if it has none
        in_memory: gives the bytes of one that is in shared memory
    Raises:
        BadParameter: naming what is wrong and what would be right
        EmptyBody: if there are no images
    """
    if len(request.inputs) != 1:
        raise _bad("inputs", f"there is one input, '{INPUT}'; {len(request.inputs)} came. Several images are one tensor")
    tensor = request.inputs[0]
    if tensor.name != INPUT:
        raise _bad("name", f"no input {tensor.name[:64]!r}; there is '{INPUT}'")
    _check_datatype(tensor.datatype)
    content, place = content_of(tensor), tensor.parameters.placement()
    if place is not None:
        if content is not None:
            raise _bad("shared_memory_region", "the tensor is in shared memory; its data must not come as well")
        content = in_memory(place)
    elif content is None:
        raise _bad("data", "neither data in JSON nor binary data with Inference-Header-Content-Length came")
    images, is_batch = _images(tensor, content)
    return Order(
        images,
        _wanted(request),
        is_batch,
        request.id,
        (request.model_name, request.model_version),
        request.parameters.timeout / 1000 or None,
        Priority(min(request.parameters.priority, Priority.LOW) or Priority.NORMAL),
        request.parameters.triton_enable_empty_final_response,
    )


def make_parts(result: Segmentation, outputs: Sequence[Wanted], max_json_values: int = MAX_JSON_VALUES) -> list[Part]:
    """The outputs of one image; for a thread that may compute.

    Raises:
        BadParameter: if one is too large for JSON
    """
    return [_part(wanted, OUTPUTS[wanted.name].make(result), max_json_values) for wanted in outputs]


def write(
    order: Order, made: Sequence[Sequence[Part]], model: tuple[str, str], regions: Regions = NO_REGIONS
) -> tuple[bytes, int | None]:
    """Put a reply together.

    Takes:
        made: of each image, its parts, as ``order.outputs`` has them
        model: name and version
        regions: of shared memory, for the outputs that go there
    Gives:
        the body, and the bytes of JSON at its beginning if binary tensors follow them
    Raises:
        BadParameter: if images of different sizes were to be one tensor
    """
    tensors: list[OutputTensor] = []
    binary: list[bytes] = []
    texts: list[bytes | None] = []
    for at, wanted in enumerate(order.outputs):
        parts = [parts[at] for parts in made]
        output = output_tensor(order, wanted, parts, regions)
        if wanted.place is not None:
            texts.append(None)
            tensors.append(output)
            continue
        if wanted.binary:
            binary += [part.data for part in parts]
            output.parameters = {"binary_data_size": sum(len(part.data) for part in parts)}
        elif output.datatype == "BYTES":
            output.parameters = {"content_type": "base64"}
        tensors.append(output)
        texts.append(None if wanted.binary else b'"data":[' + b",".join(part.data for part in parts) + b"]")
    head = _write_json(InferReply(model_name=model[0], model_version=model[1], id=order.id, outputs=tensors), texts)
    return b"".join((head, *binary)), len(head) if binary else None


def output_tensor(order: Order, wanted: Wanted, parts: Sequence[Part], regions: Regions) -> OutputTensor:
    """Describe an output, joined from those of all images. One that is wanted in shared memory is written there.

    Raises:
        BadParameter: if images of different sizes were to be one tensor
    """
    shape = _common_shape(wanted.name, [part.shape for part in parts])
    shape = (len(parts), *shape) if order.is_batch else shape
    output = OutputTensor(name=wanted.name, datatype=OUTPUTS[wanted.name].datatype, shape=[*shape])
    if (place := wanted.place) is not None:
        written = regions.write(place, [part.data for part in parts])
        output.parameters = {"shared_memory_region": place.region, "shared_memory_byte_size": written}
        if place.offset:
            output.parameters["shared_memory_offset"] = place.offset
    return output


# --- reading ---------------------------------------------------------------------------------------------------------


def _take_data(text: bytes, block: int = BLOCK) -> tuple[bytes, bytes | None]:
    """Take the data of a tensor out of JSON.

    Gives:
        the JSON, with an empty list in its place, and what the list held; None if there is no such list

    No string can hold the key: its quotation marks would be escaped. And no other key can follow without a colon, which ends
    what may be data.
    """
    begins = _DATA.search(text)
    if begins is None:
        return text, None
    start = ends = begins.end()
    while ends < len(text):
        foreign = _FOREIGN[np.frombuffer(text, np.uint8, min(block, len(text) - ends), ends)]
        if foreign.any():
            ends += int(foreign.argmax())
            break
        ends += len(foreign)
    closes = text.rfind(b"]", start, ends)
    if closes < 0:
        for text_around in (text[:start], text[-MAX_JSON_BYTES:]):  # floats end the search: they have a datatype of their own
            if named := _DATATYPE.search(text_around):
                _check_datatype(named[1].decode())
        raise _bad("data", "must be a list of whole numbers from 0 to 255 (UINT8), or of image files in Base64 (BYTES)")
    rest = text[closes:]
    if text.count(b"[", start, closes) != text.count(b"]", start, closes):
        raise _bad("data", "its brackets do not match")
    if _DATA.search(rest):
        raise _bad("data", f"occurs twice: there is one input, '{INPUT}'")
    return text[:start] + rest, text[start:closes]


def _tensor_bytes(tensor: InputTensor, tail: memoryview | None, data: bytes | None) -> memoryview | list[bytes] | None:
    """The parts of an input: the elements of ``BYTES`` where they came as JSON, else its bytes; None if there are none."""
    size = tensor.parameters.binary_data_size
    if tensor.data is not None:
        if size is not None or tail:
            raise _bad("data", "the tensor came as JSON; binary data must not come as well")
        if tensor.datatype == "BYTES":
            return _base64(data or b"")
        return _numbers(data or b"").data
    if tail is None:
        return None
    if size is not None and size != len(tail):
        raise _bad("binary_data_size", f"is {size}, and {len(tail)} bytes follow the JSON")
    return tail


def _check_datatype(datatype: str) -> None:
    if datatype not in ("BYTES", "UINT8"):
        allowed = "BYTES [N] (image files) or UINT8 [H, W, 3] or [N, H, W, 3] (RGB, 0 to 255, not normalised)"
        raise _bad("datatype", f"'{INPUT}' is {allowed}, not {datatype[:64]!r}")


def _images(tensor: InputTensor, content: memoryview | list[bytes]) -> tuple[list[bytes | Image], bool]:
    """The images of an input, and whether they are a batch."""
    shape, elements = tensor.shape, math.prod(tensor.shape)
    if tensor.datatype == "BYTES":
        if len(shape) not in (1, 2) or shape[1:] not in ([], [1]):
            raise _bad("shape", f"BYTES are image files, one an element, in the shape [N]; not {shape}")
        _check_count(elements)
        return [*(_elements(content, elements) if isinstance(content, memoryview) else _checked(content, elements))], True
    if len(shape) not in (3, 4) or shape[-1] != 3:
        raise _bad("shape", f"pixels are [H, W, 3] or [N, H, W, 3], colours last, RGB; not {shape}")
    is_batch = len(shape) == 4
    _check_count(shape[0] if is_batch else 1)
    if elements != len(content):
        raise _bad("shape", f"{shape} is {elements} bytes, and {len(content)} came")
    if not elements:
        raise _bad("shape", f"{shape} has no pixels")
    pixels = np.frombuffer(content, np.uint8).reshape(shape)  # type: ignore[arg-type]  # UINT8 is never a list
    return [*(pixels if is_batch else pixels[None])], is_batch


def _check_count(images: int) -> None:
    if not images:
        raise EmptyBody("the batch is empty: send one image at least")
    if images > MAX_IMAGES:
        raise _bad("shape", f"{images} images; at most {MAX_IMAGES} a request, send the rest in another")


def _elements(content: memoryview, count: int) -> Iterator[bytes]:
    """The elements of binary ``BYTES``."""
    at = 0
    for number in range(count):
        begins = at + 4
        at = begins + int.from_bytes(content[at:begins], "little")
        if begins > len(content) or at > len(content):
            reason = f"element {number + 1} of {count} ends behind the last of {len(content)} bytes"
            raise _bad("binary_data_size", f"{reason}; each is its length in 4 bytes, little-endian, and itself")
        yield bytes(content[begins:at])
    if at != len(content):
        raise _bad("binary_data_size", f"{len(content) - at} bytes follow the last of {count} elements")


def _checked(elements: list[bytes], count: int) -> list[bytes]:
    if len(elements) != count:
        raise _bad("data", f"has {len(elements)} elements, and the shape says {count}")
    return elements


def _base64(text: bytes) -> list[bytes]:
    """The elements of ``BYTES`` in JSON: strings of Base64, in lists or not."""
    words = text.translate(None, b"[] \t\r\n").replace(b"\\/", b"/").split(b",", MAX_IMAGES)
    if words == [b""]:
        return []
    return [_file(word, number, len(words)) for number, word in enumerate(words, 1)]


def _file(word: bytes, number: int, count: int) -> bytes:
    """The image file in one string of Base64."""
    try:
        if len(word) > 1 and word[:1] == word[-1:] == b'"':
            return b64decode(word[1:-1], validate=True)
    except binascii.Error:
        pass
    bad = _bad("data", "BYTES in JSON are image files in Base64, one string an element")
    raise bad if count == 1 or count > MAX_IMAGES else bad.of_image(number, count)


def _numbers(text: bytes, block: int = BLOCK) -> NDArray[np.uint8]:
    """The numbers of ``UINT8`` in JSON, in lists or not, in the order in which they stand."""
    found = []
    at = 0
    while at < len(text):
        ends = text.rfind(b",", at, at + block) if at + block < len(text) else len(text)
        if ends < at:
            raise _no_number()
        found.append(_block_of_numbers(text[at:ends]))
        at = ends + 1
    if text.rstrip(b" \t\r\n[]").endswith(b","):
        raise _no_number()
    return np.concatenate(found) if found else np.zeros(0, np.uint8)


def _block_of_numbers(text: bytes) -> NDArray[np.uint8]:
    """Numbers by the places of their last digits; all of the block at a time."""
    if text.translate(None, _NUMERIC):
        raise _no_number()
    chars = np.frombuffer(b"   " + text + b" ", np.uint8)
    digits = chars - np.uint8(ord("0"))
    is_digit = digits < 10
    ends = np.flatnonzero(is_digit[:-1] & ~is_digit[1:])
    commas = np.flatnonzero(chars == ord(","))
    if len(commas) != max(len(ends) - 1, 0) or (commas < ends[:-1]).any() or (commas > ends[1:]).any():
        raise _no_number()
    tens = is_digit[ends - 1]
    hundreds = tens & is_digit[ends - 2]
    if (hundreds & is_digit[ends - 3]).any():
        raise _no_number()
    values = digits[ends] + digits[ends - 1] * (tens * np.uint16(10)) + digits[ends - 2] * (hundreds * np.uint16(100))
    if (values > 255).any():
        raise _no_number()
    return np.asarray(values, np.uint8)


def _no_number() -> BadParameter:
    return _bad("data", "UINT8 are whole numbers from 0 to 255, separated by commas")


def _wanted(request: InferRequest) -> tuple[Wanted, ...]:
    default = request.parameters.binary_data_output
    if not request.outputs:
        return (Wanted(next(iter(OUTPUTS)), default),)
    for output in request.outputs:
        if output.name not in OUTPUTS:
            raise _bad("outputs", f"no output {output.name[:64]!r}; there are {', '.join(OUTPUTS)}")
    names = [output.name for output in request.outputs]
    if len(set(names)) < len(names):
        raise _bad("outputs", "an output is asked for twice")
    given = [(output.parameters.binary_data, output.parameters.placement()) for output in request.outputs]
    return tuple(
        Wanted(name, bool(place) or (default if binary is None else binary), place)
        for name, (binary, place) in zip(names, given, strict=True)
    )


# --- writing ---------------------------------------------------------------------------------------------------------


def _part(wanted: Wanted, made: Array | bytes, max_json_values: int) -> Part:
    if isinstance(made, bytes):
        return Part((), len(made).to_bytes(4, "little") + made if wanted.binary else b'"' + b64encode(made) + b'"')
    if wanted.binary:
        return Part(made.shape, made.tobytes())
    if made.size > max_json_values:
        reason = f"'{wanted.name}' has {made.size} values, and at most {max_json_values} come back as JSON"
        raise _bad("binary_data", f"{reason}; ask for it as binary data")
    return Part(made.shape, b",".join(_texts(made.reshape(-1))))


def _texts(values: Array) -> Iterator[bytes]:
    """Numbers as JSON, a block at a time."""
    for at in range(0, len(values), BLOCK):
        block = values[at : at + BLOCK]
        if block.dtype == np.uint8:
            yield _TEXTS[block][_USED[block]].tobytes()[:-1]
        else:
            yield json.dumps(block.tolist(), separators=(",", ":"))[1:-1].encode()


def _common_shape(name: str, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    if len(set(shapes)) > 1:
        sizes = ", ".join("x".join(map(str, shape[-2:])) for shape in dict.fromkeys(shapes))
        raise different_sizes(name, sizes)
    return shapes[0]


def different_sizes(name: str, sizes: str) -> BadParameter:
    """Return the error of images of different sizes in one tensor."""
    remedy = "ask for 'labels_png' (BYTES, an indexed PNG an image), or send a request for each size"
    return _bad("outputs", f"'{name}' of images of different sizes ({sizes}) is not a tensor; {remedy}")


def _write_json(reply: InferReply, texts: Sequence[bytes | None]) -> bytes:
    """A reply's JSON, with data that is text already put where it belongs: as the last of each output."""
    document = reply.model_dump(exclude_none=True)
    outputs = document.pop("outputs")
    written = [_json(output)[:-1] + (b"," + text if text else b"") + b"}" for output, text in zip(outputs, texts, strict=True)]
    return _json(document)[:-1] + b',"outputs":[' + b",".join(written) + b"]}"


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _bad(parameter: str, reason: str) -> BadParameter:
    return BadParameter(f"{parameter}: {reason}", parameter=parameter)
