"""Openings of ``WS /stream`` as real clients make them: accepted ones of every client, refused ones in one line of the log."""

from __future__ import annotations

import base64
import json
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.live import LiveProcess, live_process
from tests.waiting import wait_until

KEY = "secret"


@pytest.fixture(scope="module")
def server(artifact_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveProcess]:
    """A process with a key, for one stream at a time, whose log is JSON."""
    settings = {"models_dir": artifact_dir, "max_streams": 1, "api_keys": KEY, "log_format": "json"}
    with live_process(tmp_path_factory.mktemp("openings"), settings) as server:
        yield server


def lines(server: LiveProcess) -> list[dict[str, Any]]:
    """The log so far, line by line; a trace is not JSON, and would fail here."""
    return [json.loads(line) for line in server.log.read_text("utf-8").splitlines()]


def counted(server: LiveProcess) -> Counter[str]:
    """The counters of errors, by code."""
    text = httpx.get(f"{server.base_url}/metrics").text
    counts: Counter[str] = Counter()
    for line in text.splitlines():
        if line.startswith("fcn_errors_total{"):
            name, value = line.rsplit(" ", 1)
            counts[name.partition('code="')[2].partition('"')[0]] = int(float(value))
    return counts


def open_stream(server: LiveProcess, query: str = "", key: str = KEY, **options: Any) -> Any:
    """A WebSocket to the stream."""
    address = server.base_url.replace("http://", "ws://")
    headers = {"X-API-Key": key}
    return connect(f"{address}/stream{query}", additional_headers=headers, compression=None, **options)


@pytest.mark.parametrize(
    ("query", "options", "status", "code"),
    [
        ("?model=none", {}, 404, "unknown_model"),
        ("?classes=none", {}, 422, "unknown_class"),
        ("?format=none", {}, 422, "unsupported_format"),
        ("?min_confidence=2", {}, 422, "bad_parameter"),
        ("?colour=red", {}, 422, "bad_parameter"),
        ("", {"origin": "http://evil.example"}, 403, "forbidden"),
        ("", {"key": "wrong"}, 401, "unauthorized"),
    ],
    ids=["model", "class", "format", "value", "parameter", "origin", "key"],
)
def test_a_refused_opening_is_one_line_and_one_count(
    server: LiveProcess, query: str, options: dict[str, Any], status: int, code: str
) -> None:
    """The line has the status and the code, the counter is that of the code, and no error is logged."""
    before, begun = counted(server), len(lines(server))
    with pytest.raises(InvalidStatus) as refused, open_stream(server, query, **options):
        pass
    response = refused.value.response
    problem = json.loads(response.body or b"")
    assert (response.status_code, problem["status"], problem["code"]) == (status, status, code)
    assert response.headers["X-Request-ID"] == problem["request_id"]
    new = wait_until(lambda: lines(server)[begun:], "the line of the log")
    (line,) = (each for each in new if each["logger"] == "service.request")
    assert (line["status"], line["code"], line["request_id"]) == (status, code, problem["request_id"])
    assert [each for each in new if each["level"] in ("error", "warning")] == []
    assert len(new) == 1
    assert counted(server) - before == Counter({code: 1})


def test_an_opening_beyond_the_limit_is_one_line(server: LiveProcess) -> None:
    """429 while the other stream is open, and no more lines than refused openings."""
    before, begun = counted(server), len(lines(server))
    with open_stream(server):
        for _ in range(20):
            with pytest.raises(InvalidStatus) as refused, open_stream(server):
                pass
            assert refused.value.response.status_code == 429
            assert refused.value.response.headers["Retry-After"] == "1"
    assert counted(server) - before == Counter({"overloaded": 20})

    def told() -> list[dict[str, Any]]:
        return [line for line in lines(server)[begun:] if line["logger"] == "service.request"]

    wait_until(lambda: len(told()) == 21, "a line for each refused opening, and one for the stream")
    assert Counter(line["status"] for line in told()) == {429: 20, 101: 1}
    assert [line for line in lines(server)[begun:] if line["level"] == "error"] == []


def handshake(*more: str, path: str = "/stream", version: str = "13", accept: str = "dGhlIHNhbXBsZSBub25jZQ==") -> bytes:
    """The opening of a WebSocket, with more headers."""
    head = [
        f"GET {path} HTTP/1.1",
        "Host: x",
        "Connection: Upgrade",
        "Upgrade: websocket",
        f"Sec-WebSocket-Version: {version}",
        f"X-API-Key: {KEY}",
        *([f"Sec-WebSocket-Key: {accept}"] if accept else []),
        *more,
    ]
    return "\r\n".join([*head, "", ""]).encode()


def reply_to(server: LiveProcess, opening: bytes) -> bytes:
    """The beginning of the server's answer to bytes."""
    address = urlsplit(server.base_url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as link:
        link.sendall(opening)
        return link.recv(65536)


@pytest.mark.parametrize("length", ["Content-Length: 0", "content-length:0", "Content-Length: 00"])
@pytest.mark.parametrize("pieces", [1, 2, 7])
def test_a_websocket_that_is_opened_with_no_content_is_accepted(server: LiveProcess, length: str, pieces: int) -> None:
    """Java's, Dart's and Netty's clients say that the opening has no content; in any number of packets."""
    opening = handshake(length)
    address = urlsplit(server.base_url)
    wait_until(lambda: "\nfcn_streams 0.0\n" in httpx.get(f"{server.base_url}/metrics").text, "no stream is open")
    with socket.create_connection((address.hostname, address.port), timeout=60) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        step = -(-len(opening) // pieces)
        for at in range(0, len(opening), step):
            link.sendall(opening[at : at + step])
        reply = link.recv(65536)
    assert reply.startswith(b"HTTP/1.1 101 "), reply
    assert b"sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=" in reply.lower()


@pytest.mark.parametrize("more", [["Connection: keep-alive"], ["Connection: keep-alive", "connection: Upgrade"]])
@pytest.mark.parametrize("path", ["/stream", "/stream/"])
def test_several_headers_connection_are_one_list(server: LiveProcess, more: list[str], path: str) -> None:
    """A proxy that adds a header of its own closes no stream; nor does a slash at the end."""
    wait_until(lambda: "\nfcn_streams 0.0\n" in httpx.get(f"{server.base_url}/metrics").text, "no stream is open")
    assert reply_to(server, handshake(*more, path=path)).startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize(
    ("opening", "status"),
    [
        (handshake(version="8"), 400),
        (handshake(accept=""), 400),
        (handshake(accept="short"), 400),
        (handshake("Content-Length: 3") + b"abc", 400),
        (handshake(path="/nothing"), 404),
        (handshake(path="/segment"), 404),
    ],
    ids=["version", "no key", "a short key", "content", "another path", "a path of requests"],
)
def test_an_opening_that_is_wrong_is_refused_without_a_trace(server: LiveProcess, opening: bytes, status: int) -> None:
    """Whatever a client gets wrong about the protocol: a status, and no error in the log."""
    begun = len(lines(server))
    assert reply_to(server, opening).startswith(f"HTTP/1.1 {status} ".encode())
    assert httpx.get(f"{server.base_url}/readyz").status_code == 200
    assert [line for line in lines(server)[begun:] if line["level"] in ("error", "critical")] == []


def test_a_key_among_the_protocols_is_never_logged(server: LiveProcess) -> None:
    """A browser's page offers it there."""
    offered = base64.urlsafe_b64encode(b"another key").decode().rstrip("=")
    with pytest.raises(InvalidStatus), open_stream(server, key="", subprotocols=["fcn-serve", f"fcn-serve.key.{offered}"]):
        pass
    assert offered not in server.log.read_text("utf-8")
