"""Tensors of the Open Inference Protocol: what is read right, and what is refused."""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.api.problems import KINDS
from service.api.v2 import tensors
from service.api.v2.tensors import Order, Wanted
from service.errors import BadParameter, EmptyBody, ServiceError
from service.pipeline.codecs.decoding import Limits
from service.pipeline.predictor import Predictor
from service.pipeline.repository import Repository
from service.serving.scheduler import Priority
from tests.conftest import encode_image, make_image

PIXELS = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)


def element(data: bytes) -> bytes:
    """One of binary BYTES."""
    return struct.pack("<I", len(data)) + data


def request(tail: bytes | None = None, /, **changes: Any) -> tuple[bytes, int | None]:
    """A body and the length of its JSON: one UINT8 image in JSON, or what the input's changes say; None leaves a field out."""
    tensor: dict[str, Any] = {"name": "image", "datatype": "UINT8", "shape": [2, 3, 3], "data": PIXELS.tolist()}
    top = {name: changes.pop(name) for name in ("id", "parameters", "outputs", "inputs") if name in changes}
    tensor |= {"parameters" if name == "input_parameters" else name: value for name, value in changes.items()}
    if tail is not None:
        tensor["data"] = None
    tensor = {name: value for name, value in tensor.items() if value is not None}
    text = json.dumps({"inputs": [tensor]} | top).encode()
    return (text, None) if tail is None else (text + tail, len(text))


def test_pixels_in_json_are_an_image() -> None:
    """Flat or in nested lists; without a batch's dimension there is no batch."""
    for data in (PIXELS.tolist(), PIXELS.ravel().tolist()):
        order = tensors.read(*request(data=data))
        (image,) = order.images
        np.testing.assert_array_equal(image, PIXELS)
        assert order == Order(order.images, (Wanted("labels", binary=False),), is_batch=False)


def test_binary_pixels_are_not_copied() -> None:
    """A batch is as many views of the body."""
    body, size = request(PIXELS.tobytes(), shape=[1, 2, 3, 3], input_parameters={"binary_data_size": 18})
    (image,) = tensors.read(body, size).images
    assert isinstance(image, np.ndarray)
    np.testing.assert_array_equal(image, PIXELS)
    assert np.shares_memory(image, np.frombuffer(body, np.uint8))


def test_files_of_different_lengths_are_elements_of_bytes() -> None:
    """In binary with the length before each; in JSON as Base64, where some writers escape the slash."""
    files = [b"a" * 300, b"\xff\xd8\xff\xe0", b"xyz"]
    tail = b"".join(map(element, files))
    for shape in ([3], [3, 1]):
        for parameters in ({"binary_data_size": len(tail)}, {}):
            order = tensors.read(*request(tail, datatype="BYTES", shape=shape, input_parameters=parameters))
            assert (order.images, order.is_batch) == (files, True)
    words = [base64.b64encode(data).decode() for data in files]
    body, _ = request(datatype="BYTES", shape=[3], data=words)
    assert b"/" in body
    assert tensors.read(body, None).images == files
    assert tensors.read(body.replace(b"/", b"\\/"), None).images == files


def test_a_body_without_json_is_one_file() -> None:
    """A header of length 0: the image as it is, and binary labels in return."""
    assert tensors.read(b"anything", 0) == Order([b"anything"], (Wanted("labels", binary=True),))


def test_outputs_come_in_the_order_asked_for() -> None:
    """Each says whether it is binary, and where it does not, the request does."""
    outputs = [
        {"name": "scores", "parameters": {"binary_data": False}},
        {"name": "labels"},
        {"name": "confidence", "parameters": {"binary_data": True}},
    ]
    for default in (True, False):
        order = tensors.read(*request(outputs=outputs, parameters={"binary_data_output": default}))
        assert order.outputs == (Wanted("scores", False), Wanted("labels", default), Wanted("confidence", True))


@pytest.mark.parametrize(
    ("sent", "meant"),
    [(0, Priority.NORMAL), (1, Priority.HIGH), (2, Priority.NORMAL), (3, Priority.LOW), (2**63 - 1, Priority.LOW)],
)
def test_timeout_is_in_microseconds_and_priority_1_is_the_highest(sent: int, meant: Priority) -> None:
    """As Triton's clients send them; 0 is the service's own."""
    order = tensors.read(*request(id="mine", parameters={"timeout": 1500, "priority": sent}))
    assert (order.timeout_ms, order.priority, order.id) == (1.5, meant, "mine")
    assert tensors.read(*request(parameters={"timeout": 0})).timeout_ms is None


@pytest.mark.parametrize("content_type", ["base64", "np", "pillow_image", "image/jpeg", "Image/PNG", "raw", None])
def test_a_content_type_that_fits_changes_nothing(content_type: str | None) -> None:
    """Of the request, of its input and of its output: some clients say what the datatype says already."""
    named = {"content_type": content_type}
    sent = request(
        datatype="BYTES",
        shape=[1],
        data=["QUJD"],
        parameters=named,
        input_parameters=named,
        outputs=[{"name": "labels", "parameters": named}],
    )
    order = tensors.read(*sent)
    assert (list(order.images), order.outputs) == ([b"ABC"], (Wanted("labels", False),))


def test_null_is_left_out() -> None:
    """KServe's client sends null for every field that is not set; an unknown name is refused all the same."""
    body = {
        "id": None,
        "model_name": None,
        "model_version": None,
        "parameters": {"binary_data_output": None, "timeout": None, "priority": None, "content_type": None},
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "parameters": None, "data": ["QUJD"]}],
        "outputs": [{"name": "labels", "parameters": {"binary_data": None}}],
    }
    order = tensors.read(json.dumps(body).encode(), None)
    assert (list(order.images), order.outputs, order.id) == ([b"ABC"], (Wanted("labels", False),), None)
    assert tensors.read(json.dumps({**body, "parameters": None, "outputs": None}).encode(), None) == order
    with pytest.raises(BadParameter, match="'sequence_id' is not supported"):
        tensors.read(json.dumps({**body, "parameters": {"sequence_id": None}}).encode(), None)
    with pytest.raises(BadParameter, match="inputs: Field required"):
        tensors.read(json.dumps({**body, "inputs": None}).encode(), None)


FILES = {"datatype": "BYTES", "shape": [1]}

BAD: dict[str, tuple[tuple[bytes, int | None], str, str]] = {
    "no JSON": ((b"\x89PNG", None), "body", "not JSON (expected value at line 1 column 1); binary data wants"),
    "JSON of another kind": ((b"[]", None), "body", "the request: Input should be an object"),
    "no inputs": ((b"{}", None), "inputs", "inputs: Field required"),
    "an empty list of inputs": (request(inputs=[]), "inputs", "there is one input, 'image'; 0 came"),
    "two inputs": (
        request(inputs=[{"name": "image", "datatype": "BYTES", "shape": [1]}] * 2),
        "inputs",
        "there is one input, 'image'; 2 came. Several images are one tensor",
    ),
    "two inputs with data": (
        request(inputs=[{"name": "image", "datatype": "UINT8", "shape": [1], "data": [1]}] * 2),
        "data",
        "occurs twice",
    ),
    "another input": (request(name="input"), "name", "no input 'input'; there is 'image'"),
    "another datatype": (request(datatype="FP32"), "datatype", "BYTES [N] (image files) or UINT8 [H, W, 3] or [N, H, W, 3]"),
    "floats in JSON": (
        request(datatype="FP32", shape=[1, 2, 2, 3], data=[[[[0.5, 0.25, 1e-3], [0.1, 0.2, 0.3]]] * 2]),
        "datatype",
        "(RGB, 0 to 255, not normalised), not 'FP32'",
    ),
    "whole numbers as floats": (request(datatype="FP64", data=[[[255] * 3] * 3] * 2), "datatype", "not 'FP64'"),
    "large numbers of another datatype": (
        request(datatype="INT32", shape=[1, 1, 3], data=[[[256, 1, -1]]]),
        "datatype",
        "INT32",
    ),
    "text as elements": (
        request(datatype="BYTES", shape=[1], data=["QUJD"], input_parameters={"content_type": "str"}),
        "content_type",
        "'str' is not supported: there are base64, np, pillow_image, raw, application/octet-stream and image types",
    ),
    "another output": (
        request(outputs=[{"name": "mask"}]),
        "outputs",
        "no output 'mask'; there are labels, labels_png, confidence, scores",
    ),
    "an output twice": (request(outputs=[{"name": "labels"}] * 2), "outputs", "an output is asked for twice"),
    "planes": (request(shape=[3, 2, 3, 1]), "shape", "colours last, RGB; not [3, 2, 3, 1]"),
    "two dimensions": (request(shape=[6, 3]), "shape", "pixels are [H, W, 3] or [N, H, W, 3]"),
    "a wrong product": (request(shape=[2, 4, 3]), "shape", "[2, 4, 3] is 24 bytes, and 18 came"),
    "a wrong product, binary": (request(bytes(17)), "shape", "[2, 3, 3] is 18 bytes, and 17 came"),
    "a huge product": (request(shape=[2**62, 2**62, 3]), "shape", "and 18 came"),
    "no pixels": (request(shape=[0, 3, 3], data=[]), "shape", "has no pixels"),
    "a negative side": (request(shape=[-2, 3, 3]), "0", "inputs.0.shape.0: Input should be greater than or equal to 0"),
    "a side that is not a number": (request(shape=[2.0, 3, 3]), "0", "inputs.0.shape.0: Input should be a valid integer"),
    "too many images": (request(shape=[65, 2, 3, 3]), "shape", "65 images; at most 64 a request"),
    "files in two dimensions": (
        request(2 * element(b"x"), datatype="BYTES", shape=[1, 2]),
        "shape",
        "in the shape [N]; not [1, 2]",
    ),
    "no data": (request(data=None), "data", "neither data in JSON nor binary data"),
    "data twice over": ((request()[0] + bytes(18), len(request()[0])), "data", "binary data must not come as well"),
    "a size beside data": (request(input_parameters={"binary_data_size": 18}), "data", "came as JSON"),
    "trailing bytes": (
        request(bytes(19), input_parameters={"binary_data_size": 18}),
        "binary_data_size",
        "is 18, and 19 bytes follow the JSON",
    ),
    "missing bytes": (request(bytes(17), input_parameters={"binary_data_size": 18}), "binary_data_size", "is 18, and 17"),
    "bytes that no element has": (request(element(b"x") + b"y", **FILES), "binary_data_size", "1 bytes follow the last of 1"),
    "an element that is cut off": (request(element(b"xyz")[:-1], **FILES), "binary_data_size", "element 1 of 1 ends behind"),
    "a length that is cut off": (request(b"\0\0", **FILES), "binary_data_size", "element 1 of 1 ends behind the last of 2"),
    "a length of four gigabytes": (request(b"\xff" * 9, **FILES), "binary_data_size", "element 1 of 1 ends behind"),
    "a file without its length": (request(b"\xff\xd8\xff\xe0JFIF", **FILES), "binary_data_size", "its length in 4 bytes"),
    "fewer elements in JSON": (request(datatype="BYTES", shape=[2], data=["QUJD"]), "data", "has 1 elements, and the shape"),
    "text that is not Base64": (request(datatype="BYTES", shape=[1], data=["a+b"]), "data", "image files in Base64"),
    "text of other letters": (request(datatype="BYTES", shape=[1], data=["ä"]), "data", "image files in Base64"),
    "numbers for files": (request(datatype="BYTES", shape=[1], data=[1]), "data", "image files in Base64"),
    "text for numbers": (request(shape=[1, 1, 3], data=["1", "2", "3"]), "data", "whole numbers from 0 to 255"),
    "fractions": (request(shape=[1, 1, 3], data=[1.0, 2.0, 3.0]), "data", "whole numbers from 0 to 255"),
    "negative numbers": (request(shape=[1, 1, 3], data=[-1, 2, 3]), "data", "whole numbers from 0 to 255"),
    "256": (request(shape=[1, 1, 3], data=[1, 256, 3]), "data", "whole numbers from 0 to 255"),
    "1000": (request(shape=[1, 1, 3], data=[1, 1000, 3]), "data", "whole numbers from 0 to 255"),
    "true": (request(shape=[1, 1, 3], data=[True, 2, 3]), "data", "whole numbers from 0 to 255"),
    "open brackets": ((request()[0].replace(b"]]]", b"]]"), None), "data", "its brackets do not match"),
    "a header that is longer than the body": ((b"{}", 3), "Inference-Header-Content-Length", "is 3, and the body has 2 bytes"),
    "JSON that never ends": ((b'{"id": "' + b"x" * 70_000, None), "inputs", "more than 65536 bytes beside the tensor's data"),
    "lists within lists": ((b'{"inputs":' + b"[" * 60_000, None), "body", "recursion limit exceeded"),
    "a number for an id": (request(id=7), "id", "id: Input should be a valid string"),
    "an unknown parameter": (
        request(parameters={"timout": 5}),
        "timout",
        "'timout' is not supported: there are binary_data_output, timeout, priority, content_type",
    ),
    "a sequence": (request(parameters={"sequence_id": 7}), "sequence_id", "every request stands for itself"),
    "a negative timeout": (request(parameters={"timeout": -1}), "timeout", "parameters.timeout: Input should be greater"),
    "classification": (
        request(outputs=[{"name": "labels", "parameters": {"classification": 3}}]),
        "classification",
        "a label map has a class for every pixel",
    ),
    "shared memory": (
        request(input_parameters={"shared_memory_region": "x", "shared_memory_byte_size": 3}, data=None),
        "shared_memory",
        "it is off; FCN_SHARED_MEMORY turns it on",
    ),
    "shared memory without a size": (
        request(input_parameters={"shared_memory_region": "x"}, data=None),
        "shared_memory_byte_size",
        "how many bytes",
    ),
    "shared memory without a region": (
        request(input_parameters={"shared_memory_offset": 7}),
        "shared_memory_region",
        "which one",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_named_and_what_would_be_right(name: str) -> None:
    """Each mistake is the caller's, and the error names it."""
    sent, parameter, reason = BAD[name]
    with pytest.raises(BadParameter) as caught:
        tensors.read(*sent)
    assert reason in caught.value.message
    assert caught.value.parameter == parameter


@pytest.mark.parametrize(
    "sent", [(b"", None), (b"", 0), request(datatype="BYTES", shape=[0], data=[]), request(shape=[0, 2, 3, 3])]
)
def test_nothing_at_all_is_an_empty_body(sent: tuple[bytes, int | None]) -> None:
    """No bytes, or a batch of no images."""
    with pytest.raises(EmptyBody):
        tensors.read(*sent)


@given(st.lists(st.integers(0, 255)), st.sampled_from([None, 1, 2]), st.integers(1, 40))
def test_numbers_in_json_are_what_json_says(numbers: list[int], indent: int | None, block: int) -> None:
    """Whatever the spacing, and wherever the blocks in which they are read begin."""
    block = max(block, 8 + 4 * (indent or 0))
    text = json.dumps({"x": 1, "data": numbers, "y": [2]}, indent=indent).encode()
    rest, data = tensors._take_data(text, block)
    assert json.loads(rest) == {"x": 1, "data": [], "y": [2]}
    assert tensors._numbers(data or b"", block).tolist() == numbers


def test_tensors_of_many_blocks_are_read_whole() -> None:
    """A large image in JSON, as pixels and as a file."""
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    for data in (pixels.tolist(), pixels.ravel().tolist()):
        body, _ = request(shape=[300, 400, 3], data=data)
        assert len(body) > 4 * tensors.BLOCK // 3
        np.testing.assert_array_equal(tensors.read(body, None).images[0], pixels)
    body, _ = request(datatype="BYTES", shape=[1], data=[base64.b64encode(pixels.tobytes()).decode()])
    assert tensors.read(body, None).images == [pixels.tobytes()]


@given(st.text("0123456789,[] x", max_size=12))
def test_what_json_would_not_read_as_small_numbers_is_refused(text: str) -> None:
    """Compared with Python's own reader; it alone also minds zeros in front and where brackets stand."""
    try:
        expected = json.loads(f"[{text}]")
    except ValueError:
        expected = None
    is_good = expected is not None and "[]" not in text.replace(" ", "") and all(number < 256 for number in flat(expected))
    try:
        found = tensors._numbers(text.encode()).tolist()
    except BadParameter:
        assert not is_good
    else:
        assert expected is None or found == flat(expected)


def flat(value: Any) -> list[int]:
    """The numbers of nested lists."""
    return [number for item in value for number in flat(item)] if isinstance(value, list) else [value]


VALID = [
    request(id="x", parameters={"timeout": 5, "priority": 1}, outputs=[{"name": "scores"}]),
    request(PIXELS.tobytes(), input_parameters={"binary_data_size": 18}),
    request(element(b"abc") + element(b""), datatype="BYTES", shape=[2]),
    request(datatype="BYTES", shape=[1], data=["QUJD"]),
]


@given(
    st.one_of(
        st.tuples(st.binary(), st.none() | st.integers(0, 300)),
        st.builds(
            lambda sent, at, new, size: (sent[0][:at] + new + sent[0][at + len(new) :], sent[1] if size is None else size),
            st.sampled_from(VALID),
            st.integers(0, 260),
            st.binary(max_size=6) | st.sampled_from([b'"', b"[", b"]", b"}", b",", b"9", b"data", b"-"]),
            st.none() | st.integers(0, 300),
        ),
    )
)
def test_any_bytes_are_a_request_or_a_refusal(sent: tuple[bytes, int | None]) -> None:
    """Nothing that a caller can send is the service's own failure."""
    try:
        order = tensors.read(*sent)
    except ServiceError as error:
        status = KINDS[type(error)].status
    else:
        status = 200 if order.images else 500
    assert status in {200, 413, 415, 422}


@pytest.fixture(scope="module")
def parts(artifact_dir: Path) -> Callable[..., list[list[tensors.Part]]]:
    """Makes the parts of real results, of images of the sizes given."""
    predictor = Predictor(Repository(artifact_dir), Limits())

    def make(outputs: tuple[Wanted, ...], *sizes: tuple[int, int], **limits: int) -> list[list[tensors.Part]]:
        return [tensors.make_parts(predictor.segment(make_image(*size)), outputs, **limits) for size in sizes]

    return make


def array(output: dict[str, Any], data: bytes = b"") -> NDArray[Any]:
    """An output as numpy has it."""
    kind = np.dtype({"UINT8": "u1", "FP32": "<f4"}[output["datatype"]])
    found: NDArray[Any] = np.array(output["data"], kind) if "data" in output else np.frombuffer(data, kind)
    return found.reshape(output["shape"])


@pytest.mark.parametrize("is_batch", [True, False])
def test_json_and_binary_say_the_same(parts: Callable[..., Any], is_batch: bool) -> None:
    """To the last bit of a score."""
    names = ("scores", "labels", "confidence")
    sizes = ((96, 128),) * (2 if is_batch else 1)
    text, binary = (tuple(Wanted(name, binary) for name in names) for binary in (False, True))
    body, size = tensors.write(Order([], text, is_batch), parts(text, *sizes), ("m", "1"))
    assert size is None
    as_json = json.loads(body)
    body, size = tensors.write(Order([], binary, is_batch, id='"ä'), parts(binary, *sizes), ("m", "1"))
    assert size is not None
    head, at = json.loads(body[:size]), size
    assert head["id"] == '"ä'
    for name, one, other in zip(names, as_json["outputs"], head["outputs"], strict=True):
        assert one["name"] == other["name"] == name
        ends = at + other["parameters"]["binary_data_size"]
        np.testing.assert_array_equal(array(one), array(other, body[at:ends]))
        assert (len(one["shape"]) - len(parts(text, (96, 128))[0][names.index(name)].shape)) == is_batch
        at = ends
    assert at == len(body)


def test_images_of_different_sizes_come_back_as_png_files(parts: Callable[..., Any]) -> None:
    """Which are elements of BYTES; a tensor of pixels they cannot be, and the refusal says what would do."""
    for binary in (True, False):
        outputs = (Wanted("labels_png", binary),)
        made = parts(outputs, (20, 30), (40, 30))
        body, size = tensors.write(Order([], outputs), made, ("m", "1"))
        output = json.loads(body[:size])["outputs"][0]
        assert (output["datatype"], output["shape"]) == ("BYTES", [2])
        files = [base64.b64decode(word) for word in output["data"]] if "data" in output else elements(body[size:])
        assert [data[:4] for data in files] == [b"\x89PNG"] * 2
    outputs = (Wanted("labels", binary=True),)
    with pytest.raises(
        BadParameter, match=r"'labels' of images of different sizes \(20x30, 40x30\) is not a tensor; ask for 'labels_png'"
    ):
        tensors.write(Order([], outputs), parts(outputs, (20, 30), (40, 30)), ("m", "1"))


def elements(data: bytes) -> list[bytes]:
    """Of binary BYTES."""
    found = []
    while data:
        size = struct.unpack("<I", data[:4])[0]
        found.append(data[4 : 4 + size])
        data = data[4 + size :]
    return found


def test_json_of_many_numbers_is_refused(parts: Callable[..., Any]) -> None:
    """It would take a multiple of the memory that the queue counts with."""
    with pytest.raises(BadParameter, match=r"'labels' has 600 values, and at most 599 come back as JSON; ask for it as binary"):
        parts((Wanted("labels", binary=False),), (20, 30), max_json_values=599)


def test_the_metadata_describe_what_comes(parts: Callable[..., Any]) -> None:
    """Names, types and the number of dimensions, of a batch."""
    outputs = tuple(Wanted(name, binary=True) for name in tensors.OUTPUTS)
    body, size = tensors.write(Order([], outputs), parts(outputs, (20, 30)), ("m", "1"))
    for described, output in zip(tensors.output_metadata(), json.loads(body[:size])["outputs"], strict=True):
        assert (described.name, described.datatype) == (output["name"], output["datatype"])
        assert described.shape == [-1] * len(output["shape"])
        assert output["datatype"] == "BYTES" or output["parameters"]["binary_data_size"] % math.prod(output["shape"]) == 0


def test_a_real_file_goes_through_untouched() -> None:
    """Byte for byte, whatever it holds."""
    data = encode_image(make_image())
    assert tensors.read(*request(element(data), datatype="BYTES", shape=[1])).images == [data]
