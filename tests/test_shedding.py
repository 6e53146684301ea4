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

from service.pipeline.engine import Engine
from service.settings import Settings
from tests.conftest import encode_image
from tests.live import live_server

NOISE = encode_image(np.random.default_rng(0).integers(0, 256, (400, 500, 3), dtype=np.uint8))
"""0.2 megapixels, 600 kB."""


@contextmanager
def full_server(artifact_dir: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Iterator[str]:
    """A server whose queue is full, for as long as this lasts."""
    go_on = threading.Event()
    run = Engine.run

    def slow(*batch: Any, **how: Any) -> Any:
        assert go_on.wait(30)
        return run(*batch, **how)

    with live_server(Settings(models_dir=artifact_dir, queue_megapixels=0.3, **settings)) as url:
        monkeypatch.setattr(Engine, "run", slow)
        with ThreadPoolExecutor(1) as caller:
            key = {"X-API-Key": "secret"}
            inside = caller.submit(httpx.post, f"{url}/segment", content=NOISE, headers=key, timeout=60)
            while "fcn_queue_depth 1.0" not in httpx.get(f"{url}/metrics").text:
                assert not inside.done()
                time.sleep(0.01)
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


def test_who_finds_no_room_is_told_by_his_first_bytes_and_keeps_his_connection(
    artifact_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The 429 comes while most of the image is still to be sent; the rest is dropped, and the next request answered."""
    monkeypatch.setattr("service.api.upload.MOMENT_S", 5.0)  # a busy machine may take longer than a moment to bring them
    with full_server(artifact_dir, monkeypatch) as url, connected(url) as link:
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


def test_a_client_sees_the_refusal_of_what_it_still_sends(artifact_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """httpx reads the 429, with and without a length, raw and in a form, and goes on using its connection where it can."""
    with full_server(artifact_dir, monkeypatch) as url, httpx.Client(base_url=url) as client:
        for sent in ({"content": NOISE}, {"content": iter([NOISE[:1000], NOISE[1000:]])}, {"files": {"image": NOISE}}):
            reply = client.post("/segment", **sent)
            assert (reply.status_code, reply.json()["code"]) == (429, "overloaded")


def test_a_look_at_the_first_bytes_decides_nothing_else(artifact_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong with a request is said as ever, whether it is a parameter, a model or the image; and the patient wait."""
    with full_server(artifact_dir, monkeypatch) as url, httpx.Client(base_url=url) as client:
        assert client.post("/segment", content=b"").json()["code"] == "empty_body"
        assert client.post("/segment", content=b"hello").json()["code"] == "unsupported_image"
        assert client.post("/segment", content=NOISE[:20]).json()["code"] == "corrupt_image"
        assert client.post("/segment?model=nobody", content=NOISE).json()["code"] == "unknown_model"
        for deadline in ("soon", "-1", "nan", "1e12"):
            reply = client.post("/segment", content=NOISE, headers={"X-Deadline-Ms": deadline})
            assert reply.json()["code"] == "bad_parameter"


def test_who_has_no_key_learns_nothing_of_the_load(artifact_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """401, as ever."""
    with full_server(artifact_dir, monkeypatch, api_keys=["secret"]) as url:
        assert httpx.post(f"{url}/segment", content=NOISE).status_code == 401


def test_who_sends_no_first_byte_waits_no_longer_than_his_deadline(artifact_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking first is no new way to be kept waiting."""
    with full_server(artifact_dir, monkeypatch) as url, connected(url) as link:
        begun = time.monotonic()
        send(link, "Content-Length: 1000\r\nX-Deadline-Ms: 300", b"")
        assert link.recv(65536).startswith(b"HTTP/1.1 504 ")
        assert 0.25 < time.monotonic() - begun < 20  # for those inside, the gate is shut for 30 s
