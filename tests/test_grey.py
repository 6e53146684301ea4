"""Networks of one channel get every bit of a picture: over HTTP, from files, and through the client.

The networks are real graphs whose answer is the two lowest bits of a number, so a single lost bit changes the mask.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import onnx
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from websockets.sync.client import connect

from service.__main__ import main
from service.client import Client
from service.encodings import png
from service.errors import BadArtifact, BadSetting, UnsupportedImage
from service.pipeline import intensity
from service.pipeline.codecs.decoding import Limits, decode, decode_grey
from service.pipeline.manifest import ClassEntry, InputPolicy, Manifest, check_8_bits
from service.settings import Settings
from tests.conftest import encode_image, make_image, make_manifest, write_artifact
from tests.live import live_server

RNG = np.random.default_rng(5)
WIDE = RNG.integers(0, 65536, (37, 53), dtype=np.uint16)
COLOURS = RNG.integers(0, 65536, (37, 53, 3), dtype=np.uint16)
FLOATS = (RNG.integers(-(2**20), 2**20, (37, 53)) / 1024).astype(np.float32)
"""Multiples of 1/1024, all of them exact."""
LIMITS = Limits()


def low_bits_manifest(name: str, dtype: str, **policy: Any) -> Manifest:
    """Four classes of one channel, at the picture's own size."""
    fields = {"working_size": (32, 32), "fit": "native", "multiple": 1, "channels": 1, "dtype": dtype, **policy}
    classes = tuple(ClassEntry(id=k, name=f"remainder {k}", color=(60 * k, 90, 200)) for k in range(4))
    return make_manifest(
        name=name, classes=classes, input=InputPolicy.model_validate(fields), stride=1, receptive_field=1, halo=0
    )


def low_bits_graph(dtype: str, unit: float = 1.0) -> onnx.ModelProto:
    """N x H x W x 1 -> the remainder of floor(value / unit) by 4, as scores of four classes: the higher the nearer."""
    element = {"uint8": TensorProto.UINT8, "uint16": TensorProto.UINT16, "float32": TensorProto.FLOAT}[dtype]
    constants = {"unit": np.float32(unit), "four": np.float32(4), "ids": np.arange(4, dtype=np.float32).reshape(1, 4, 1, 1)}
    nodes = [
        helper.make_node("Cast", ["image"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["real"], ["plane"], perm=[0, 3, 1, 2]),
        helper.make_node("Div", ["plane", "unit"], ["steps"]),
        helper.make_node("Floor", ["steps"], ["whole"]),
        helper.make_node("Mod", ["whole", "four"], ["remainder"], fmod=1),
        helper.make_node("Add", ["remainder", "four"], ["positive"]),
        helper.make_node("Mod", ["positive", "four"], ["low"], fmod=1),
        helper.make_node("Sub", ["low", "ids"], ["off"]),
        helper.make_node("Abs", ["off"], ["distance"]),
        helper.make_node("Sub", ["four", "distance"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "low-bits",
        [helper.make_tensor_value_info("image", element, ["N", "H", "W", 1])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 4, "H", "W"])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def write_low_bits(folder: Path, **policy: Any) -> None:
    """Artifacts ``bits8``, ``bits16``, ``floats`` and ``policed``."""
    write_artifact(folder / "bits8.onnx", low_bits_manifest("bits8", "uint8", **policy), low_bits_graph("uint8"))
    write_artifact(folder / "bits16.onnx", low_bits_manifest("bits16", "uint16", **policy), low_bits_graph("uint16"))
    write_artifact(
        folder / "floats.onnx", low_bits_manifest("floats", "float32", **policy), low_bits_graph("float32", 1 / 1024)
    )
    policed = low_bits_manifest("policed", "float32", intensity={"lower": 2, "upper": 90}, **policy)
    write_artifact(folder / "policed.onnx", policed, low_bits_graph("float32", 1 / 64))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the networks of grey, and one of colours."""
    folder = tmp_path_factory.mktemp("models")
    write_artifact(folder / "colours.onnx")
    write_low_bits(folder)
    return folder


@pytest.fixture(scope="module")
def base_url(models: Path) -> Iterator[str]:
    """A server with these networks."""
    with live_server(Settings(models_dir=models, default_model="colours")) as url:
        yield url


@pytest.fixture(scope="module")
def client(base_url: str) -> Iterator[httpx.Client]:
    """A client that keeps its connections."""
    with httpx.Client(base_url=base_url, timeout=60) as client:
        yield client


def tiff(array: NDArray[Any], **options: Any) -> bytes:
    """A TIFF file by tifffile."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


def png16(array: NDArray[np.uint16]) -> bytes:
    """A 16-bit PNG by OpenCV: grey, red-green-blue, or with alpha."""
    written, data = cv2.imencode(".png", array if array.ndim == 2 else array[..., [2, 1, 0, *range(3, array.shape[2])]])
    assert written
    return data.tobytes()


def pgm(array: NDArray[np.uint16]) -> bytes:
    """A binary graymap of 16 bits."""
    return b"P5 %d %d 65535\n" % array.shape[::-1] + array.astype(">u2").tobytes()


def labels_of(reply: httpx.Response) -> NDArray[np.uint8]:
    """The label map of a reply in PNG."""
    assert reply.status_code == 200, reply.text
    return png.decode(reply.content)


FILES = {
    "PNG": png16(WIDE),
    "PNG of ours": png.encode_gray16(WIDE),
    "TIFF": tiff(WIDE),
    "TIFF, big-endian": tiff(WIDE, byteorder=">"),
    "TIFF, tiles": tiff(WIDE, tile=(16, 16), compression="zlib", predictor=True),
    "TIFF of 32 bits": tiff(WIDE.astype(np.uint32)),
    "TIFF of floats": tiff(WIDE.astype(np.float32)),
    "PNM": pgm(WIDE),
}


@pytest.mark.parametrize("kind", FILES)
def test_every_bit_of_16_reaches_the_network(kind: str, client: httpx.Client) -> None:
    """The mask is the two lowest bits of every number, and nothing was converted."""
    reply = client.post("/segment?model=bits16", content=FILES[kind])
    np.testing.assert_array_equal(labels_of(reply), WIDE % 4)
    assert "x-converted" not in reply.headers


@pytest.mark.parametrize(
    "data", [tiff(FLOATS), tiff(FLOATS.astype(np.float64), byteorder=">"), tiff(FLOATS, compression="zlib", tile=(16, 16))]
)
def test_every_bit_of_a_float_reaches_the_network(data: bytes, client: httpx.Client) -> None:
    """Negative numbers, fractions and all."""
    reply = client.post("/segment?model=floats", content=data)
    np.testing.assert_array_equal(labels_of(reply), np.floor(FLOATS * 1024).astype(int) % 4)
    assert "x-converted" not in reply.headers


@pytest.mark.parametrize("kind", FILES)
def test_whole_numbers_are_the_same_numbers_as_floats(kind: str, client: httpx.Client) -> None:
    """float32 holds 16 bits; nothing scales them."""
    expected = (WIDE.astype(np.int64) * 1024) % 4
    np.testing.assert_array_equal(labels_of(client.post("/segment?model=floats", content=FILES[kind])), expected)


def luma(colours: NDArray[Any]) -> NDArray[np.float64]:
    """ITU-R BT.601."""
    return np.asarray(colours.astype(np.float64) @ np.array([0.299, 0.587, 0.114]))


@pytest.mark.parametrize(
    "data",
    [
        png16(COLOURS),
        tiff(COLOURS, photometric="rgb"),
        tiff(np.moveaxis(COLOURS, 2, 0), photometric="rgb", planarconfig="separate"),
    ],
)
def test_colours_of_16_bits_become_luma_and_the_reply_says_so(data: bytes, client: httpx.Client) -> None:
    """All 16 bits count, and the header names the conversion."""
    reply = client.post("/segment?model=bits16", content=data)
    np.testing.assert_array_equal(labels_of(reply), np.rint(luma(COLOURS)).astype(int) % 4)
    assert reply.headers["x-converted"] == "colour-to-grey"


def test_a_photo_is_converted_and_the_reply_says_both(client: httpx.Client) -> None:
    """White of 8 bits is white of 16 bits."""
    photo = (COLOURS >> 8).astype(np.uint8)
    reply = client.post("/segment?model=bits16&format=rle", content=encode_image(photo))
    assert reply.headers["x-converted"] == "colour-to-grey, 8-bit-to-16-bit"
    grey = np.asarray(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)).astype(int)
    assert np.abs(grey - luma(photo)).max() < 1
    np.testing.assert_array_equal(labels_of(client.post("/segment?model=bits16", content=encode_image(photo))), grey * 257 % 4)


def test_grey_pictures_stored_as_colours_are_grey(client: httpx.Client) -> None:
    """Three equal numbers lose nothing, so nothing is said."""
    reply = client.post("/segment?model=bits16", content=png16(np.repeat(WIDE[..., None], 3, 2)))
    np.testing.assert_array_equal(labels_of(reply), WIDE % 4)
    assert "x-converted" not in reply.headers


def test_networks_of_8_bits_get_one_channel(client: httpx.Client) -> None:
    """A grey picture as it is, a colour one as luma, one of 16 bits scaled by its depth."""
    grey = (WIDE >> 8).astype(np.uint8)
    reply = client.post("/segment?model=bits8", content=encode_image(grey))
    np.testing.assert_array_equal(labels_of(reply), grey % 4)
    assert "x-converted" not in reply.headers
    assert client.post("/segment?model=bits8", content=encode_image(make_image())).headers["x-converted"] == "colour-to-grey"
    scaled = decode(png16(WIDE), LIMITS)[..., 0]
    np.testing.assert_array_equal(labels_of(client.post("/segment?model=bits8", content=png16(WIDE))), scaled % 4)


@pytest.mark.parametrize("model", ["colours", None])
def test_a_grey_picture_sent_to_a_colour_network_works_as_before(model: str | None, client: httpx.Client) -> None:
    """Nothing is converted in the sense of the header: every network of colours takes grey pictures."""
    query = "" if model is None else f"?model={model}"
    reply = client.post(f"/segment{query}", content=png16(WIDE))
    assert labels_of(reply).shape == WIDE.shape
    assert "x-converted" not in reply.headers
    narrow = client.post(f"/segment{query}", content=encode_image(decode(png16(WIDE), LIMITS)))
    np.testing.assert_array_equal(labels_of(reply), labels_of(narrow))


@pytest.mark.parametrize("data", [tiff(FLOATS), tiff(WIDE.astype(np.int32) - 40_000), tiff(WIDE.astype(np.int16))])
def test_numbers_that_16_bits_cannot_hold_are_refused(data: bytes, client: httpx.Client) -> None:
    """They are never clipped or rounded in silence."""
    reply = client.post("/segment?model=bits16", content=data)
    assert reply.status_code == 415
    assert "takes whole numbers of 0 to 65535: send it as a 16-bit grey image" in reply.json()["detail"]


def test_the_intensity_policy_is_the_one_of_training(client: httpx.Client) -> None:
    """Percentiles of the whole picture, by the same function; pixels without a number are 0 and do not count."""
    values = FLOATS.copy()
    values[:3] = np.nan
    manifest = low_bits_manifest("policed", "float32", intensity={"lower": 2, "upper": 90})
    policy = manifest.input.intensity
    assert policy is not None
    ranked = np.sort(FLOATS[3:].ravel())
    low, high = (ranked[int((ranked.size - 1) * percent / 100)] for percent in (2, 90))
    assert intensity.window(values, policy) == intensity.Window(low, high)
    scaled = np.nan_to_num(np.clip((values - low) * np.float32(1 / (float(high) - float(low))), 0, 1), nan=0)
    reply = client.post("/segment?model=policed", content=tiff(values))
    np.testing.assert_array_equal(labels_of(reply), np.floor(scaled * 64).astype(int) % 4)


def test_numbers_without_a_value_do_not_count(client: httpx.Client) -> None:
    """GDAL's nodata is NaN for a network of floats, and 0 where there is no policy."""
    values = FLOATS.copy()
    values[5, 7] = -9999
    data = tiff(values, extratags=[(42113, 2, 6, b"-9999\0", True)])
    assert np.isnan(decode_grey(data, LIMITS, "float32").values[5, 7])
    assert labels_of(client.post("/segment?model=floats", content=data))[5, 7] == 0


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_wide_picture_is_upright(orientation: int) -> None:
    """As the same picture of 8 bits is."""
    small = (WIDE >> 8).astype(np.uint8)
    tag = [(274, 3, 1, orientation, True)]
    shown = decode(tiff(small, extratags=tag), LIMITS)[..., 0]
    wide = decode_grey(tiff(small.astype(np.uint16) + 300, extratags=tag), LIMITS, "uint16").values
    np.testing.assert_array_equal(wide, shown.astype(np.uint16) + 300)


def test_white_is_zero_is_inverted_within_its_bits() -> None:
    """0 is 65535, and 1.0 of floats."""
    np.testing.assert_array_equal(decode_grey(tiff(WIDE, photometric="miniswhite"), LIMITS, "uint16").values, 65535 - WIDE)
    share = (WIDE / 65536).astype(np.float32)
    np.testing.assert_array_equal(decode_grey(tiff(share, photometric="miniswhite"), LIMITS, "float32").values, 1 - share)


def test_transparency_is_laid_over_white() -> None:
    """Opaque pixels keep every bit, transparent ones are the white of the depth, alpha of 0 everywhere says nothing."""
    alpha = np.full(WIDE.shape, 65535, np.uint16)
    alpha[:4] = 0
    rgba = np.dstack([WIDE, WIDE, WIDE, alpha])
    for data in (png16(rgba), tiff(rgba, photometric="rgb", extrasamples=["unassalpha"])):
        found = decode_grey(data, LIMITS, "uint16").values
        np.testing.assert_array_equal(found[4:], WIDE[4:])
        assert (found[:4] == 65535).all()
    rgba[..., 3] = 0
    np.testing.assert_array_equal(decode_grey(png16(rgba), LIMITS, "uint16").values, WIDE)


def test_a_transparent_number_of_a_png_is_white() -> None:
    """``tRNS`` of a grey PNG names one number."""
    plain = png.encode_gray16(WIDE)
    clear = int(WIDE[0, 0])
    chunk = b"tRNS" + struct.pack(">H", clear)
    data = plain[:33] + struct.pack(">I", 2) + chunk + struct.pack(">I", zlib.crc32(chunk)) + plain[33:]
    found = decode_grey(data, LIMITS, "uint16").values
    np.testing.assert_array_equal(found, np.where(clear == WIDE, 65535, WIDE))


@settings(max_examples=60)
@given(st.data())
def test_any_layout_of_a_tiff_keeps_its_numbers(data: st.DataObject) -> None:
    """Types, byte orders, strips, tiles, predictors: as tifffile wrote them."""
    kind = data.draw(st.sampled_from(["u2", "i2", "u4", "i4", "f2", "f4", "f8"]))
    height, width = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    seed = data.draw(st.integers(0, 99))
    whole = np.random.default_rng(seed).integers(0 if kind[0] == "u" else -2000, 2000, (height, width))
    values = whole.astype(kind)
    options: dict[str, Any] = {"byteorder": data.draw(st.sampled_from("<>")), "bigtiff": data.draw(st.booleans())}
    if data.draw(st.booleans()):
        options["compression"] = "zlib"
        options["predictor"] = data.draw(st.booleans()) and kind[0] != "f"
    options |= {"tile": (16, 32)} if data.draw(st.booleans()) else {"rowsperstrip": data.draw(st.integers(1, height))}
    file = tiff(values, **options)
    found = decode_grey(file, LIMITS, "float32")
    np.testing.assert_array_equal(found.values, values.astype(np.float32))
    assert found.converted == ()
    if whole.min() >= 0:
        np.testing.assert_array_equal(decode_grey(file, LIMITS, "uint16").values, whole)
    else:
        with pytest.raises(UnsupportedImage, match="whole numbers of 0 to 65535"):
            decode_grey(file, LIMITS, "uint16")


@pytest.mark.parametrize("data", [png16(WIDE), tiff(WIDE, compression="zlib"), pgm(WIDE)])
def test_damaged_pictures_are_refused(data: bytes, client: httpx.Client) -> None:
    """As they are for networks of colours."""
    reply = client.post("/segment?model=bits16", content=data[: len(data) * 2 // 3])
    assert reply.status_code == 422
    assert reply.json()["code"] == "corrupt_image"


def test_an_overlay_shows_the_picture(client: httpx.Client) -> None:
    """Wide numbers are drawn by their depth, floats from the lowest to the highest."""
    ramp = np.tile(np.arange(0, 4000, 100, dtype=np.uint16), (8, 1))
    for model, data in (("bits16", png16(ramp)), ("floats", tiff(ramp.astype(np.float32)))):
        reply = client.post(f"/segment?model={model}&format=overlay", content=data)
        shown = np.asarray(Image.open(io.BytesIO(reply.content)).convert("L")).astype(int)
        assert shown.shape == ramp.shape
        assert shown[:, -8:].mean() > shown[:, :8].mean() + 40


def test_several_pictures_and_streams_say_what_was_converted(base_url: str, client: httpx.Client) -> None:
    """The header has the conversions of all images; a stream those of each frame."""
    files = [("image", ("a.png", png16(WIDE))), ("image", ("b.png", encode_image(make_image())))]
    reply = client.post("/segment?model=bits16&format=rle", files=files)
    assert reply.status_code == 200, reply.text
    assert reply.headers["x-converted"] == "colour-to-grey, 8-bit-to-16-bit"
    with connect(base_url.replace("http", "ws") + "/stream?model=bits16") as socket:
        for data, expected in ((png16(WIDE), None), (encode_image(make_image()), ["colour-to-grey", "8-bit-to-16-bit"])):
            socket.send(data)
            assert json.loads(socket.recv(60)).get("converted") == expected
            socket.recv(60)


def test_the_open_inference_protocol_gets_all_bits_too(client: httpx.Client) -> None:
    """An image file is one element of BYTES."""
    body = png16(WIDE)
    head = json.dumps(
        {
            "inputs": [
                {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(body) + 4}},
            ],
            "outputs": [{"name": "labels", "parameters": {"binary_data": True}}],
        }
    ).encode()
    reply = client.post(
        "/v2/models/bits16/infer",
        content=head + struct.pack("<I", len(body)) + body,
        headers={"Inference-Header-Content-Length": str(len(head))},
    )
    assert reply.status_code == 200, reply.text
    size = int(reply.headers["inference-header-content-length"])
    np.testing.assert_array_equal(np.frombuffer(reply.content[size:], np.uint8).reshape(WIDE.shape), WIDE % 4)


def test_the_client_sends_arrays_and_pictures_of_all_bits(base_url: str, tmp_path: Path) -> None:
    """Arrays of uint16 and float32, Pillow's wide modes, and files."""
    (tmp_path / "wide.tif").write_bytes(tiff(WIDE))
    with Client(base_url) as client:
        wide: list[Any] = [WIDE, Image.fromarray(WIDE), Image.fromarray(WIDE.astype(np.int32)), tmp_path / "wide.tif"]
        for image in wide:
            mask = client.segment(image, "bits16")
            np.testing.assert_array_equal(mask.labels, WIDE % 4)
            assert mask.converted == ()
        for floats in (FLOATS, Image.fromarray(FLOATS)):
            np.testing.assert_array_equal(client.segment(floats, "floats").labels, np.floor(FLOATS * 1024).astype(int) % 4)
        assert client.segment(make_image(), "bits16").converted == ("colour-to-grey", "8-bit-to-16-bit")
        (streamed,) = client.stream([make_image()], "bits16")
        assert streamed.converted == ("colour-to-grey", "8-bit-to-16-bit")
        with pytest.raises(TypeError, match="of colours is uint8, not uint16"):
            client.segment(COLOURS, "bits16")
        with pytest.raises(ValueError, match="0 to 65535"):
            client.segment(Image.fromarray(WIDE.astype(np.int32) - 70_000), "bits16")


def test_the_command_line_keeps_all_bits_and_counts_conversions(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Masks of 16-bit files are exact, and the summary tells what was converted."""
    monkeypatch.setenv("FCN_MODELS_DIR", str(models))
    (tmp_path / "a.png").write_bytes(png16(WIDE))
    (tmp_path / "b.tif").write_bytes(tiff(WIDE))
    (tmp_path / "c.png").write_bytes(encode_image(make_image()))
    monkeypatch.setattr(
        "sys.argv", ["fcn-serve", "segment", str(tmp_path), "--model", "bits16", "--out", str(tmp_path / "out")]
    )
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    for name in ("a", "b"):
        np.testing.assert_array_equal(png.decode((tmp_path / "out" / f"{name}.mask.png").read_bytes()), WIDE % 4)
    told = capsys.readouterr().out
    assert "3 of 3 segmented with bits16" in told
    assert "1 images converted for bits16: colour-to-grey" in told
    assert "1 images converted for bits16: 8-bit-to-16-bit" in told


def test_sources_of_8_bits_are_refused_for_wide_networks() -> None:
    """Bags and cameras are decoded to 8 bits: the network would get the wrong numbers without a sign."""
    for dtype in ("uint16", "float32"):
        with pytest.raises(BadSetting, match="takes grey pictures with all their bits, and those of a camera come with 8"):
            check_8_bits(low_bits_manifest("wide", dtype), "a camera")
    check_8_bits(low_bits_manifest("narrow", "uint8"), "a camera")
    check_8_bits(make_manifest(), "a camera")


@pytest.mark.parametrize(("channels", "dtype"), [(3, "uint16"), (3, "float32"), (2, "uint8"), (5, "float32")])
def test_inputs_that_no_picture_fills_are_refused_with_the_artifact(channels: int, dtype: str) -> None:
    """Before, such an artifact was loaded, and failed on each request."""
    with pytest.raises((BadArtifact, ValueError), match="3 channels of uint8"):
        InputPolicy(working_size=(32, 32), channels=channels, dtype=dtype)
