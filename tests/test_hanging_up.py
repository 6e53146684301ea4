"""Callers who close their connections: one direction only, both, or at the very moment of the reply."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from service.settings import Settings
from tests.conftest import encode_image, make_image
from tests.live import live_process, live_server, metric
from tests.waiting import wait_until

PROBE = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
def base_url(artifact_dir: Path) -> Iterator[str]:
    """A real server."""
    with live_server(Settings(models_dir=artifact_dir)) as url:
        yield url


@contextmanager
def connected(base_url: str) -> Iterator[socket.socket]:
    """A bare connection."""
    address = urlsplit(base_url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as link:
        yield link


def upload(image: bytes, query: str = "", version: str = "1.1", more: str = "") -> bytes:
    """A request for a mask."""
    head = f"POST /segment{query} HTTP/{version}\r\nHost: x\r\nContent-Length: {len(image)}\r\n{more}\r\n"
    return head.encode() + image


def rest(link: socket.socket) -> bytes:
    """All that a server says until it closes."""
    received = b""
    while chunk := link.recv(65536):
        received += chunk
    return received


# One direction ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("pause_s", [0.0, 0.3])
def test_a_half_closed_connection_gets_its_reply(base_url: str, png: bytes, version: str, pause_s: float) -> None:
    """``shutdown(SHUT_WR)`` says that no more is sent, and not that the reply is not read; then the connection ends."""
    expected = httpx.post(f"{base_url}/segment", content=png).content
    with connected(base_url) as link:
        link.sendall(upload(png, version=version))
        time.sleep(pause_s)
        link.shutdown(socket.SHUT_WR)
        head, _, body = rest(link).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert body == expected


@pytest.mark.parametrize("request_line", [b"GET /livez", b"GET /models", b"GET /nothing", b"HEAD /models", b"GET /metrics"])
def test_a_half_closed_connection_gets_any_reply(base_url: str, request_line: bytes) -> None:
    """The same bytes as with an open one, but for what differs from request to request."""
    request = request_line + b" HTTP/1.1\r\nHost: x\r\nX-Request-ID: same\r\n\r\n"
    with connected(base_url) as link:
        link.sendall(request)
        link.shutdown(socket.SHUT_WR)
        reply = rest(link)
    assert reply.startswith(b"HTTP/1.1 404 " if b"nothing" in request_line else b"HTTP/1.1 200 ")
    assert b"\r\nx-request-id: same\r\n" in reply


def test_a_half_closed_connection_gets_a_late_reply_unharmed(base_url: str, png: bytes, gate: threading.Event) -> None:
    """While a caller waits, the service finds out whether it is still there; the reply has exactly its own bytes."""
    gate.clear()
    with connected(base_url) as link:
        link.sendall(upload(png))
        link.shutdown(socket.SHUT_WR)
        begun = link.recv(4)  # the first bytes come before the network has run: that is how the service finds out
        time.sleep(0.5)
        gate.set()
        reply = begun + rest(link)
    head, _, body = reply.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert head.count(b"HTTP/1.1 ") == 1
    assert body == httpx.post(f"{base_url}/segment", content=png).content


@pytest.mark.parametrize("image", [b"no image", b""], ids=["no image", "no body"])
def test_a_half_closed_connection_gets_its_refusal(base_url: str, image: bytes) -> None:
    """A problem document is a reply as well."""
    with connected(base_url) as link:
        link.sendall(upload(image))
        link.shutdown(socket.SHUT_WR)
        assert rest(link).startswith((b"HTTP/1.1 415 ", b"HTTP/1.1 422 "))


def test_all_requests_of_a_half_closed_connection_get_their_replies(base_url: str, png: bytes) -> None:
    """In order, however many were sent before; what is incomplete at the end is dropped."""
    with connected(base_url) as link:
        link.sendall(upload(png) + PROBE + upload(png, "?format=rle") + PROBE + b"GET /livez HT")
        link.shutdown(socket.SHUT_WR)
        received = rest(link)
    assert received.count(b"HTTP/1.1 200 OK\r\n") == 4


def test_half_a_body_and_no_more_is_not_waited_for(base_url: str, png: bytes) -> None:
    """The rest cannot come any more: the connection ends long before the time of a body is over."""
    before = metric(base_url, 'fcn_errors_total{code="client_gone"}')
    with connected(base_url) as link:
        link.settimeout(20)
        link.sendall(upload(png)[:-5])
        link.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            assert rest(link) == b""
    wait_until(lambda: metric(base_url, 'fcn_errors_total{code="client_gone"}') == before + 1, "the request is cancelled")


# Both directions -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pause_s", [0.0, 0.3])
@pytest.mark.parametrize("with_reset", [False, True])
def test_a_caller_who_hangs_up_is_not_waited_for(
    base_url: str, png: bytes, gate: threading.Event, pause_s: float, with_reset: bool
) -> None:
    """The request is cancelled while the network works: with a reset at once, with an orderly end as soon as it shows."""
    gate.clear()
    before = metric(base_url, 'fcn_errors_total{code="client_gone"}')
    with connected(base_url) as link:
        if with_reset:
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        link.sendall(upload(png))
        time.sleep(pause_s)
    wait_until(lambda: metric(base_url, 'fcn_errors_total{code="client_gone"}') == before + 1, "the request is cancelled")
    assert not gate.is_set()


def test_every_request_of_a_caller_who_hangs_up_is_cancelled(base_url: str, png: bytes, gate: threading.Event) -> None:
    """Those that wait for the replies before them, and the one in work."""
    gate.clear()
    before = metric(base_url, 'fcn_errors_total{code="client_gone"}')
    with connected(base_url) as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        link.sendall(upload(png) * 3)
        wait_until(lambda: metric(base_url, "fcn_requests_in_flight") == 2, "one is in work")
    wait_until(lambda: metric(base_url, "fcn_requests_in_flight") == 1, "none is in work but this question")
    assert metric(base_url, 'fcn_errors_total{code="client_gone"}') == before + 1
    assert not gate.is_set()


def test_callers_who_hang_up_at_the_moment_of_the_reply_leave_no_trace(artifact_dir: Path, tmp_path: Path, png: bytes) -> None:
    """Hundreds of connections are reset around the time of their replies: no error is logged, and none is counted."""
    large = encode_image(make_image(600, 800))
    requests = [
        upload(png),
        upload(png) * 3,
        PROBE * 5,
        upload(b"no image"),
        upload(large, "?format=npy"),
        upload(large, "?format=npy") + PROBE,
        b"GET /models HTTP/1.1\r\nHost: x\r\n\r\n",
    ]

    def hang_up(base_url: str, seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(60):
            with contextlib.suppress(ConnectionError), connected(base_url) as link:
                if chance.random() < 0.7:
                    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                link.sendall(chance.choice(requests))
                time.sleep(chance.choice((0.0, 0.01, 0.03, 0.1)) * chance.random())

    with live_process(tmp_path, {"models_dir": artifact_dir}) as server:
        with ThreadPoolExecutor(6) as callers:
            list(callers.map(hang_up, [server.base_url] * 6, range(6)))
        wait_until(lambda: metric(server.base_url, "fcn_requests_in_flight") == 1, "all requests are over")
        assert metric(server.base_url, 'fcn_errors_total{code="internal_error"}') == 0
        assert httpx.post(f"{server.base_url}/segment", content=png).status_code == 200
        log = server.log.read_text("utf-8")
    assert "Traceback" not in log
    assert "ASGI callable" not in log
    assert "Fatal error" not in log
