"""Tiles: the scores of the whole picture, in the memory of one tile."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from service.errors import BadParameter
from service.pipeline.blocks import blocks
from service.pipeline.codecs.decoding import Limits
from service.pipeline.engine import Engine
from service.pipeline.manifest import InputPolicy
from service.pipeline.predictor import Predictor
from service.pipeline.repository import Repository
from service.pipeline.tiling import Tiling
from service.pipeline.workload import Workload
from tests.conftest import make_image, make_manifest, write_artifact


def make_pyramid(levels: int, seed: int) -> tuple[onnx.ModelProto, int]:
    """Make a random fully convolutional network: ``levels`` strided convolutions down, bilinear steps and skips up to stride 2.

    Sides need not be multiples of the coarsest stride: raised maps are cropped to the skip, as the family's networks do.

    Gives:
        the graph, and its halo in pixels: a multiple of the coarsest stride
    """
    random = np.random.default_rng(seed)
    weights: list[onnx.TensorProto] = []
    nodes = [
        helper.make_node("Cast", ["image"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["real"], ["map0"], perm=[0, 3, 1, 2]),
    ]

    def convolve(source: str, target: str, inside: int, out: int, stride: int = 1) -> None:
        kernel = random.normal(0, 1 / np.sqrt(9 * inside), (out, inside, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"{target}_w"))
        raw = f"{target}_raw"
        nodes.append(helper.make_node("Conv", [source, f"{target}_w"], [raw], strides=[stride] * 2, pads=[1] * 4))
        nodes.append(helper.make_node("LeakyRelu", [raw], [target], alpha=0.3))

    reach, jump = 0, 1
    for level in range(1, levels + 1):
        convolve(f"map{level - 1}", f"map{level}", 3 if level == 1 else 4, 4, stride=2)
        reach, jump = reach + jump, 2 * jump
    coarsest, current = jump, f"map{levels}"
    weights += [
        numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "twice"),
        numpy_helper.from_array(np.array([0, 0], np.int64), "zeros"),
        numpy_helper.from_array(np.array([2, 3], np.int64), "sides"),
    ]
    for level in range(levels - 1, 0, -1):
        reach, jump = reach + 2 * jump, jump // 2  # the bilinear step reads the next cell
        skip, raised, cropped = f"map{level}", f"raised{level}", f"cropped{level}"
        nodes += [
            helper.make_node("Resize", [current, "", "twice"], [raised], mode="linear"),
            helper.make_node("Shape", [skip], [f"shape{level}"], start=2, end=4),
            helper.make_node("Slice", [raised, "zeros", f"shape{level}", "sides"], [cropped]),
            helper.make_node("Add", [cropped, skip], [f"sum{level}"]),
        ]
        convolve(f"sum{level}", f"up{level}", 4, 4)
        reach, current = reach + jump, f"up{level}"
    kernel = random.normal(0, 1, (3, 4, 1, 1)).astype(np.float32)
    weights.append(numpy_helper.from_array(kernel, "last"))
    nodes.append(helper.make_node("Conv", [current, "last"], ["scores"]))
    graph = helper.make_graph(
        nodes,
        "pyramid",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3, "h", "w"])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model, -(-(reach + 2) // coarsest) * coarsest


@pytest.fixture(scope="module")
def pyramids(tmp_path_factory: pytest.TempPathFactory) -> list[Engine]:
    """Open random networks of one to four levels."""
    folder = tmp_path_factory.mktemp("pyramids")
    engines = []
    for seed, levels in enumerate([1, 2, 3, 4, 3]):
        graph, halo = make_pyramid(levels, seed)
        policy = InputPolicy(working_size=(64, 64), multiple=2)
        manifest = make_manifest(name=f"pyramid{seed}", input=policy, stride=2, receptive_field=2 * halo, halo=halo)
        engines.append(Engine.open(write_artifact(folder / f"{seed}.onnx", manifest, graph)))
    return engines


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


class SmallTiles(Tiling):
    """Tiles of a given side, smaller than any memory budget in whole megabytes allows.

    Takes:
        side: of a tile in pixels, halo included
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        object.__setattr__(self, "side", side)

    @property
    def pixels(self) -> int:
        """The square of the side."""
        return int(vars(self)["side"]) ** 2


@given(
    sides=st.lists(st.integers(1, 90), min_size=1, max_size=3),
    cells=st.integers(0, 3),
    multiple=st.sampled_from([1, 2, 8]),
    largest=st.integers(1, 60),
)
def test_blocks_cover_the_whole_once(sides: list[int], cells: int, multiple: int, largest: int) -> None:
    """Each pixel is kept by exactly one block, which reads the halo around it as far as the whole goes."""
    halo = cells * multiple
    count = np.zeros(sides, int)
    for block in blocks(sides, halo=halo, multiple=multiple, largest=largest):
        count[block.place] += 1
        for side, read, keep, place in zip(sides, block.read, block.keep, block.place, strict=True):
            assert read.start % multiple == 0
            assert (place.start, place.stop) == (read.start + keep.start, read.start + keep.stop)
            assert read.start == max(0, place.start - halo) or read == slice(0, side)
            assert read.stop == min(side, place.stop + halo) or read == slice(0, side)
    assert (count == 1).all()


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
