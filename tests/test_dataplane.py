"""Requests through the data plane, on a real, tiny network."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import pytest
from PIL import Image

from service.errors import (
    CorruptImage,
    DeadlineExceeded,
    ImageTooLarge,
    InferenceFailed,
    NotReady,
    Overloaded,
    UnknownModel,
    UnsupportedImage,
)
from service.pipeline.codecs.decoding import Limits
from service.pipeline.cpus import available_cpus
from service.pipeline.engine import Engine
from service.pipeline.predictor import Predictor
from service.pipeline.repository import Repository
from service.pipeline.segmentation import Segmentation
from service.serving.dataplane import DataPlane
from service.serving.deadline import Deadline
from tests.conftest import encode_image, make_graph, make_image, make_labels, make_manifest, write_artifact
from tests.waiting import wait_until_async

T = TypeVar("T")

WAIT_S = 20.0
"""Longer than any test takes; a test that waits this long has failed."""


@pytest.fixture
def plane(artifact_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DataPlane]:
    """A plane of the colour network, with a pixel pool of two threads on a machine of one processor, too."""
    monkeypatch.setattr("service.serving.dataplane.available_cpus", lambda: 2)
    plane = DataPlane(Predictor(Repository(artifact_dir), Limits()))
    yield plane
    plane.close()


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Run a test on an event loop of its own, within a time limit."""
    asyncio.run(asyncio.wait_for(test(), WAIT_S))


async def segment(
    plane: DataPlane, data: bytes | np.ndarray, model: str | None = None, *, deadline_s: float | None = None
) -> Segmentation:
    """Segment one image as a transport does: within its deadline, if there is one."""
    return (await segment_all(plane, [data], unchanged, model, deadline_s=deadline_s))[0]


async def segment_all(
    plane: DataPlane,
    sources: Sequence[bytes | np.ndarray],
    encode: Callable[[Segmentation], T],
    model: str | None = None,
    *,
    deadline_s: float | None = None,
) -> list[T]:
    """Segment the images of one request as a transport does: within its deadline, if there is one."""
    if deadline_s is None:
        return [answer.value for answer in await plane.segment(sources, encode, model)]
    async with Deadline(deadline_s) as deadline:
        return [answer.value for answer in await plane.segment(sources, encode, model, deadline=deadline)]


def unchanged(result: Segmentation) -> Segmentation:
    """An encoding that keeps the result."""
    return result


async def emptied(plane: DataPlane) -> None:
    """Wait until every admission has ended."""
    await wait_until_async(lambda: not plane.scheduler.admitted, "every admission to end")


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Every inference waits until this event is set: a network that is as slow as the test wants."""
    gate = threading.Event()
    real = Engine.run

    def waiting(*args: Any, **options: Any) -> Any:
        assert gate.wait(WAIT_S)
        return real(*args, **options)

    monkeypatch.setattr(Engine, "run", waiting)
    return gate


def test_a_lone_image_gets_all_processors_and_several_share_them(
    artifact_dir: Path, png: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Concurrent images take a lane each; the next lone image gets all threads again."""
    plane = DataPlane(Predictor(Repository(artifact_dir), Limits()), concurrency=2)
    real, seen, inside = Engine.run, [], threading.Barrier(2)

    def watched(*args: Any, alone: bool = True, **options: Any) -> Any:
        seen.append(alone)
        return real(*args, alone=alone, **options)

    def meeting(*args: Any, **options: Any) -> Any:
        inside.wait(WAIT_S)
        return watched(*args, **options)

    monkeypatch.setattr(Engine, "run", watched)

    async def test() -> None:
        await segment(plane, png)
        assert seen == [True]
        monkeypatch.setattr(Engine, "run", meeting)
        await asyncio.gather(segment(plane, png), segment(plane, png))
        assert seen == [True, False, False]
        monkeypatch.setattr(Engine, "run", watched)
        await emptied(plane)
        await segment(plane, png)
        assert seen == [True, False, False, True]

    run(test)
    plane.close()


def test_the_mask_is_right_and_has_the_images_size(plane: DataPlane, png: bytes) -> None:
    """Colours are told apart, up to the cells that an edge runs through."""

    async def test() -> None:
        result = await segment(plane, png)
        assert np.array_equal(result.image, make_image())
        assert result.labels.shape == (96, 128)
        assert result.labels.dtype == np.uint8
        wrong = np.nonzero(result.labels != make_labels())[1]
        assert np.abs(wrong[:, None] - [128 / 3, 256 / 3]).min(axis=1, initial=9).max(initial=0) <= 8

    run(test)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (301, 1), (7, 9), (95, 129), (200, 333), (720, 1280)])
@pytest.mark.parametrize("colour", [0, 1, 2])
def test_any_size_gives_a_mask_of_that_size(size: tuple[int, int], colour: int, plane: DataPlane) -> None:
    """From one pixel to a camera's frame."""
    image = np.zeros((*size, 3), np.uint8)
    image[..., colour] = 200
    result = plane.predictor.segment(encode_image(image))
    assert result.labels.shape == size
    assert (result.labels == colour).all()


@pytest.mark.parametrize("width", [128, 127, 256, 640, 641, 1000])
def test_an_edge_in_the_image_and_its_edge_in_the_mask_coincide(width: int, plane: DataPlane) -> None:
    """The mask is not shifted at any size: its edge lies within one cell of the image's, and on average on it."""
    offsets = []
    for edge in range(width // 4, 3 * width // 4, max(1, width // 61)):
        image = np.zeros((width * 3 // 4, width, 3), np.uint8)
        image[:, :edge, 0] = 255
        image[:, edge:, 2] = 255
        labels = plane.predictor.segment(image).labels
        offsets.append(float((labels == 0).sum(axis=1).mean() - edge))
    cell = width / 128 * 8
    assert np.abs(offsets).max() <= cell / 2 + 1
    assert abs(np.mean(offsets)) <= cell / 16 + 0.1


def test_a_photo_taken_upright_gives_an_upright_mask(plane: DataPlane, image: np.ndarray) -> None:
    """EXIF orientation is part of the image."""
    exif = Image.Exif()
    exif[0x0112] = 6
    result = plane.predictor.segment(encode_image(image, "JPEG", exif=exif, quality=95))
    assert result.labels.shape == (128, 96)
    assert (result.labels[:30] == 0).all()
    assert (result.labels[-30:] == 2).all()


def test_the_plane_and_the_predictor_agree(plane: DataPlane, png: bytes, image: np.ndarray) -> None:
    """The command line and the evaluation compute the served labels."""

    async def test() -> None:
        served = await segment(plane, png, "colours")
        for other in (plane.predictor.segment(png, "colours"), plane.predictor.segment(image)):
            assert np.array_equal(other.labels, served.labels)
            assert np.array_equal(other.scores, served.scores)
            assert (other.sha256, other.provider, other.manifest) == (served.sha256, served.provider, served.manifest)

    run(test)


def test_the_timing_accounts_for_all_the_time(plane: DataPlane, jpeg: bytes) -> None:
    """The sum of the steps is the time that the caller waited, up to a few milliseconds."""

    async def test() -> None:
        missing_ms: list[float] = []
        while len(missing_ms) < 50 and min(missing_ms, default=5.0) >= 5:  # until no other process took the processors
            start = time.perf_counter()
            result = await segment(plane, jpeg)
            missing_ms.append(1000 * (time.perf_counter() - start - result.timing.total_s))
            assert list(result.timing.stages()) == ["decode", "queue", "infer", "labels", "encode"]
            assert min(result.timing.stages().values()) >= 0
        assert 0 <= min(missing_ms) < 5

    run(test)


def test_confidence_is_computed_once_and_lies_on_the_mask(plane: DataPlane, png: bytes) -> None:
    """High inside a stripe, low where two meet; the second call returns the same array."""
    result = plane.predictor.segment(png)
    confidence = result.confidence()
    assert confidence is result.confidence()
    assert confidence.shape == result.labels.shape
    assert confidence[50, 10] > confidence[50, 43]


def test_many_callers_each_get_their_own_mask(artifact_dir: Path) -> None:
    """Fifty images of different sizes and colours at once, in batches."""

    async def test() -> None:
        plane = DataPlane(Predictor(Repository(artifact_dir), Limits()), max_batch=4, concurrency=2)
        colours = [number % 3 for number in range(50)]
        images = [np.zeros((40 + number % 7, 60, 3), np.uint8) for number in range(50)]
        for image, colour in zip(images, colours, strict=True):
            image[..., colour] = 255
        results = await asyncio.gather(*(segment(plane, encode_image(image)) for image in images))
        for image, colour, result in zip(images, colours, results, strict=True):
            assert result.labels.shape == image.shape[:2]
            assert (result.labels == colour).all()
        await plane.drain(WAIT_S)

    run(test)


def test_each_model_answers_for_itself(tmp_path: Path, png: bytes) -> None:
    """Two models in one queue, never mixed in a batch."""
    write_artifact(tmp_path / "a.onnx")
    swapped = np.eye(3, dtype=np.float32)[::-1].copy()
    write_artifact(tmp_path / "b.onnx", make_manifest(name="swapped"), make_graph(swapped))

    async def test() -> None:
        plane = DataPlane(Predictor(Repository(tmp_path), Limits()), max_batch=8)
        names = ["colours", "swapped"] * 10
        results = await asyncio.gather(*(segment(plane, png, name) for name in names))
        for name, result in zip(names, results, strict=True):
            assert result.manifest.name == name
            assert result.labels[5, 5] == (0 if name == "colours" else 2)
        with pytest.raises(UnknownModel):
            await segment(plane, png, "third")
        await plane.drain(WAIT_S)

    run(test)


def test_a_bad_image_fails_alone(plane: DataPlane, png: bytes) -> None:
    """Good images beside it and after it are served."""

    async def test() -> None:
        results = await asyncio.gather(
            segment(plane, png), segment(plane, png[:-40]), segment(plane, png), return_exceptions=True
        )
        assert isinstance(results[1], CorruptImage)
        assert not isinstance(results[0], BaseException)
        assert not isinstance(results[2], BaseException)
        assert plane.scheduler.admitted == 0
        await segment(plane, png)

    run(test)


def test_the_given_limits_are_enforced(artifact_dir: Path, png: bytes) -> None:
    """By the plane and by the predictor."""
    plane = DataPlane(Predictor(Repository(artifact_dir), Limits(max_pixels=96 * 128 - 1)))

    async def test() -> None:
        with pytest.raises(ImageTooLarge):
            await segment(plane, png)
        await plane.drain(WAIT_S)

    with pytest.raises(ImageTooLarge):
        plane.predictor.segment(png)
    run(test)


def test_scores_that_are_not_finite_are_a_failed_inference(tmp_path: Path, png: bytes) -> None:
    """A mask is never made of NaN."""
    write_artifact(tmp_path / "nan.onnx", graph=make_graph(np.full((3, 3), np.nan, np.float32)))

    async def test() -> None:
        plane = DataPlane(Predictor(Repository(tmp_path), Limits()))
        with pytest.raises(InferenceFailed, match="finite"):
            await segment(plane, png)
        plane.check_ready()
        await plane.drain(WAIT_S)

    run(test)


def test_images_beyond_the_capacity_are_shed(artifact_dir: Path, png: bytes, slow: threading.Event) -> None:
    """Megapixels are counted before decoding; the admitted images are served."""
    slow.set()
    plane = DataPlane(Predictor(Repository(artifact_dir), Limits()), queue_megapixels=0.03)
    slow.clear()

    async def test() -> None:
        inside = [asyncio.create_task(segment(plane, png)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await segment(plane, png)
        slow.set()
        await asyncio.gather(*inside)
        await segment(plane, png)
        await plane.drain(WAIT_S)

    run(test)


def test_a_flood_of_single_pixels_is_shed(artifact_dir: Path, slow: threading.Event) -> None:
    """The network runs at its own size for the smallest image too, 96 x 128 here: that is its cost."""
    pixel = encode_image(np.zeros((1, 1, 3), np.uint8))
    slow.set()
    plane = DataPlane(Predictor(Repository(artifact_dir), Limits()), queue_megapixels=0.03)
    slow.clear()

    async def test() -> None:
        inside = [asyncio.create_task(segment(plane, pixel)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await segment(plane, pixel)
        slow.set()
        await asyncio.gather(*inside)
        with pytest.raises(Overloaded) as caught, plane.scheduler.admit(0.03):
            await segment(plane, pixel)
        assert caught.value.retry_after_s < WAIT_S  # measured on pixels, it was more than an hour
        await plane.drain(WAIT_S)

    run(test)


def test_the_deadline_covers_every_step(plane: DataPlane, png: bytes, slow: threading.Event) -> None:
    """The error comes in time and names the limit; the capacity is free again when the thread is done."""

    async def test() -> None:
        start = time.monotonic()
        with pytest.raises(DeadlineExceeded) as caught:
            await segment(plane, png, deadline_s=0.05)
        assert time.monotonic() - start < 1
        assert caught.value.deadline_ms == 50
        assert plane.scheduler.admitted == 1
        slow.set()
        await emptied(plane)
        await segment(plane, png, deadline_s=WAIT_S)

    run(test)


def test_a_cancelled_caller_does_not_disturb_the_others(plane: DataPlane, png: bytes, slow: threading.Event) -> None:
    """At any step."""

    async def test() -> None:
        tasks = [asyncio.create_task(segment(plane, png)) for _ in range(12)]
        for task in tasks[::2]:
            task.cancel()
            await asyncio.sleep(0.002)
        slow.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results[::2])
        assert not any(isinstance(result, BaseException) for result in results[1::2])
        await emptied(plane)

    run(test)


def test_the_event_loop_stays_free_while_every_core_segments(plane: DataPlane) -> None:
    """No turn takes 20 ms of its thread's time while sixteen large frames are in work. In half of the turns, everything
    that is due is done within 50 ms.
    """
    rng = np.random.default_rng(0)
    frame = encode_image(cv2.resize(rng.integers(0, 256, (90, 160, 3), dtype=np.uint8), (1920, 1080)), "JPEG")

    async def test() -> None:
        tasks = [asyncio.create_task(segment_all(plane, [frame], Segmentation.confidence)) for _ in range(16)]
        turns, computed = [], []
        while not all(task.done() for task in tasks):
            start, computed_before = time.perf_counter(), time.thread_time()
            await asyncio.sleep(0.001)
            turns.append(time.perf_counter() - start)
            computed.append(time.thread_time() - computed_before)
        await asyncio.gather(*tasks)
        assert max(computed) < 0.02
        assert np.median(turns) < 0.05

    run(test)


def test_draining_finishes_admitted_images_and_refuses_new_ones(artifact_dir: Path, png: bytes, slow: threading.Event) -> None:
    """A shutdown loses no accepted request."""
    slow.set()
    plane = DataPlane(Predictor(Repository(artifact_dir), Limits()))
    slow.clear()

    async def test() -> None:
        inside = [asyncio.create_task(segment(plane, png)) for _ in range(3)]
        await asyncio.sleep(0)
        plane.check_ready()
        drained = asyncio.create_task(plane.drain(WAIT_S))
        await asyncio.sleep(0.01)
        with pytest.raises(NotReady):
            plane.check_ready()
        with pytest.raises(NotReady):
            await segment(plane, png)
        slow.set()
        for result in await asyncio.gather(*inside):
            assert result.labels.shape == (96, 128)
        await drained
        with pytest.raises(NotReady):
            await segment(plane, png)

    run(test)


def test_without_a_model_nothing_is_ready(tmp_path: Path, png: bytes) -> None:
    """NotReady says that there is none."""
    plane = DataPlane(Predictor(Repository(tmp_path), Limits()))
    with pytest.raises(NotReady):
        plane.check_ready()
    with pytest.raises(NotReady):
        plane.predictor.segment(png)
    plane.close()


@pytest.mark.parametrize("concurrency", [1, available_cpus()])
@pytest.mark.parametrize("ending", ["deadline", "gone", "network", "finish", "companion"])
def test_images_of_failed_and_cancelled_requests_are_forgotten_at_once(
    artifact_dir: Path, slow: threading.Event, monkeypatch: pytest.MonkeyPatch, ending: str, concurrency: int
) -> None:
    """However a request ends, its images are freed when its last thread is done, without waiting for the garbage collector:
    that may run late, and the images may fill the memory.
    """
    slow.set()
    plane = DataPlane(Predictor(Repository(artifact_dir), Limits()), concurrency=concurrency)
    if ending in {"deadline", "gone"}:
        slow.clear()

    def breaking(*_args: Any, **_options: Any) -> Any:
        raise InferenceFailed("this network fails on every image")

    if ending == "network":
        monkeypatch.setattr(Engine, "run", breaking)

    def finish(result: Segmentation) -> Segmentation:
        if ending == "finish":
            raise UnsupportedImage("it cannot be encoded")
        return result

    async def test() -> None:
        image = make_image()
        forgotten = weakref.ref(image)
        images: list[bytes | np.ndarray] = [image, b"\x89PNG\r\n\x1a\n"] if ending == "companion" else [image]
        call = asyncio.create_task(segment_all(plane, images, finish, deadline_s=0.1 if ending == "deadline" else None))
        del image, images
        await asyncio.sleep(0.05)
        if ending == "gone":
            call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert call.cancelled() if ending == "gone" else call.exception() is not None
        del call
        slow.set()
        await wait_until_async(lambda: forgotten() is None, "the image to be freed")
        await plane.drain(WAIT_S)

    gc.disable()
    try:
        run(test)
    finally:
        gc.enable()


@pytest.mark.parametrize(("lanes", "thread"), [(1, "fcn-pixels"), (2, "fcn-worker")])
def test_results_are_encoded_on_a_thread(
    lanes: int, thread: str, artifact_dir: Path, png: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exceptions reach the caller, and answers keep the order; with a lane for each processor the worker encodes."""
    monkeypatch.setattr("service.serving.dataplane.available_cpus", lambda: 2)
    plane = DataPlane(Predictor(Repository(artifact_dir), Limits()), concurrency=lanes)

    def finish(result: Segmentation) -> tuple[int, str]:
        return result.labels.shape[0], threading.current_thread().name

    def broken(_: Segmentation) -> None:
        raise ZeroDivisionError

    async def test() -> None:
        images = [encode_image(make_image(height)) for height in (40, 30, 50)]
        made = await segment_all(plane, images, finish)
        assert [height for height, _ in made] == [40, 30, 50]
        assert all(name.startswith(thread) for _, name in made)
        with pytest.raises(ZeroDivisionError):
            await segment_all(plane, [png], broken)

    run(test)
    plane.close()


def test_images_that_do_not_fit_together_take_turns(artifact_dir: Path) -> None:
    """A request above the capacity is served when nothing else is, and never holds more than fits."""
    plane = DataPlane(Predictor(Repository(artifact_dir), Limits()), queue_megapixels=0.05)
    inside, most = 0, 0
    lock = threading.Lock()

    def finish(_: Segmentation) -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.01)
        with lock:
            inside -= 1

    async def test() -> None:
        assert len(await segment_all(plane, [encode_image(make_image(150, 200))] * 5, finish)) == 5
        assert most == 1
        await plane.drain(WAIT_S)

    run(test)


def test_a_request_above_the_free_capacity_is_served_beside_others(artifact_dir: Path) -> None:
    """Its images take turns. It is shed only if one of its images alone would be, so it cannot starve."""
    plane = DataPlane(Predictor(Repository(artifact_dir), Limits()), queue_megapixels=0.1)
    loads: list[float] = []

    async def test() -> None:
        image = encode_image(make_image(150, 200))
        with plane.scheduler.admit(0.05):
            made = await segment_all(plane, [image] * 10, lambda _: loads.append(plane.scheduler.load))
            assert len(made) == 10
            assert max(loads) <= 0.1
            with pytest.raises(Overloaded):
                await segment_all(plane, [encode_image(make_image(300, 200))] * 2, lambda _: None)
        await plane.drain(WAIT_S)

    run(test)


def test_capacity_is_held_until_the_thread_is_done(plane: DataPlane, png: bytes) -> None:
    """The capacity of a cancelled request stays taken while a thread decodes or encodes its image."""
    entered, go_on = threading.Semaphore(0), threading.Event()

    def finish(_: Segmentation) -> None:
        entered.release()
        assert go_on.wait(WAIT_S)

    async def test() -> None:
        late = asyncio.create_task(segment_all(plane, [png], finish, deadline_s=2))
        leaver = asyncio.create_task(segment_all(plane, [png], finish))
        for _ in (late, leaver):
            assert await asyncio.to_thread(entered.acquire, timeout=WAIT_S)
        leaver.cancel()
        with pytest.raises(DeadlineExceeded):
            await late
        await asyncio.sleep(0.05)
        assert leaver.cancelled()
        assert plane.scheduler.admitted == 2
        go_on.set()
        await emptied(plane)

    run(test)


def test_a_late_request_is_shed_before_it_is_decoded(artifact_dir: Path, png: bytes) -> None:
    """At once, with the time after which to retry; a request with more time is admitted."""
    plane = DataPlane(Predictor(Repository(artifact_dir), Limits()))
    go_on = threading.Event()

    def finish(_: Segmentation) -> None:
        assert go_on.wait(WAIT_S)

    async def test() -> None:
        slow = asyncio.create_task(segment_all(plane, [png], finish))
        await asyncio.sleep(0.3)
        go_on.set()
        await slow
        go_on.clear()
        inside = [asyncio.create_task(segment_all(plane, [png], finish)) for _ in range(2)]
        await asyncio.sleep(0)
        start = time.thread_time()
        with pytest.raises(Overloaded) as caught:
            await segment(plane, png[:60], deadline_s=0.2)  # a header without pixels
        assert time.thread_time() - start < 0.02
        assert 0.1 <= caught.value.retry_after_s < WAIT_S
        patient = asyncio.create_task(segment(plane, png, deadline_s=WAIT_S))
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(*inside, patient)
        await plane.drain(WAIT_S)

    run(test)


def test_one_image_that_breaks_the_network_fails_alone_in_its_batch(
    artifact_dir: Path, monkeypatch: pytest.MonkeyPatch, slow: threading.Event
) -> None:
    """The others of the batch are answered."""
    slow.set()
    plane = DataPlane(Predictor(Repository(artifact_dir), Limits()), max_batch=4)
    slow.clear()
    held = Engine.run

    def breaking(engine: Engine, batch: np.ndarray, *args: Any, **options: Any) -> Any:
        scores = held(engine, batch, *args, **options)
        if (batch == 255).all(axis=(1, 2, 3)).any():
            raise InferenceFailed("a white image")
        return scores

    monkeypatch.setattr(Engine, "run", breaking)
    white = encode_image(np.full((96, 128, 3), 255, np.uint8))
    good = encode_image(make_image())

    async def test() -> None:
        tasks = [asyncio.create_task(segment(plane, data)) for data in (good, good, white, good)]
        await asyncio.sleep(0.2)
        slow.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [Segmentation, Segmentation, InferenceFailed, Segmentation]
        await plane.drain(WAIT_S)

    run(test)


def test_an_array_is_treated_as_a_file(plane: DataPlane, png: bytes, image: np.ndarray) -> None:
    """A decoded array, also a read-only one, is admitted, limited and segmented like a file."""
    fixed = np.frombuffer(image.tobytes(), np.uint8).reshape(image.shape)

    async def test() -> None:
        from_file, from_array = await segment_all(plane, [png, fixed], unchanged)
        assert np.array_equal(from_file.labels, from_array.labels)
        assert np.array_equal(from_file.scores, from_array.scores)
        assert np.array_equal(from_array.image, image)
        for shape, error in (((1, 0, 3), CorruptImage), ((1, plane.limits.max_side + 1, 3), ImageTooLarge)):
            with pytest.raises(error):
                await segment_all(plane, [np.zeros(shape, np.uint8)], unchanged)

    run(test)


def test_statistics_count_requests_images_and_executions(plane: DataPlane, png: bytes) -> None:
    """By model and version; a refused request counts as one failure."""

    async def test() -> None:
        counts = plane.statistics(plane.repository.get().manifest)
        before = (counts.success.count, counts.fail.count, counts.images())
        await segment_all(plane, [png, png], unchanged)
        with pytest.raises(UnsupportedImage):
            await segment_all(plane, [png, b"text"], unchanged)
        after = (counts.success.count, counts.fail.count, counts.images())
        assert [new - old for new, old in zip(after, before, strict=True)] == [1, 1, 2]
        assert sum(counts.executions(batch) * batch for batch in counts.steps) == counts.images()
        assert all(steps.infer.total_s > 0 and steps.decode.count == steps.finish.count for steps in counts.steps.values())
        assert abs(time.time() - counts.last_request_s) < 10

    run(test)
