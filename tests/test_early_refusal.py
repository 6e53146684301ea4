"""Saying no at first sight, on real sockets."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest

from service.api.transport.bounds import Bounds
from service.errors import NotReady
from service.pipeline.codecs import decoding
from service.pipeline.engine import Engine
from service.serving.keys import Keys
from service.serving.scheduler import Scheduler
from service.settings import Settings
from tests.conftest import encode_image, make_image
from tests.live import live_server
from tests.waiting import wait_until

NOISE = encode_image(np.random.default_rng(0).integers(0, 256, (400, 500, 3), dtype=np.uint8))
"""0.2 megapixels, 600 kB."""


@contextmanager
def full_server(
    artifact_dir: Path, monkeypatch: pytest.MonkeyPatch, first_bytes_s: float = Bounds().first_bytes_s, **settings: Any
) -> Iterator[str]:
    """A server whose queue is full, for as long as this lasts."""
    go_on = threading.Event()
    run = Engine.run

    def slow(*batch: Any, **how: Any) -> Any:
        assert go_on.wait(30)
        return run(*batch, **how)

    bounds = Bounds(first_bytes_s=first_bytes_s)
    with live_server(Settings(models_dir=artifact_dir, **{"queue_megapixels": 0.3, **settings}), bounds) as url:
        monkeypatch.setattr(Engine, "run", slow)
        with ThreadPoolExecutor(1) as caller:
            key = {"X-API-Key": "secret"}
            inside = caller.submit(httpx.post, f"{url}/segment", content=NOISE, headers=key, timeout=60)
            wait_until(
                lambda: "fcn_queue_depth 1.0" in httpx.get(f"{url}/metrics").text,
                "an image in work",
                alive=lambda: not inside.done(),
            )
            try:
                yield url
            finally:
                go_on.set()
            assert inside.result().status_code == 200


def send(link: socket.socket, headers: str, body: bytes) -> None:
    """The head of an upload, and what has been made of its body so far."""
    link.sendall(f"POST /segment HTTP/1.1\r\nHost: x\r\n{headers}\r\n\r\n".encode() + body)


def connected(url: str) -> socket.socket:
    """A bare connection."""
    return socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), timeout=30)


def test_a_request_beyond_the_capacity_is_rejected_by_its_first_bytes_and_keeps_its_connection(
    artifact_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The 429 comes while most of the image is still to be sent; the rest is dropped, and the next request answered."""
    with full_server(artifact_dir, monkeypatch, first_bytes_s=30.0) as url, connected(url) as link:
        for _ in range(3):
            send(link, f"Content-Length: {len(NOISE)}", NOISE[:2000])
            reply = b""
            while b'"error"' not in reply:  # head and body may come one after the other
                piece = link.recv(65536)
                assert piece
                reply += piece
            assert reply.startswith(b"HTTP/1.1 429 ")
            assert b"retry-after: " in reply
            assert b"connection: close" not in reply
            assert b'"code": "overloaded"' in reply
            link.sendall(NOISE[2000:])
        link.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert link.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_request_too_late_for_any_image_is_rejected_before_the_image(
    artifact_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its headers alone; the rest of its body is dropped, and the next request is answered."""
    with full_server(artifact_dir, monkeypatch, first_bytes_s=60.0) as url, connected(url) as link:
        send(link, f"X-Deadline-Ms: 0.01\r\nContent-Length: {len(NOISE)}", b"")
        reply = link.recv(65536)
        assert reply.startswith(b"HTTP/1.1 429 ")
        assert b"left" in reply
        link.sendall(NOISE)
        link.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert link.recv(65536).startswith(b"HTTP/1.1 200 ")
        send(link, "X-Deadline-Ms: 0.01\r\nContent-Length: 0", b"")
        assert link.recv(65536).startswith(b"HTTP/1.1 429 ")
        link.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert link.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_who_is_refused_after_a_pause_is_refused_once(artifact_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first bytes come a little after the head; when the moment that they had is over, nothing more happens."""
    with full_server(artifact_dir, monkeypatch, first_bytes_s=0.5) as url, connected(url) as link:
        send(link, f"Content-Length: {len(NOISE)}", b"")
        time.sleep(0.01)
        link.sendall(NOISE[:2000])
        assert link.recv(65536).startswith(b"HTTP/1.1 429 ")
        time.sleep(1.0)
        link.sendall(NOISE[2000:])
        link.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert link.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert 'fcn_requests_total{method="POST",route="/segment",status="429"} 1.0' in httpx.get(f"{url}/metrics").text


def test_a_client_sees_the_refusal_of_what_it_still_sends(artifact_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """httpx reads the 429, with and without a length, raw and in a form, and goes on using its connection where it can."""
    with full_server(artifact_dir, monkeypatch) as url, httpx.Client(base_url=url) as client:
        for sent in ({"content": NOISE}, {"content": iter([NOISE[:1000], NOISE[1000:]])}, {"files": {"image": NOISE}}):
            reply = client.post("/segment", **sent)
            assert (reply.status_code, reply.json()["code"]) == (429, "overloaded")


def test_the_first_bytes_decide_nothing_else(artifact_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong with a request is said as ever, whether it is a parameter, a model or the image; and the patient wait."""
    with full_server(artifact_dir, monkeypatch) as url, httpx.Client(base_url=url) as client:
        assert client.post("/segment", content=b"").json()["code"] == "empty_body"
        assert client.post("/segment", content=b"hello").json()["code"] == "unsupported_image"
        assert client.post("/segment", content=NOISE[:20]).json()["code"] == "corrupt_image"
        assert client.post("/segment?model=unicorn", content=NOISE).json()["code"] == "unknown_model"
        for deadline in ("soon", "-1", "nan", "1e12"):
            reply = client.post("/segment", content=NOISE, headers={"X-Deadline-Ms": deadline})
            assert reply.json()["code"] == "bad_parameter"


def test_a_queue_that_is_dead_is_not_a_bad_request(artifact_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors other than a full queue are left to the application, which has a status for them."""

    def dead(*_: Any, **__: Any) -> None:
        raise NotReady("its worker has died")

    with full_server(artifact_dir, monkeypatch) as url:
        with monkeypatch.context() as patch:
            patch.setattr(Scheduler, "check_capacity", dead)
            reply = httpx.post(f"{url}/segment", content=NOISE)
        assert (reply.status_code, reply.json()["code"]) == (503, "not_ready")


def test_who_has_no_key_learns_nothing_of_the_load(artifact_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """401, as ever."""
    with full_server(artifact_dir, monkeypatch, api_keys=["secret"]) as url:
        assert httpx.post(f"{url}/segment", content=NOISE).status_code == 401


def test_a_request_without_a_first_byte_waits_no_longer_than_its_deadline(
    artifact_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The early check adds no new wait."""
    with full_server(artifact_dir, monkeypatch) as url, connected(url) as link:
        begun = time.monotonic()
        send(link, "Content-Length: 1000\r\nX-Deadline-Ms: 300", b"")
        assert link.recv(65536).startswith(b"HTTP/1.1 504 ")
        assert 0.25 < time.monotonic() - begun < 20  # for those inside, the gate is shut for 30 s


def replies(link: socket.socket, count: int) -> list[bytes]:
    """So many replies, whole."""
    data = b""
    found: list[bytes] = []
    while len(found) < count:
        head, end, rest = data.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n", 1)[0]) if end else 0
        if not end or len(rest) < length:
            piece = link.recv(65536)
            assert piece, data
            data += piece
            continue
        found.append(head + end + rest[:length])
        data = rest[length:]
    assert not data
    return found


def test_what_follows_a_refusal_in_the_same_packet_is_answered(artifact_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a refused body is where the next request begins; each has its reply, in order."""
    with full_server(artifact_dir, monkeypatch) as url, connected(url) as link:
        upload = f"POST /segment?format=rle HTTP/1.1\r\nHost: x\r\nContent-Length: {len(NOISE)}\r\n\r\n".encode() + NOISE
        probe = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
        sender = threading.Thread(target=link.sendall, args=(upload + probe + upload + upload + probe,))
        sender.start()
        statuses = [reply.split(b" ", 2)[1] for reply in replies(link, 5)]
        sender.join()
        assert statuses == [b"429", b"200", b"429", b"429", b"200"]


def test_thousands_who_ask_for_another_protocol_are_refused_one_by_one(
    artifact_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many come in one packet: each head is taken twice, and none within the one before."""
    head = b"POST /segment HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nX-Deadline-Ms: 0.01\r\n"
    with full_server(artifact_dir, monkeypatch) as url, connected(url) as link, ThreadPoolExecutor(1) as sender:
        sent = sender.submit(link.sendall, (head + b"Content-Length: 3\r\n\r\nabc") * 3000)
        received = b""
        while received.count(b"HTTP/1.1 429 ") < 3000 and (chunk := link.recv(1 << 20)):
            received += chunk
        sent.result()
        assert received.count(b"HTTP/1.1 429 ") == 3000


def test_an_early_rejection_is_a_reply_like_any_other(artifact_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has its request's id and frame, is a problem document with the facts, and is counted."""
    with full_server(artifact_dir, monkeypatch) as url, httpx.Client(base_url=url) as client:
        headers = {"X-Request-ID": "mine", "X-Frame-Id": "front", "X-Frame-Stamp": "12.5"}
        reply = client.post("/segment?format=rle", content=NOISE, headers=headers)
        assert reply.status_code == 429
        assert {name: reply.headers[name] for name in headers} == headers
        assert reply.headers["content-type"] == "application/problem+json"
        assert int(reply.headers["retry-after"]) >= 1
        problem = reply.json()
        assert (problem["status"], problem["code"], problem["request_id"]) == (429, "overloaded", "mine")
        assert problem["retry_after_s"] > 0
        text = client.get("/metrics").text
        assert 'fcn_requests_total{method="POST",route="/segment",status="429"} 1.0' in text
        assert 'fcn_errors_total{code="overloaded"} 1.0' in text


@pytest.mark.parametrize("header", ["Connection: close", "Expect: 100-continue"])
def test_who_wants_more_than_a_reply_is_refused_inside(
    header: str, artifact_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that ends, a body that waits to be asked for."""
    with full_server(artifact_dir, monkeypatch) as url, connected(url) as link:
        send(link, f"Content-Length: {len(NOISE)}\r\n{header}", NOISE)
        said = b""
        while b'"code": "overloaded"' not in said:
            piece = link.recv(65536)
            assert piece, said
            said += piece
        assert (b"100 Continue" in said) == header.startswith("Expect")


def test_first_bytes_that_tell_nothing_are_let_in(artifact_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first piece too short for a header, a head long before its body: refused when all of it has come."""
    with full_server(artifact_dir, monkeypatch) as url, connected(url) as link:
        for first, pause_s in ((NOISE[:3], 0.0), (b"", 0.2)):
            send(link, f"Content-Length: {len(NOISE)}", first)
            time.sleep(pause_s or 0.02)
            link.sendall(NOISE[len(first) :])
            (reply,) = replies(link, 1)
            assert reply.startswith(b"HTTP/1.1 429 ")


def test_a_body_in_any_number_of_pieces_is_the_same_body(artifact_dir: Path) -> None:
    """The first piece is handed on as it is; those after it are put together."""
    with live_server(Settings(models_dir=artifact_dir)) as url, connected(url) as link:
        whole = httpx.post(f"{url}/segment", content=NOISE).content
        for sizes in ((1,), (100, 1), (70_000, 5, 70_000), (200_000,)):
            send(link, f"Content-Length: {len(NOISE)}", b"")
            at = 0
            for size in sizes:
                link.sendall(NOISE[at : at + size])
                at += size
                time.sleep(0.01)
            link.sendall(NOISE[at:])
            (reply,) = replies(link, 1)
            assert reply.partition(b"\r\n\r\n")[2] == whole


def test_an_accepted_request_is_probed_and_authorised_once(artifact_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was decided from the head and the first bytes goes along with the request: header, key and deadline."""
    probed: list[int] = []
    checked: list[int] = []
    probe, check = decoding.probe, Keys.check

    def counted_probe(data: Any, limits: decoding.Limits) -> decoding.Header:
        probed.append(len(data))
        return probe(data, limits)

    def counted_check(keys: Keys, offered: str) -> None:
        checked.append(len(offered))
        check(keys, offered)

    monkeypatch.setattr(decoding, "probe", counted_probe)
    monkeypatch.setattr(Keys, "check", counted_check)
    settings: dict[str, Any] = {"api_keys": ["secret"], "queue_megapixels": 64, "deadline_ms": 60_000}
    with ThreadPoolExecutor(1) as caller:
        with full_server(artifact_dir, monkeypatch, **settings) as url:
            probed.clear()
            checked.clear()
            png, key = encode_image(make_image()), {"X-API-Key": "secret"}
            reply = caller.submit(httpx.post, f"{url}/segment", content=png, headers=key, timeout=60)
            wait_until(
                lambda: "fcn_queue_depth 2.0" in httpx.get(f"{url}/metrics").text,
                "two images inside",
                alive=lambda: not reply.done(),
            )
        assert reply.result().status_code == 200
    assert (len(probed), len(checked)) == (1, 1)
