"""Which session an inference takes, where several run at the same time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from service.pipeline.engine import Engine, EngineOptions
from service.pipeline.lanes import Lanes
from service.pipeline.repository import Repository
from tests.conftest import make_manifest, write_artifact


def test_a_thread_keeps_its_session() -> None:
    """What it wrote there is still in its processor's cache."""
    lanes = Lanes("abc")
    with ThreadPoolExecutor(1) as other:

        def take_beside() -> str:
            with lanes.taken() as session:
                return session

        with lanes.taken() as mine:
            its = other.submit(take_beside).result()
        assert mine != its
        for _ in range(3):
            with lanes.taken() as again:
                assert again == mine
            assert other.submit(take_beside).result() == its


def test_callers_that_come_together_are_spread() -> None:
    """None waits: beyond a caller each, sessions are shared evenly, and a session that was left is taken first."""
    lanes = Lanes("abc")
    with ExitStack() as all_six, ExitStack() as first:
        held = [first.enter_context(lanes.taken()), *(all_six.enter_context(lanes.taken()) for _ in range(5))]
        assert sorted(held) == list("aabbcc")
        first.close()
        with lanes.taken() as next_one:
            assert next_one == held[0]


def test_a_block_that_fails_gives_its_session_back() -> None:
    """Otherwise the others would share what is left."""
    lanes = Lanes("ab")
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), lanes.taken():
            1 / 0  # noqa: B018 - it is raised inside the block
    with lanes.taken() as one, lanes.taken() as two:
        assert {one, two} == {"a", "b"}


def test_every_lane_gives_the_same(artifact: Path) -> None:
    """Each has weights of its own."""
    engine = Engine.open(artifact, EngineOptions(threads=3, lanes=3))
    batch = np.random.default_rng(0).integers(0, 256, (1, 96, 128, 3), np.uint8)
    expected = engine.run(batch)["scores"]
    with ThreadPoolExecutor(5) as callers:
        for found in callers.map(lambda _: engine.run(batch, alone=False)["scores"], range(20)):
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    engine.close()


def test_the_lanes_of_the_default_model_are_filled_before_it_is_served(tmp_path: Path) -> None:
    """The first requests pay for no memory; models that no request names take none."""
    for name in ("a", "b"):
        write_artifact(tmp_path / f"{name}.onnx", make_manifest(name=name))
    repository = Repository(tmp_path, EngineOptions(threads=2, lanes=2), default="a")
    assert [engine.filled for engine in repository.engines()] == [True, False]
    write_artifact(tmp_path / "a.onnx", make_manifest(name="a", version="2.0.0"))
    repository.load("a")
    assert repository.get().manifest.version == "2.0.0"
    assert repository.get().filled
    repository.close()
