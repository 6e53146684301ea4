"""Mutated images and requests for a real server on a real socket: no 5xx, no unhandled exception, no hang.

Most requests are good ones with a damaged image. A tenth have changed heads too, and another tenth use the Open Inference
Protocol. Streams get damaged frames, with words before them. The network is the tests' tiny one, so that the time goes into the
parsers.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from fuzz.targets import NO_SIZE, TARGETS
from tests.conftest import write_artifact
from tests.live import LiveProcess, live_process

CONNECTIONS = 48
PATIENCE_S = 30.0
"""Seconds without an answer that count as a hang; the server's own longest bound is ten seconds, for a head."""
DEADLINE_MS = 2000

MAX_KEPT = 20

RAW_SHARE = 0.1
"""Share of the requests whose heads are changed too."""

STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n")

NUMBERS = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\1\0", b"\0\xff", b"\xff\xfe")
WORDS = (
    b"\r\n",
    b"\r\n\r\n",
    b": ",
    b"%00",
    b"%2e%2e%2f",
    b"&",
    b"=",
    b"chunked",
    b"-1",
    b"1e9",
    b"nan",
    b"\xc3\xa9",
    b"\0",
    b" ",
)


def mutated(data: bytes, chance: random.Random, words: Iterable[bytes] = NUMBERS) -> bytes:
    """Return data with some bytes changed, removed, doubled or inserted."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        at = chance.randrange(len(changed) + 1)
        match chance.randrange(5):
            case 0:
                changed[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                del changed[at : at + chance.randint(1, 40)]
            case 2:
                changed[at:at] = chance.randbytes(chance.randint(1, 12))
            case 3:
                changed[at:at] = changed[at : at + chance.randint(1, 60)]
            case _:
                word = chance.choice(tuple(words))
                changed[at : at + len(word)] = word
    return bytes(changed)


def requests_of(count: int, seed: int) -> Iterable[tuple[str, bytes]]:
    """Yield ``count`` pairs of a kind and the bytes to send."""
    chance = random.Random(seed)  # noqa: S311  (chance, not secrets)
    images, forms = TARGETS["decode"].seeds(), [form[1:] for form in TARGETS["form"].seeds()]
    tensors = TARGETS["tensors"].seeds()
    queries = (
        "",
        "?format=rle",
        "?format=coco",
        "?format=overlay",
        "?format=confidence",
        "?classes=red",
        "?min_confidence=0.5",
    )
    for _ in range(count):
        image = chance.choice(images)
        if chance.random() < RAW_SHARE:
            body = chance.choice((image, forms[0]))
            kind = "multipart/form-data; boundary=frontier" if body is forms[0] else "image/jpeg"
            whole = head(chance.choice(queries), len(body), kind) + body
            if chance.random() < 0.5:
                at = whole.index(b"\r\n\r\n")
                whole = mutated(whole[:at], chance, WORDS) + whole[at:]
            else:
                whole = mutated(whole, chance, WORDS)
            yield "request", whole
        elif chance.random() < 0.1:
            file = chance.choice((bytes(2) + image, *tensors))  # without JSON the body is an image
            size, body = int.from_bytes(file[:2], "little"), mutated(file[2:], chance, WORDS)
            split = "" if size == NO_SIZE else f"Inference-Header-Content-Length: {size}\r\n"
            yield "tensor", head("", len(body), "application/octet-stream", "/v2/models/colours/infer", split) + body
        elif chance.random() < 0.15:
            body = mutated(chance.choice(forms), chance, WORDS)
            yield "form", head("?format=rle", len(body), "multipart/form-data; boundary=frontier") + body
        else:
            body = mutated(image, chance)
            yield "image", head(chance.choice(queries), len(body), "image/jpeg") + body


def head(query: str, length: int, content_type: str, path: str = "/segment", more: str = "") -> bytes:
    """Return a good request up to its body."""
    return (
        f"POST {path}{query} HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\nX-Frame-Id: 7\r\n{more}"
        f"X-Deadline-Ms: {DEADLINE_MS}\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


class Traffic:
    """Sends requests to one server and counts the answers."""

    def __init__(self, base_url: str, out: Path) -> None:
        self.answers: Counter[tuple[str, str]] = Counter()
        self.breaches: list[str] = []
        self._address = urlsplit(base_url)
        self._out = out

    async def stream(self, frames: int, seed: int, documented: set[str]) -> None:
        """Send damaged frames, with good and bad words before them, and await an answer to each.

        Takes:
            documented: the statuses that an image may get
        """
        chance = random.Random(seed)  # noqa: S311  (chance, not secrets)
        images, words = TARGETS["decode"].seeds(), json.dumps({"frame_id": "7", "stamp": "1.5"}).encode()
        address = f"ws://{self._address.netloc}/stream"
        async with connect(address, max_size=None, compression=None) as link:
            for number in range(frames):
                said = mutated(words, chance, WORDS) if chance.random() < 0.3 else words
                frame = mutated(chance.choice(images), chance)
                try:
                    await link.send(said.decode(errors="replace"))
                    await link.send(frame)
                    told = json.loads(await asyncio.wait_for(link.recv(), PATIENCE_S))
                    if told["outcome"] == "mask":
                        await asyncio.wait_for(link.recv(), PATIENCE_S)
                    answer = str(told.get("status", told["outcome"]))
                    right = told["seq"] == number
                except TimeoutError:
                    answer, right = "hangs", False
                except ConnectionClosed:
                    answer, right = "closed", False
                self.answers["frame", answer] += 1
                if not right or answer not in documented | {"mask"}:
                    self._keep("frame", answer, frame)
                    return

    async def send(self, requests: Iterable[tuple[str, bytes]], documented: dict[str, set[str]]) -> None:
        """Send all requests on a few connections at a time.

        Takes:
            documented: the statuses that each kind may be answered with
        """
        todo = iter(requests)

        async def sender() -> None:
            link: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
            for what, request in todo:
                link = link if link and what != "request" else await self._connect(link)
                answer = "no answer"
                try:
                    answer = await asyncio.wait_for(self._exchange(*link, request), PATIENCE_S)
                except TimeoutError:
                    answer = "hangs"
                except (OSError, EOFError):
                    answer = "closed"
                self.answers[what, answer] += 1
                # A broken head may end the connection, or name another path.
                allowed = documented[what] | ({"closed", "404", "405"} if what == "request" else set())
                if answer not in allowed:
                    self._keep(what, answer, request)
                if what == "request" or answer in ("closed", "hangs"):
                    link[1].close()
                    link = None
            if link:
                link[1].close()

        async with asyncio.TaskGroup() as group:
            for _ in range(CONNECTIONS):
                group.create_task(sender())

    async def _connect(
        self, old: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if old:
            old[1].close()
        return await asyncio.open_connection(self._address.hostname, self._address.port)

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> str:
        writer.write(request)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        first = await reader.readuntil(b"\r\n\r\n")
        while first.startswith(b"HTTP/1.1 100 "):
            first = await reader.readuntil(b"\r\n\r\n")
        status, length = STATUS.match(first), LENGTH.search(first.lower())
        if status is None:
            return "no HTTP"
        if length is not None:
            await reader.readexactly(int(length[1]))
        return status[1].decode()

    def _keep(self, what: str, answer: str, request: bytes) -> None:
        if len(self.breaches) < MAX_KEPT:
            file = self._out / f"traffic-{answer.replace(' ', '-')}-{len(self.breaches)}.http"
            file.write_bytes(request)
            self.breaches.append(f"{what}: {answer}, kept as {file}")


def run(count: int, seed: int, out: Path) -> list[str]:
    """Start a server, send it ``count`` requests, print the answers.

    Gives:
        a line for each breach
    """
    models = out / "models"
    models.mkdir(exist_ok=True)
    write_artifact(models / "colours.onnx")
    # Fewer pixels than by default: a mutated header that claims 50 megapixels is a good image, and costs seconds.
    with live_process(out, {"models_dir": models, "max_image_pixels": 1_000_000, "log_level": "warning"}) as server:
        paths = httpx.get(f"{server.base_url}/openapi.json").json()["paths"]
        segment, infer = (set(paths[path]["post"]["responses"]) - {"500"} for path in ("/segment", "/v2/models/{name}/infer"))
        documented = dict.fromkeys(("image", "form", "request"), segment) | {"tensor": infer}
        traffic = Traffic(server.base_url, out)
        begun = time.monotonic()
        asyncio.run(traffic.send(requests_of(count, seed), documented))
        asyncio.run(traffic.stream(count // 50, seed, segment))
        print(f"{count} requests in {time.monotonic() - begun:.0f} s")
        for what in ("image", "form", "tensor", "frame", "request"):
            answers = sorted((answer, number) for (kind, answer), number in traffic.answers.items() if kind == what)
            print(f"  {what:8}", ", ".join(f"{number} x {answer}" for answer, number in answers))
        return traffic.breaches + _aftermath(server)


def _aftermath(server: LiveProcess) -> list[str]:
    """Return what is wrong with the server after all requests."""
    wrong = []
    if server.process.poll() is not None:
        return [f"the server ended with {server.process.returncode}"]
    if httpx.get(f"{server.base_url}/readyz").status_code != 200:
        wrong.append("the server is not ready any more")
    log = server.log.read_text("utf-8", "replace")
    wrong += [f"in the log: {word}" for word in ("Traceback", "unhandled exception", "critical") if word in log]
    return wrong
