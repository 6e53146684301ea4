"""Scores to labels, against plain float64 arithmetic."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.pipeline.tasks import compiled, semantic
from service.pipeline.tasks.compiled import Library
from service.pipeline.tasks.semantic import confidence_map, label_map

sides = st.integers(1, 24)


@pytest.fixture(scope="module")
def library() -> Library:
    """What labels.c does."""
    found = compiled.loaded()
    if found is None:
        pytest.skip("labels.c is not compiled: python service/pipeline/tasks/compiled.py")
    return found


@pytest.fixture(scope="module", params=["compiled", "numpy"])
def either_way(request: pytest.FixtureRequest) -> Iterator[None]:
    """For tests of what both ways must do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(semantic, "_compiled", request.getfixturevalue("library") if request.param == "compiled" else None)
        yield


def upsample(scores: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float64]:
    """Bilinear, half-pixel centres, clamped edges: the definition, in float64."""
    planes = scores.astype(np.float64)
    for axis, pixels in ((1, size[0]), (2, size[1])):
        n = planes.shape[axis]
        at = np.clip((np.arange(pixels) + 0.5) * n / pixels - 0.5, 0, n - 1)
        below = np.floor(at).astype(int)
        above = np.minimum(below + 1, n - 1)
        share = (at - below).reshape([-1 if i == axis else 1 for i in range(3)])
        planes = planes.take(below, axis) * (1 - share) + planes.take(above, axis) * share
    return planes


def wrong_pixels(scores: NDArray[np.float32], size: tuple[int, int]) -> int:
    """Pixels whose label differs from the definition's; ties up to the rounding of float64 left out."""
    truth = upsample(scores, size)
    result = label_map(scores, size)
    assert result.shape == size
    assert result.dtype == np.uint8
    chosen = np.take_along_axis(truth, result[None].astype(int), 0)[0]
    tolerance = 1e-13 * max(1.0, float(np.abs(scores).max()))
    return int((truth.max(0) - chosen > tolerance).sum())


def smooth_scores(seed: int, classes: int, h: int, w: int) -> NDArray[np.float32]:
    """Scores with regions and borders, as a network's: noise that was upsampled from a coarser grid."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(classes, max(1, h // 5), max(1, w // 5))).astype(np.float32) * 4
    fine = rng.normal(size=(classes, h, w)) * 0.3
    return (upsample(coarse, (h, w)) + fine).astype(np.float32)


@pytest.mark.usefixtures("either_way")
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), sides, sides, st.integers(1, 90), st.integers(1, 90), st.booleans())
def test_labels_are_those_of_the_definition(seed: int, classes: int, h: int, w: int, H: int, W: int, noisy: bool) -> None:  # noqa: N803
    """Any size to any size, larger and smaller, smooth or white noise: upsample, then argmax."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(classes, h, w)).astype(np.float32) if noisy else smooth_scores(seed, classes, h, w)
    assert wrong_pixels(scores, (H, W)) == 0


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize(
    ("grid", "size"),
    [((45, 60), (360, 480)), ((39, 69), (720, 1280)), ((90, 120), (45, 33)), ((12, 16), (1, 3000)), ((2, 2), (3, 2000))],
)
def test_labels_are_right_at_the_sizes_of_cameras(grid: tuple[int, int], size: tuple[int, int]) -> None:
    """Whole and broken ratios, reductions, and images that are nearly a line; more than one block of cells."""
    assert wrong_pixels(smooth_scores(1, 11, *grid), size) == 0


@pytest.mark.usefixtures("either_way")
def test_a_class_that_leads_at_no_corner_can_win_inside() -> None:
    """Skipping classes is exact: second everywhere at the corners may be first in the middle."""
    scores = np.array([[[9, 0]], [[0, 9]], [[8, 8]]], np.float32)
    assert label_map(scores, (1, 64))[0, 32] == 2
    assert wrong_pixels(scores, (1, 64)) == 0


@pytest.mark.usefixtures("either_way")
def test_of_equals_the_lowest_id_wins() -> None:
    """A tie has one answer, everywhere."""
    assert not label_map(np.zeros((5, 3, 4), np.float32), (30, 40)).any()
    scores = np.zeros((3, 2, 2), np.float32)
    scores[0, 0, 0] = -1
    assert label_map(scores, (8, 8))[0, 0] == 1


@pytest.mark.usefixtures("either_way")
def test_255_classes_fit_into_a_byte() -> None:
    """The largest class table that a manifest allows."""
    assert wrong_pixels(smooth_scores(3, 255, 9, 7), (40, 50)) == 0


def test_scores_are_not_changed() -> None:
    """They are still needed for the confidence."""
    scores = smooth_scores(4, 3, 8, 8)
    before = scores.copy()
    confidence_map(scores, label_map(scores, (30, 30)))
    assert np.array_equal(scores, before)


@pytest.mark.usefixtures("either_way")
def test_an_edge_in_the_scores_lies_where_the_image_has_it() -> None:
    """Half of the scores, half of the mask: nothing is shifted by rounding."""
    scores = np.zeros((2, 10, 10), np.float32)
    scores[1, :, 5:] = 1
    scores[0, :, :5] = 1
    for width in (7, 10, 80, 333):
        assert (label_map(scores, (5, width)) == 1).mean() == pytest.approx(0.5, abs=0.5 / width + 1e-9)


@given(st.integers(0, 2**32 - 1), st.integers(1, 8), sides, sides, st.integers(1, 60), st.integers(1, 60))
def test_confidence_is_the_winners_softmax(seed: int, classes: int, h: int, w: int, H: int, W: int) -> None:  # noqa: N803
    """The probability of the upsampled scores, in 255ths."""
    scores = smooth_scores(seed, classes, h, w)
    truth = upsample(scores, (H, W))
    powers = np.exp(truth - truth.max(0))
    confidence = confidence_map(scores, label_map(scores, (H, W)))
    assert confidence.dtype == np.uint8
    assert np.abs(confidence - 255 * powers.max(0) / powers.sum(0)).max() <= 0.51


def test_confidence_of_scores_that_are_far_apart_is_finite() -> None:
    """Large differences neither overflow nor vanish."""
    scores = np.array([[[1e4, -1e4]], [[-1e4, 1e4]]], np.float32)
    confidence = confidence_map(scores, label_map(scores, (1, 9)))
    assert confidence[0].tolist() == [255, 255, 255, 255, 128, 255, 255, 255, 255]


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """The result does not depend on how many pixels are worked on at a time."""
    scores = smooth_scores(5, 6, 20, 20)
    whole = label_map(scores, (100, 150))
    sure = confidence_map(scores, whole)
    monkeypatch.setattr(semantic, "BLOCK_PIXELS", 1)
    assert np.array_equal(label_map(scores, (100, 150)), whole)
    assert np.array_equal(confidence_map(scores, whole), sure)


# --- labels.c --------------------------------------------------------------------------------------------------------


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 12),
    sides,
    sides,
    st.integers(1, 90),
    st.integers(1, 90),
    st.sampled_from([0.0, 1.0, 0.1, 0.0123]),
)
def test_compiled_labels_are_those_of_numpy(
    library: Library,
    seed: int,
    classes: int,
    h: int,
    w: int,
    H: int,  # noqa: N803
    W: int,  # noqa: N803
    step: float,
) -> None:
    """To the last pixel; scores on a grid, as an int8 network's are, tie all the time."""
    scores = smooth_scores(seed, classes, h, w)
    scores = (np.rint(scores / 4) * np.float32(step) if step else scores).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(semantic, "_compiled", library)
        found = label_map(scores, (H, W))
        patch.setattr(semantic, "_compiled", None)
        assert np.array_equal(found, label_map(scores, (H, W)))


def test_scores_in_any_order_of_memory_are_taken(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """A view of a batch, or of a turned array, is not a plain block of memory."""
    monkeypatch.setattr(semantic, "_compiled", library)
    scores = smooth_scores(5, 4, 9, 11)
    expected = label_map(scores, (40, 50))
    assert np.array_equal(label_map(np.asfortranarray(scores), (40, 50)), expected)
    assert np.array_equal(label_map(np.stack([scores, -scores], 1)[:, 0], (40, 50)), expected)


def test_a_library_of_another_source_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name holds a digest of the source: after an update the old one is ignored, and removed when the new one is made."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    sources = [tmp_path / name for name in compiled.SOURCES]
    for source in sources:
        source.write_bytes((compiled.FOLDER / source.name).read_bytes())
    monkeypatch.setattr(compiled, "FOLDER", tmp_path)
    old = compiled.compile_sources()
    assert compiled.loaded() is not None
    for source in sources:
        source.write_text(source.read_text() + "/* changed */\n")
        assert compiled.loaded() is None
    new = compiled.compile_sources()
    assert compiled.loaded() is not None
    assert set(tmp_path.iterdir()) == {*sources, new}
    assert old != new


def test_without_a_compiler_the_build_says_what_is_lost() -> None:
    """One line and a status; the caller continues."""
    done = subprocess.run(
        [sys.executable, "-P", compiled.__file__], env={"CC": "no-such-compiler"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("labels.c, objects.c and planes.c were not compiled")
    assert done.stderr.count("\n") == 1


def test_a_temperature_divides_the_scores() -> None:
    """Calibrated confidence is the softmax of the scores over the temperature; the labels do not change."""
    scores = np.random.default_rng(3).normal(0, 3, (4, 9, 11)).astype(np.float32)
    labels = label_map(scores, (30, 40))
    expected = confidence_map(scores / np.float32(1.7), labels)
    assert np.array_equal(confidence_map(scores, labels, 1.7), expected)
    assert (expected < confidence_map(scores, labels)).mean() > 0.9
