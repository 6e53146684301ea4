"""The client's streams, both clients, against real servers."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import SecretStr

from service import errors
from service.client import AsyncClient, Client, ConnectionFailed, FrameWithoutMask, Mask, Timeouts
from service.pipeline.engine import Engine
from service.settings import Settings
from tests.conftest import make_image
from tests.live import live_process, live_server

QUICK = Timeouts(connect_s=1, read_s=5, total_s=1)

Streamed = Callable[..., list[Mask]]


@pytest.fixture(scope="module")
def server(artifact_dir: Path) -> Iterator[str]:
    """A server with the colour network."""
    with live_server(Settings(models_dir=artifact_dir)) as base_url:
        yield base_url


def in_step(url: str, frames: Iterable[Any], *, options: dict[str, Any] | None = None, **asked: Any) -> list[Mask]:
    """The masks of a stream, by the plain client."""
    with Client(url, **options or {}) as client:
        return list(client.stream(frames, **asked))


def awaited(url: str, frames: Any, *, options: dict[str, Any] | None = None, **asked: Any) -> list[Mask]:
    """The same by asyncio."""

    async def run() -> list[Mask]:
        async with AsyncClient(url, **options or {}) as client:
            return [mask async for mask in client.stream(frames, **asked)]

    return asyncio.run(run())


twins = pytest.mark.parametrize("streamed", [in_step, awaited])


@twins
def test_every_kind_of_frame_becomes_a_mask_with_its_id_and_stamp(
    server: str, png: bytes, tmp_path: Path, streamed: Streamed
) -> None:
    """Path, bytes, array, picture, with or without an id and a stamp: in the order of the frames."""
    path = tmp_path / "a.png"
    path.write_bytes(png)
    pixels = make_image()
    frames = [path, str(path), png, pixels, Image.fromarray(pixels), (png, "front", None), (pixels, "ü", "17.5")]
    masks = streamed(server, frames, every=True)
    assert [(mask.frame_id, mask.frame_stamp) for mask in masks] == [(None, None)] * 5 + [("front", None), ("ü", "17.5")]
    with Client(server) as client:
        expected = client.segment(png)
    for seq, mask in enumerate(masks):
        assert np.array_equal(mask.labels, expected.labels)
        assert (mask.classes, mask.model) == (expected.classes, expected.model)
        assert mask.request_id.endswith(f"/{seq}")
        assert set(mask.timing) == set(expected.timing)


@twins
def test_with_every_no_frame_is_superseded(server: str, png: bytes, streamed: Streamed) -> None:
    """However fast they come."""
    lost: list[FrameWithoutMask] = []
    masks = streamed(server, ((png, str(number), None) for number in range(60)), every=True, without_mask=lost.append)
    assert [mask.frame_id for mask in masks] == [str(number) for number in range(60)]
    assert lost == []


@twins
def test_without_it_the_newest_wins_and_the_others_are_told(
    server: str, png: bytes, monkeypatch: pytest.MonkeyPatch, streamed: Streamed
) -> None:
    """Each frame is either a mask or named to the callback; the first and the last are always masks."""
    real = Engine.run

    def run(*words: Any, **options: Any) -> Any:
        time.sleep(0.2)
        return real(*words, **options)

    monkeypatch.setattr(Engine, "run", run)
    lost: list[FrameWithoutMask] = []
    frames = [(png, str(number), None) for number in range(30)]
    masks = [mask.frame_id for mask in streamed(server, iter(frames), without_mask=lost.append)]
    assert masks[0] == "0"
    assert masks[-1] == "29"
    assert lost
    assert sorted(int(frame_id or "") for frame_id in [*masks, *(frame.frame_id for frame in lost)]) == list(range(30))
    assert {frame.error for frame in lost} == {None}


@twins
def test_the_query_holds_for_the_stream(server: str, png: bytes, streamed: Streamed) -> None:
    """Model, classes, confidence."""
    (mask,) = streamed(server, [png], model="colours", classes=["green", 2], min_confidence=0.1)
    assert set(np.unique(mask.labels)) == {1, 2, 255}
    with pytest.raises(errors.UnknownClass) as refused:
        streamed(server, [png], classes="mauve")
    assert refused.value.allowed == ["red", "green", "blue"]


@twins
def test_a_frame_that_fails_raises_its_error_or_is_told(server: str, png: bytes, streamed: Streamed) -> None:
    """The error's own class; with a callback, the stream goes on."""
    frames = [(png, "a", None), (b"no image", "b", None), (png, "c", None)]
    with pytest.raises(errors.UnsupportedImage) as failed:
        streamed(server, frames, every=True)
    assert failed.value.facts["frame_id"] == "b"
    told: list[FrameWithoutMask] = []
    masks = streamed(server, frames, every=True, without_mask=told.append)
    assert [mask.frame_id for mask in masks] == ["a", "c"]
    assert [(frame.frame_id, type(frame.error)) for frame in told] == [("b", errors.UnsupportedImage)]


@twins
def test_what_the_callers_frames_raise_comes_out_when_those_before_are_answered(
    server: str, png: bytes, streamed: Streamed
) -> None:
    """A camera that breaks, a file that is not there."""
    seen: list[str | None] = []

    def frames() -> Iterator[Any]:
        yield png, "a", None
        time.sleep(0.3)
        raise OSError("the camera is gone")

    with Client(server) as client, pytest.raises(OSError, match="the camera is gone"):
        seen.extend(mask.frame_id for mask in client.stream(frames()))
    assert seen == ["a"]
    with pytest.raises(FileNotFoundError):
        streamed(server, ["no such file.jpg"])
    with pytest.raises(TypeError):
        streamed(server, [17])


def test_frames_may_be_asynchronous(server: str, png: bytes) -> None:
    """A camera behind asyncio."""

    async def camera() -> AsyncIterator[Any]:
        for number in range(3):
            await asyncio.sleep(0.1)
            yield png, str(number), None

    assert [mask.frame_id for mask in awaited(server, camera())] == ["0", "1", "2"]


def test_a_stream_that_ends_leaves_the_camera_alone(server: str, png: bytes) -> None:
    """The stream is closed, and no frame is taken any more."""
    taken: list[int] = []

    def camera() -> Iterator[bytes]:
        for number in range(1000):
            taken.append(number)
            time.sleep(0.01)
            yield png

    with Client(server) as client:
        for number, _ in enumerate(client.stream(camera())):
            if number == 2:
                break
        time.sleep(0.3)
        count = len(taken)
        time.sleep(0.3)
    assert len(taken) <= count + 1 < 1000


@twins
def test_the_query_of_the_stream_is_that_of_a_request(server: str, png: bytes, streamed: Streamed) -> None:
    """``ids`` and ``statistics`` mean what they mean for one image."""
    with Client(server) as client:
        expected = client.segment(png, statistics=True)
    (mask,) = streamed(server, [png], statistics=True)
    assert mask.classes == expected.classes
    assert mask.classes[0].bbox is not None
    with pytest.raises(errors.ServiceError, match="ids"):
        streamed(server, [png], ids="guess")


class Camera:
    """Frames of which the second is waited for until ``go_on``."""

    def __init__(self, png: bytes) -> None:
        self.is_waiting, self.go_on = threading.Event(), threading.Event()
        self.frames = self._frames(png)

    def _frames(self, png: bytes) -> Iterator[Any]:
        yield png
        self.is_waiting.set()
        assert self.go_on.wait(60)
        yield png, "lost", None
        yield png, "next", None


def test_another_stream_goes_on_with_the_same_frames(server: str, png: bytes) -> None:
    """Though the last one still waits for its next frame, which is lost; the others come."""
    camera = Camera(png)
    with Client(server) as client:
        first: Any = client.stream(camera.frames)
        next(first)
        assert camera.is_waiting.wait(60)
        first.close()
        threading.Timer(0.3, camera.go_on.set).start()
        assert [mask.frame_id for mask in client.stream(camera.frames)] == ["next"]


def test_another_stream_of_asyncio_goes_on_with_the_same_frames(server: str, png: bytes) -> None:
    """As without asyncio; but an asynchronous generator ends with the stream that waits for it, and that is told."""

    async def run() -> None:
        camera, waiting = Camera(png), asyncio.Event()

        async def lens() -> AsyncIterator[Any]:
            yield png
            waiting.set()
            await asyncio.sleep(600)

        generator = lens()
        async with AsyncClient(server) as client:
            first: Any = client.stream(camera.frames)
            await anext(first)
            assert await asyncio.to_thread(camera.is_waiting.wait, 60)
            await first.aclose()
            threading.Timer(0.3, camera.go_on.set).start()
            assert [mask.frame_id async for mask in client.stream(camera.frames)] == ["next"]
            first = client.stream(generator)
            await anext(first)
            await waiting.wait()
            await first.aclose()
            with pytest.raises(ValueError, match="open a new one"):
                await anext(client.stream(generator))

    asyncio.run(run())


@twins
def test_the_key_is_sent_and_its_lack_is_an_error_of_ours(artifact_dir: Path, png: bytes, streamed: Streamed) -> None:
    """As for any other call."""
    with live_server(Settings(models_dir=artifact_dir, api_keys=(SecretStr("secret"),))) as base_url:
        assert len(streamed(base_url, [png], options={"api_key": "secret"})) == 1
        with pytest.raises(errors.ServiceError) as refused:
            streamed(base_url, [png], options={"api_key": "wrong"})
    assert refused.value.facts["status"] == 401


@twins
def test_a_server_that_is_not_there_or_goes_away_is_an_error_of_ours(
    artifact_dir: Path, tmp_path: Path, png: bytes, streamed: Streamed
) -> None:
    """Opening is tried again for as long as the time allows; a stream that breaks is not resumed."""
    with live_process(tmp_path, {"models_dir": artifact_dir}) as server:
        killer = threading.Timer(0.5, server.process.kill)
        killer.start()

        def frames() -> Iterator[bytes]:
            while True:
                time.sleep(0.02)
                yield png

        with pytest.raises(ConnectionFailed):
            streamed(server.base_url, frames())
    begun = time.monotonic()
    with pytest.raises(ConnectionFailed):
        streamed(server.base_url, [png], options={"timeouts": QUICK})
    assert 0.3 < time.monotonic() - begun < 30


def test_a_server_that_ends_says_so(artifact_dir: Path, tmp_path: Path, png: bytes) -> None:
    """NotReady: another instance may serve the rest."""

    def camera() -> Iterator[bytes]:
        while True:
            time.sleep(0.02)
            yield png

    with live_process(tmp_path, {"models_dir": artifact_dir}) as server, Client(server.base_url) as client:
        masks = client.stream(camera())
        next(masks)
        server.process.terminate()
        with pytest.raises(errors.NotReady, match="about to end"):
            for _ in masks:
                pass


def test_without_the_package_the_client_says_what_is_missing() -> None:
    """httpx and numpy are enough for everything else."""
    code = (
        "import sys; sys.modules['websockets'] = None\n"
        "from service.client import Client\n"
        "try: next(Client().stream([b'']))\n"
        "except ModuleNotFoundError as error: print(error)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout.strip() == "a stream needs the package websockets: pip install websockets"
