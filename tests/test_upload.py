"""The body of a request: read as a stream, counted, refused the moment that it is too large."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from service.api.form import MAX_PARTS, MULTIPART_ALLOWANCE
from service.api.transport.bounds import Bounds
from service.api.upload import UPLOADS_AT_ONCE, Uploads, read_images, unless_gone
from service.errors import BadParameter, BodyTooLarge, DeadlineExceeded, EmptyBody, Overloaded, ServiceError
from service.serving.deadline import Deadline
from service.settings import Settings
from tests.conftest import encode_image
from tests.live import live_server
from tests.waiting import wait_until

LIMIT = 1000
BOUNDARY = "frontier"
FORM = f"multipart/form-data; boundary={BOUNDARY}"


def form(*parts: tuple[str, bytes], end: bytes = b"--frontier--\r\n") -> bytes:
    """A form of (field name, content)."""
    head = b'--frontier\r\nContent-Disposition: form-data; name="%s"; filename="x.jpg"\r\n\r\n'
    return b"".join(head % name.encode() + content + b"\r\n" for name, content in parts) + end


class Sender:
    """An ASGI ``receive`` that sends a body in chunks, and counts how many were asked for."""

    def __init__(self, body: bytes, chunk: int = 65536, *, leaves: bool = False) -> None:
        self.chunks = [body[at : at + chunk] for at in range(0, len(body), chunk)] or [b""]
        self.leaves = leaves
        self.asked = 0

    async def __call__(self) -> Message:
        """The next message."""
        self.asked += 1
        if self.asked <= len(self.chunks):
            more = self.leaves or self.asked < len(self.chunks)
            return {"type": "http.request", "body": self.chunks[self.asked - 1], "more_body": more}
        return {"type": "http.disconnect"}


def read(sender: Sender, content_type: str = "image/jpeg", limit: int = LIMIT, **headers: str) -> list[bytes]:
    """What ``read_images`` makes of a request."""
    fields = {"content-type": content_type, **{name.replace("_", "-"): value for name, value in headers.items()}}
    raw = [(name.encode(), value.encode()) for name, value in fields.items()]
    request = Request({"type": "http", "method": "POST", "path": "/", "headers": raw}, sender)
    return [image.data for image in asyncio.run(read_images(request, limit))]


@pytest.mark.parametrize("chunk", [1, 7, 100, 65536])
def test_a_raw_body_is_one_image_however_it_is_cut(chunk: int) -> None:
    """Where the network cuts a body must not show."""
    assert read(Sender(bytes(range(256)), chunk)) == [bytes(range(256))]


@pytest.mark.parametrize("chunk", [1, 3, 50, 65536])
def test_a_form_gives_its_images_in_order_however_it_is_cut(chunk: int) -> None:
    """Several parts named ``image`` are several images; line ends and boundary-like bytes in them are theirs."""
    images = [b"first\r\n--front\r\n", b"\r\n\r\n--", bytes(range(256))]
    assert read(Sender(form(*[("image", image) for image in images]), chunk), FORM) == images


def test_a_part_brings_its_file_name() -> None:
    """As it was sent, be it UTF-8, other bytes or missing; a raw body has none."""
    head = b'--frontier\r\nContent-Disposition: form-data; name="image"'
    body = b"".join(
        head + name + b"\r\n\r\nx\r\n"
        for name in (b'; filename="a b.jpg"', '; filename="\u00fc.jpg"'.encode(), b"", b'; filename="\xff.jpg"')
    )
    raw = [(b"content-type", b"multipart/form-data; boundary=frontier")]
    request = Request({"type": "http", "method": "POST", "path": "/", "headers": raw}, Sender(body + b"--frontier--\r\n"))
    images = asyncio.run(read_images(request, LIMIT))
    assert [image.name for image in images] == ["a b.jpg", "\u00fc.jpg", None, "\ufffd.jpg"]
    alone = Request({"type": "http", "method": "POST", "path": "/", "headers": []}, Sender(b"x"))
    assert asyncio.run(read_images(alone, LIMIT))[0].name is None


@pytest.mark.parametrize("content_type", ["", "application/octet-stream", "application/x-www-form-urlencoded", "nonsense"])
def test_the_content_type_of_a_raw_body_is_not_believed(content_type: str) -> None:
    """The bytes decide what they are: ``curl --data-binary`` calls every image a form."""
    assert read(Sender(b"abc"), content_type) == [b"abc"]


def test_a_body_of_exactly_the_limit_passes() -> None:
    """The limit itself is allowed, raw and in a form."""
    assert read(Sender(bytes(LIMIT), 99)) == [bytes(LIMIT)]
    assert read(Sender(form(("image", bytes(LIMIT))), 99), FORM) == [bytes(LIMIT)]


def test_an_announced_length_over_the_limit_is_refused_before_a_byte_is_read() -> None:
    """Content-Length is enough to say no."""
    sender = Sender(bytes(10))
    with pytest.raises(BodyTooLarge) as raised:
        read(sender, content_length=str(LIMIT + 1))
    assert sender.asked == 0
    assert raised.value.facts == {"limit": LIMIT, "actual": LIMIT + 1, "unit": "bytes"}


def test_a_form_may_announce_a_little_more_than_its_images() -> None:
    """Boundaries and part headers are not counted against the image."""
    body = form(("image", bytes(LIMIT)))
    assert read(Sender(body), FORM, content_length=str(len(body))) == [bytes(LIMIT)]
    with pytest.raises(BodyTooLarge):
        read(Sender(body), FORM, content_length=str(LIMIT + MULTIPART_ALLOWANCE + 1))


@pytest.mark.parametrize("content_type", ["image/jpeg", FORM])
def test_a_body_of_unknown_length_is_refused_at_the_chunk_that_passes_the_limit(content_type: str) -> None:
    """Without Content-Length the running count decides; the rest is not read."""
    head = form(("image", b""), end=b"")[:-2] if content_type == FORM else b""
    sender = Sender(head + bytes(10 * LIMIT), 100)
    with pytest.raises(BodyTooLarge) as raised:
        read(sender, content_type)
    assert "actual" not in raised.value.facts
    assert sender.asked <= (LIMIT + len(head)) // 100 + 2


def test_the_images_of_a_form_share_the_limit() -> None:
    """Many images share one limit."""
    with pytest.raises(BodyTooLarge):
        read(Sender(form(*[("image", bytes(LIMIT // 2))] * 3)), FORM)


def test_a_preamble_without_end_is_cut_off() -> None:
    """What belongs to no part counts as well."""
    with pytest.raises(BodyTooLarge):
        read(Sender(b"\r\n" * (LIMIT + MULTIPART_ALLOWANCE)), FORM)


@pytest.mark.parametrize(
    ("body", "content_type", "error", "says"),
    [
        (b"", "image/png", EmptyBody, "empty"),
        (b"", FORM, EmptyBody, "empty"),
        (form(("image", b"")), FORM, EmptyBody, "'image' is empty"),
        (form(("image", b"a"), ("image", b"")), FORM, EmptyBody, "'image' is empty"),
        (form(), FORM, BadParameter, "'image'"),
        (form(("file", b"a")), FORM, BadParameter, "must be named 'image', found 'file'"),
        (form(("image", b"a"), ("model", b"b")), FORM, BadParameter, "found 'model'"),
        (b"--frontier\r\nX-Y: z\r\n\r\na\r\n--frontier--\r\n", FORM, BadParameter, "without a name"),
        (form(("image", b"a"), end=b""), FORM, BadParameter, "closing boundary"),
        (b"no form at all", FORM, BadParameter, "cannot be read"),
        (form(*[("image", b"a")] * (MAX_PARTS + 1)), FORM, BadParameter, "more than"),
        (b"--frontier\r\n" + b"X: y\r\n" * 1000, FORM, BadParameter, "cannot be read"),
        (b"--frontier\r\nX: " + b"y" * 50_000, FORM, BadParameter, "cannot be read"),
        (form(("image", b"a")), "multipart/form-data", BadParameter, "boundary"),
        (form(("image", b"a")), f"multipart/form-data; boundary={'x' * 5000}", BadParameter, "cannot be read"),
        (form(("image", b"a")), f"multipart/mixed; boundary={BOUNDARY}", BadParameter, "multipart/form-data"),
    ],
)
def test_a_wrong_body_is_refused_with_a_sentence(body: bytes, content_type: str, error: type[ServiceError], says: str) -> None:
    """Each mistake has its error, and the message names the remedy."""
    with pytest.raises(error) as raised:
        read(Sender(body), content_type)
    assert says in raised.value.message


def test_a_sender_who_leaves_is_noticed() -> None:
    """Half an upload is not an image."""
    with pytest.raises(ClientDisconnect):
        read(Sender(b"half", leaves=True))


def test_work_is_cancelled_when_its_caller_goes_away() -> None:
    """Work whose caller has gone is cancelled."""

    async def scenario() -> bool:
        cancelled = asyncio.Event()

        async def work() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                cancelled.set()

        sender = Sender(b"")
        sender.asked = len(sender.chunks)
        request = Request({"type": "http", "method": "POST", "path": "/", "headers": []}, sender)
        with pytest.raises(ClientDisconnect):
            await unless_gone(request, work())
        await asyncio.wait_for(cancelled.wait(), 1)
        return cancelled.is_set()

    assert asyncio.run(scenario())


@pytest.mark.parametrize("leaves", [False, True])
def test_a_deadline_ends_work_with_its_own_error(leaves: bool) -> None:
    """Also where the caller leaves at the same moment."""

    async def scenario() -> None:
        moment = asyncio.Event()

        async def receive() -> dict[str, str]:
            await (moment.wait() if leaves else asyncio.sleep(60))
            return {"type": "http.disconnect"}

        async def work() -> None:
            moment.set()
            await asyncio.sleep(60)

        request = Request({"type": "http", "method": "POST", "path": "/", "headers": []}, receive)
        deadline = Deadline(0.0)
        with pytest.raises(DeadlineExceeded):
            async with deadline:
                await unless_gone(request, work())

    asyncio.run(asyncio.wait_for(scenario(), 10))


@pytest.fixture(scope="module")
def small_server(artifact_dir: Path) -> Iterator[str]:
    """A real server that takes images up to 100,000 bytes."""
    with live_server(Settings(models_dir=artifact_dir, max_image_bytes=100_000)) as base_url:
        yield base_url


@contextmanager
def connection(base_url: str, head: str) -> Iterator[socket.socket]:
    """A socket on which the head of an upload has been sent."""
    address = urlsplit(base_url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as link:
        link.sendall(f"POST /segment HTTP/1.1\r\nHost: test\r\nContent-Type: image/jpeg\r\n{head}\r\n\r\n".encode())
        yield link


def reply_of(link: socket.socket) -> str:
    """All that the server says until it closes."""
    received = b""
    while chunk := link.recv(65536):
        received += chunk
    return received.decode()


def test_an_upload_that_announces_too_much_is_refused_before_it_is_sent(small_server: str) -> None:
    """The 413 comes while the sender has a gigabyte still to send, long before the 30 s of an upload are over."""
    begun = time.monotonic()
    with connection(small_server, "Content-Length: 1000000000") as link:
        first = link.recv(65536).decode()
    assert first.startswith("HTTP/1.1 413 ")
    assert '"limit": 100000' in first
    assert time.monotonic() - begun < 10


def test_an_endless_upload_is_refused_while_it_streams(small_server: str) -> None:
    """A chunked body that never ends gets its 413 right after the limit, then the connection closes: a slow sender sees it."""
    with connection(small_server, "Transfer-Encoding: chunked") as link:
        piece = b"2000\r\n" + bytes(0x2000) + b"\r\n"
        sent = 0
        link.settimeout(0.05)
        first = b""
        while not first and sent < 40:
            link.sendall(piece)
            sent += 1
            try:
                first = link.recv(65536)
            except TimeoutError:
                continue
        assert first.startswith(b"HTTP/1.1 413 ")
        assert b"connection: close" in first.lower()
        assert sent * 0x2000 < 3 * 100_000


def test_a_refused_sender_who_goes_on_for_a_while_still_reads_the_reply(small_server: str) -> None:
    """A client that reads only after its whole body is out finds the reply, not a reset connection."""
    with connection(small_server, "Content-Length: 8000000") as link:
        for _ in range(80):
            link.sendall(bytes(100_000))
        assert reply_of(link).startswith("HTTP/1.1 413 ")


def test_a_waiting_sender_is_told_no_instead_of_to_continue(small_server: str) -> None:
    """A curl asks before it sends a large body (Expect: 100-continue), and need not send it."""
    with connection(small_server, "Content-Length: 1000000000\r\nExpect: 100-continue") as link:
        assert link.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_an_ordinary_client_reads_the_refusal_of_a_large_file(small_server: str) -> None:
    """httpx, with and without a length, raw and as a form, gets the problem document."""
    large = bytes(5_000_000)
    with httpx.Client(base_url=small_server) as client:
        replies = [
            client.post("/segment", content=large),
            client.post("/segment", content=iter([large[:100_001]] * 50)),
            client.post("/segment", files={"image": large}),
        ]
        assert [reply.status_code for reply in replies] == [413, 413, 413]
        assert {reply.json()["code"] for reply in replies} == {"body_too_large"}
        assert client.get("/livez").status_code == 200


def test_all_bodies_together_are_bounded() -> None:
    """Bodies that are held count, for all callers together, until their requests are answered."""
    uploads = Uploads(100)
    with uploads.one_more() as first:
        first(60)
        with uploads.one_more() as second:
            second(30)
            with pytest.raises(Overloaded) as caught:
                second(30)
        assert caught.value.retry_after_s == 1
        assert uploads.size == 60
        with uploads.one_more() as third:
            third(40)
    assert uploads.size == 0


def test_senders_who_never_finish_cannot_fill_the_memory(artifact_dir: Path, png: bytes) -> None:
    """Twenty uploads that stop in the middle: those beyond the bound are told to come back, and the next image is served."""
    with (
        live_server(Settings(models_dir=artifact_dir, max_image_bytes=1_000_000, max_scan_bytes=1_000_000)) as url,
        contextlib.ExitStack() as stack,
    ):
        address = (urlsplit(url).hostname or "", urlsplit(url).port or 0)
        waiting = []
        for _ in range(20):
            waiting.append(stack.enter_context(socket.create_connection(address, timeout=30)))
            waiting[-1].sendall(b"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + bytes(900_000))
        answers: list[bytes] = []
        while len(answers) < 20 - UPLOADS_AT_ONCE:
            told = select.select(waiting, [], [], 30)[0]
            assert told
            answers += [connection.recv(65536) for connection in told]
            waiting = [connection for connection in waiting if connection not in told]
        assert len(answers) == 20 - UPLOADS_AT_ONCE
        assert all(answer.startswith(b"HTTP/1.1 429 ") for answer in answers)
        stack.close()
        wait_until(lambda: httpx.post(f"{url}/segment", content=png).status_code == 200, "the memory to be given back")


def test_a_reader_who_does_not_read_is_cut_off(artifact_dir: Path) -> None:
    """A large mask is not kept in memory: it is cut off, and the connection closed."""
    image = encode_image(np.full((4000, 6000), 90, np.uint8))
    with live_server(Settings(models_dir=artifact_dir), Bounds(reply_s=0.3)) as url:
        address = (urlsplit(url).hostname or "", urlsplit(url).port or 0)
        with socket.create_connection(address, timeout=30) as connection:
            head = f"POST /segment?format=npy HTTP/1.1\r\nHost: x\r\nContent-Length: {len(image)}\r\n\r\n"
            connection.sendall(head.encode() + image)
            came = len(connection.recv(1000, socket.MSG_WAITALL))
            wait_until(lambda: "\nfcn_connections 1.0\n" in httpx.get(f"{url}/metrics").text)  # while no byte is read
            with contextlib.suppress(ConnectionError):
                while piece := connection.recv(1 << 20):
                    came += len(piece)
        assert came < 4000 * 6000


@pytest.mark.parametrize("path", ["/segment", "/v2/models/colours/infer"])
def test_a_body_that_takes_too_long_is_told_its_own_limit_and_its_connection_closed(artifact_dir: Path, path: str) -> None:
    """However long the deadline that its sender names; the reply comes first."""
    with live_server(Settings(models_dir=artifact_dir), Bounds(upload_s=0.2)) as url:
        address = (urlsplit(url).hostname or "", urlsplit(url).port or 0)
        with socket.create_connection(address, timeout=30) as connection:
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\nX-Deadline-Ms: 600000\r\n\r\n"
            connection.sendall(head.encode() + b"{")
            reply = b""
            while piece := connection.recv(65536):
                reply += piece
    assert reply.startswith(b"HTTP/1.1 504 ")
    assert b"\r\nconnection: close\r\n" in reply
    assert b"the body did not arrive within 200 ms" in reply


FORM_SEED = form(("image", b"first"), ("image", bytes(range(64))))


@given(st.binary(max_size=300) | st.tuples(st.integers(0, len(FORM_SEED)), st.integers(0, 40), st.binary(max_size=40)))
def test_whatever_form_comes_it_is_read_or_refused(change: bytes | tuple[int, int, bytes]) -> None:
    """Any bytes, and a good form with some of its bytes replaced: images or an error of ours, nothing else."""
    if isinstance(change, tuple):
        at, length, new = change
        change = FORM_SEED[:at] + new + FORM_SEED[at + length :]
    try:
        images = read(Sender(change, 7), FORM)
    except ServiceError:
        return
    assert all(images)
