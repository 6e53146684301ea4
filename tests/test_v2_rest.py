"""The Open Inference Protocol against a real server, spoken by the field's own client and by hand."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import re
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any, cast

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from isal import isal_zlib
from numpy.typing import NDArray
from PIL import Image
from pydantic import SecretStr
from tritonclient.utils import InferenceServerException

from service.settings import Settings
from tests.conftest import encode_image, make_image, make_manifest, write_artifact
from tests.live import live_process, live_server

MAX_BYTES, MAX_PIXELS = 2_000_000, 1_000_000


@pytest.fixture(scope="module")
def base_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with two models: ``colours``, the default, and ``again``."""
    folder = tmp_path_factory.mktemp("models")
    write_artifact(folder / "colours.onnx")
    write_artifact(folder / "again.onnx", make_manifest(name="again", version="2.0.0"))
    settings = Settings(
        models_dir=folder, default_model="colours", max_image_bytes=MAX_BYTES, max_image_pixels=MAX_PIXELS, max_image_side=4000
    )
    with live_server(settings) as url:
        yield url


@pytest.fixture(scope="module")
def client(base_url: str) -> Iterator[httpx.Client]:
    """A plain HTTP client."""
    with httpx.Client(base_url=f"{base_url}/v2", timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def tritonic(base_url: str) -> Iterator[triton.InferenceServerClient]:
    """Triton's own client."""
    client = triton.InferenceServerClient(base_url.removeprefix("http://"))
    yield client
    client.close()


def tensor(array: NDArray[Any], datatype: str, *, binary: bool = True) -> triton.InferInput:
    """An input as Triton's client sends it."""
    sent = triton.InferInput("image", list(array.shape), datatype)
    sent.set_data_from_numpy(array, binary_data=binary)
    return sent


def files(*data: bytes) -> triton.InferInput:
    """Image files as an input."""
    return tensor(np.array(data, dtype=np.object_), "BYTES")


def wanted(*names: str, binary: bool = True) -> list[triton.InferRequestedOutput]:
    """Outputs as Triton's client asks for them."""
    return [triton.InferRequestedOutput(name, binary_data=binary) for name in names]


def mask_of(base_url: str, image: bytes, output: str = "png") -> NDArray[Any]:
    """What ``POST /segment`` says of an image."""
    reply = httpx.post(f"{base_url}/segment", params={"format": output}, content=image)
    return np.asarray(Image.open(io.BytesIO(reply.content)))


def body_of(image: NDArray[np.uint8], **changes: Any) -> dict[str, Any]:
    """A request in JSON."""
    return {
        "inputs": [{"name": "image", "datatype": "UINT8", "shape": list(image.shape), "data": image.ravel().tolist()}]
    } | changes


def test_the_client_finds_the_server_and_its_models(tritonic: triton.InferenceServerClient) -> None:
    """Live, ready, metadata, versions: an unknown model is not ready."""
    assert tritonic.is_server_live()
    assert tritonic.is_server_ready()
    assert tritonic.is_model_ready("colours")
    assert tritonic.is_model_ready("again", "2.0.0")
    assert not tritonic.is_model_ready("again", "1.0.0")
    assert not tritonic.is_model_ready("unicorn")
    server = tritonic.get_server_metadata()
    assert server["name"] == "fcn-serve"
    assert {"binary_tensor_data", "schedule_policy", "statistics"} <= set(server["extensions"])
    for metadata in (tritonic.get_model_metadata("again"), tritonic.get_model_metadata("again", "2.0.0")):
        assert (metadata["name"], metadata["versions"], metadata["platform"]) == ("again", ["2.0.0"], "onnx_onnxv1")
        assert metadata["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
        assert [output["name"] for output in metadata["outputs"]] == ["labels", "labels_png", "confidence", "scores"]
    assert tritonic.get_model_config("again")["output"][0] == {"name": "labels", "data_type": "TYPE_UINT8", "dims": [-1] * 3}


@pytest.mark.parametrize("coding", [None, "gzip", "deflate"])
def test_a_file_in_bytes_gives_the_mask_of_segment(
    base_url: str, tritonic: triton.InferenceServerClient, jpeg: bytes, coding: str | None
) -> None:
    """The same pixels, compressed on their way or not; the request's id comes back."""
    result = tritonic.infer(
        "colours",
        [files(jpeg)],
        request_id="drive-7",
        request_compression_algorithm=coding,
        response_compression_algorithm=coding,
    )
    np.testing.assert_array_equal(result.as_numpy("labels"), mask_of(base_url, jpeg)[None])
    reply = result.get_response()
    assert (reply["model_name"], reply["model_version"], reply["id"]) == ("colours", "1.0.0", "drive-7")


@pytest.mark.parametrize("binary", [True, False])
def test_pixels_give_labels_scores_and_confidence_in_the_order_asked_for(
    base_url: str, tritonic: triton.InferenceServerClient, png: bytes, binary: bool
) -> None:
    """UINT8 [H, W, 3] is one image, [N, H, W, 3] a batch; JSON and binary alike, both ways."""
    names = ["scores", "labels", "confidence"]
    image = make_image()
    for sent in (image, image[None], np.stack([image, image])):
        result = tritonic.infer("colours", [tensor(sent, "UINT8", binary=binary)], outputs=wanted(*names, binary=binary))
        assert [output["name"] for output in result.get_response()["outputs"]] == names
        lead = sent.shape[:-3]
        scores, labels, confidence = (result.as_numpy(name) for name in names)
        assert (scores.shape, scores.dtype) == ((*lead, 3, 12, 16), np.float32)
        assert (labels.shape, labels.dtype, confidence.dtype) == (sent.shape[:-1], np.uint8, np.uint8)
        np.testing.assert_array_equal(labels, np.broadcast_to(mask_of(base_url, png), labels.shape))
        np.testing.assert_array_equal(confidence, np.broadcast_to(mask_of(base_url, png, "confidence"), labels.shape))


def test_files_of_different_sizes_come_back_as_png_files(base_url: str, tritonic: triton.InferenceServerClient) -> None:
    """In one request; as one tensor of pixels they are refused before anything is decoded, and told what would do."""
    images = [encode_image(make_image(96, 128)), encode_image(make_image(50, 60), "JPEG"), encode_image(make_image(333, 517))]
    result = tritonic.infer("colours", [files(*images)], outputs=wanted("labels_png"))
    masks = result.as_numpy("labels_png")
    assert masks.shape == (3,)
    for image, mask in zip(images, masks, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(mask))), mask_of(base_url, image))
    with pytest.raises(
        InferenceServerException, match=r"different sizes \(96x128, 50x60, 333x517\).*ask for 'labels_png'"
    ) as caught:
        tritonic.infer("colours", [files(*images)])
    assert caught.value.status() == "422"


def test_a_turned_photo_and_an_upright_one_do_not_form_a_tensor(tritonic: triton.InferenceServerClient) -> None:
    """Their sides are the same only as they are stored: refused all the same, after decoding; two turned ones are a batch."""
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encode_image(make_image(), exif=exif)
    assert tritonic.infer("colours", [files(turned, turned)]).as_numpy("labels").shape == (2, 128, 96)
    with pytest.raises(InferenceServerException, match=r"different sizes \(128x96, 96x128\)"):
        tritonic.infer("colours", [files(turned, encode_image(make_image()))])


def test_the_asynchronous_client_is_served(base_url: str, jpeg: bytes) -> None:
    """Several at once, compressed or not (aiohttp asks for it unasked)."""

    async def test() -> None:
        async with triton_aio.InferenceServerClient(base_url.removeprefix("http://")) as client:
            assert await client.is_model_ready("colours")
            codings = [None, "gzip", "deflate"] * 2
            results = await asyncio.gather(
                *(
                    client.infer(
                        "colours", [files(jpeg)], request_compression_algorithm=coding, response_compression_algorithm=coding
                    )
                    for coding in codings
                )
            )
            expected = mask_of(base_url, jpeg)[None]
            for result in results:
                np.testing.assert_array_equal(result.as_numpy("labels"), expected)
            with pytest.raises(InferenceServerException, match="no model 'unicorn'; there are: again, colours"):
                await client.infer("unicorn", [files(jpeg)])

    asyncio.run(test())


def test_errors_are_read_by_the_client(tritonic: triton.InferenceServerClient, jpeg: bytes) -> None:
    """Their sentence, and their status; each is a problem document as everywhere."""
    refused: list[tuple[Callable[[], object], str, str]] = [
        (lambda: tritonic.infer("colours", [files(b"text")]), "415", "not an image of a known format"),
        (lambda: tritonic.infer("colours", [files(jpeg[:500])]), "422", "ends within its header"),
        (lambda: tritonic.infer("colours", [files(jpeg)], model_version="9"), "404", "no version '9' of the model 'colours'"),
        (lambda: tritonic.infer("colours", [files(jpeg)], sequence_id=1), "422", "every request stands for itself"),
        (lambda: tritonic.infer("colours", [files(jpeg)], parameters={"gain": 2}), "422", "'gain' is not supported"),
        (
            lambda: tritonic.infer("colours", [files(jpeg)], outputs=[triton.InferRequestedOutput("labels", class_count=2)]),
            "422",
            "nothing to rank",
        ),
        (lambda: tritonic.infer("colours", [tensor(make_image(1001, 1000), "UINT8")]), "413", "at most 2065536 bytes"),
        (lambda: tritonic.infer("colours", [tensor(make_image(1, 4001), "UINT8")]), "413", "a side has at most 4000"),
        (lambda: tritonic.register_system_shared_memory("a", "b", 3), "422", "FCN_SHARED_MEMORY turns it on"),
        (tritonic.get_cuda_shared_memory_status, "404", "CUDA shared memory is not offered"),
        (lambda: tritonic.get_model_metadata("unicorn"), "404", "no model 'unicorn'"),
        (lambda: tritonic.get_inference_statistics("unicorn"), "404", "no model 'unicorn'"),
    ]
    for call, status, message in refused:
        with pytest.raises(InferenceServerException, match=re.escape(message)) as caught:
            call()
        assert caught.value.status() == status


def test_the_broken_element_of_a_batch_is_named(tritonic: triton.InferenceServerClient, jpeg: bytes) -> None:
    """Its number, whether its header or its pixels are damaged, or it is empty."""
    for bad in (b"text", jpeg[:30], jpeg[:-200], b""):
        with pytest.raises(InferenceServerException, match=r"\] image 2 of 3: "):
            tritonic.infer("colours", [files(jpeg, bad, jpeg)])


def test_more_pixels_than_allowed_are_refused_whatever_way_they_come(client: httpx.Client) -> None:
    """With the facts of ``POST /segment``."""
    small = encode_image(make_image(1001, 1000), "JPEG", quality=10)
    reply = client.post("/models/colours/infer", content=small, headers={"Inference-Header-Content-Length": "0"})
    assert (reply.status_code, reply.json()["code"]) == (413, "image_too_large")
    assert (reply.json()["limit"], reply.json()["actual"]) == (MAX_PIXELS, 1_001_000)


def test_a_timeout_is_a_deadline(tritonic: triton.InferenceServerClient, client: httpx.Client, jpeg: bytes) -> None:
    """In microseconds from the request's arrival; of two deadlines the shorter one counts."""
    assert tritonic.infer("colours", [files(jpeg)], timeout=20_000_000, priority=1).as_numpy("labels").shape == (1, 96, 128)
    with pytest.raises(InferenceServerException, match=r"not finished within 0\.001 ms") as caught:
        tritonic.infer("colours", [files(jpeg)], timeout=1)
    assert caught.value.status() == "504"
    body = body_of(make_image(), parameters={"timeout": 20_000_000})
    reply = client.post("/models/colours/infer", json=body, headers={"X-Deadline-Ms": "0.001"})
    assert reply.status_code == 504
    reply = client.post("/models/colours/infer", json=body_of(make_image(), parameters={"timeout": 600_000_001}))
    assert (reply.status_code, reply.json()["parameter"]) == (422, "timeout")


def test_a_raw_image_is_a_request(client: httpx.Client, base_url: str, png: bytes) -> None:
    """With a header of length 0: the file is the body, the labels come back in binary."""
    reply = client.post("/models/colours/infer", content=png, headers={"Inference-Header-Content-Length": "0"})
    assert reply.headers["content-type"] == "application/octet-stream"
    size = int(reply.headers["inference-header-content-length"])
    (output,) = json.loads(reply.content[:size])["outputs"]
    assert output == {"name": "labels", "datatype": "UINT8", "shape": [1, 96, 128], "parameters": {"binary_data_size": 12288}}
    assert reply.content[size:] == mask_of(base_url, png).tobytes()


def test_replies_carry_what_those_of_segment_carry(client: httpx.Client) -> None:
    """Request id, frame, model, timing; JSON where nothing is binary, compressed where the caller likes it."""
    sent = {"X-Request-ID": "drive-7/12", "X-Frame-Id": "cam0:12", "X-Frame-Stamp": "1700000000.5"}
    for coding in ("gzip", "identity"):
        reply = client.post(
            "/models/colours/versions/1.0.0/infer", json=body_of(make_image()), headers=sent | {"Accept-Encoding": coding}
        )
        assert (reply.status_code, reply.headers["content-type"]) == (200, "application/json")
        assert reply.headers.get("content-encoding", "identity") == coding
        assert "inference-header-content-length" not in reply.headers
        assert {name: reply.headers[name] for name in sent} == sent
        assert reply.headers["x-model"] == "colours@1.0.0"
        assert re.findall(r"(\w+);dur=", reply.headers["server-timing"]) == ["decode", "queue", "infer", "labels", "encode"]
        assert set(reply.json()["outputs"][0]["data"]) == {0, 1, 2}


def make_bomb(wbits: int) -> bytes:
    """A gigabyte of nothing, compressed."""
    stream = isal_zlib.compressobj(2, isal_zlib.DEFLATED, wbits)
    return b"".join(stream.compress(bytes(1 << 24)) for _ in range(64)) + stream.flush()


@pytest.mark.parametrize(("coding", "wbits"), [("gzip", 31), ("deflate", 15)])
def test_a_bomb_is_refused_while_it_inflates(client: httpx.Client, coding: str, wbits: int) -> None:
    """What would become a gigabyte, long before it has; and the next request is served."""
    bomb = make_bomb(wbits)
    assert len(bomb) < MAX_BYTES  # it is not its own length that gives it away
    reply = client.post("/models/colours/infer", content=bomb, headers={"Content-Encoding": coding})
    assert (reply.status_code, reply.json()["code"]) == (413, "body_too_large")
    assert client.get("/health/ready").json() == {"ready": True}


@pytest.mark.parametrize(
    ("coding", "body", "status"),
    [
        ("gzip", b"no gzip", 422),
        ("gzip", gzip.compress(b"{}", mtime=0)[:-1], 422),
        ("br", b"{}", 415),
        ("gzip", gzip.compress(b"{}", mtime=0), 422),
    ],
)
def test_bodies_that_are_not_what_they_say_are_refused(client: httpx.Client, coding: str, body: bytes, status: int) -> None:
    """As everything else that a caller can send."""
    reply = client.post("/models/colours/infer", content=body, headers={"Content-Encoding": coding})
    assert (reply.status_code, reply.headers["content-type"]) == (status, "application/problem+json")
    assert reply.json()["error"] == reply.json()["detail"]


def test_a_body_names_the_model_of_its_address_or_none(client: httpx.Client) -> None:
    """KServe's client names it twice; another one would be a mistake."""
    named = body_of(make_image(), model_name="again", model_version="2.0.0")
    assert client.post("/models/again/infer", json=named).status_code == 200
    for body, parameter in ((named, "model_name"), (body_of(make_image(), model_version="2.0.0"), "model_version")):
        reply = client.post("/models/colours/infer", json=body)
        assert (reply.status_code, reply.json()["parameter"]) == (422, parameter)


def test_version_1_is_the_version_that_is_served(client: httpx.Client) -> None:
    """Clients that number versions ask for it; in the address, and in the body."""
    for path in ("", "/ready", "/config", "/stats"):
        assert client.get(f"/models/again/versions/1{path}").status_code == 200
        assert client.get(f"/models/again/versions/2{path}").status_code == 404
    body = body_of(make_image(), model_name="again", model_version="1")
    reply = client.post("/models/again/versions/1/infer", json=body)
    assert (reply.status_code, reply.json()["model_version"]) == (200, "2.0.0")


def test_a_header_length_that_is_none_is_refused(client: httpx.Client) -> None:
    """By its name."""
    for value in ("-1", "x", "9" * 5000, "3"):
        reply = client.post("/models/colours/infer", content=b"{}", headers={"Inference-Header-Content-Length": value})
        assert (reply.status_code, reply.json()["parameter"].lower()) == (422, "inference-header-content-length")


@hypothesis_settings(max_examples=60)
@given(
    st.binary(max_size=300),
    st.none() | st.integers(0, 320),
    st.sampled_from([None, "gzip", "deflate"]),
    st.booleans(),
)
def test_no_body_at_all_is_the_servers_failure(
    client: httpx.Client, noise: bytes, size: int | None, coding: str | None, good: bool
) -> None:
    """Whatever comes is served or refused with a problem document of the caller's."""
    head = json.dumps({"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1]}]}).encode()
    body = head + struct.pack("<I", len(noise)) + noise if good else noise
    headers = {} if size is None else {"Inference-Header-Content-Length": str(len(head) if good else size)}
    if coding:
        headers["Content-Encoding"] = coding
        body = gzip.compress(body) if coding == "gzip" else zlib.compress(body)
    reply = client.post("/models/colours/infer", content=body, headers=headers)
    assert reply.status_code in {413, 415, 422}
    assert reply.json()["error"]


def test_statistics_are_counted_whatever_the_route(base_url: str, tritonic: triton.InferenceServerClient, png: bytes) -> None:
    """Requests, images, executions, failures and times, in Triton's form."""

    def now() -> dict[str, Any]:
        (found,) = tritonic.get_inference_statistics("again", "2.0.0")["model_stats"]
        return cast(dict[str, Any], found)

    before = now()
    tritonic.infer("again", [files(png, png)])
    httpx.post(f"{base_url}/segment?model=again", content=png)
    httpx.post(f"{base_url}/segment?model=again", content=b"text")
    after = now()
    assert (after["name"], after["version"]) == ("again", "2.0.0")
    grown = {
        name: after["inference_stats"][name]["count"] - before["inference_stats"][name]["count"]
        for name in after["inference_stats"]
    }
    served = dict.fromkeys(("queue", "compute_input", "compute_infer", "compute_output"), 3)
    assert grown == {"success": 2, "fail": 1, **served, "cache_hit": 0, "cache_miss": 0}
    assert after["inference_count"] - before["inference_count"] == after["execution_count"] - before["execution_count"] == 3
    assert abs(after["last_inference"] / 1000 - time.time()) < 10
    assert 0 < after["inference_stats"]["compute_infer"]["ns"] < 10e9
    assert [batch["batch_size"] for batch in after["batch_stats"]] == [1]
    assert after["batch_stats"][0]["compute_infer"] == after["inference_stats"]["compute_infer"]
    assert [model["name"] for model in tritonic.get_inference_statistics()["model_stats"]] == ["again", "colours"]


def test_executions_of_batches_are_counted_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Where images share a run of the network, it is one execution."""
    folder = tmp_path_factory.mktemp("batches")
    write_artifact(folder / "colours.onnx")
    with live_server(Settings(models_dir=folder, max_batch=4)) as url:
        client = triton.InferenceServerClient(url.removeprefix("http://"))
        images = np.stack([make_image(480, 640)] * 12)
        assert client.infer("colours", [tensor(images, "UINT8")]).as_numpy("labels").shape == (12, 480, 640)
        (found,) = client.get_inference_statistics("colours")["model_stats"]
        client.close()
    assert found["inference_count"] == 12
    assert found["execution_count"] == sum(batch["compute_infer"]["count"] for batch in found["batch_stats"])
    assert sum(batch["batch_size"] * batch["compute_infer"]["count"] for batch in found["batch_stats"]) == 12
    assert found["inference_stats"]["success"]["count"] == 1


def test_keys_are_wanted_as_for_segment(artifact_dir: Any, png: bytes) -> None:
    """Health apart; Triton's client sends them as headers."""
    with live_server(Settings(models_dir=artifact_dir, api_keys=(SecretStr("open"),))) as url:
        client = triton.InferenceServerClient(url.removeprefix("http://"))
        assert client.is_server_live()
        assert client.is_server_ready()
        for call in (
            client.get_server_metadata,
            lambda: client.infer("colours", [files(png)]),
            client.get_inference_statistics,
        ):
            with pytest.raises(InferenceServerException, match="this service wants a key") as caught:
                call()
            assert caught.value.status() == "401"
        assert client.infer("colours", [files(png)], headers={"X-API-Key": "open"}).as_numpy("labels").shape == (1, 96, 128)
        client.close()


def test_a_full_service_sheds_as_everywhere(artifact_dir: Any) -> None:
    """429 with ``Retry-After``, said before anything is decoded."""
    image = make_image(1000, 1000)
    body = encode_image(image)
    with (
        live_server(Settings(models_dir=artifact_dir, queue_megapixels=1.0)) as url,
        httpx.Client(base_url=url, timeout=120) as client,
    ):
        statuses: list[httpx.Response] = []

        def ask() -> None:
            headers = {"Inference-Header-Content-Length": "0"}
            statuses.append(httpx.post(f"{url}/v2/models/colours/infer", content=body, headers=headers, timeout=120))

        callers = [threading.Thread(target=ask) for _ in range(6)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        assert {reply.status_code for reply in statuses} == {200, 429}
        assert all(int(reply.headers["retry-after"]) >= 1 for reply in statuses if reply.status_code == 429)
        assert client.get("/v2/health/ready").status_code == 200


def test_openapi_describes_the_protocol(base_url: str) -> None:
    """Every route, both bodies, the parameters, and no dangling reference."""
    document = httpx.get(f"{base_url}/openapi.json").json()
    paths = {path for path in document["paths"] if path.startswith("/v2")}
    named = {
        f"/v2/models/{{name}}{version}{call}"
        for version in ("", "/versions/{version}")
        for call in ("", "/ready", "/stats", "/config", "/infer")
    }
    assert {"/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/stats"} | named <= paths
    call = document["paths"]["/v2/models/{name}/infer"]["post"]
    assert set(call["requestBody"]["content"]) == {"application/json", "application/octet-stream"}
    assert "inference-header-content-length" in {parameter["name"] for parameter in call["parameters"]}
    schemas = document["components"]["schemas"]
    parameters = {"binary_data_output", "timeout", "priority", "content_type", "triton_enable_empty_final_response"}
    assert parameters == set(schemas["RequestParameters"]["properties"])
    assert set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document))) <= set(schemas)


def test_memory_is_bounded_where_bodies_inflate(tmp_path_factory: pytest.TempPathFactory, artifact_dir: Any) -> None:
    """Eight bombs of a gigabyte each, four at a time: less than a hundred megabytes more at the peak."""
    bomb = make_bomb(31)
    with live_process(tmp_path_factory.mktemp("log"), {"models_dir": artifact_dir, "max_image_bytes": 4_000_000}) as server:

        def peak_mb() -> float:
            with open(f"/proc/{server.process.pid}/status", encoding="ascii") as status:  # noqa: PTH123
                return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))

        before = peak_mb()

        def send() -> None:
            for _ in range(2):
                reply = httpx.post(
                    f"{server.base_url}/v2/models/colours/infer",
                    content=bomb,
                    headers={"Content-Encoding": "gzip"},
                    timeout=120,
                )
                assert reply.status_code in {413, 429}

        callers = [threading.Thread(target=send) for _ in range(4)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        assert peak_mb() - before < 100


def test_an_administrator_loads_and_unloads_models(tmp_path: Any, png: bytes) -> None:
    """With an administrator's key; the index says what is served and why something is not."""
    write_artifact(tmp_path / "colours.onnx")
    write_artifact(tmp_path / "again.onnx", make_manifest(name="again", version="2.0.0"))
    (tmp_path / "broken.onnx").write_bytes(b"text")
    settings = Settings(models_dir=tmp_path, default_model="colours", admin_keys=(SecretStr("chief"),), reload_s=0)
    with live_server(settings) as url:
        client = triton.InferenceServerClient(url.removeprefix("http://"))
        key = {"X-API-Key": "chief"}
        index = {entry["name"]: entry for entry in client.get_model_repository_index()}
        assert index["again"] == {"name": "again", "version": "2.0.0", "state": "READY", "reason": ""}
        assert index["broken"]["state"] == "UNAVAILABLE"
        assert "broken.onnx" in index["broken"]["reason"]
        ready = httpx.post(f"{url}/v2/repository/index", json={"ready": True}).json()
        assert [entry["name"] for entry in ready] == ["again", "colours"]
        for call in (client.load_model, client.unload_model):
            with pytest.raises(InferenceServerException, match="this service wants a key"):
                call("again")
        client.unload_model("again", headers=key)
        assert not client.is_model_ready("again")
        with pytest.raises(InferenceServerException, match="no model 'again'"):
            client.infer("again", [files(png)])
        write_artifact(tmp_path / "again.onnx", make_manifest(name="again", version="3.0.0"))
        client.load_model("again", headers=key)
        assert client.infer("again", [files(png)]).get_response()["model_version"] == "3.0.0"
        with pytest.raises(InferenceServerException, match="no artifact of a model 'unicorn'"):
            client.load_model("unicorn", headers=key)
        with pytest.raises(InferenceServerException, match="'config' is not supported: there are none"):
            client.load_model("again", headers=key, config="{}")
        client.close()


def test_administration_is_off_without_keys(tritonic: triton.InferenceServerClient) -> None:
    """The index is open as everything else."""
    assert [entry["state"] for entry in tritonic.get_model_repository_index()] == ["READY", "READY"]
    with pytest.raises(InferenceServerException, match="administration over HTTP is off") as caught:
        tritonic.unload_model("again")
    assert caught.value.status() == "403"


@pytest.mark.parametrize("body", [b"text", b"[]", b'{"redy": true}', b'{"ready": 1}', b"\xff", b"x" * 70_000])
def test_an_index_is_asked_for_in_json_or_without_words(client: httpx.Client, body: bytes) -> None:
    """Anything else is refused."""
    assert client.post("/repository/index").status_code == 200
    reply = client.post("/repository/index", content=body)
    assert reply.status_code == (413 if len(body) > 65536 else 422)
    assert reply.json()["error"]
