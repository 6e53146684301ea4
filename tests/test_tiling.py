"""Tiles: the scores of the whole picture, in the memory of one tile."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.errors import BadParameter
from service.pipeline.blocks import blocks
from service.pipeline.codecs.decoding import Limits
from service.pipeline.engine import Engine
from service.pipeline.manifest import InputPolicy
from service.pipeline.predictor import Predictor
from service.pipeline.repository import Repository
from service.pipeline.workload import Workload
from tests.conftest import make_image, make_manifest, write_artifact
from tests.pyramids import SmallTiles, make_pyramid, open_pyramids


@pytest.fixture(scope="module")
def pyramids(tmp_path_factory: pytest.TempPathFactory) -> list[Engine]:
    """Random networks of one to four levels."""
    return open_pyramids(tmp_path_factory.mktemp("pyramids"))


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    which=st.integers(0, 4),
    height=st.integers(20, 150),
    width=st.integers(20, 150),
    side=st.integers(8, 120),
    seed=st.integers(0, 2**32 - 1),
)
def test_tiles_give_the_scores_of_the_whole(
    pyramids: list[Engine], which: int, height: int, width: int, side: int, seed: int
) -> None:
    """Random networks, sizes and tiles, borders included: scores within 1e-4, and the same winner away from ties."""
    engine = pyramids[which]
    picture = np.random.default_rng(seed).integers(0, 256, (2 * height, 2 * width, 3), dtype=np.uint8)
    expected = engine.run(picture[None])["scores"][0]
    found = SmallTiles(side).run(engine, picture, ["scores"])["scores"]
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, atol=1e-4 * max(1.0, scale))
    best = np.sort(expected, 0)
    clear = best[-1] - best[-2] > 3e-4 * max(1.0, scale)
    assert np.array_equal(found.argmax(0)[clear], expected.argmax(0)[clear])


@given(
    sides=st.lists(st.integers(1, 90), min_size=1, max_size=2) | st.lists(st.integers(1, 20), min_size=3, max_size=3),
    cells=st.integers(0, 3),
    multiple=st.sampled_from([1, 2, 8]),
    largest=st.integers(1, 60),
)
def test_blocks_cover_the_whole_once(sides: list[int], cells: int, multiple: int, largest: int) -> None:
    """Each pixel is kept by exactly one block, which reads the halo around it as far as the whole goes; all have one shape."""
    halo = cells * multiple
    count, shapes = np.zeros(sides, int), set()
    for block in blocks(sides, halo=halo, multiple=multiple, largest=largest):
        count[block.place] += 1
        for side, read, keep, place in zip(sides, block.read, block.keep, block.place, strict=True):
            assert read.start % multiple == 0
            assert (place.start, place.stop) == (read.start + keep.start, read.start + keep.stop)
            assert 0 <= read.start <= max(0, place.start - halo)
            assert min(side, place.stop + halo) <= read.stop <= side
            assert read.stop - read.start <= max(largest, 2 * halo + 2 * multiple)
        shapes.add(tuple(read.stop - read.start for read in block.read))
    assert (count == 1).all()
    assert len(shapes) == 1  # more would each take memory of their own in ONNX Runtime's arena


def test_native_resolution_gives_the_same_labels_in_tiles_as_in_one_run(tmp_path: Path) -> None:
    """From pixels to the mask, through the predictor, at a size that needs rounding."""
    graph, halo = make_pyramid(3, 7)
    manifest = make_manifest(input=InputPolicy(working_size=(64, 64), multiple=2), stride=2, receptive_field=99, halo=halo)
    write_artifact(tmp_path / "colours.onnx", manifest, graph)
    noise = np.random.default_rng(0).integers(0, 256, (333, 251, 3), dtype=np.uint8)
    whole = Predictor(Repository(tmp_path), Limits())
    tiled = Predictor(whole.repository, Limits(), SmallTiles(120))
    expected, found = whole.segment(noise, resolution="native"), tiled.segment(noise, resolution="native")
    assert found.scores.shape == expected.scores.shape == (3, 166, 126)
    assert (found.labels == expected.labels).mean() > 0.9999
    assert not np.array_equal(whole.segment(noise).labels, expected.labels)
    whole.close()


def test_a_model_without_a_halo_takes_whole_pictures_only(tmp_path: Path) -> None:
    """An adopted graph whose receptive field is unknown is refused where tiles would be needed, and served where not."""
    write_artifact(tmp_path / "colours.onnx", make_manifest(receptive_field=None, halo=None))
    predictor = Predictor(Repository(tmp_path), Limits(), SmallTiles(100))
    assert predictor.segment(make_image(90, 100), resolution="native").labels.shape == (90, 100)
    with pytest.raises(BadParameter, match="receptive field"):
        predictor.segment(make_image(120, 100), resolution="native")
    predictor.close()


def test_a_model_of_one_size_has_no_native_resolution(tmp_path: Path) -> None:
    """The refusal names the parameter."""
    policy = InputPolicy(working_size=(96, 128), fit="stretch", multiple=8)
    write_artifact(tmp_path / "colours.onnx", make_manifest(input=policy))
    predictor = Predictor(Repository(tmp_path), Limits())
    with pytest.raises(BadParameter, match="one size only"):
        predictor.segment(make_image(), resolution="native")
    predictor.close()


def test_admission_counts_every_pixel_that_tiles_will_read(pyramids: list[Engine]) -> None:
    """The work of a tiled picture is that of its runs, halos included; its memory is not."""
    engine, seen = pyramids[2], []
    tiling = SmallTiles(100)
    picture = np.zeros((300, 340, 3), np.uint8)
    real = engine.run
    engine.run = lambda batch, *rest, **options: (seen.append(batch.size // 3), real(batch, *rest, **options))[1]  # type: ignore[method-assign, func-returns-value]
    try:
        tiling.run(engine, picture, ["scores"])
    finally:
        del engine.run
    workload = Workload.native(300, 340, engine.manifest, tiling)
    assert sum(seen) == round(1e6 * workload.network_megapixels) > 300 * 340
    assert max(seen) <= 100 * 100
    assert workload.cost == pytest.approx(0.102)


def test_a_run_that_is_not_wanted_any_more_ends_at_the_next_tile(pyramids: list[Engine]) -> None:
    """A caller that leaves does not keep a processor for the rest of a large picture."""
    gone, tiles = threading.Event(), []

    def check() -> None:
        if gone.is_set():
            raise InterruptedError
        tiles.append(1)
        gone.set()

    with pytest.raises(InterruptedError):
        SmallTiles(100).run(pyramids[1], np.zeros((400, 400, 3), np.uint8), ["scores"], check=check)
    assert len(tiles) == 1


def test_a_panoptic_network_finds_the_same_objects_in_tiles(tmp_path: Path) -> None:
    """Centres and offsets are put together as the scores are: at the native resolution an object may lie in several tiles."""
    graph, halo = make_pyramid(3, 11, objects=True)
    outputs = [{"name": name, "kind": name, "stride": 2} for name in ("scores", "centers", "offsets")]
    classes = [{"id": k, "name": f"class {k}", "color": (k, k, k), "countable": k > 0} for k in range(3)]
    policy = InputPolicy(working_size=(64, 64), multiple=2)
    more = {"task": "panoptic", "outputs": outputs, "classes": classes, "input": policy}
    manifest = make_manifest(**more, stride=2, receptive_field=2 * halo, halo=halo)
    whole = Predictor(Repository(write_artifact(tmp_path / "objects.onnx", manifest, graph).parent), Limits())
    tiled = Predictor(whole.repository, Limits(), SmallTiles(120))
    noise = np.random.default_rng(0).integers(0, 256, (271, 333, 3), dtype=np.uint8)
    expected, found = (each.segment(noise, instances=True, resolution="native") for each in (whole, tiled))
    for name in ("scores", "centers", "offsets"):
        np.testing.assert_allclose(found.outputs[name], expected.outputs[name], atol=1e-3)
    objects, wanted = found.instances(), expected.instances()
    assert len(wanted.rows) > 5
    assert len(objects.rows) == len(wanted.rows)
    assert (objects.ids == wanted.ids).mean() > 0.999
    whole.close()
