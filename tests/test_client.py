"""Both clients, against a real server and against servers that misbehave, all on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import httpx
import numpy as np
import pytest
from PIL import Image
from pydantic import SecretStr

from models.scenes import street_scene
from service.client import (
    AsyncClient,
    Catalogue,
    ClassEntry,
    Client,
    ConnectionFailed,
    Encoded,
    Mask,
    TimedOut,
    Timeouts,
    clients,
    images,
    replies,
)
from service.client.calls import segment_call
from service.client.replies import Reply, parse_retry_after, parse_server_timing, raise_for_problem
from service.encodings import decode, png, rle
from service.errors import (
    BadParameter,
    CorruptImage,
    DeadlineExceeded,
    NotReady,
    Overloaded,
    ServiceError,
    UnknownClass,
    UnknownModel,
    UnsupportedFormat,
    UnsupportedImage,
)
from service.settings import Settings
from tests.conftest import encode_image, make_image, make_labels, make_manifest, write_artifact
from tests.live import ROOT, live_server

Segment = Callable[..., Mask]


@pytest.fixture(params=["Client", "AsyncClient"])
def segment(request: pytest.FixtureRequest) -> Segment:
    """``segment(url, image, options, **what)`` with either client: both keep the same promises."""

    def plain(url: str, image: Any, options: dict[str, Any] | None = None, **what: Any) -> Mask:
        with Client(url, **(options or {})) as client:
            return client.segment(image, **what)

    def awaited(url: str, image: Any, options: dict[str, Any] | None = None, **what: Any) -> Mask:
        async def run() -> Mask:
            async with AsyncClient(url, **(options or {})) as client:
                return await client.segment(image, **what)

        return asyncio.run(run())

    return {"Client": plain, "AsyncClient": awaited}[request.param]


# A real server ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(artifact_dir: Path) -> Iterator[str]:
    """The address of the real service, with one key, on a port of its own."""
    with live_server(Settings(models_dir=artifact_dir, api_keys=(SecretStr("open sesame"),))) as url:
        yield url


KEY: dict[str, Any] = {"api_key": "open sesame"}


@pytest.mark.parametrize("form", ["path", "text", "bytes", "bytearray", "array", "picture"])
def test_an_image_can_be_given_in_any_form(form: str, server: str, segment: Segment, tmp_path: Path) -> None:
    """A path, bytes, an array or a Pillow image: the mask is right and of the image's size."""
    pixels = make_image(75, 101)
    data = encode_image(pixels)
    path = tmp_path / "street.png"
    path.write_bytes(data)
    forms: dict[str, Any] = {
        "path": path,
        "text": str(path),
        "bytes": data,
        "bytearray": bytearray(data),
        "array": pixels,
        "picture": Image.fromarray(pixels),
    }
    mask = segment(server, forms[form], KEY)
    assert mask.labels.dtype == np.uint8
    assert mask.labels.shape == (75, 101)
    assert np.mean(mask.labels == make_labels(75, 101)) > 0.9


def test_a_mask_tells_what_it_is(server: str, segment: Segment) -> None:
    """Classes with their shares, the model, the stages' times, and the frame that it belongs to."""
    mask = segment(server, make_image(), KEY, frame_id="front_camera", frame_stamp="1699999999.123456789")
    assert [present.name for present in mask.classes] == ["red", "green", "blue"]
    assert sum(present.pixels for present in mask.classes) == mask.labels.size
    assert sum(present.share for present in mask.classes) == pytest.approx(1)
    assert str(mask.model) == "colours@1.0.0"
    assert len(mask.model.sha256) == 64
    assert {"decode", "queue", "infer", "labels", "encode"} <= set(mask.timing)
    assert all(spent >= 0 for spent in mask.timing.values())
    assert mask.request_id
    assert (mask.frame_id, mask.frame_stamp) == ("front_camera", "1699999999.123456789")


def test_filters_travel(server: str, segment: Segment) -> None:
    """Classes by name and id, a bar for the confidence, the model's name: all arrive."""
    kept = segment(server, make_image(), KEY, model="colours", classes=["red", 2])
    assert set(np.unique(kept.labels)) == {0, 2, 255}
    assert [present.name for present in kept.classes] == ["red", "blue"]
    assert set(np.unique(segment(server, make_image(), KEY, classes="red").labels)) == {0, 255}
    assert (segment(server, make_image(), KEY, min_confidence=1.0).labels == 255).all()


def test_other_ids_and_statistics_travel(tmp_path: Path, segment: Segment) -> None:
    """Labels and classes are those of the table that was asked for, each with its bounding box and its confidence."""
    street = [{"id": k, "name": name, "color": (k, k, k)} for k, name in enumerate(["road", "car", "crate"])]
    write_artifact(tmp_path / "street.onnx", make_manifest(name="street", classes=street))
    with live_server(Settings(models_dir=tmp_path)) as url:
        mask = segment(url, make_image(), {}, ids="cityscapes-label", statistics=True)
        plain = segment(url, make_image(), {})
    np.testing.assert_array_equal(mask.labels, np.array([7, 26, 255])[plain.labels])
    assert [(present.id, present.name) for present in mask.classes] == [(7, "road"), (26, "car")]
    assert mask.classes[0].bbox is not None
    assert mask.classes[0].bbox[:2] == (0, 0)
    assert all(present.confidence is not None and 0 < present.confidence < 1 for present in mask.classes)
    assert all(present.bbox is None and present.confidence is None for present in plain.classes)


@pytest.mark.parametrize(
    ("image", "what", "error"),
    [
        (b"this is a text", {}, UnsupportedImage),
        (encode_image(make_image())[:200], {}, CorruptImage),
        (make_image(), {"model": "missing"}, UnknownModel),
        (make_image(), {"classes": ["yellow"]}, UnknownClass),
        (make_image(), {"min_confidence": 7}, BadParameter),
    ],
)
def test_the_server_s_error_is_raised_as_its_own_class(
    image: Any, what: dict[str, Any], error: type[ServiceError], server: str, segment: Segment
) -> None:
    """The class, the sentence, the facts and the request id all cross the wire."""
    with pytest.raises(error) as caught:
        segment(server, image, KEY, **what)
    assert type(caught.value) is error
    assert caught.value.message
    assert caught.value.facts["request_id"]
    assert 400 <= int(str(caught.value.facts["status"])) < 500


def test_facts_can_be_read(server: str, segment: Segment) -> None:
    """A program learns from the error what would have worked."""
    with pytest.raises(UnknownClass) as caught:
        segment(server, make_image(), KEY, classes=["yellow"])
    assert caught.value.allowed == ["red", "green", "blue"]


def test_models_are_listed(server: str) -> None:
    """Both clients give the models with their class tables and everything else that the manifest says."""

    async def awaited() -> Catalogue:
        async with AsyncClient(server, **KEY) as client:
            return await client.models()

    with Client(server, **KEY) as client:
        catalogue = client.models()
    assert catalogue == asyncio.run(awaited())
    assert catalogue.default == "colours"
    (model,) = catalogue.models
    assert (model.name, model.version) == ("colours", "1.0.0")
    assert model.classes[0] == ClassEntry(0, "red", (255, 0, 0))
    assert model.manifest["stride"] == make_manifest().stride


def test_without_the_key_nothing_is_served(server: str, segment: Segment) -> None:
    """A wrong key is an error at once: repeating it would not help."""
    for options in ({}, {"api_key": "guessed"}):
        with pytest.raises(ServiceError) as caught:
            segment(server, make_image(), options)
        assert caught.value.facts["status"] == 401


def test_a_key_is_never_shown() -> None:
    """Neither the client nor anything that it holds prints the key, or the password of its address."""
    with Client("http://me:password@localhost", api_key="open sesame") as client:
        shown = repr(client) + repr(vars(client)) + repr(vars(client._http)) + repr(client._http.headers)
    assert "sesame" not in shown
    assert "password" not in repr(client)
    with pytest.raises(ValueError, match="api_key") as caught:
        Client(api_key="open\nsesame")
    assert "sesame" not in str(caught.value)


def test_threads_share_a_client(server: str) -> None:
    """One client serves many threads, each with the answer to its own question."""
    sizes = [(40 + i, 60 + 2 * i) for i in range(16)]
    with Client(server, **KEY) as client, ThreadPoolExecutor(4) as pool:
        masks = list(pool.map(lambda size: client.segment(make_image(*size)), sizes))
    assert [mask.labels.shape for mask in masks] == sizes


def test_many_calls_run_at_once(server: str) -> None:
    """The asyncio client has many calls under way, each with the answer to its own question."""
    sizes = [(40 + i, 60 + 2 * i) for i in range(16)]

    async def run() -> list[Mask]:
        async with AsyncClient(server, **KEY) as client:
            return await asyncio.gather(*(client.segment(make_image(*size), frame_id=str(size)) for size in sizes))

    masks = asyncio.run(run())
    assert [mask.labels.shape for mask in masks] == sizes
    assert [mask.frame_id for mask in masks] == [str(size) for size in sizes]


# Servers that misbehave ------------------------------------------------------------------------------------------------------

Deed = Callable[[socket.socket], None]


class Scripted:
    """A server on a real socket that does to each request what the next line of a script says, and the last line for ever."""

    def __init__(self, *script: Deed) -> None:
        self.requests: list[str] = []
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept)]
        self._stopped = threading.Event()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(connection,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(5)
            received = b""
            while b"\r\n\r\n" not in received:
                received += _more(connection)
            head, _, body = received.partition(b"\r\n\r\n")
            length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
            while len(body) < length:
                body += _more(connection)
            self.requests.append(head.decode())
            self._script[min(len(self.requests), len(self._script)) - 1](connection)


def _more(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise ConnectionResetError  # one that is cancelled before all is sent
    return data


def reply(status: int, body: bytes, **headers: str) -> Deed:
    """A complete answer."""
    lines = [f"HTTP/1.1 {status} X", "Connection: close", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return lambda connection: connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)


def problem(status: int, code: str, facts: dict[str, Any] | None = None, **headers: str) -> Deed:
    """A problem document."""
    document = {"type": "x", "title": "x", "status": status, "detail": "a sentence", "code": code, "request_id": "r1"}
    return reply(status, json.dumps({**document, **(facts or {})}).encode(), Content_Type="application/problem+json", **headers)


def good() -> Deed:
    """The mask of a picture of 2 x 2."""
    document = rle.encode(np.array([[0, 1], [1, 255]], np.uint8), make_manifest().classes)
    document["model"] = {"name": "colours", "version": "1", "sha256": "0" * 64}
    return reply(200, json.dumps(document).encode(), X_Request_ID="r2", Server_Timing="decode;dur=1.5, infer;dur=20")


def hang_up(connection: socket.socket) -> None:
    """No answer at all."""
    connection.close()


def break_off(connection: socket.socket) -> None:
    """Half an answer."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")


def say_nothing(connection: socket.socket) -> None:
    """An open connection and silence, until the other side gives up."""
    connection.recv(1)


def drip(connection: socket.socket) -> None:
    """An answer that never ends, a byte at a time, each well before a timeout."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(1000):
        connection.sendall(b" ")
        time.sleep(0.05)


SHED = problem(429, "overloaded", Retry_After="0")
STARTING = problem(503, "not_ready", Retry_After="0")
PICTURE = np.zeros((2, 2, 3), np.uint8)


@pytest.mark.parametrize("fault", [SHED, STARTING, hang_up, break_off], ids=["shed", "starting", "hang_up", "break_off"])
def test_what_passes_is_tried_again(fault: Deed, segment: Segment) -> None:
    """Shed, not ready, or cut off: the call is repeated, and its caller never knows."""
    with Scripted(fault, fault, good()) as server:
        mask = segment(server.url, PICTURE)
    assert mask.labels.tolist() == [[0, 1], [1, 255]]
    assert (mask.request_id, mask.timing) == ("r2", {"decode": 1.5, "infer": 20.0})
    assert len(server.requests) == 3


def test_retry_after_is_obeyed(segment: Segment) -> None:
    """The next attempt comes no earlier than the server asked for; the body's figure is finer than the header's."""
    with Scripted(problem(429, "overloaded", {"retry_after_s": 0.3}, Retry_After="40"), good()) as server:
        begun = time.monotonic()
        segment(server.url, PICTURE)
        took_s = time.monotonic() - begun
    assert 0.3 <= took_s < 30


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (SHED, Overloaded),
        (STARTING, NotReady),
        (hang_up, ConnectionFailed),
    ],
    ids=["shed", "starting", "hang_up"],
)
def test_attempts_are_counted(fault: Deed, error: type[ServiceError], segment: Segment) -> None:
    """After the last retry the caller gets the error that stood in the way."""
    with Scripted(fault) as server, pytest.raises(error):
        segment(server.url, PICTURE, {"retries": 2})
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (problem(429, "overloaded"), Overloaded),
        (problem(503, "not_ready", Retry_After="soon"), NotReady),
        (problem(504, "deadline_exceeded", Retry_After="0"), DeadlineExceeded),
        (problem(422, "corrupt_image"), CorruptImage),
        (problem(500, "internal_error"), ServiceError),
        (problem(429, "overloaded", {"retry_after_s": float("nan")}), Overloaded),
        (problem(429, "overloaded", {"retry_after_s": -1}), Overloaded),
        (problem(429, "overloaded", {"retry_after_s": "1"}), Overloaded),
    ],
)
def test_what_does_not_pass_is_not_tried_again(answer: Deed, error: type[ServiceError], segment: Segment) -> None:
    """Without a sensible Retry-After, or where the same call would fail the same way, one attempt is all."""
    with Scripted(answer) as server, pytest.raises(error) as caught:
        segment(server.url, PICTURE)
    assert type(caught.value) is error
    assert caught.value.facts["request_id"] == "r1"
    assert len(server.requests) == 1


def test_a_wait_beyond_the_time_left_is_not_begun(segment: Segment) -> None:
    """A server that asks for a minute, a caller who has half of one: the error comes at once."""
    with Scripted(problem(503, "not_ready", Retry_After="60")) as server:
        begun = time.monotonic()
        with pytest.raises(NotReady):
            segment(server.url, PICTURE, {"timeouts": Timeouts(total_s=30)})
        assert time.monotonic() - begun < 20


@pytest.mark.parametrize("fault", [say_nothing, drip], ids=["say_nothing", "drip"])
@pytest.mark.parametrize(
    ("options", "what"),
    [({"timeouts": Timeouts(total_s=0.3)}, {}), ({}, {"deadline_ms": 50})],
    ids=["total", "deadline"],
)
def test_a_call_ends_in_time(fault: Deed, options: dict[str, Any], what: dict[str, Any], segment: Segment) -> None:
    """Silence or an endless answer: the caller is free again when the total time is up, or shortly after the deadline."""
    with Scripted(fault) as server:
        begun = time.monotonic()
        with pytest.raises(TimedOut):
            segment(server.url, PICTURE, options, **what)
        assert time.monotonic() - begun < 20  # each of the other limits is longer
    assert len(server.requests) <= 1


def test_the_read_timeout_finds_a_silent_server(segment: Segment) -> None:
    """The total time may be long: a silence is noticed earlier."""
    with Scripted(say_nothing) as server, pytest.raises(TimedOut):
        segment(server.url, PICTURE, {"timeouts": Timeouts(read_s=0.1, total_s=60)})


def test_the_deadline_that_is_left_travels_with_each_attempt(segment: Segment) -> None:
    """A repeated call tells the server how much time remains, not how much there was."""
    with Scripted(problem(429, "overloaded", {"retry_after_s": 0.1}), good()) as server:
        segment(server.url, PICTURE, deadline_ms=5000)
    lines = [line for request in server.requests for line in request.split("\r\n") if line.startswith("X-Deadline-Ms")]
    first, second = (float(line.split(":")[1]) for line in lines)
    assert second + 100 <= first <= 5000


def test_a_server_that_comes_back_is_found(segment: Segment) -> None:
    """A restart behind the caller's back costs time and nothing else."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    server = Scripted(good())
    server._listener.close()

    def come_back() -> None:
        time.sleep(0.4)
        server._listener = socket.create_server(("127.0.0.1", port))
        server._threads[0].start()

    returning = threading.Thread(target=come_back)
    returning.start()
    try:
        assert segment(f"http://127.0.0.1:{port}", PICTURE).labels.shape == (2, 2)
    finally:
        returning.join()
        server.__exit__()


def test_a_silent_address_is_said(segment: Segment) -> None:
    """The error names the address that did not answer, without the password that was in the address."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ConnectionFailed, match=f"127.0.0.1:{port}") as caught:
        segment(f"http://me:password@127.0.0.1:{port}", PICTURE, {"retries": 0})
    assert "password" not in str(caught.value)


def test_ready_is_a_plain_answer(server: str) -> None:
    """True, or False; never an error, whatever answers or does not."""

    async def awaited(url: str) -> bool:
        async with AsyncClient(url, timeouts=Timeouts(total_s=0.3)) as client:
            return await client.ready()

    with Scripted(STARTING) as starting, Scripted(say_nothing) as silent, Scripted(hang_up) as broken:
        for url, expected in ((server, True), (starting.url, False), (silent.url, False), (broken.url, False)):
            with Client(url, timeouts=Timeouts(total_s=0.3)) as client:
                assert client.ready() is expected
            assert asyncio.run(awaited(url)) is expected


@pytest.mark.parametrize(
    "answer",
    [
        reply(200, b"<html>hotel network: please log in</html>", Content_Type="text/html"),
        reply(200, b"[1, 2]"),
        reply(200, b"\xff\xfe"),
        reply(200, b'{"size": [1, 1], "order": "row-major", "labels": [0], "lengths": [2], "classes": []}'),
        reply(502, b"<html>bad gateway</html>", Content_Type="text/html"),
        reply(404, b'{"detail": "Not Found"}'),
        reply(307, b"", Location="http://127.0.0.1:1/"),
    ],
)
def test_another_server_s_answer_is_an_error(answer: Deed, segment: Segment) -> None:
    """A proxy's page or a stranger's JSON never becomes a mask."""
    with Scripted(answer) as server, pytest.raises(ServiceError, match="is the address right") as caught:
        segment(server.url, PICTURE)
    assert type(caught.value) is ServiceError


def test_a_later_server_may_say_more(segment: Segment) -> None:
    """Fields and error codes that this client does not know yet do no harm."""
    with Scripted(good()) as server:
        more = segment(server.url, PICTURE)
    assert more.classes
    document = {"code": "out_of_paint", "detail": "no paint", "status": 418, "colour": "red", "message": "x", "request_id": "r"}
    with pytest.raises(ServiceError, match="no paint") as caught:
        raise_for_problem(Reply(418, {}, json.dumps(document).encode()))
    assert caught.value.facts["code"] == "out_of_paint"
    assert caught.value.facts["colour"] == "red"


def test_a_cancelled_call_lets_its_connection_go() -> None:
    """A cancelled call ends as cancelled, and the client goes on working."""

    async def run(url: str) -> Mask:
        async with AsyncClient(url, connections=1) as client:
            calling = asyncio.create_task(client.segment(PICTURE))
            await asyncio.sleep(0.1)
            calling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await calling
            return await client.segment(PICTURE)

    with Scripted(say_nothing, good()) as server:
        assert asyncio.run(run(server.url)).labels.shape == (2, 2)


# The pure parts --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK", "YCbCr", "HSV"])
def test_a_picture_of_any_mode_can_be_sent(mode: str) -> None:
    """Every mode of Pillow's becomes a PNG that shows the same picture."""
    picture = Image.fromarray(make_image()).convert("L" if mode == "I;16" else mode).convert(mode)
    sent = Image.open(io.BytesIO(images.image_bytes(picture)))
    assert sent.format == "PNG"
    assert sent.size == picture.size
    if mode in images._PNG_MODES - {"I;16"}:
        assert np.array_equal(np.asarray(sent.convert("RGBA")), np.asarray(picture.convert("RGBA")))


def test_a_picture_is_sent_as_its_pixels_are() -> None:
    """The mask must fit the Pillow image in the caller's hands, so the orientation that its file had does not travel."""
    picture = Image.fromarray(make_image()).convert("L")
    picture.getexif()[0x0112] = 6
    sent = Image.open(io.BytesIO(images.image_bytes(picture)))
    assert not sent.getexif()


def test_arrays_are_sent_without_loss() -> None:
    """Colour and grey arrays are written by our own PNG writer, views included."""
    pixels = make_image()
    assert images.image_bytes(pixels) == png.encode_rgb(pixels)
    assert images.image_bytes(pixels[..., 0]) == png.encode_gray(pixels[..., 0])
    assert images.image_bytes(memoryview(b"abc")) == b"abc"


@pytest.mark.parametrize(
    ("image", "error"),
    [
        (np.zeros((4, 4, 3)), TypeError),
        (np.zeros((4, 4, 3), np.uint16), TypeError),
        (np.zeros((4, 4, 4), np.uint8), ValueError),
        (np.zeros((0, 4, 3), np.uint8), ValueError),
        (np.zeros(4, np.uint8), ValueError),
        (42, TypeError),
        (None, TypeError),
        ("/no/such/file.jpg", FileNotFoundError),
    ],
)
def test_another_object_is_told_before_anything_is_sent(image: Any, error: type[Exception]) -> None:
    """A caller's mistake is Python's own kind of error."""
    with pytest.raises(error):
        images.image_bytes(image)


@pytest.mark.parametrize("text", ["two\r\nlines", "caf\u00e9", "\x00"])
def test_a_frame_id_must_fit_a_header(text: str) -> None:
    """What cannot travel in a header is refused by name."""
    with pytest.raises(ValueError, match="frame_id"):
        segment_call(b"x", frame_id=text)
    with pytest.raises(ValueError, match="frame_stamp"):
        segment_call(b"x", frame_stamp=text)


@pytest.mark.parametrize(
    ("header", "timing"),
    [
        ("", {}),
        ("decode;dur=1.2, infer;dur=30", {"decode": 1.2, "infer": 30.0}),
        ('cache, db;desc="x";dur=4 ,miss', {"db": 4.0}),
    ],
)
def test_server_timing_is_read(header: str, timing: dict[str, float]) -> None:
    """Milliseconds by name; what has no duration is left out."""
    assert parse_server_timing(header) == timing


def test_both_forms_of_retry_after_are_read() -> None:
    """Seconds, or a date; a date that has passed is now, and nonsense is nothing."""
    soon = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert parse_retry_after("12") == 12
    assert 28 <= (parse_retry_after(soon) or 0) <= 30
    assert parse_retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert parse_retry_after("soon") is None
    assert parse_retry_after("") is None


def test_the_call_is_the_contract_s() -> None:
    """The request that leaves the client, to the letter."""
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(422, json={"code": "empty_body", "detail": "x"})

    with Client("http://host/prefix", api_key="k", transport=httpx.MockTransport(answer)) as client:
        with pytest.raises(ServiceError):
            client.segment(b"body", "m", classes=["a b", 3], min_confidence=0.5, frame_id="f", frame_stamp="s")
        with pytest.raises(ServiceError):
            client.models()
    post, get = seen
    assert str(post.url) == "http://host/prefix/segment?format=rle&classes=a+b&classes=3&model=m&min_confidence=0.5"
    assert post.content == b"body"
    sent = {name: post.headers[name] for name in ("X-API-Key", "X-Frame-Id", "X-Frame-Stamp", "Content-Type")}
    assert sent == {"X-API-Key": "k", "X-Frame-Id": "f", "X-Frame-Stamp": "s", "Content-Type": "application/octet-stream"}
    assert "X-Deadline-Ms" not in post.headers
    assert (get.method, str(get.url)) == ("GET", "http://host/prefix/models")


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("url", ["127.0.0.1:8711", "localhost", "", "ftp://127.0.0.1:8711"])
def test_an_address_without_its_scheme_is_refused_at_once(kind: type[Client | AsyncClient], url: str) -> None:
    """The error says what would have worked."""
    with pytest.raises(ValueError, match=f"try 'http://{url.removeprefix('ftp://')}'"):
        kind(url)


def test_the_asyncio_client_reads_no_mask_on_the_event_loop(artifact_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask of 12 megapixels takes 100 ms to read: the loop has other things to do meanwhile."""
    threads = []
    real = replies.parse_mask

    def noting(reply: Reply) -> Mask:
        threads.append(threading.current_thread())
        return real(reply)

    monkeypatch.setattr(clients, "parse_mask", noting)

    async def run(url: str) -> None:
        async with AsyncClient(url) as client:
            await client.segment(make_image())

    with live_server(Settings(models_dir=artifact_dir)) as url:
        asyncio.run(run(url))
    assert threads[0] is not threading.main_thread()


def test_things_come_one_by_one(segment: Segment, street_server: str) -> None:
    """Each with its own pixels and score. A pixel of an object has the object's class; all others have the label map's."""
    image = street_scene(180, 240, seed=1)[0]
    plain, mask = segment(street_server, image), segment(street_server, image, instances=True, statistics=True)
    claimed = np.zeros(mask.labels.shape, bool)
    for thing in mask.instances:
        assert (mask.labels[thing.mask] == thing.id).all()
        claimed |= thing.mask
    np.testing.assert_array_equal(mask.labels[~claimed], plain.labels[~claimed])
    assert [(one.id, one.pixels) for one in mask.classes] == [
        (int(k), int(n)) for k, n in zip(*np.unique(mask.labels, return_counts=True), strict=True)
    ]
    things = [thing for thing in mask.instances if thing.name == "car"]
    assert [thing.number for thing in things] == list(range(1, len(things) + 1))
    assert things
    union = np.zeros(mask.labels.shape, bool)
    for thing in things:
        assert thing.pixels == thing.mask.sum()
        assert not (union & thing.mask).any()
        union |= thing.mask
        y, x = np.nonzero(thing.mask)
        assert thing.bbox == (x.min(), y.min(), x.max() - x.min() + 1, y.max() - y.min() + 1)
        assert thing.score is not None
        assert 0 < thing.score <= 1
        assert thing.confidence is not None
    (car,) = (one for one in mask.classes if one.name == "car")
    assert not (union & (mask.labels != car.id)).any()
    y, x = np.nonzero(mask.labels == car.id)
    assert car.bbox == (x.min(), y.min(), x.max() - x.min() + 1, y.max() - y.min() + 1)
    assert plain.instances == ()


def test_small_things_are_dropped(segment: Segment, street_server: str) -> None:
    """Their pixels become unlabelled."""
    image = street_scene(180, 240, seed=1)[0]
    things = segment(street_server, image, instances=True).instances
    least = sorted(thing.pixels for thing in things)[len(things) // 2]
    big = segment(street_server, image, instances=True, min_area=least)
    assert [thing.pixels for thing in big.instances] == [thing.pixels for thing in things if thing.pixels >= least]


@pytest.fixture(scope="module")
def street_server() -> Iterator[str]:
    """A server with the shipped network, whose classes can be counted."""
    with live_server(Settings(models_dir=ROOT / "models" / "artifacts")) as url:
        yield url


def test_a_mask_comes_in_any_format(server: str) -> None:
    """As the server wrote it, by either client; an unknown format is the server's own error."""
    image = encode_image(make_image())

    async def by_asyncio(form: str, **query: Any) -> Encoded:
        async with AsyncClient(server, api_key="open sesame") as client:
            return await client.segment_as(image, form, **query)

    with Client(server, api_key="open sesame") as client:
        for form, media_type in (("png", "image/png"), ("coco-dataset", "application/json"), ("yolo", "text/plain")):
            made = client.segment_as(image, form)
            assert made.media_type == media_type
            assert asyncio.run(by_asyncio(form)).body == made.body
        labels = decode("gray", client.segment_as(image, "gray", classes=["red", "blue"], min_confidence=None).body)
        np.testing.assert_array_equal(labels, client.segment(image, classes=["red", "blue"]).labels)
        assert client.segment_as(image, "overlay", legend=True).body != client.segment_as(image, "overlay").body
        with pytest.raises(UnsupportedFormat, match="coco-dataset"):
            client.segment_as(image, "jpeg")
