"""The whole application: how it starts, who may call, what it does under load, how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from pydantic import SecretStr

from service.api.app import create_app
from service.errors import InferenceFailed, NotReady, UnknownModel
from service.pipeline.codecs.decoding import FORMATS
from service.pipeline.engine import Engine, Network, Sessions
from service.pipeline.lanes import Lanes
from service.settings import Settings
from tests.conftest import STRIDE, encode_image, make_image, make_manifest, write_artifact
from tests.live import live_process, live_server
from tests.test_decoding import claiming
from tests.waiting import wait_until

pytestmark = pytest.mark.anyio

CORES = len(os.sched_getaffinity(0))


@pytest.fixture
def anyio_backend() -> str:
    """The loop that the service runs on."""
    return "asyncio"


@asynccontextmanager
async def in_process(settings: Settings) -> Any:
    """The application, alive, behind a client that needs no socket."""
    app = create_app(settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
    ):
        yield client


def slow_graph(channels: int = 48, layers: int = 4) -> onnx.ModelProto:
    """The colour network after convolutions that cost time and change nothing: a stand-in for a real one, under load."""
    identity = np.zeros((3, channels, 3, 3), np.float32)
    widen = np.zeros((channels, 3, 3, 3), np.float32)
    for color in range(3):
        identity[color, color, 1, 1] = widen[color, color, 1, 1] = 1
    middle = np.zeros((channels, channels, 3, 3), np.float32)
    middle[np.arange(channels), np.arange(channels), 1, 1] = 1
    kernels = [widen, *[middle] * layers, identity]
    nodes = [
        helper.make_node("Cast", ["image"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["real"], ["x0"], perm=[0, 3, 1, 2]),
        *[
            helper.make_node("Conv", [f"x{number}", f"kernel{number}"], [f"x{number + 1}"], pads=[1, 1, 1, 1])
            for number in range(len(kernels))
        ],
        helper.make_node("AveragePool", [f"x{len(kernels)}"], ["scores"], kernel_shape=[STRIDE] * 2, strides=[STRIDE] * 2),
    ]
    graph = helper.make_graph(
        nodes,
        "slow",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3, "h", "w"])],
        [numpy_helper.from_array(kernel, f"kernel{number}") for number, kernel in enumerate(kernels)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.fixture(scope="module")
def slow_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder whose one model takes some tenths of a second an image."""
    folder = tmp_path_factory.mktemp("slow")
    policy = {"working_size": (360, 480), "multiple": STRIDE}
    write_artifact(folder / "slow.onnx", make_manifest(name="slow", input=policy), slow_graph())
    return folder


@contextmanager
def load(base_url: str, body: bytes, callers: int) -> Iterator[list[int]]:
    """Callers who segment one image after another until the end of the block.

    Gives:
        the statuses of all their replies so far
    """
    statuses: list[int] = []
    ended = threading.Event()

    def call() -> None:
        with httpx.Client(base_url=base_url, timeout=60) as client:
            while not ended.is_set():
                statuses.append(client.post("/segment", content=body).status_code)

    with ThreadPoolExecutor(callers) as pool:
        calls = [pool.submit(call) for _ in range(callers)]
        try:
            yield statuses
        finally:
            ended.set()
    for finished in calls:
        finished.result()


def metric(base_url: str, name: str) -> float:
    """The value of a metric without labels."""
    lines = httpx.get(f"{base_url}/metrics").text.splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))


# How it starts ---------------------------------------------------------------------------------------------------------------


async def test_the_application_serves_what_the_settings_say(artifact_dir: Path, png: bytes) -> None:
    """``create_app`` needs nothing but settings; within its lifespan it is ready."""
    async with in_process(Settings(models_dir=artifact_dir)) as client:
        assert (await client.get("/readyz")).status_code == 200
        assert (await client.post("/segment", content=png)).status_code == 200


async def test_an_application_may_live_twice(artifact_dir: Path) -> None:
    """Nothing is left of a server that ended."""
    for _ in range(2):
        async with in_process(Settings(models_dir=artifact_dir)) as client:
            assert (await client.get("/readyz")).status_code == 200


async def test_a_service_without_models_lives_but_is_not_ready(tmp_path: Path, png: bytes) -> None:
    """Liveness is the process, readiness the model: the reason is told to the probe and to callers."""
    async with in_process(Settings(models_dir=tmp_path)) as client:
        assert (await client.get("/livez")).status_code == 200
        for reply in (await client.get("/readyz"), await client.post("/segment", content=png), await client.get("/models")):
            assert (reply.status_code, reply.json()["code"]) == (503, NotReady.code)
            assert "no model" in reply.json()["detail"]
        assert "\nfcn_ready 0.0" in (await client.get("/metrics")).text


async def test_a_default_model_that_does_not_exist_stops_the_start(artifact_dir: Path) -> None:
    """A wrong setting is not found out by the first caller."""
    with pytest.raises(UnknownModel):
        async with in_process(Settings(models_dir=artifact_dir, default_model="unicorn")):
            pass


# Who may call ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"X-API-Key": "wrong"}, 401),
        ({"X-API-Key": ""}, 401),
        ({"Authorization": "Basic Zmlyc3Q="}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"X-API-Key": "first"}, 200),
        ({"X-API-Key": "second"}, 200),
        ({"Authorization": "Bearer second"}, 200),
    ],
)
async def test_where_keys_are_set_a_request_needs_one(
    artifact_dir: Path, png: bytes, headers: dict[str, str], status: int
) -> None:
    """Any one of the keys, in either header; the refusal is a problem and does not echo what was tried."""
    settings = Settings(models_dir=artifact_dir, api_keys=(SecretStr("first"), SecretStr("second")))
    async with in_process(settings) as client:
        for reply in (
            await client.post("/segment", content=png, headers=headers),
            await client.get("/models", headers=headers),
            await client.get("/models/colours", headers=headers),
        ):
            assert reply.status_code == status
            if status == 401:
                assert (reply.json()["code"], reply.headers["www-authenticate"]) == ("unauthorized", "Bearer")
                assert "wrong" not in reply.text


async def test_health_metrics_and_the_page_need_no_key(artifact_dir: Path) -> None:
    """Probes have no secrets, and the page can ask its user for one."""
    async with in_process(Settings(models_dir=artifact_dir, api_keys=(SecretStr("first"),))) as client:
        for path in ("/livez", "/readyz", "/metrics", "/", "/page/page.js", "/openapi.json"):
            assert (await client.get(path)).status_code == 200, path


# Under load ------------------------------------------------------------------------------------------------------------------


def test_livez_answers_while_every_core_segments(slow_dir: Path, tmp_path: Path) -> None:
    """No pixel is touched on the event loop: while large images are in work, a probe takes a fraction of an image's time."""
    body = encode_image(make_image(1400, 2100), "JPEG", quality=95)
    with live_process(tmp_path, {"models_dir": slow_dir, "queue_megapixels": 1000, "deadline_ms": 60_000}) as server:
        base_url = server.base_url
        begun = time.perf_counter()
        httpx.post(f"{base_url}/segment", content=body, timeout=60).raise_for_status()
        image_s = time.perf_counter() - begun
        with load(base_url, body, 2 * CORES) as statuses, httpx.Client(base_url=base_url) as probe:
            wait_until(lambda: metric(base_url, "fcn_queue_depth") >= CORES, "images on every core")
            spent_s: list[float] = []
            for _ in range(40):
                begun = time.perf_counter()
                assert probe.get("/livez").status_code == 200
                spent_s.append(time.perf_counter() - begun)
                time.sleep(0.01)
            wait_until(lambda: len(statuses) >= 2, "masks")
    assert set(statuses) == {200}
    # On two busy cores an image takes some tenths of a second, and a probe a few milliseconds.
    assert np.median(spent_s) < image_s / 10


def test_a_caller_who_goes_away_leaves_nothing_behind(slow_dir: Path, gate: threading.Event) -> None:
    """Its image leaves the queue, and the next caller is served."""
    body = encode_image(make_image(360, 480), "JPEG")
    with live_server(Settings(models_dir=slow_dir, deadline_ms=600_000)) as base_url:

        async def impatient() -> None:
            async with httpx.AsyncClient(base_url=base_url) as client:
                with pytest.raises(httpx.ReadTimeout):
                    await client.post("/segment", content=body, timeout=httpx.Timeout(60, read=0.05))

        async def many() -> None:
            await asyncio.gather(*[impatient() for _ in range(8)])

        gate.clear()
        asyncio.run(many())
        left = 'fcn_errors_total{code="client_gone"} 8.0'
        wait_until(lambda: left in httpx.get(f"{base_url}/metrics").text, "the service to notice that all have left")
        gate.set()
        wait_until(lambda: metric(base_url, "fcn_queue_depth") == 0, "an empty queue")
        assert httpx.post(f"{base_url}/segment", content=body, timeout=30).status_code == 200
        text = httpx.get(f"{base_url}/metrics").text
        served = float(text.partition('fcn_stage_duration_seconds_count{stage="infer"} ')[2].split()[0])
        assert served < 9
        assert left in text


def test_more_than_the_queue_holds_is_shed_and_the_rest_is_served(slow_dir: Path) -> None:
    """429 with an honest ``Retry-After``; no request waits in vain."""
    body = encode_image(make_image(1000, 1000), "JPEG")
    with (
        live_server(Settings(models_dir=slow_dir, queue_megapixels=2.5, deadline_ms=60_000)) as base_url,
        ThreadPoolExecutor(6) as pool,
    ):
        replies = list(pool.map(lambda _: httpx.post(f"{base_url}/segment", content=body, timeout=60), range(6)))
    statuses = sorted(reply.status_code for reply in replies)
    assert set(statuses) == {200, 429}
    for reply in replies:
        if reply.status_code == 429:
            assert reply.json()["code"] == "overloaded"
            assert int(reply.headers["retry-after"]) >= 1


# Administration --------------------------------------------------------------------------------------------------


def test_operators_may_have_a_port_of_their_own(artifact_dir: Path, tmp_path: Path, png: bytes) -> None:
    """Metrics and administration are there and not here; pictures are here and not there; both end together."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    settings = {"models_dir": artifact_dir, "admin_port": port, "admin_keys": "chief", "api_keys": "user"}
    with live_process(tmp_path, settings) as server:
        here, there = server.base_url, f"http://127.0.0.1:{port}"
        chief, user = {"X-API-Key": "chief"}, {"X-API-Key": "user"}
        assert httpx.post(f"{here}/segment", content=png, headers=user).status_code == 200
        assert httpx.get(f"{here}/metrics").status_code == 404
        for path in ("/models/colours/load", "/v2/repository/models/colours/load"):
            assert httpx.post(f"{here}{path}", headers=chief).status_code == 404
            assert httpx.post(f"{there}{path}", headers=chief).status_code == 200
        assert "/metrics" not in httpx.get(f"{here}/openapi.json").json()["paths"]
        assert 'route="/segment"' in httpx.get(f"{there}/metrics").text
        assert httpx.post(f"{there}/models/colours/load", headers=user).status_code == 401
        assert httpx.post(f"{there}/segment", content=png, headers=user).status_code == 404
        assert httpx.get(f"{there}/", headers={"Host": here.removeprefix("http://")}).status_code == 404
        for url in (here, there):
            assert httpx.get(f"{url}/livez").status_code == httpx.get(f"{url}/readyz").status_code == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=20) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{there}/livez")


# What breaks for good --------------------------------------------------------------------------------------------------------


def always_failing() -> onnx.ModelProto:
    """A network that ONNX Runtime loads, and that fails on every image: it reads an index that does not exist."""
    nodes = [
        helper.make_node("Shape", ["image"], ["shape"]),
        helper.make_node("Mul", ["shape", "shape"], ["far"]),
        helper.make_node("Gather", ["shape", "far"], ["missing"]),
        helper.make_node("Cast", ["missing"], ["scores"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "failing",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, None)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


async def test_a_gpu_that_fails_for_good_turns_liveness_red(artifact_dir: Path, png: bytes, tmp_path: Path) -> None:
    """The engine fails on an image, then on black ones too: only a new process helps, and the probe says so, with the reason.

    Without a GPU: the engine is told that it is on one, and its session is exchanged for one that fails from now on.
    """
    app = create_app(Settings(models_dir=artifact_dir))
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        engine: Engine = app.state.services.repository.get()
        engine.provider = "cuda"
        onnx.save(always_failing(), tmp_path / "failing.onnx")
        failing = onnxruntime.InferenceSession(tmp_path / "failing.onnx", providers=["CPUExecutionProvider"])
        network = Network.of(failing, 0)
        engine._sessions[:] = [Lanes([Sessions(network)])] * 2
        assert (await client.get("/livez")).status_code == 200
        assert (await client.post("/segment", content=png)).json()["code"] == "inference_failed"
        for path in ("/livez", "/readyz", "/v2/health/live", "/v2/health/ready"):
            reply = await client.get(path)
            assert reply.status_code == 503
            assert "restart the service" in reply.json()["detail"]
            assert "indices element out of data bounds" in reply.json()["detail"]
        assert (await client.post("/segment", content=png)).status_code == 503


async def test_an_image_that_breaks_the_network_does_not_turn_liveness_red(artifact_dir: Path) -> None:
    """On a GPU too: a black image proves that the engine still runs."""
    app = create_app(Settings(models_dir=artifact_dir))
    async with app.router.lifespan_context(app):
        engine: Engine = app.state.services.repository.get()
        engine.provider = "cuda"
        with pytest.raises(InferenceFailed):
            engine.run(np.zeros((1, 8, 8, 4), np.uint8))
        app.state.services.repository.check_alive()


# How it ends -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_on_a_signal_readiness_turns_red_and_what_is_in_work_finishes(
    number: signal.Signals, slow_dir: Path, tmp_path: Path
) -> None:
    """A rolling update loses no request: those inside are answered, those who come are told, and the process ends with 0."""
    body = encode_image(make_image(360, 480), "JPEG")
    with live_process(tmp_path, {"models_dir": slow_dir, "deadline_ms": 60_000}) as server:
        base_url, process = server.base_url, server.process
        with ThreadPoolExecutor(12) as pool, httpx.Client(base_url=base_url, timeout=60) as client:
            calls = [pool.submit(client.post, "/segment", content=body) for _ in range(12)]
            wait_until(lambda: metric(base_url, "fcn_queue_depth") >= 8 or any(call.done() for call in calls), "images in work")
            process.send_signal(number)
            reply = client.get("/readyz")
            assert reply.status_code == 503
            assert "about to end" in reply.json()["detail"]
            reply = client.post("/segment", content=body)
            assert (reply.status_code, reply.json()["code"]) == (503, NotReady.code)
            assert {call.result().status_code for call in calls} == {200}
        assert process.wait(timeout=20) == 0
        assert "Traceback" not in server.log.read_text("utf-8")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_ends_it_at_once(number: signal.Signals, code: int, slow_dir: Path, tmp_path: Path) -> None:
    """With work inside that would take much longer; the exit code is the shell's for that signal."""
    body = encode_image(make_image(2000, 3000), "JPEG")
    settings = {"models_dir": slow_dir, "deadline_ms": 60_000, "drain_s": 60}
    with live_process(tmp_path, settings) as server, ThreadPoolExecutor(8) as pool:
        for _ in range(8):
            pool.submit(httpx.post, f"{server.base_url}/segment", content=body, timeout=60)
        wait_until(lambda: metric(server.base_url, "fcn_queue_depth") >= 1, "an image in work")
        server.process.send_signal(number)
        wait_until(lambda: httpx.get(f"{server.base_url}/readyz").status_code == 503, "the drain to begin")
        server.process.send_signal(number)
        assert server.process.wait(timeout=20) == code  # the grace period and the work inside are three times as long
        assert "Traceback" not in server.log.read_text("utf-8")


def test_the_grace_period_ends(slow_dir: Path, tmp_path: Path) -> None:
    """What is not finished by then is given up: a caller who sends for ever does not keep the process alive."""
    with live_process(tmp_path, {"models_dir": slow_dir, "drain_s": 1, "deadline_ms": 60_000}) as server:
        host, port = server.base_url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as endless:
            endless.sendall(b"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx")
            wait_until(lambda: metric(server.base_url, "fcn_requests_in_flight") >= 2, "the upload to begin")
            begun = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(timeout=20) == 0  # an upload may take 30 s
            assert time.monotonic() - begun >= 1


def test_the_log_is_one_json_line_a_request(artifact_dir: Path, tmp_path: Path, png: bytes) -> None:
    """``FCN_LOG_FORMAT=json``: every line of the process is an object; no probe, no image, no key in it."""
    settings = {"models_dir": artifact_dir, "log_format": "json", "api_keys": "swordfish"}
    with live_process(tmp_path, settings) as server:
        headers = {"X-API-Key": "swordfish", "X-Request-ID": "mine"}
        httpx.post(f"{server.base_url}/segment", content=png, headers=headers)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=20) == 0
        log = server.log.read_text("utf-8")
    lines = [json.loads(line) for line in log.splitlines()]
    (request,) = [line for line in lines if line["logger"] == "service.request"]
    assert (request["request_id"], request["status"], request["images"]) == ("mine", 200, ["96x128"])
    assert request["infer_ms"] > 0
    assert "swordfish" not in log


def test_a_form_that_is_larger_than_the_queue_is_served_when_nothing_else_is(artifact_dir: Path, png: bytes) -> None:
    """Its images take turns; it is not refused for ever."""
    with live_server(Settings(models_dir=artifact_dir, queue_megapixels=0.02)) as url:
        reply = httpx.post(f"{url}/segment?format=rle", files=[("image", png)] * 7)
        assert reply.status_code == 200
        assert len(reply.json()) == 7


def test_a_dead_worker_turns_readiness_red_and_everyone_is_answered(
    artifact_dir: Path, png: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests in work, waiting and new ones get a 503; none waits for ever."""
    with live_server(Settings(models_dir=artifact_dir)) as url:
        go_on = threading.Event()

        def fatal(*_args: object, **_options: object) -> None:
            assert go_on.wait(10)
            raise SystemExit

        monkeypatch.setattr(Engine, "run", fatal)
        with ThreadPoolExecutor(5) as callers:
            asked = [callers.submit(httpx.post, f"{url}/segment", content=png) for _ in range(5)]
            wait_until(lambda: metric(url, "fcn_queue_depth") == 5 or any(call.done() for call in asked), "five images")
            go_on.set()
            assert [call.result().status_code for call in asked] == [503] * 5
        assert httpx.get(f"{url}/readyz").status_code == 503
        assert httpx.get(f"{url}/livez").status_code == 200
        assert httpx.post(f"{url}/segment", content=png).json()["code"] == "not_ready"


def test_other_sites_may_not_call_from_a_browser(artifact_dir: Path, png: bytes) -> None:
    """No reply carries a CORS header, and a preflight is refused."""
    origin = {"Origin": "https://elsewhere.example"}
    with live_server(Settings(models_dir=artifact_dir)) as url:
        reply = httpx.post(f"{url}/segment", content=png, headers=origin)
        asked = httpx.options(f"{url}/segment", headers={**origin, "Access-Control-Request-Method": "POST"})
        assert asked.status_code == 405
        for headers in (reply.headers, asked.headers):
            assert not [name for name in headers if name.startswith("access-control")]


def hidden_bombs() -> list[bytes]:
    """Small pictures with a bomb beside the pixels: 50 MB of zeros as a text or a colour profile, a giant in the EXIF."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    png, zeros = encode_image(make_image(8, 8)), zlib.compress(bytes(50_000_000), 9)
    hidden = [chunk(b"zTXt", b"a\0\0" + zeros), chunk(b"iCCP", b"a\0\0" + zeros), chunk(b"iTXt", b"a\0\1\0\0\0" + zeros)]
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 1) + struct.pack("<HHII", 0x0112, 1, 2**31, 8) + bytes(4)
    return [png[:33] + bomb + png[33:] for bomb in hidden] + [encode_image(make_image(8, 8), "JPEG", exif=exif)]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_a_thousand_bombs_of_every_format_take_no_memory_of_a_real_server(artifact_dir: Path, tmp_path: Path) -> None:
    """Sizes that are lies in every format, and bombs beside the pixels: resident memory never grows by 50 MB."""
    bombs = [claiming(kind, width, height) for kind in FORMATS for width, height in ((16000, 16000), (16384, 3174))]
    bombs += [claiming(kind, 60_000, 60_000) for kind in FORMATS if kind != "WEBP"] + hidden_bombs()
    with live_process(tmp_path, {"models_dir": artifact_dir}) as server, httpx.Client(base_url=server.base_url) as client:

        def resident_mb(field: str) -> float:
            lines = Path(f"/proc/{server.process.pid}/status").read_text("ascii").splitlines()
            return float(next(line for line in lines if line.startswith(field)).split()[1]) / 1024

        client.post("/segment", content=encode_image(make_image(8, 8)))
        before = resident_mb("VmRSS")
        statuses = Counter(client.post("/segment", content=bombs[number % len(bombs)]).status_code for number in range(1000))
        assert resident_mb("VmHWM") - before < 50
        assert set(statuses) <= {200, 413, 422}
        assert statuses[413] > 800
        assert client.get("/readyz").status_code == 200


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_large_images_cannot_fill_the_memory(artifact_dir: Path, tmp_path: Path) -> None:
    """Four callers with 16 megapixels of RGBA each, some of which give up: at most twenty bytes for each admitted pixel, and
    nearly all of it is given back.
    """
    image = encode_image(np.full((4000, 4000, 4), 100, np.uint8))
    with live_process(tmp_path, {"models_dir": artifact_dir, "queue_megapixels": 20}) as server:

        def resident_mb(field: str) -> float:
            lines = Path(f"/proc/{server.process.pid}/status").read_text("ascii").splitlines()
            return float(next(line for line in lines if line.startswith(field)).split()[1]) / 1024

        def attack(caller: int) -> None:
            for attempt in range(3):
                deadline_ms = 200 if (caller + attempt) % 2 else 20_000
                url = f"{server.base_url}/segment?format=overlay"
                httpx.post(url, content=image, headers={"X-Deadline-Ms": str(deadline_ms)}, timeout=30)

        before = resident_mb("VmRSS")
        with ThreadPoolExecutor(4) as callers:
            list(callers.map(attack, range(4)))
        assert resident_mb("VmHWM") - before < 20 * 16 + 50
        # A cancelled image that is being computed is computed to its end.
        wait_until(lambda: resident_mb("VmRSS") - before <= 60, "the memory to be given back")
