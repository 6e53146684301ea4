"""Ten minutes of everything at once: ``make soak``, or ``python benchmarks/soak.py --minutes 2``.

Starts a server and sends it images of every format and size, forms, streams, tensors, damaged files, bombs, wrong parameters,
cancelled requests, slow senders, and bursts beyond the capacity; it asks for every output format. Every twenty seconds there is
a pause, in which memory, file descriptors, threads and tasks are counted.

Exit code 1 if a promise of docs/operations.md is broken.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import random
import re
import statistics
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import httpx  # noqa: E402  (after the path)
import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402
from websockets.asyncio.client import ClientConnection, connect  # noqa: E402
from websockets.exceptions import ConnectionClosed, InvalidStatus  # noqa: E402

from benchmarks.harness import resident_mb, server  # noqa: E402
from models.scenes import street_scene  # noqa: E402

ROUND_S = 20.0
"""Seconds from one pause to the next."""
QUIET_S = 3.0
WARM_S = 60.0
"""Growth counts from here, or from the moment when every lane has had every kind of image, if that is later."""
LAST_QUIET_S = 12.0
"""Seconds of the last pause: by then the server has closed every idle connection."""

MAX_GROWTH = 0.03
"""The most growth of resident memory, from the first minute to the end."""

SIZES = ((1, 1), (7, 300), (96, 128), (360, 480), (480, 640), (720, 1280), (1080, 1920))
KINDS = {"JPEG": {"quality": 85}, "PNG": {}, "WEBP": {"quality": 80}, "BMP": {}, "TIFF": {}, "GIF": {}}
REFUSED = frozenset((404, 413, 415, 422))
SHED = frozenset((429, 504))


@dataclass(frozen=True)
class Moment:
    """Resources of the server in a pause."""

    at_s: float
    memory_mb: float
    descriptors: int
    threads: int
    tasks: int

    def __str__(self) -> str:
        return f"{self.at_s:7.0f} {self.memory_mb:9.1f} {self.descriptors:12d} {self.threads:8d} {self.tasks:6d}"


@dataclass
class Tally:
    """Counts of the answers."""

    statuses: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By request and by answer."""
    breaches: Counter[str] = field(default_factory=Counter)
    spent_ms: list[float] = field(default_factory=list)
    """Time of every mask."""


class Soak:
    """Sends all kinds of requests to one server.

    Takes:
        base_url: the server's address
        seed: decides what is sent
    """

    def __init__(self, base_url: str, seed: int) -> None:
        self.tally = Tally()
        self._base_url = base_url
        self._random = random.Random(seed)  # noqa: S311  (chance, not secrets)
        scene = Image.fromarray(street_scene(*SIZES[-1], seed=0)[0])
        self._images = [(size, kind, sample(scene, size, kind)) for size in SIZES for kind in KINDS]
        self._bombs = [png_that_claims(60_000, 60_000), png_that_claims(16_000, 16_000), gif_that_claims(65_535, 65_535)]
        self._client = httpx.AsyncClient(base_url=base_url, timeout=60, limits=httpx.Limits(max_connections=None))

    async def begin(self) -> None:
        """Read the formats and the model from the server."""
        document = (await self._client.get("/openapi.json")).json()
        parameters = {parameter["name"]: parameter for parameter in document["paths"]["/segment"]["post"]["parameters"]}
        named: list[str] = parameters["format"]["schema"]["enum"]
        self._formats = [name for name in named if name != "nifti"]  # that of scans
        self._model: str = (await self._client.get("/models")).json()["default"]

    async def end(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def quiet(self) -> str:
        """Wait until no request is inside and memory is trimmed. Gives: the metrics."""
        while "\nfcn_queue_depth 0.0\n" not in (await self._client.get("/metrics")).text:  # noqa: ASYNC110 - over the wire
            await asyncio.sleep(0.1)
        await asyncio.sleep(QUIET_S)
        return (await self._client.get("/metrics")).text

    async def round(self, seconds: float) -> None:
        """Run some callers of each kind, each sending the next request after an answer, and one burst in between."""
        until = time.monotonic() + seconds
        callers: list[Callable[[], Awaitable[None]]] = [self.image] * 3
        callers += [self.form, self.damaged, self.damaged, self.bomb, self.mistake, self.impatient, self.dripping, self.reader]
        callers += [self.stream, self.stream, self.tensor]

        async def caller(send: Callable[[], Awaitable[None]]) -> None:
            while time.monotonic() < until:
                await send()
                await asyncio.sleep(self._random.random() * 0.05)

        async with asyncio.TaskGroup() as group:
            for send in callers:
                group.create_task(caller(send))
            group.create_task(self.burst(seconds / 2))

    async def everything(self) -> None:
        """Send every size, kind and format alone and beside another of its size, so that every lane has had it; then many
        tensors at once.
        """
        for number, (size, _, data) in enumerate(self._images):
            params = {"format": self._formats[number % len(self._formats)]}
            for callers in (1, 2, 2):
                asked = (self._ask("first of all", {200, *SHED}, content=data, params=params) for _ in range(callers))
                await asyncio.gather(*asked)
            await self._ask("first of all", {200, *SHED}, content=data, size=size)
        # The threads that read and write tensors start one by one, as long as the others are busy: start all of them.
        for _ in range(4):
            await asyncio.gather(*(self.tensor() for _ in range(24)))

    async def image(self) -> None:
        """Send a good image and check the mask's size."""
        size, kind, data = self._random.choice(self._images)
        await self._ask("image", {200, *SHED}, content=data, params={"format": self._random.choice(self._formats)})
        await self._ask("image as PNG", {200, *SHED}, content=data, size=size, headers={"X-Frame-Id": kind})

    async def form(self) -> None:
        """Send several images in one form."""
        files = [("image", data) for _, _, data in self._random.choices(self._images, k=self._random.randint(1, 5))]
        await self._ask("form", {200, *SHED}, files=files, params={"format": "rle"})

    async def damaged(self) -> None:
        """Send a good image with bytes changed or cut off: the answer is a mask or an error of the 4xx kind."""
        await self._ask("damaged", {200, *REFUSED, *SHED}, content=self._spoilt(self._random.choice(self._images)[2]))

    async def bomb(self) -> None:
        """Send a few bytes whose header claims a huge image."""
        # Of a full queue it is shed before its header is read.
        await self._ask("bomb", {413, 429}, content=self._random.choice(self._bombs))

    async def mistake(self) -> None:
        """Send a wrong parameter, model, body or path."""
        good = self._images[0][2]
        sent: list[tuple[int, dict[str, Any]]] = [
            (422, {"content": b""}),
            (415, {"content": b"hello"}),
            (422, {"content": good, "params": {"format": "jpeg"}}),
            (422, {"content": good, "params": {"fromat": "png"}}),
            (422, {"content": good, "params": {"classes": "unicorn"}}),
            (404, {"content": good, "params": {"model": "../etc/passwd"}}),
            (422, {"content": good, "headers": {"X-Deadline-Ms": "soon"}}),
            (422, {"files": {"file": good}}),
            (404, {"content": good, "path": "/segments"}),
            (413, {"content": bytes(33 * 2**20)}),
        ]
        status, call = self._random.choice(sent)
        # A body that is announced as too large is rejected before it is sent: httpx may find the connection closed by then. A
        # request that is shed is rejected before anything else is checked.
        await self._ask("mistake", {status, 429}, **call)

    async def tensor(self) -> None:
        """Send an image by the Open Inference Protocol: as a binary tensor, as the body, as pixels in JSON; or damaged."""
        (height, width), _, data = self._random.choice(self._images)
        kind, headers, body = self._random.choice(("binary", "raw", "pixels", "damaged")), {}, data
        if kind == "raw":
            headers = {"Inference-Header-Content-Length": "0"}
        elif kind == "pixels":
            height, width = min(height, 96), min(width, 128)
            tensor = {"name": "image", "datatype": "UINT8", "shape": [height, width, 3], "data": [128] * (height * width * 3)}
            body = json.dumps({"inputs": [tensor]}).encode()
        else:
            words = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(data) + 4}}
            head = json.dumps({"inputs": [words], "parameters": {"binary_data_output": True}}).encode()
            headers = {"Inference-Header-Content-Length": str(len(head))}
            body = head + struct.pack("<I", len(data)) + data
            body = self._spoilt(body) if kind == "damaged" else body
        expected = {200, *SHED, *(REFUSED if kind == "damaged" else ())}
        path = f"/v2/models/{self._model}/infer"
        await self._ask(f"tensor, {kind}", expected, path=path, content=body, headers=headers)

    async def stream(self) -> None:
        """Stream frames faster than they can be served and some damaged. Each gets one answer, unless the caller leaves."""
        address = f"{self._base_url.replace('http', 'ws')}/stream?format={self._random.choice(('png', 'rle', 'overlay'))}"
        try:
            async with connect(address, max_size=None, compression=None) as socket:
                if self._random.random() < 0.3:
                    await self._frames(socket, 2)
                    socket.transport.abort()
                    self.tally.statuses["stream", "left"] += 1
                    return
                sent = self._random.randint(1, 20)
                await asyncio.gather(self._frames(socket, sent), self._answers(socket, sent))
                self.tally.statuses["stream", "answered"] += 1
        except InvalidStatus as refused:
            self._count("stream", refused.response.status_code, {429})
        except (ConnectionClosed, TimeoutError) as error:
            self.tally.breaches[f"stream: {error!r}"] += 1

    async def _frames(self, socket: ClientConnection, count: int) -> None:
        for number in range(count):
            (height, width), _, data = self._random.choice(self._images)
            spoilt = self._random.random() < 0.2
            if self._random.random() < 0.8:
                stamp = "damaged" if spoilt else f"{height} {width}"
                await socket.send(json.dumps({"frame_id": str(number), "stamp": stamp}))
            await socket.send(self._spoilt(data) if spoilt else data)
            await asyncio.sleep(self._random.random() * 0.2)

    async def _answers(self, socket: ClientConnection, count: int) -> None:
        """Receive one answer a frame, in any order, and check the sizes of the masks."""
        seen = set()
        for _ in range(count):
            answer = json.loads(await asyncio.wait_for(socket.recv(), 60))
            seen.add(answer["seq"])
            outcome = answer["outcome"]
            if outcome == "error":
                self._count("frame", answer["status"], {*REFUSED, *SHED})
                continue
            self.tally.statuses["frame", outcome] += 1
            if outcome == "mask":
                mask = await socket.recv()
                height, width = answer["size"]
                if not isinstance(mask, bytes) or answer["stamp"] not in (None, "damaged", f"{height} {width}"):
                    self.tally.breaches["frame: a mask of another"] += 1
        if seen != set(range(count)):
            self.tally.breaches["stream: a frame without an answer"] += 1

    def _spoilt(self, data: bytes) -> bytes:
        changed = bytearray(data)
        for _ in range(self._random.randint(1, 20)):
            changed[self._random.randrange(min(len(changed), 600))] = self._random.randrange(256)
        return bytes(changed[: self._random.choice((len(changed), self._random.randrange(len(changed) + 1)))])

    async def impatient(self) -> None:
        """Send an image and close the connection before the answer."""
        call = asyncio.create_task(self._ask("gives up", {200, *SHED}, content=self._random.choice(self._images)[2]))
        await asyncio.sleep(self._random.random() * 0.3)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)

    async def dripping(self) -> None:
        """Send a body more slowly than its deadline allows, or only a part of it. With half a second most requests are rejected
        by their headers; with three most are admitted and cut off.
        """
        host, port = self._base_url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            head = b"POST /segment HTTP/1.1\r\nHost: x\r\nX-Deadline-Ms: %d\r\nContent-Length: 100000\r\n\r\n"
            writer.write(head % self._random.choice((500, 3000)))
            for _ in range(self._random.choice((1, 20))):
                writer.write(b"\xff\xd8\xff")
                await asyncio.sleep(0.05)
            if self._random.random() < 0.5:
                answer = await asyncio.wait_for(reader.readuntil(b"\r\n"), 10)
                self._count("dripping", int(answer.split()[1]), {*SHED})
        except (OSError, EOFError):
            self.tally.statuses["dripping", "cut off"] += 1
        finally:
            writer.close()

    async def reader(self) -> None:
        """Ask for health, metrics, models or a page."""
        path = self._random.choice(("/livez", "/readyz", "/metrics", "/models", "/", "/openapi.json"))
        await self._ask("question", {200}, path=path, method="GET")

    async def burst(self, after_s: float) -> None:
        """Send a hundred images at once with a deadline of a second: several times the capacity."""
        await asyncio.sleep(after_s)
        data = self._images[-len(KINDS)][2]
        headers = {"X-Deadline-Ms": "1000"}
        await asyncio.gather(*(self._ask("burst", {200, *SHED}, content=data, headers=headers) for _ in range(100)))

    async def _ask(
        self,
        what: str,
        expected: set[int],
        *,
        path: str = "/segment",
        method: str = "POST",
        size: tuple[int, int] | None = None,
        **sent: Any,
    ) -> None:
        """Send one request and count its answer; of a PNG check the size too."""
        begun = time.monotonic()
        try:
            reply = await self._client.request(method, path, **sent)
        except httpx.TransportError as error:
            self.tally.statuses[what, type(error).__name__] += 1
            # The server closes an idle connection, perhaps just as this request is sent.
            if not isinstance(error, httpx.RemoteProtocolError | httpx.WriteError | httpx.ReadError):
                self.tally.breaches[f"{what}: {type(error).__name__}"] += 1
            return
        self._count(what, reply.status_code, expected)
        if reply.status_code == 200 and method == "POST":
            self.tally.spent_ms.append(1000 * (time.monotonic() - begun))
            if size is not None and struct.unpack(">II", reply.content[16:24]) != (size[1], size[0]):
                self.tally.breaches[f"{what}: a mask of another size"] += 1
        elif reply.status_code >= 400 and not reply.headers["content-type"].startswith("application/problem+json"):
            self.tally.breaches[f"{what}: {reply.status_code} without a problem document"] += 1

    def _count(self, what: str, status: int, expected: set[int]) -> None:
        self.tally.statuses[what, str(status)] += 1
        if status not in expected:
            self.tally.breaches[f"{what}: {status}"] += 1


def sample(scene: Image.Image, size: tuple[int, int], kind: str) -> bytes:
    """Return an image as a file of a kind and of (height, width)."""
    buffer = io.BytesIO()
    scene.resize(size[::-1]).save(buffer, kind, **KINDS[kind])
    return buffer.getvalue()


def png_that_claims(width: int, height: int) -> bytes:
    """Return a well-formed PNG file of a hundred bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


def gif_that_claims(width: int, height: int) -> bytes:
    """Return the head of a GIF file."""
    return b"GIF89a" + struct.pack("<HH", width, height) + bytes(20)


def counted(metrics: str, pid: int, begun: float) -> Moment:
    """Count what the server holds."""
    tasks = re.search(r"^fcn_tasks (\S+)$", metrics, re.MULTILINE)
    threads = re.search(r"^Threads:\s*(\d+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    if tasks is None or threads is None:
        raise SystemExit("the server does not say how many tasks it has")
    descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return Moment(time.monotonic() - begun, resident_mb(pid), descriptors, int(threads[1]), int(float(tasks[1])))


async def soak(port: int, pid: int, minutes: float, seed: int) -> bool:
    """Run the rounds and print the resources. Gives: whether the promises hold."""
    base_url = f"http://127.0.0.1:{port}"
    soaking = Soak(base_url, seed)
    await soaking.begin()
    begun = time.monotonic()
    moments: list[Moment] = []
    print("seconds memory MB  descriptors  threads  tasks", flush=True)
    try:
        await soaking.everything()
        warm_s = max(WARM_S, time.monotonic() - begun)
        while (left_s := 60 * minutes - (time.monotonic() - begun)) > 0:
            await soaking.round(min(ROUND_S, max(left_s, 5.0)) - QUIET_S)
            moments.append(counted(await soaking.quiet(), pid, begun))
            print(moments[-1], flush=True)
        await asyncio.sleep(LAST_QUIET_S)
        moments.append(counted(await soaking.quiet(), pid, begun))
    finally:
        await soaking.end()
    print(moments[-1])
    return judged(moments, warm_s, soaking.tally)


def judged(moments: list[Moment], warm_s: float, tally: Tally) -> bool:
    """Print the table. Gives: whether the promises hold."""
    for what in dict.fromkeys(what for what, _ in tally.statuses):
        answers = sorted((answer, count) for (kind, answer), count in tally.statuses.items() if kind == what)
        print(f"{what:14}", ", ".join(f"{count} x {answer}" for answer, count in answers))
    spent = np.percentile(tally.spent_ms or [0.0], [50, 99])
    print(f"masks          {len(tally.spent_ms)}, {spent[0]:.0f} ms (median; 99 of 100: {spent[1]:.0f})")
    warm = [moment for moment in moments if moment.at_s >= warm_s] or moments[-1:]
    third = max(1, len(warm) // 3)
    first, last = (statistics.median(moment.memory_mb for moment in some) for some in (warm[:third], warm[-third:]))
    growth = last / first - 1
    print(f"memory         {first:.1f} MB after the first minute, {last:.1f} at the end: {100 * growth:+.1f} %")
    end = moments[-1]
    breaches = list(map(str, tally.breaches.items()))
    breaches += [f"memory grew by {100 * growth:.1f} %"] * (growth >= MAX_GROWTH)
    for what in ("descriptors", "threads", "tasks"):
        at_first, at_last = getattr(warm[0], what), getattr(end, what)
        breaches += [f"{what}: {at_first} after the first minute, {at_last} at the end"] * (at_last > at_first)
    for breach in breaches:
        print(f"BROKEN         {breach}")
    return not breaches


def main() -> int:
    """Parse, serve, soak."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0, help="decides what is sent")
    options = parser.parse_args()
    with server(environment={"FCN_LOG_LEVEL": "error"}) as served:
        kept = asyncio.run(soak(urlsplit(served.url).port or 0, served.pid, options.minutes, options.seed))
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
