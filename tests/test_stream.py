"""Streams over real WebSockets: one answer a frame, the newest frame wins, and no delay builds up."""

from __future__ import annotations

import base64
import json
import signal
import socket as sockets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from pydantic import SecretStr
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from service.api import segment
from service.api.transport.bounds import Bounds
from service.encodings import rle
from service.pipeline.engine import Engine
from service.settings import Settings
from tests.conftest import encode_image, make_image
from tests.live import live_process, live_server
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def server(artifact_dir: Path) -> Iterator[str]:
    """A server with the colour network, shared by the tests that change nothing about it."""
    with live_server(Settings(models_dir=artifact_dir)) as base_url:
        yield base_url


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Every inference waits until this event is set: a network that is as slow as the test wants."""
    gate = threading.Event()
    gate.set()
    real = Engine.run

    def run(*arguments: Any, **options: Any) -> Any:
        assert gate.wait(30)
        return real(*arguments, **options)

    monkeypatch.setattr(Engine, "run", run)
    yield gate
    gate.set()


@contextmanager
def opened(base_url: str, query: str = "", **options: Any) -> Iterator[ClientConnection]:
    """A stream that was accepted."""
    address = base_url.replace("http://", "ws://")
    with connect(f"{address}/stream{query}", max_size=None, compression=None, **options) as socket:
        yield socket


def answer(socket: ClientConnection) -> tuple[dict[str, Any], bytes]:
    """The next answer, and its mask where it has one."""
    header = json.loads(socket.recv(timeout=120))
    if header["outcome"] != "mask":
        return header, b""
    mask = socket.recv(timeout=120)
    assert isinstance(mask, bytes)
    return header, mask


def refusal(base_url: str, query: str = "", **options: Any) -> tuple[int, dict[str, Any]]:
    """The status and the problem of a stream that was not accepted."""
    with pytest.raises(InvalidStatus) as refused, opened(base_url, query, **options):
        pass
    response = refused.value.response
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["X-Request-ID"]
    return response.status_code, json.loads(response.body or b"")


def metrics(base_url: str) -> dict[str, float]:
    """Every metric by its name and labels as written."""
    lines = httpx.get(f"{base_url}/metrics").text.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


# Answers ---------------------------------------------------------------------------------------------------------------------


def test_a_frame_becomes_a_mask_with_its_id_and_stamp(server: str, png: bytes) -> None:
    """The header first, the mask's bytes at once after it; what the caller said of the frame comes back untouched."""
    with opened(server) as socket:
        socket.send(json.dumps({"frame_id": "front/1 ü", "stamp": "1700000000.123456789"}))
        socket.send(png)
        header, mask = answer(socket)
    timing = header.pop("timing")
    assert header == {
        "seq": 0,
        "frame_id": "front/1 ü",
        "stamp": "1700000000.123456789",
        "outcome": "mask",
        "media_type": "image/png",
        "size": [96, 128],
        "model": "colours@1.0.0",
    }
    assert set(timing) == {"decode", "queue", "infer", "labels", "encode"}
    assert mask == httpx.post(f"{server}/segment", content=png).content


def test_frames_in_step_are_answered_in_order_and_none_is_superseded(server: str, png: bytes) -> None:
    """Who keeps two frames unanswered at the most loses none, however small the network's part is."""
    with opened(server, "?format=gray") as socket:
        socket.send(png)
        for number in range(50):
            socket.send(json.dumps({"stamp": str(number + 1)}))
            socket.send(png)
            header, _ = answer(socket)
            assert (header["seq"], header["stamp"], header["outcome"]) == (number, str(number) if number else None, "mask")


def test_the_query_is_that_of_a_request(server: str, png: bytes) -> None:
    """Format, classes and the rest mean the same here."""
    with opened(server, "?format=rle&classes=green&model=colours") as socket:
        socket.send(png)
        header, mask = answer(socket)
    assert header["media_type"] == "application/json"
    labels = rle.decode(json.loads(mask))
    assert set(np.unique(labels)) == {1, 255}


def test_a_frame_without_a_text_has_no_id_even_after_one_that_had(server: str, png: bytes) -> None:
    """What is said of a frame holds for that frame alone."""
    with opened(server) as socket:
        socket.send('{"frame_id": "a", "stamp": "1"}')
        socket.send(png)
        assert answer(socket)[0]["frame_id"] == "a"
        socket.send(png)
        header, _ = answer(socket)
    assert (header["frame_id"], header["stamp"]) == (None, None)


# Newest frame wins -----------------------------------------------------------------------------------------------------------


def test_the_newest_frame_wins(server: str, png: bytes, gate: threading.Event) -> None:
    """While one frame is in work only the last of those that came is kept; the others are told so at once, in order."""
    gate.clear()
    with opened(server) as socket:
        for number in range(6):
            socket.send(json.dumps({"frame_id": str(number)}))
            socket.send(png)
        superseded = [answer(socket)[0] for _ in range(4)]  # told while the network still works on the first
        assert [(header["frame_id"], header["outcome"]) for header in superseded] == [
            (str(number), "superseded") for number in (1, 2, 3, 4)
        ]
        gate.set()
        assert [answer(socket)[0]["frame_id"] for _ in range(2)] == ["0", "5"]


def test_a_slow_reader_gets_fresh_masks_and_causes_no_work(tmp_path: Path, artifact_dir: Path) -> None:
    """Masks that are not read are not computed; when the reader is back, the newest frame's mask is soon there."""
    picture = encode_image(np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8), "JPEG")
    frames = 300

    def send(socket: ClientConnection) -> None:
        for number in range(frames):
            socket.send(json.dumps({"frame_id": str(number)}))
            socket.send(picture)
            time.sleep(0.002)

    with (
        live_process(tmp_path, {"models_dir": artifact_dir}) as server,
        opened(server.base_url, "?format=npy", max_queue=1) as socket,
    ):
        sender = threading.Thread(target=send, args=(socket,))
        sender.start()
        time.sleep(2)
        computed = metrics(server.base_url)['fcn_stream_frames_total{outcome="mask"}']
        outcomes: dict[str, str] = {}
        while len(outcomes) < frames:
            header, _ = answer(socket)
            outcomes[header["frame_id"]] = header["outcome"]
        sender.join()
    assert computed < 60  # of 120 kB each: what the buffers of both ends hold
    assert outcomes[str(frames - 1)] == "mask"
    assert set(outcomes.values()) == {"mask", "superseded"}


def test_a_reader_who_never_reads_is_cut_off(artifact_dir: Path) -> None:
    """Neither the stream nor the connection stays."""
    bounds = Bounds(reply_s=0.3, close_s=0.1)
    picture = encode_image(np.random.default_rng(0).integers(0, 256, (1500, 2000, 3), np.uint8), "JPEG", quality=50)

    def flood(socket: ClientConnection) -> None:
        while True:
            socket.send(picture)
            time.sleep(0.05)

    with (
        live_server(Settings(models_dir=artifact_dir), bounds) as base_url,
        opened(base_url, "?format=npy", max_queue=1) as socket,
    ):
        with pytest.raises(ConnectionClosed):
            flood(socket)
        await_metric(base_url, "fcn_streams", 0)


# Errors ----------------------------------------------------------------------------------------------------------------------


def test_a_bad_frame_is_answered_and_the_stream_goes_on(server: str, png: bytes) -> None:
    """The problem document of that one frame, with the status that a request would have had."""
    bad = {b"": 422, b"no image": 415, png[:60]: 422}
    with opened(server) as socket:
        for seq, (data, status) in enumerate(bad.items()):
            socket.send(json.dumps({"frame_id": "f"}))
            socket.send(data)
            header, _ = answer(socket)
            assert (header["outcome"], header["seq"], header["frame_id"], header["status"]) == ("error", seq, "f", status)
            assert header["request_id"].endswith(f"/{seq}")
            assert {"type", "title", "detail", "code", "error"} < set(header)
        socket.send(png)
        assert answer(socket)[0]["outcome"] == "mask"


@pytest.mark.parametrize(
    "text", ["{", "[]", "1", '{"frame": "1"}', '{"stamp": 1.5}', json.dumps({"stamp": "x" * 257}), "[" * 5000]
)
def test_a_text_that_says_nothing_of_a_frame_spoils_that_frame_alone(server: str, png: bytes, text: str) -> None:
    """The frame after it is refused, with what should have been said; the one after that is served."""
    with opened(server) as socket:
        socket.send(text)
        socket.send(png)
        header, _ = answer(socket)
        assert (header["outcome"], header["code"], header["parameter"]) == ("error", "bad_parameter", "metadata")
        socket.send(png)
        assert answer(socket)[0]["outcome"] == "mask"


def test_an_unexpected_error_fails_one_frame_and_tells_nothing(
    server: str, png: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The secret of the exception is for the log."""
    monkeypatch.setattr(segment.MaskRequest, "masks", lambda *_: 1 / 0)
    with opened(server) as socket:
        socket.send(png)
        header, _ = answer(socket)
        assert (header["status"], header["code"]) == (500, "internal_error")
        assert "division" not in json.dumps(header)
        monkeypatch.undo()
        socket.send(png)
        assert answer(socket)[0]["outcome"] == "mask"


def test_a_frame_past_its_deadline_is_an_error(server: str, png: bytes, gate: threading.Event) -> None:
    """The deadline counts from the frame's arrival."""
    gate.clear()
    with opened(server, additional_headers={"X-Deadline-Ms": "100"}) as socket:
        socket.send(png)
        header, _ = answer(socket)
    assert (header["status"], header["code"], header["deadline_ms"]) == (504, "deadline_exceeded", 100)


def test_a_message_that_is_too_large_ends_the_stream(tmp_path: Path, artifact_dir: Path, png: bytes) -> None:
    """1009, before it is all read; a smaller one is taken."""
    with live_process(tmp_path, {"models_dir": artifact_dir, "max_image_bytes": 20_000}) as process:
        with opened(process.base_url) as socket:
            socket.send(png)
            assert answer(socket)[0]["outcome"] == "mask"
            socket.send(bytes(20_001))
            with pytest.raises(ConnectionClosed) as closed:
                socket.recv(timeout=120)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009


# Who may open one ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("?model=none", 404, "unknown_model"),
        ("?format=none", 422, "unsupported_format"),
        ("?classes=none", 422, "unknown_class"),
        ("?min_confidence=2", 422, "bad_parameter"),
        ("?colour=red", 422, "bad_parameter"),
    ],
)
def test_a_query_that_makes_no_sense_refuses_the_stream(server: str, query: str, status: int, code: str) -> None:
    """With the problem document that a request would get; and so does the same address without an upgrade."""
    refused = refusal(server, query)
    assert (refused[0], refused[1]["code"]) == (status, code)
    told = httpx.get(f"{server}/stream{query}")
    assert (told.status_code, told.json()["code"]) == (status, code)


def test_without_an_upgrade_an_open_endpoint_says_so(server: str) -> None:
    """426 is what a page asks for that wants to know why its stream was refused."""
    told = httpx.get(f"{server}/stream")
    assert (told.status_code, told.headers["Upgrade"]) == (426, "websocket")
    assert told.json()["status"] == 426


def test_a_key_is_wanted_where_there_are_keys(artifact_dir: Path, png: bytes) -> None:
    """From a header, or from a browser's list of protocols; a wrong one is none."""
    key = "s3cret ü"
    offered = base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")
    good: list[dict[str, Any]] = [
        {"additional_headers": {"X-API-Key": "other"}},
        {"additional_headers": {"Authorization": "Bearer other"}},
        {"subprotocols": ["fcn-serve", f"fcn-serve.key.{offered}"]},
    ]
    bad: list[dict[str, Any]] = [
        {},
        {"additional_headers": {"X-API-Key": "wrong"}},
        {"subprotocols": ["fcn-serve", "fcn-serve.key.AAAA"]},
        {"subprotocols": ["fcn-serve.key.A"]},
    ]
    with live_server(Settings(models_dir=artifact_dir, api_keys=(SecretStr(key), SecretStr("other")))) as base_url:
        for options in good:
            with opened(base_url, **options) as socket:
                assert socket.subprotocol == (options.get("subprotocols") or [None])[0]
                socket.send(png)
                assert answer(socket)[0]["outcome"] == "mask"
        for options in bad:
            assert refusal(base_url, **options)[0] == 401


def test_a_page_of_another_host_may_not_open_one(server: str, artifact_dir: Path) -> None:
    """A browser lets any page reach a service on localhost: the service must not."""
    host = server.removeprefix("http://")
    for origin in ("http://evil.example", "null", f"http://{host}.evil.example", "http://127.0.0.1:1"):
        assert refusal(server, origin=origin)[0] == 403
    with opened(server, origin=f"http://{host}"):
        pass
    with live_server(Settings(models_dir=artifact_dir, allowed_origins=("https://Cars.example",))) as base_url:
        with opened(base_url, origin="https://cars.example"):
            pass
        assert refusal(base_url, origin="https://cars.example:444")[0] == 403
    with (
        live_server(Settings(models_dir=artifact_dir, allowed_origins=("*",))) as base_url,
        opened(base_url, origin="http://evil.example"),
    ):
        pass


def test_no_more_streams_than_allowed(artifact_dir: Path) -> None:
    """The next one is refused with 429; when one leaves, another is accepted."""
    with live_server(Settings(models_dir=artifact_dir, max_streams=2)) as base_url:
        with opened(base_url), opened(base_url):
            assert metrics(base_url)["fcn_streams"] == 2
            status, problem = refusal(base_url)
            assert (status, problem["code"], problem["retry_after_s"]) == (429, "overloaded", 1.0)
            assert httpx.get(f"{base_url}/stream").status_code == 429
        await_metric(base_url, "fcn_streams", 0)
        with opened(base_url):
            pass


# How it ends -----------------------------------------------------------------------------------------------------------------


def await_metric(base_url: str, name: str, value: float) -> None:
    """Wait until a metric has a value."""
    wait_until(lambda: metrics(base_url)[name] == value, f"{name} {value}")


def test_the_frames_of_a_caller_that_leaves_are_dropped(server: str, png: bytes, gate: threading.Event) -> None:
    """With a close frame or without; nothing is left in the queue."""
    gate.clear()
    with opened(server) as socket:
        socket.send(png)
        socket.send(png)
        time.sleep(0.1)
        socket.socket.shutdown(sockets.SHUT_RDWR)
    gate.set()
    await_metric(server, "fcn_streams", 0)
    await_metric(server, "fcn_queue_depth", 0)


def test_a_stream_is_bound_by_its_own_times_alone(artifact_dir: Path, png: bytes) -> None:
    """The times of heads, bodies and idle connections end with its opening."""
    bounds = Bounds(head_s=0.2, keep_alive_s=0.2, body_s=0.2, reply_s=60.0, sweep_s=0.05)
    with live_server(Settings(models_dir=artifact_dir), bounds) as base_url, opened(base_url) as socket:
        time.sleep(1.0)
        socket.send(png)
        assert answer(socket)[0]["outcome"] == "mask"


def test_a_stream_without_frames_is_closed(artifact_dir: Path) -> None:
    """It would take the place of another."""
    with (
        live_server(Settings(models_dir=artifact_dir), Bounds(stream_idle_s=0.2)) as base_url,
        opened(base_url) as socket,
        pytest.raises(ConnectionClosed) as closed,
    ):
        socket.recv(timeout=120)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1001, "no frame for 0.2 s")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_streams_with_a_reason(tmp_path: Path, artifact_dir: Path, png: bytes, number: signal.Signals) -> None:
    """1012 and a sentence; every frame that was taken has its answer, and the process ends well."""
    with live_process(tmp_path, {"models_dir": artifact_dir}) as server:
        with opened(server.base_url) as socket, opened(server.base_url) as idle:
            socket.send(png)
            assert answer(socket)[0]["outcome"] == "mask"
            sent, answered = 0, 0
            server.process.send_signal(number)
            with suppress(ConnectionClosed):
                while True:
                    socket.send(png)
                    sent += 1
                    answer(socket)
                    answered += 1
            for each in (socket, idle):
                with pytest.raises(ConnectionClosed) as closed:
                    each.recv(timeout=120)
                assert closed.value.rcvd is not None
                assert (closed.value.rcvd.code, closed.value.rcvd.reason[:23]) == (1012, "the service is about to")
            assert answered >= sent - 1
        assert server.process.wait(20) == 0
        assert "Traceback" not in server.log.read_text()


def test_frames_and_streams_are_counted_and_logged(tmp_path: Path, artifact_dir: Path, png: bytes) -> None:
    """Frames by outcome, their stages and sizes; one line for the whole stream."""
    with live_process(tmp_path, {"models_dir": artifact_dir, "log_format": "json"}) as server:
        with opened(server.base_url, additional_headers={"X-Request-ID": "drive-7"}) as socket:
            assert socket.response is not None
            assert socket.response.headers["X-Request-ID"] == "drive-7"
            for data in (png, b"no image", png):
                socket.send(data)
                answer(socket)
            assert metrics(server.base_url)["fcn_streams"] == 1
        await_metric(server.base_url, "fcn_streams", 0)
        found = metrics(server.base_url)
        server.process.terminate()
        server.process.wait(20)
        lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert found['fcn_stream_frames_total{outcome="mask"}'] == 2
    assert found['fcn_stream_frames_total{outcome="error"}'] == 1
    assert found['fcn_errors_total{code="unsupported_image"}'] == 1
    assert found['fcn_stage_duration_seconds_count{stage="infer"}'] == 2
    assert found['fcn_requests_total{method="GET",route="/stream",status="101"}'] == 1
    assert 'fcn_request_duration_seconds_count{route="/stream"}' not in found
    (line,) = (line for line in lines if line.get("path") == "/stream")
    assert (line["request_id"], line["status"], line["frames_mask"], line["frames_error"]) == ("drive-7", 101, 2, 1)


def test_memory_held_by_frames_is_given_back(server: str, png: bytes) -> None:
    """Frames count among the uploads while they are held, and no longer: many more than fit at once may pass."""
    large = encode_image(make_image(), "BMP") + bytes(8 * 2**20)
    with opened(server) as socket:
        for _ in range(40):
            socket.send(large)
            assert answer(socket)[0]["outcome"] in ("mask", "error")
        socket.send(png)
        assert answer(socket)[0]["outcome"] == "mask"
