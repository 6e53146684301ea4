"""What comes before a request: heads that are too long, too slow, or none at all; on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from service.api.transport.bounds import Bounds
from service.api.transport.connection import INTERIM, REPLY_BEGINS, _ReplyTransport
from service.settings import Settings
from tests.live import live_process, live_server
from tests.waiting import wait_until

MAX_HEAD_BYTES = Bounds().head_bytes


@pytest.fixture(scope="module")
def base_url(artifact_dir: Path) -> Iterator[str]:
    """A real server."""
    with live_server(Settings(models_dir=artifact_dir)) as url:
        yield url


@contextmanager
def connected(base_url: str) -> Iterator[socket.socket]:
    """A bare connection."""
    address = urlsplit(base_url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as link:
        yield link


def answer(link: socket.socket) -> tuple[int, dict[str, Any]]:
    """Status and problem document of the last thing that a server says on a connection."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := link.recv(65536):
            received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head
    assert b"connection: close" in head
    return int(head.split()[1]), json.loads(body)


def assert_ok(link: socket.socket) -> None:
    """The next reply, whole, has status 200."""
    with contextlib.closing(http.client.HTTPResponse(link)) as reply:
        reply.begin()
        assert reply.status == 200
        reply.read()


def refusals(base_url: str, code: str) -> float:
    """How many were counted."""
    text = httpx.get(f"{base_url}/metrics").text
    return float(text.partition(f'fcn_errors_total{{code="{code}"}} ')[2].split("\n")[0] or 0)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * MAX_HEAD_BYTES + b"\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * MAX_HEAD_BYTES + b"\r\n",
        b"GET /" + b"a" * MAX_HEAD_BYTES + b" HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * MAX_HEAD_BYTES,
    ],
    ids=["one long header", "many short ones", "a long path", "without an end"],
)
def test_a_head_that_is_too_long_is_refused(base_url: str, head: bytes) -> None:
    """431, at once, and it is counted by its cause."""
    before = refusals(base_url, "head_too_large")
    with connected(base_url) as link:
        link.sendall(head)
        status, document = answer(link)
    assert (status, document["code"], document["status"]) == (431, "head_too_large", 431)
    assert str(MAX_HEAD_BYTES) in document["detail"]
    assert refusals(base_url, "head_too_large") == before + 1


def test_a_head_without_end_is_refused_while_it_comes(base_url: str) -> None:
    """One header that never ends is not kept in memory until it does."""
    with connected(base_url) as link:
        link.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Long: ")
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 100 * MAX_HEAD_BYTES:
                sent += link.send(b"a" * 4096)
                time.sleep(0.001)
        assert sent < 100 * MAX_HEAD_BYTES


CHUNKED = b"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b"0\r\nX-Long: ", b"a" * 4096),
        (b"0\r\n", b"X-Many: trailers\r\n" * 240),
        (b"5;extension=", b"a" * 4096),
        (b"", b"1;" + b"a" * 4096 + b"\r\nX\r\n"),
        (b"", b"1\r\nX\r\n" * 1000),
    ],
    ids=["one long trailer", "many short ones", "a chunk's extension", "one for every chunk", "chunks of a byte"],
)
def test_a_body_in_chunks_cannot_say_more_beside_its_bytes_than_a_head_can(base_url: str, begin: bytes, more: bytes) -> None:
    """What never ends is refused while it comes, as with a head: it would keep the event loop busy, and be kept in memory."""
    before = refusals(base_url, "head_too_large")
    with connected(base_url) as link:
        link.sendall(CHUNKED + b"5\r\nabcde\r\n" + begin)
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 100 * MAX_HEAD_BYTES:
                sent += link.send(more)
                time.sleep(0.001)
        assert sent < 100 * MAX_HEAD_BYTES
    assert refusals(base_url, "head_too_large") == before + 1


def test_chunks_whose_lengths_come_in_packets_of_their_own_are_a_body_all_the_same(base_url: str, png: bytes) -> None:
    """Small ones, too."""
    with connected(base_url) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link.sendall(CHUNKED)
        for at in range(0, len(png), 128):
            piece = png[at : at + 128]
            for packet in (b"%x\r\n" % len(piece), piece, b"\r\n"):
                link.sendall(packet)
                time.sleep(0.001)
        link.sendall(b"0\r\n\r\n")
        assert link.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_body_that_goes_wrong_after_its_reply_gets_no_second_one(base_url: str) -> None:
    """It would be taken for the reply to the next request."""
    with connected(base_url) as link:
        link.sendall(CHUNKED.replace(b"/segment", b"/nothing") + b"5\r\nabcde\r\n")
        assert link.recv(65536).startswith(b"HTTP/1.1 404 ")
        with contextlib.suppress(ConnectionError):
            link.sendall(b"0\r\nX-Long: " + b"a" * 3 * MAX_HEAD_BYTES)
            time.sleep(0.1)
            link.sendall(b"a" * MAX_HEAD_BYTES)
            assert link.recv(65536) == b""


@pytest.mark.parametrize("after", [b"x" * 2000, b"\r\n" * 1000], ids=["garbage", "empty lines"])
def test_what_comes_after_a_last_request_costs_no_mask(base_url: str, png: bytes, after: bytes) -> None:
    """However much it is."""
    head = b"POST /segment HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n"
    with connected(base_url) as link:
        link.sendall(head % len(png) + png)
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                link.sendall(after)
        assert link.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_trailer_that_ends_the_connection_ends_it(base_url: str, png: bytes) -> None:
    """The parser takes no request after it: its sender would wait in vain."""
    with connected(base_url) as link:
        link.sendall(CHUNKED + b"%x\r\n%b\r\n0\r\nConnection: close\r\n\r\n" % (len(png), png))
        received = b""
        while chunk := link.recv(65536):
            received += chunk
    assert received.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nconnection: close\r\n" in received


def test_no_more_requests_wait_for_earlier_replies_than_allowed(base_url: str) -> None:
    """Those that may wait are answered, all others are dropped, and the connection ends: memory is bounded."""
    before, received = refusals(base_url, "bad_request"), b""
    with connected(base_url) as link:
        with contextlib.suppress(ConnectionError):
            for _ in range(1000):
                link.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" * 200)
        with contextlib.suppress(ConnectionError):
            while chunk := link.recv(65536):
                received += chunk
    assert received.count(b"HTTP/1.1 ") <= 1 + Bounds().pipelined
    assert refusals(base_url, "bad_request") == before + 1


@pytest.mark.parametrize("body", [b"Content-Length: 3\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"])
def test_a_websocket_that_is_opened_with_a_body_is_refused(base_url: str, body: bytes) -> None:
    """The protocol after the upgrade would never answer, and keep the connection."""
    head = b"GET /stream HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    with connected(base_url) as link:
        link.sendall(head + b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" + body)
        status, document = answer(link)
    assert (status, document["detail"]) == (400, "a request for a WebSocket has no body")


@pytest.mark.parametrize("together", [True, False], ids=["at once", "in pieces"])
def test_who_asks_for_another_protocol_is_served_in_this_one(base_url: str, png: bytes, together: bool) -> None:
    """As Java's client asks, before it has seen that there is no HTTP/2 here: with the image of its first request."""
    more = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQBAAAAAAIAAAAA\r\n"
    image = b"POST /segment HTTP/1.1\r\nHost: x\r\n" + more + b"Content-Length: %d\r\n\r\n" % len(png) + png
    question = b"GET /livez HTTP/1.1\r\nHost: x\r\n" + more + b"\r\n"
    step = len(image) if together else 97
    with connected(base_url) as link:
        for request in (image, image, image, question):
            for at in range(0, len(request), step):
                link.sendall(request[at : at + step])
                time.sleep(0 if together else 0.001)
            assert_ok(link)
        link.sendall(question * 50)
        received = b""
        while received.count(b"HTTP/1.1 200 ") < 50 and (chunk := link.recv(65536)):
            received += chunk
        assert received.count(b"HTTP/1.1 200 ") == 50


@pytest.mark.parametrize("more", [b"Connection: close, Upgrade\r\n", b"Connection: close\r\nConnection: Upgrade\r\n"])
def test_who_asks_for_another_protocol_and_the_last_reply_is_served(base_url: str, png: bytes, more: bytes) -> None:
    """The parser drops what comes after ``Connection: close``, and the head is parsed twice."""
    head = b"POST /segment HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\n" + more + b"Content-Length: %d\r\n\r\n" % len(png)
    with connected(base_url) as link:
        link.settimeout(5)  # sooner than a head is given up
        link.sendall(head + png)
        received = b"".join(iter(lambda: link.recv(65536), b""))
    assert received.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nconnection: close\r\n" in received


def test_what_follows_a_body_is_not_a_header(base_url: str, png: bytes) -> None:
    """A trailer would change what was decided by the headers; even where all comes at once."""
    with connected(base_url) as link:
        link.sendall(CHUNKED + b"%x\r\n%b\r\n0\r\nX-Request-ID: a-trailer\r\n\r\n" % (len(png), png))
        reply = link.recv(65536)
    assert reply.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nx-request-id: " in reply
    assert b"a-trailer" not in reply


def test_a_head_of_nearly_the_limit_passes(base_url: str) -> None:
    """A request may have many cookies; the bytes of one request do not count against the next."""
    with httpx.Client(base_url=base_url) as client:
        for _ in range(5):
            assert client.get("/livez", headers={"Cookie": "a" * (MAX_HEAD_BYTES - 400)}).status_code == 200
        assert client.post("/segment", content=bytes(300_000)).status_code == 415


def test_a_head_of_nearly_the_limit_passes_in_pieces_too(base_url: str) -> None:
    """No byte of it counts twice."""
    head = b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"X-Many: cookies\r\n" * ((MAX_HEAD_BYTES - 400) // 17) + b"\r\n"
    with connected(base_url) as link:
        for at in range(0, len(head), 5000):
            link.sendall(head[at : at + 5000])
            time.sleep(0.02)
        assert link.recv(65536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "words",
    [b"hello\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET / HTTP/1.1\r\nA b: c\r\n\r\n", b"\0" * 100],
)
def test_what_is_not_http_is_a_problem_too(base_url: str, words: bytes) -> None:
    """A 400 in the same form as every other refusal, counted; TLS at a plain port included."""
    before = refusals(base_url, "bad_request")
    with connected(base_url) as link:
        link.sendall(words)
        status, document = answer(link)
    assert (status, document["code"], len(document["request_id"])) == (400, "bad_request", 16)
    assert refusals(base_url, "bad_request") == before + 1


@pytest.mark.parametrize("drip", [b"", b"\r\n", b"X-A: b\r\n"], ids=["silence", "empty lines", "headers"])
def test_a_head_that_does_not_come_to_its_end_is_cut_off(artifact_dir: Path, drip: bytes) -> None:
    """Whatever drips in meanwhile: the time counts from the opening, not from the last byte."""
    with live_server(Settings(models_dir=artifact_dir), Bounds(head_s=0.5, sweep_s=0.05)) as url, connected(url) as link:
        link.sendall(b"GET /livez HTTP/1.1\r\n" if drip.startswith(b"X") else drip)
        link.settimeout(0.1)

        def is_cut_off() -> bool:
            try:
                link.sendall(drip)
                return not link.recv(100)
            except TimeoutError:
                return False
            except ConnectionError:
                return True

        wait_until(is_cut_off, "the connection to be closed")
        assert refusals(url, "head_too_slow") == (1 if drip.startswith(b"X") else 0)


def test_a_connection_that_was_served_must_complete_its_next_head_in_time(artifact_dir: Path) -> None:
    """The time of a head counts from its first byte, however long an idle connection may be kept."""
    bounds = Bounds(head_s=0.2, keep_alive_s=600.0, sweep_s=0.05)
    with live_server(Settings(models_dir=artifact_dir), bounds) as url, connected(url) as link:
        link.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert_ok(link)
        with contextlib.suppress(ConnectionError):
            link.sendall(b"GET /livez HTTP/1.1\r\nHo")
            assert link.recv(65536) == b""


def test_a_connection_is_kept_for_the_idle_time_that_is_set(artifact_dir: Path) -> None:
    """A load balancer that reuses connections finds them open. A short time closes them."""
    settings = Settings(models_dir=artifact_dir, keep_alive_s=600.0)
    with live_server(settings) as url, connected(url) as link:
        link.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert_ok(link)
        link.settimeout(1.0)
        with pytest.raises(TimeoutError):
            link.recv(1)
        link.settimeout(30.0)
        link.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert_ok(link)
    with (
        live_server(Settings(models_dir=artifact_dir, keep_alive_s=0.1)) as url,
        connected(url) as link,
    ):
        link.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert_ok(link)
        assert link.recv(1) == b""


@pytest.mark.parametrize("path", ["/segment", "/v2/models/colours/infer", "/v2/repository/index", "/livez", "/nothing"])
@pytest.mark.parametrize("framing", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
def test_a_sender_who_stops_after_half_a_body_is_disconnected(artifact_dir: Path, path: str, framing: str) -> None:
    """By the connection itself: whatever the application does, and however long it would wait."""
    bounds = Bounds(body_s=0.2, upload_s=600.0, keep_alive_s=600.0, sweep_s=0.05)
    with live_server(Settings(models_dir=artifact_dir), bounds) as url, connected(url) as link:
        body = b"1f4\r\n" + bytes(250) if "chunked" in framing else bytes(500)
        link.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nX-Deadline-Ms: 600000\r\n{framing}\r\n\r\n".encode() + body)
        with contextlib.suppress(ConnectionError):
            while link.recv(65536):
                pass
        wait_until(lambda: refusals(url, "body_too_slow") == 1, "it is counted")
        wait_until(lambda: "\nfcn_requests_in_flight 1.0\n" in httpx.get(f"{url}/metrics").text, "its request is over")


def test_a_caller_who_reads_no_reply_is_disconnected(artifact_dir: Path) -> None:
    """Requests in a row for a large document fill the buffers of both ends; then the connection is closed."""
    bounds = Bounds(reply_s=0.3, keep_alive_s=600.0, sweep_s=0.05)
    with live_server(Settings(models_dir=artifact_dir), bounds) as url, connected(url) as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        link.settimeout(0.2)
        asked = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 60

        def is_cut_off() -> bool:
            with contextlib.suppress(TimeoutError, ConnectionError):
                link.sendall(asked)
            return refusals(url, "reply_not_read") == 1

        wait_until(is_cut_off, "the connection is closed")


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="Linux limits a process that runs")
def test_idle_connections_keep_no_request_out(artifact_dir: Path, tmp_path: Path, png: bytes) -> None:
    """Hundreds of silent connections reach a process that may have a hundred and thirty files. Requests are answered, those in
    work too; the silent connections are counted and evicted.
    """
    with live_process(tmp_path, {"models_dir": artifact_dir, "max_connections": 20}) as server, contextlib.ExitStack() as stack:
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (130, 130))
        served = stack.enter_context(connected(server.base_url))
        served.sendall(f"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Length: {len(png)}\r\n\r\n".encode() + png[:9])
        address = urlsplit(server.base_url)
        silent = [stack.enter_context(socket.socket()) for _ in range(400)]
        for number, link in enumerate(silent):
            link.setblocking(False)
            link.connect_ex((address.hostname, address.port))
            if number % 2:
                with contextlib.suppress(OSError):
                    link.send(b"GET /")
        with httpx.Client(base_url=server.base_url) as client:
            for _ in range(3):
                assert client.post("/segment", content=png).status_code == 200
            text = client.get("/metrics").text
        assert float(text.partition("\nfcn_connections ")[2].split()[0]) <= 21
        assert float(text.partition('fcn_errors_total{code="crowded_out"} ')[2].split()[0]) > 100
        served.sendall(png[9:])
        assert served.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert "Too many open files" not in server.log.read_text("utf-8")


def test_who_comes_when_every_connection_has_a_request_is_told_so(artifact_dir: Path, png: bytes) -> None:
    """A 503 and a retry time; probes are answered, requests in work continue, and a connection is accepted when one ends."""
    with (
        live_server(Settings(models_dir=artifact_dir, max_connections=2)) as url,
        connected(url) as one,
        connected(url) as other,
    ):
        for link in (one, other):
            link.sendall(f"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Length: {len(png)}\r\n\r\n".encode())
        while float(httpx.get(f"{url}/metrics").text.partition("\nfcn_requests_in_flight ")[2].split()[0]) < 3:
            pass
        reply = httpx.post(f"{url}/segment", content=png)
        assert (reply.status_code, reply.json()["code"], reply.headers["retry-after"]) == (503, "too_many_connections", "1")
        assert reply.headers["connection"] == "close"
        assert reply.headers["x-request-id"] == reply.json()["request_id"]
        assert "FCN_MAX_CONNECTIONS" in reply.json()["detail"]
        assert httpx.get(f"{url}/livez").status_code == httpx.get(f"{url}/readyz").status_code == 200
        assert refusals(url, "too_many_connections") == 1
        for link in (one, other):
            link.sendall(png)
            assert link.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert httpx.post(f"{url}/segment", content=png).status_code == 200


def test_requests_in_a_row_without_waiting_are_all_answered(base_url: str) -> None:
    """Pipelining: bounds on heads do not lose one."""
    with connected(base_url) as link:
        link.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" * 50)
        received = b""
        while received.count(b"HTTP/1.1 200 ") < 50:
            received += link.recv(65536)


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/models", "/models/colours", "/", "/docs", "/openapi.json"])
def test_head_is_get_without_its_body(base_url: str, path: str) -> None:
    """Load balancers and ``curl -I`` ask so; the next request on the connection is not disturbed."""
    with httpx.Client(base_url=base_url) as client:
        head, get = client.head(path), client.get(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"] == get.headers["content-type"]
        assert client.head("/segment").status_code == 405
        assert client.head("/nothing").status_code == 404


class Written(asyncio.Transport):
    """A transport that keeps what is written, one entry a write."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> None:
        """Keep it."""
        self.pieces.append(bytes(data))

    def writelines(self, list_of_data: Any) -> None:
        """Keep it as one."""
        self.pieces.append(b"".join(list_of_data))

    def close(self) -> None:
        """Close."""
        self.closed = True

    def is_closing(self) -> bool:
        """Whether it is closed."""
        return self.closed


HEAD = REPLY_BEGINS + b"200 OK\r\n\r\n"


def test_a_head_is_written_with_the_first_piece_of_its_body() -> None:
    """One write for both, and each later piece at once. A reply before the reply waits for nothing."""
    written = Written()
    reply = _ReplyTransport(written)
    for piece in (INTERIM + b"00 Continue\r\n\r\n", HEAD, b"first", b"", b"second"):
        reply.write(piece)
    assert written.pieces == [INTERIM + b"00 Continue\r\n\r\n", HEAD + b"first", b"", b"second"]


@pytest.mark.parametrize("end", ["end", "close"])
def test_a_head_without_a_body_is_written_at_the_end(end: str) -> None:
    """To HEAD, and where the connection closes; never twice."""
    written = Written()
    reply = _ReplyTransport(written)
    reply.write(HEAD)
    assert written.pieces == []
    getattr(reply, end)()
    getattr(reply, end)()
    assert written.pieces == [HEAD]
    assert reply.is_closing() == written.closed == (end == "close")


def test_a_head_leaves_out_what_was_sent_of_it() -> None:
    """The first bytes of a reply go out early where the other end may be gone, and once."""
    written = Written()
    reply = _ReplyTransport(written)
    reply.begin()
    reply.begin()
    reply.write(HEAD)
    reply.begin()
    reply.write(b"body")
    reply.begin()
    assert b"".join(written.pieces) == HEAD + b"body"
    assert written.pieces[0] == REPLY_BEGINS
