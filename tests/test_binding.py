"""Runs through IO binding, and runs at fixed addresses as CUDA graphs need them; on the CPU provider."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from service.pipeline.binding import PLACES, RecordedRuns, Values, run_bound
from tests.conftest import make_graph

NAMES = ["scores"]


@pytest.fixture(scope="module")
def session() -> ort.InferenceSession:
    """The colour network."""
    return ort.InferenceSession(make_graph().SerializeToString(), providers=["CPUExecutionProvider"])


def batch(seed: int, height: int = 16, width: int = 24, images: int = 1) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Images of noise."""
    return np.random.default_rng(seed).integers(0, 256, (images, height, width, 3), np.uint8)


def shapes(images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> dict[str, tuple[int, ...]]:
    """The shape of the scores: three classes at stride 8."""
    return {"scores": (len(images), 3, images.shape[1] // 8, images.shape[2] // 8)}


def plain(session: ort.InferenceSession, images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> NDArray[np.float32]:
    """The scores without any binding."""
    return np.asarray(session.run(NAMES, {"image": images})[0])


def test_a_bound_run_gives_what_a_plain_one_gives(session: ort.InferenceSession) -> None:
    """For one image and for several, and the scores outlive their run."""
    found = [run_bound(session, {"image": images}, NAMES, "cpu") for images in (batch(1), batch(2, images=3))]
    for values, images in zip(found, (batch(1), batch(2, images=3)), strict=True):
        assert np.array_equal(values.host("scores"), plain(session, images))


def test_outputs_in_use_are_never_written_over(session: ort.InferenceSession) -> None:
    """Each run has a place of its own until its outputs are gone; beyond the places, runs are not recorded."""
    runs = RecordedRuns(session, "cpu", 1)
    held = [runs.run(batch(seed), shapes(batch(seed))) for seed in range(3 * PLACES)]
    for seed, values in enumerate(held):
        assert np.array_equal(values.host("scores"), plain(session, batch(seed)))


def test_a_place_is_used_again(session: ort.InferenceSession) -> None:
    """Its addresses stay the same: a recorded graph holds them."""
    runs = RecordedRuns(session, "cpu", 1)

    def address(values: Values) -> int:
        return int(values.on_device["scores"].data_ptr())

    seen = []
    for seed in range(20):
        values = runs.run(batch(seed), shapes(batch(seed)))
        seen.append(address(values))
        del values
        gc.collect(1)  # what is young; all of it takes seconds in a process that has torch
    assert len(set(seen)) <= PLACES


def test_outputs_may_be_collected_while_a_place_is_taken(session: ort.InferenceSession) -> None:
    """The garbage collector runs finalizers at any time: also in the thread that searches for a place."""

    class Collecting(dict):  # type: ignore[type-arg]
        def __contains__(self, key: object) -> bool:
            gc.collect()
            return super().__contains__(key)

    runs = RecordedRuns(session, "cpu", 1)
    cycle: list[object] = [runs.run(batch(1), shapes(batch(1)))]
    cycle.append(cycle)
    runs._free = Collecting(runs._free)
    gc.disable()
    try:
        del cycle
        found = runs._thread.submit(runs._run, batch(2), shapes(batch(2))).result(60)
    finally:
        gc.enable()
    assert np.array_equal(found.host("scores"), plain(session, batch(2)))
    (free,) = runs._free.values()
    assert len(free) == PLACES - 1


def test_shapes_beyond_the_limit_run_unrecorded(session: ort.InferenceSession) -> None:
    """And give the same scores."""
    runs = RecordedRuns(session, "cpu", 2)
    for height in (16, 24, 32, 40, 16):
        images = batch(height, height)
        assert np.array_equal(runs.run(images, shapes(images)).host("scores"), plain(session, images))
    assert len(runs._free) == 2


def test_recorded_runs_of_many_threads_do_not_mix(session: ort.InferenceSession) -> None:
    """CUDA graphs belong to one thread: whichever thread asks, that one runs."""
    runs = RecordedRuns(session, "cpu", 1)

    def check(seed: int) -> bool:
        values = runs.run(batch(seed), shapes(batch(seed)))
        return np.array_equal(values.host("scores"), plain(session, batch(seed)))

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(check, range(60)))
