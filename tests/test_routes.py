"""What can be called over HTTP, against a real server on a real socket."""

from __future__ import annotations

import io
import json
import re
import socket
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_tools  # type: ignore[import-untyped]

from service.encodings import FORMATS, PICTURE_FORMATS, rle
from service.settings import Settings
from tests.conftest import BLUE, GREEN, RED, encode_image, make_image, make_labels, make_manifest, write_artifact
from tests.live import live_server

LISTABLE = [name for name in PICTURE_FORMATS if name not in ("overlay", "color", "npy", "confidence", "autoware")]
"""The formats that have a form for the masks of several images."""
STAGES = ["decode", "queue", "infer", "labels", "encode"]
MAX_PIXELS = 1_000_000


@pytest.fixture(scope="module")
def base_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with three models: ``colours``, the default, ``again``, and ``street``, for which red is road, green a car."""
    folder = tmp_path_factory.mktemp("models")
    write_artifact(folder / "colours.onnx")
    write_artifact(folder / "again.onnx", make_manifest(name="again", version="2.0.0"))
    street = [{"id": k, "name": name, "color": (k, k, k)} for k, name in enumerate(["road", "car", "crate"])]
    write_artifact(folder / "street.onnx", make_manifest(name="street", classes=street))
    settings = Settings(
        models_dir=folder, default_model="colours", max_image_pixels=MAX_PIXELS, max_image_side=4000, max_image_bytes=2_000_000
    )
    with live_server(settings) as url:
        yield url


@pytest.fixture(scope="module")
def client(base_url: str) -> Iterator[httpx.Client]:
    """A client that keeps its connections."""
    with httpx.Client(base_url=base_url, timeout=30) as client:
        yield client


def pixels(body: bytes) -> NDArray[Any]:
    """The pixel values of an image file, undecoded by any palette."""
    return np.asarray(Image.open(io.BytesIO(body)))


def is_right(mask: NDArray[Any], height: int = 96, width: int = 128) -> bool:
    """Whether a mask is that of the three stripes; the network's scores say nothing exact within a cell of their edges."""
    columns = np.arange(width)
    clear = np.all([np.abs(columns - width * edge / 3) > width / 16 for edge in (1, 2)], axis=0)
    return mask.shape == (height, width) and bool((mask == make_labels(height, width))[:, clear].all())


@pytest.fixture(scope="module")
def mask(client: httpx.Client) -> NDArray[Any]:
    """The mask of the three stripes as the default format gives it: 96 x 128 uint8."""
    return pixels(client.post("/segment", content=encode_image(make_image())).content)


def test_a_form_gives_an_indexed_png_whose_values_are_class_ids(client: httpx.Client, png: bytes) -> None:
    """The default: the mask has the image's size, its values are ids, its palette the classes' colours."""
    reply = client.post("/segment", files={"image": ("street.png", png, "image/png")})
    assert (reply.status_code, reply.headers["content-type"]) == (200, "image/png")
    mask = Image.open(io.BytesIO(reply.content))
    assert mask.mode == "P"
    assert is_right(np.asarray(mask))
    np.testing.assert_array_equal(np.asarray(mask.convert("RGB")), np.array([RED, GREEN, BLUE])[np.asarray(mask)])


@pytest.mark.parametrize("content_type", ["image/jpeg", "application/octet-stream", "application/x-www-form-urlencoded", None])
def test_raw_bytes_give_the_same_mask(client: httpx.Client, jpeg: bytes, content_type: str | None) -> None:
    """The body may be the image itself, whatever it is called."""
    headers = {} if content_type is None else {"Content-Type": content_type}
    reply = client.post("/segment", content=jpeg, headers=headers)
    assert is_right(pixels(reply.content))


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (7, 11), (360, 480), (333, 517), (999, 1001)])
def test_the_mask_has_exactly_the_size_of_the_image(client: httpx.Client, size: tuple[int, int]) -> None:
    """Any size from 1 x 1 up to the limits."""
    reply = client.post("/segment", content=encode_image(make_image(*size)))
    assert pixels(reply.content).shape == size


def test_a_turned_photo_gives_an_upright_mask(client: httpx.Client) -> None:
    """EXIF orientation is applied, so that the mask fits the image as a viewer shows it."""
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    lying = np.ascontiguousarray(np.rot90(make_image(96, 144)))
    reply = client.post("/segment", content=encode_image(lying, "JPEG", quality=95, subsampling=0, exif=exif))
    assert is_right(pixels(reply.content), 96, 144)


def test_run_lengths_fill_the_mask_and_say_which_model_made_it(client: httpx.Client, png: bytes, mask: NDArray[Any]) -> None:
    """``format=rle``: runs, classes with their shares, the model by name, version and hash."""
    document = client.post("/segment", params={"format": "rle"}, content=png).json()
    np.testing.assert_array_equal(rle.decode(document), mask)
    assert (document["size"], document["order"]) == ([96, 128], "row-major")
    assert [(row["id"], row["name"]) for row in document["classes"]] == [(0, "red"), (1, "green"), (2, "blue")]
    assert sum(row["share"] for row in document["classes"]) == pytest.approx(1)
    assert document["model"]["name"] == "colours"
    assert document["model"]["version"] == "1.0.0"
    assert re.fullmatch("[0-9a-f]{64}", document["model"]["sha256"])


def test_every_format_is_served_with_its_media_type(client: httpx.Client, png: bytes) -> None:
    """Every format that OpenAPI lists is served."""
    for name in PICTURE_FORMATS:
        form = FORMATS[name]
        drivable = {"drivable": "green"} if "drivable" in form.takes else {}  # no class of this model is called a road
        reply = client.post("/segment", params={"format": name, **drivable}, content=png)
        assert (reply.status_code, reply.headers["content-type"].partition(";")[0]) == (200, form.media_type), name


def test_arrays_gray_and_colours_agree_with_the_indexed_mask(client: httpx.Client, png: bytes, mask: NDArray[Any]) -> None:
    """The same labels in every dress."""
    reply = {name: client.post("/segment", params={"format": name}, content=png).content for name in PICTURE_FORMATS}
    np.testing.assert_array_equal(np.load(io.BytesIO(reply["npy"])), mask)
    np.testing.assert_array_equal(pixels(reply["gray"]), mask)
    colors = np.array([RED, GREEN, BLUE])[mask]
    np.testing.assert_array_equal(pixels(reply["color"]), colors)
    np.testing.assert_allclose(pixels(reply["overlay"]), (make_image().astype(float) + colors) / 2, atol=1)
    assert pixels(reply["confidence"]).shape == (96, 128)


# pycocotools 2.0.11 with numpy 2 says this of itself on each decode.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
def test_coco_masks_are_read_by_cocos_own_tools(client: httpx.Client, png: bytes, mask: NDArray[Any]) -> None:
    """``format=coco`` is for pycocotools."""
    document = client.post("/segment", params={"format": "coco"}, content=png).json()
    for entry in document["classes"]:
        np.testing.assert_array_equal(coco_tools.decode(entry["segmentation"]), mask == entry["id"])
    assert len(document["classes"]) == 3


def test_ids_and_filters_and_statistics_compose(client: httpx.Client, png: bytes) -> None:
    """Road and car in Cityscapes' label ids, the crate in none; the PNG says the same as the runs."""
    query = {"model": "street", "ids": "cityscapes-label"}
    own = pixels(client.post("/segment", params={"model": "street"}, content=png).content)
    expected = np.array([7, 26, 255])[own]
    np.testing.assert_array_equal(pixels(client.post("/segment", params=query, content=png).content), expected)
    document = client.post("/segment", params=query | {"format": "rle", "statistics": "true"}, content=png).json()
    np.testing.assert_array_equal(rle.decode(document), expected)
    assert [(row["id"], row["name"]) for row in document["classes"]] == [(7, "road"), (26, "car")]
    assert all(0.3 < row["confidence"] < 1 and row["bbox"][3] == 96 for row in document["classes"])
    only = client.post("/segment", params=query | {"classes": "car"}, content=png)
    np.testing.assert_array_equal(pixels(only.content), np.where(expected == 26, 26, 255))


def test_components_are_masks_of_their_own(client: httpx.Client) -> None:
    """Two cars in one picture are two entries, the larger first, and a road in two parts stays one."""
    image = np.full((96, 128, 3), RED, np.uint8)
    image[16:48, 16:32] = image[16:80, 80:112] = GREEN
    query = {"model": "street", "format": "coco", "instances": "true"}
    document = client.post("/segment", params=query, content=encode_image(image)).json()
    assert [(row["name"], row.get("component")) for row in document["classes"]] == [("road", None), ("car", 1), ("car", 2)]
    _, large, small = document["classes"]
    large_only = client.post("/segment", params=query | {"min_area": large["pixels"]}, content=encode_image(image)).json()
    assert [row["pixels"] for row in large_only["classes"] if row["name"] == "car"] == [large["pixels"]]
    assert small["pixels"] < large["pixels"]


def test_accept_chooses_the_format_where_the_query_does_not(client: httpx.Client, png: bytes) -> None:
    """``Accept: application/json`` is run lengths; the query wins."""
    accept = {"Accept": "application/json"}
    assert "lengths" in client.post("/segment", content=png, headers=accept).json()
    assert client.post("/segment?format=gray", content=png, headers=accept).headers["content-type"] == "image/png"


def test_several_images_give_a_list_in_order(client: httpx.Client) -> None:
    """One entry an image, each of its own size."""
    sizes = [(96, 128), (50, 60), (200, 100)]
    files = [("image", encode_image(make_image(*size))) for size in sizes]
    documents = client.post("/segment", params={"format": "rle"}, files=files).json()
    assert [tuple(document["size"]) for document in documents] == sizes
    for document, size in zip(documents, sizes, strict=True):
        assert rle.decode(document).shape == size
    assert len(client.post("/segment", params={"format": "coco"}, files=files).json()) == 3


def test_several_images_fit_no_picture_for_people(client: httpx.Client, png: bytes) -> None:
    """One overlay is one image; the refusal names the formats that can hold several."""
    reply = client.post("/segment?format=overlay", files=[("image", png), ("image", png)])
    assert (reply.status_code, reply.json()["code"], reply.json()["allowed"]) == (422, "unsupported_format", LISTABLE)


def test_a_zip_that_is_asked_for_holds_masks(client: httpx.Client) -> None:
    """``Accept: application/zip`` without a format: label maps of several images; one image is not a zip."""
    image = encode_image(make_image(240, 320))
    accept = {"Accept": "application/zip"}
    reply = client.post("/segment", files=[("image", ("a.png", image)), ("image", ("b.png", image))], headers=accept)
    assert (reply.status_code, reply.headers["content-type"]) == (200, "application/zip")
    with zipfile.ZipFile(io.BytesIO(reply.content)) as archive:
        assert archive.namelist() == ["a.png", "b.png"]
        assert archive.read("a.png") == client.post("/segment", content=image).content
    alone = client.post("/segment", content=image, headers=accept)
    assert (alone.status_code, alone.json()["code"]) == (422, "unsupported_format")


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (b"text", "unsupported_image"),
        (encode_image(make_image(240, 320))[:30], "corrupt_image"),
        (encode_image(make_image(240, 320))[:-200], "corrupt_image"),
        (b"", "empty_body"),
    ],
    ids=["no image", "cut in its header", "cut in its pixels", "empty"],
)
@pytest.mark.parametrize("at", [0, 1, 2])
def test_the_broken_one_of_several_images_is_named(client: httpx.Client, bad: bytes, code: str, at: int) -> None:
    """Its number and its file's name, in the sentence and as facts; a single image has neither."""
    images = [encode_image(make_image(240, 320))] * 3
    images[at] = bad
    reply = client.post(
        "/segment", files=[("image", (f"{name}.png", image)) for name, image in zip("abc", images, strict=True)]
    )
    document, name = reply.json(), "abc"[at]
    assert document["code"] == code
    assert document["detail"].startswith(f"image {at + 1} of 3, '{name}.png': ")
    assert (document["image"], document["file"]) == (at + 1, f"{name}.png")
    alone = client.post("/segment", files={"image": ("a.png", bad)})
    assert (alone.status_code, alone.json()["code"]) == (reply.status_code, code)
    assert document["detail"].endswith(alone.json()["detail"])
    assert not {"image", "file"} & alone.json().keys()


def test_several_images_give_a_zip_of_masks(client: httpx.Client) -> None:
    """One file an image, named after the part's file name, each the mask that the image has alone."""
    names, sizes = ["a.jpg", "../b.png", "a.png"], [(96, 128), (50, 60), (200, 100)]
    images = [encode_image(make_image(*size)) for size in sizes]
    reply = client.post("/segment", files=[("image", (name, image)) for name, image in zip(names, images, strict=True)])
    assert (reply.status_code, reply.headers["content-type"]) == (200, "application/zip")
    with zipfile.ZipFile(io.BytesIO(reply.content)) as archive:
        assert archive.namelist() == ["a.png", "b.png", "a-2.png"]
        for name, image in zip(archive.namelist(), images, strict=True):
            assert archive.read(name) == client.post("/segment", content=image).content


def test_several_images_give_one_dataset(client: httpx.Client) -> None:
    """With the images' file names and sizes."""
    sizes = [(96, 128), (50, 60)]
    files = [("image", (f"{number}.jpg", encode_image(make_image(*size)))) for number, size in enumerate(sizes)]
    document = client.post("/segment?format=coco-dataset", files=files).json()
    assert [(one["file_name"], one["height"], one["width"]) for one in document["images"]] == [
        ("0.jpg", 96, 128),
        ("1.jpg", 50, 60),
    ]
    alone = client.post("/segment?format=coco-dataset", files=files[:1]).json()
    assert alone["images"] == [{"id": 1, "file_name": "0.jpg", "height": 96, "width": 128}]


def test_accept_chooses_geojson(client: httpx.Client, png: bytes) -> None:
    """By its own media type."""
    reply = client.post("/segment", content=png, headers={"Accept": "application/geo+json"})
    assert reply.headers["content-type"] == "application/geo+json"
    assert reply.json()["type"] == "FeatureCollection"


def test_one_bad_image_among_several_is_the_answer_to_all(client: httpx.Client, png: bytes) -> None:
    """No list with a hole in it."""
    reply = client.post("/segment?format=rle", files=[("image", png), ("image", b"text"), ("image", png)])
    assert (reply.status_code, reply.json()["code"]) == (415, "unsupported_image")


@pytest.mark.parametrize("query", ["classes=red,2", "classes=red&classes=blue", "classes=0&classes=blue"])
def test_only_the_classes_asked_for_are_kept(client: httpx.Client, png: bytes, mask: NDArray[Any], query: str) -> None:
    """By name or id, repeated or with commas; the rest is 255."""
    kept = pixels(client.post(f"/segment?{query}", content=png).content)
    np.testing.assert_array_equal(kept, np.where(mask == 1, 255, mask))


def test_uncertain_pixels_become_unlabelled(client: httpx.Client, png: bytes, mask: NDArray[Any]) -> None:
    """What the network is less sure of than ``min_confidence`` says is 255, and nothing else changes."""
    confidence = pixels(client.post("/segment?format=confidence", content=png).content)
    threshold = float(np.median(confidence)) / 255
    sure = pixels(client.post("/segment", params={"min_confidence": threshold}, content=png).content)
    np.testing.assert_array_equal(sure, np.where(confidence >= threshold * 255, mask, 255))
    assert (sure == 255).any()
    assert (sure != 255).any()


def test_replies_that_need_the_confidence_tell_the_share_of_uncertain_pixels(client: httpx.Client, png: bytes) -> None:
    """``X-Uncertain`` is the share below half confidence; a plain mask does not pay for it."""
    confidence = pixels(client.post("/segment?format=confidence", content=png).content)
    expected = f"{(confidence < 127.5).mean():.4f}"
    for query in ("format=confidence", "min_confidence=0.1", "format=rle&statistics=true"):
        assert client.post(f"/segment?{query}", content=png).headers["x-uncertain"] == expected
    assert "x-uncertain" not in client.post("/segment", content=png).headers


def test_the_native_resolution_is_that_of_the_image(client: httpx.Client) -> None:
    """Stripes of one cell's width are seen at the image's own size, and blurred at the working size."""
    image = np.zeros((384, 512, 3), np.uint8)
    image[:, ::32, 0] = image[:, 16::32, 2] = 255
    stripes = np.repeat(np.where(np.arange(64) % 2 == 0, 0, 2), 8)
    image[...] = np.eye(3, dtype=np.uint8)[stripes] * 255
    png = encode_image(image)
    native = pixels(client.post("/segment?resolution=native", content=png).content)
    assert (native == stripes).mean() > 0.99
    assert (pixels(client.post("/segment", content=png).content) == stripes).mean() < 0.9
    refused = client.post("/segment?resolution=full", content=png).json()
    assert (refused["code"], refused["parameter"]) == ("bad_parameter", "resolution")


def test_a_model_is_chosen_by_name(client: httpx.Client, png: bytes) -> None:
    """The default answers when none is named; every reply says which one did."""
    assert client.post("/segment", content=png).headers["x-model"] == "colours@1.0.0"
    assert client.post("/segment?model=again", content=png).headers["x-model"] == "again@2.0.0"


def test_every_reply_has_its_headers(client: httpx.Client, png: bytes) -> None:
    """Request id, frame headers, model, and the time of each stage in milliseconds."""
    sent = {"X-Request-ID": "drive-7/12", "X-Frame-Id": "cam0:12", "X-Frame-Stamp": "1700000000.5"}
    for path in ("/segment", "/segment?format=rle"):
        reply = client.post(path, content=png, headers=sent)
        assert {name: reply.headers[name] for name in sent} == sent
        assert reply.headers["x-model"] == "colours@1.0.0"
        assert re.findall(r"(\w+);dur=\d+\.\d+", reply.headers["server-timing"]) == STAGES


def test_a_refusal_has_the_headers_that_are_known(client: httpx.Client) -> None:
    """A frame that could not be segmented is still matched with its stamp."""
    reply = client.post("/segment", content=b"text", headers={"X-Frame-Stamp": "12.5", "X-Request-ID": "mine"})
    assert reply.status_code == 415
    assert reply.headers["x-frame-stamp"] == "12.5"
    assert reply.headers["x-request-id"] == reply.json()["request_id"] == "mine"
    assert reply.headers["x-model"] == "colours@1.0.0"


def test_a_deadline_that_cannot_be_met_is_a_504(client: httpx.Client, png: bytes) -> None:
    """What comes too late is not waited for."""
    reply = client.post("/segment", content=png, headers={"X-Deadline-Ms": "0.001"})
    assert (reply.status_code, reply.json()["code"]) == (504, "deadline_exceeded")
    assert reply.json()["deadline_ms"] == 0.001  # the caller's own, not what was left of it
    assert reply.json()["detail"] == "not finished within 0.001 ms"


def test_a_sender_who_never_ends_is_bound_by_the_deadline(base_url: str) -> None:
    """The upload is part of the request's time: no request holds a place for ever by sending a byte now and then."""
    host, port = base_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"POST /segment HTTP/1.1\r\nHost: x\r\nX-Deadline-Ms: 300\r\nContent-Length: 1000\r\n\r\nBM")
        reply = connection.recv(65536)
    assert reply.startswith(b"HTTP/1.1 504 ")
    assert b"deadline_exceeded" in reply


@pytest.mark.parametrize("value", ["0", "nan", "soon", "1e9"])
def test_a_deadline_that_is_none_is_named(client: httpx.Client, png: bytes, value: str) -> None:
    """As the header that the caller sent, and once."""
    problem = client.post("/segment", content=png, headers={"X-Deadline-Ms": value}).json()
    assert (problem["status"], problem["parameter"]) == (422, "x-deadline-ms")
    assert "more)" not in problem["detail"]


def test_the_models_are_listed_with_their_manifests(client: httpx.Client) -> None:
    """``GET /models``: the default, and of each model its classes, its policy, its hash."""
    document = client.get("/models").json()
    assert document["default"] == "colours"
    assert [model["name"] for model in document["models"]] == ["again", "colours", "street"]
    model = document["models"][1]
    assert model["classes"][0] == {"id": 0, "name": "red", "color": [255, 0, 0], "countable": False}
    assert (model["schema_version"], model["instances"]) == (2, "components")
    assert model["outputs"] == [{"name": "scores", "kind": "scores", "stride": 8}]
    assert model["stride"] == 8
    assert model["provider"] == "cpu"
    assert client.get("/models/colours").json() == model


def test_health_is_answered_in_one_word(client: httpx.Client) -> None:
    """``/livez`` is the process, ``/readyz`` the model behind it."""
    assert client.get("/livez").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"status": "ready", "model": "colours", "provider": "cpu"}


def test_metrics_count_what_was_served(client: httpx.Client, png: bytes) -> None:
    """Requests by route, stages, errors by code, the models, the queue, readiness."""
    client.post("/segment", content=png)
    client.post("/segment", content=b"text")
    text = client.get("/metrics").text
    for line in (
        r'fcn_requests_total\{method="POST",route="/segment",status="200"\} [1-9]',
        r'fcn_stage_duration_seconds_count\{stage="infer"\} [1-9]',
        r'fcn_errors_total\{code="unsupported_image"\} [1-9]',
        r'fcn_model_info\{name="colours",provider="cpu",sha256="[0-9a-f]{64}",version="1.0.0"\} 1',
        r"fcn_queue_depth 0",
        r"fcn_queue_megapixels 0",
        r"fcn_ready 1",
        r"fcn_image_pixels_count [1-9]",
    ):
        assert re.search(f"^{line}", text, re.MULTILINE), line


def test_openapi_says_what_can_be_sent_and_what_comes_back(client: httpx.Client) -> None:
    """Body alternatives, formats as an enum, every status with its problem document, and no dangling reference."""
    document = client.get("/openapi.json").json()
    call = document["paths"]["/segment"]["post"]
    assert set(call["requestBody"]["content"]) == {"multipart/form-data", "image/*", "application/octet-stream"}
    parameters = {parameter["name"]: parameter for parameter in call["parameters"]}
    assert parameters["format"]["schema"]["enum"] == list(FORMATS)
    assert parameters["x-deadline-ms"]["schema"]["exclusiveMinimum"] == 0
    assert parameters["ids"]["schema"]["enum"] == ["cityscapes-train", "cityscapes-label", "autoware"]
    assert {"statistics", "legend", "instances", "min_area", "tolerance"} <= set(parameters)
    assert {"model", "format", "classes", "min_confidence", "x-deadline-ms", "x-frame-id", "x-frame-stamp"} <= set(parameters)
    assert set(call["responses"]) == {"200", "400", "431", "401", "404", "413", "415", "422", "429", "500", "503", "504"}
    for status, response in call["responses"].items():
        assert "X-Request-ID" in response["headers"]
        assert status == "200" or set(response["content"]) == {"application/problem+json"}
    assert set(call["responses"]["200"]["content"]) == {form.media_type for form in FORMATS.values()} | {"application/zip"}
    assert set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document))) <= set(document["components"]["schemas"])


# Bad input: issue and promise are the same for all of it --------------------------------------------------------------------


def bomb() -> bytes:
    """A PNG of a hundred bytes that claims 60000 x 60000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def no_pixels() -> bytes:
    """A BMP of 0 x 0 pixels."""
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, 0, 0, 1, 24, 0, 0, 0, 0, 0, 0)


@dataclass(frozen=True)
class Bad:
    """A request that must be refused."""

    status: int
    code: str
    make: Callable[[bytes], dict[str, Any]]
    """From a good JPEG: what to send."""
    path: str = "/segment"
    method: str = "POST"
    facts: dict[str, Any] = field(default_factory=dict)


def raw(change: Callable[[bytes], bytes]) -> Callable[[bytes], dict[str, Any]]:
    """A raw body."""
    return lambda good: {"content": change(good)}


GOOD = raw(lambda good: good)

BAD = {
    "an empty body": Bad(422, "empty_body", raw(lambda _: b"")),
    "an empty part": Bad(422, "empty_body", lambda _: {"files": {"image": ("a.jpg", b"")}}),
    "a truncated JPEG": Bad(422, "corrupt_image", raw(lambda good: good[: len(good) // 2])),
    "the head of a JPEG": Bad(422, "corrupt_image", raw(lambda good: good[:20])),
    "a JPEG with noise for data": Bad(422, "corrupt_image", raw(lambda good: good[:300] + b"\xff" * 500)),
    "a text file called .jpg": Bad(415, "unsupported_image", lambda _: {"files": {"image": ("a.jpg", b"hello", "image/jpeg")}}),
    "one byte": Bad(415, "unsupported_image", raw(lambda _: b"x")),
    "JSON": Bad(415, "unsupported_image", lambda _: {"json": {"image": "street.jpg"}}),
    "an SVG": Bad(415, "unsupported_image", raw(lambda _: b'<svg xmlns="http://www.w3.org/2000/svg"/>')),
    "a PNG that claims 60000 x 60000 pixels": Bad(413, "image_too_large", raw(lambda _: bomb())),
    "more pixels than allowed": Bad(
        413,
        "image_too_large",
        raw(lambda _: encode_image(make_image(1001, 1000))),
        facts={"limit": MAX_PIXELS, "actual": 1_001_000},
    ),
    "a longer side than allowed": Bad(
        413, "image_too_large", raw(lambda _: encode_image(make_image(1, 4001))), facts={"limit": 4000, "actual": 4001}
    ),
    "more bytes than allowed": Bad(
        413, "body_too_large", raw(lambda _: bytes(2_000_001)), facts={"limit": 2_000_000, "actual": 2_000_001}
    ),
    "a 0 x 0 image": Bad(422, "corrupt_image", raw(lambda _: no_pixels())),
    "a wrong form field": Bad(422, "bad_parameter", lambda good: {"files": {"file": good}}, facts={"parameter": "image"}),
    "a form without a file": Bad(422, "bad_parameter", lambda good: {"files": {"image": good}, "data": {"format": "rle"}}),
    "a broken form": Bad(
        422, "bad_parameter", lambda _: {"content": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=y"}}
    ),
    "an unknown format": Bad(422, "unsupported_format", GOOD, "/segment?format=jpeg", facts={"allowed": list(FORMATS)}),
    "nothing acceptable": Bad(422, "unsupported_format", lambda good: {"content": good, "headers": {"Accept": "text/html"}}),
    "an unknown model": Bad(
        404, "unknown_model", GOOD, "/segment?model=absent", facts={"allowed": ["again", "colours", "street"]}
    ),
    "a model that is a path": Bad(404, "unknown_model", GOOD, "/segment?model=../colours"),
    "an unknown class": Bad(422, "unknown_class", GOOD, "/segment?classes=road", facts={"allowed": ["red", "green", "blue"]}),
    "ids of no table": Bad(422, "bad_parameter", GOOD, "/segment?ids=kitti&model=street", facts={"parameter": "ids"}),
    "ids for other classes": Bad(422, "bad_parameter", GOOD, "/segment?ids=autoware", facts={"parameter": "ids"}),
    "instances in a picture": Bad(422, "bad_parameter", GOOD, "/segment?instances=true&model=street"),
    "instances of colours": Bad(
        422, "bad_parameter", GOOD, "/segment?instances=true&format=coco", facts={"parameter": "instances"}
    ),
    "a negative area": Bad(
        422, "bad_parameter", GOOD, "/segment?instances=true&format=coco&min_area=-1", facts={"parameter": "min_area"}
    ),
    "an area without instances": Bad(
        422, "bad_parameter", GOOD, "/segment?format=coco&min_area=5", facts={"parameter": "min_area"}
    ),
    "statistics in a picture": Bad(422, "bad_parameter", GOOD, "/segment?statistics=true"),
    "a legend in a document": Bad(
        422, "bad_parameter", GOOD, "/segment?legend=1&format=rle", facts={"parameter": "legend", "allowed": ["overlay"]}
    ),
    "a tolerance for runs": Bad(
        422,
        "bad_parameter",
        GOOD,
        "/segment?tolerance=1&format=rle",
        facts={"allowed": ["labelme", "yolo", "polygons", "geojson"]},
    ),
    "a tolerance that is not a number": Bad(422, "bad_parameter", GOOD, "/segment?tolerance=nan&format=polygons"),
    "no class at all": Bad(422, "bad_parameter", GOOD, "/segment?classes=", facts={"parameter": "classes"}),
    "a confidence of two": Bad(422, "bad_parameter", GOOD, "/segment?min_confidence=2", facts={"parameter": "min_confidence"}),
    "a confidence that is not a number": Bad(422, "bad_parameter", GOOD, "/segment?min_confidence=nan"),
    "a mistyped parameter": Bad(422, "bad_parameter", GOOD, "/segment?fromat=rle", facts={"parameter": "fromat"}),
    "a deadline of minus one": Bad(422, "bad_parameter", lambda good: {"content": good, "headers": {"X-Deadline-Ms": "-1"}}),
    "a frame id that is a novel": Bad(
        422, "bad_parameter", lambda good: {"content": good, "headers": {"X-Frame-Id": "x" * 300}}
    ),
    "a wrong path": Bad(404, "not_found", GOOD, "/segments"),
    "a wrong method": Bad(405, "method_not_allowed", raw(lambda _: b""), method="GET"),
    "a model that is absent": Bad(404, "unknown_model", raw(lambda _: b""), "/models/absent", "GET"),
    "a path upwards": Bad(404, "not_found", raw(lambda _: b""), "/page/%2e%2e%2fapp.py", "GET"),
}


@pytest.mark.parametrize(
    ("method", "path", "words"),
    [
        ("POST", "/segment?colour=red", "there is no parameter 'colour'; there are model, format, classes, "),
        ("GET", "/stream?colour=red", "there is no parameter 'colour'; there are model, format, classes, "),
        ("GET", "/segment", "POST an image here"),
        ("DELETE", "/models", "this path takes GET"),
        ("GET", "/segments", "/docs"),
    ],
)
def test_what_the_framework_rejects_names_the_remedy(
    client: httpx.Client, png: bytes, method: str, path: str, words: str
) -> None:
    """A mistyped name, a wrong method and a wrong path are told what would work."""
    reply = client.request(method, path, content=png if method == "POST" else None)
    assert reply.status_code in (404, 405, 422)
    assert words in reply.json()["detail"]


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_bad_input_gets_its_problem_at_once_and_the_next_request_is_served(
    base_url: str, client: httpx.Client, jpeg: bytes, bad: Bad
) -> None:
    """Each mistake is a 4xx problem document, long before the deadline, and the next request is served."""
    sent = bad.make(jpeg)
    client.get("/livez")
    begun = time.monotonic()
    reply = client.request(bad.method, bad.path, **sent)
    spent_s = time.monotonic() - begun
    assert (reply.status_code, reply.headers["content-type"]) == (bad.status, "application/problem+json"), reply.text
    document = reply.json()
    assert (document["code"], document["status"]) == (bad.code, bad.status)
    assert document["error"] == document["detail"] != ""
    assert document["request_id"] == reply.headers["x-request-id"]
    assert bad.facts.items() <= document.items()
    assert spent_s < 5  # the deadline is ten seconds
    with httpx.Client(base_url=base_url) as fresh:
        for connection in (client, fresh):
            assert is_right(pixels(connection.post("/segment", content=jpeg).content))


@pytest.mark.parametrize("name", [name for name, bad in BAD.items() if bad.code != "body_too_large"])
def test_a_refusal_keeps_the_connection(base_url: str, jpeg: bytes, name: str) -> None:
    """A camera's connection outlives a bad frame."""
    bad = BAD[name]
    with httpx.Client(base_url=base_url, limits=httpx.Limits(max_connections=1)) as client:
        sockets = set()
        for method, path, sent in [("GET", "/livez", {}), (bad.method, bad.path, bad.make(jpeg)), ("GET", "/livez", {})]:
            with client.stream(method, path, **sent) as reply:
                reply.read()
                sockets.add(reply.extensions["network_stream"].get_extra_info("client_addr"))
        assert len(sockets) == 1


def test_an_animated_gif_is_its_first_frame(client: httpx.Client) -> None:
    """What moves is segmented as it begins: it is not an error."""
    first, second = Image.fromarray(make_image()), Image.fromarray(make_image()[:, ::-1].copy())
    body = encode_image(first, "GIF", save_all=True, append_images=[second])
    assert is_right(pixels(client.post("/segment", content=body).content))


def test_an_address_in_a_body_is_not_fetched(base_url: str) -> None:
    """Nor does a path touch a file: whatever says where an image is, is refused as what it is, bytes that are none."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/street.png"
        drawing = f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{address}"/></svg>'
        sent: list[dict[str, Any]] = [{"content": words} for words in (address, "file:///etc/passwd", "/etc/passwd", drawing)]
        sent += [{"files": {"image": address.encode()}}, {"json": {"url": address}}, {"params": {"url": address}}]
        for call in sent:
            reply = httpx.post(f"{base_url}/segment", **call)
            assert (reply.status_code, reply.json()["code"]) in {(415, "unsupported_image"), (422, "bad_parameter")}, call
            assert "root:" not in reply.text
        with pytest.raises(BlockingIOError):
            listener.accept()
