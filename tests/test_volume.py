"""Scans of any orientation and spacing: the network sees its own grid, the answer is in the scan's."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.errors import ImageTooLarge, InferenceFailed
from service.pipeline.codecs import nifti
from service.pipeline.codecs.limits import Limits
from service.pipeline.manifest import Calibration, InputPolicy, Percentiles
from service.pipeline.tasks import volume as tasks_volume
from service.pipeline.tasks.volume import place, probabilities, segment, slices, softmax
from service.pipeline.volume import CERTAIN, Probabilities, Scan, best_class, frame, resized, tent
from tests.conftest import make_manifest
from tests.phantoms import nifti_bytes, scan_manifest

PERCENTILES = Percentiles(lower=1, upper=99, scope="volume")
LIMITS = Limits()


def by_intensity(batch: NDArray[np.float32]) -> NDArray[np.float32]:
    """A network that knows three classes by the middle channel's value: near 0, near 0.5, near 1."""
    middle = batch[..., batch.shape[-1] // 2]
    return np.stack([-40 * (middle - level) ** 2 for level in (0.0, 0.5, 1.0)], 1).astype(np.float32)


def asymmetric(shape: tuple[int, int, int] = (20, 26, 23)) -> NDArray[np.int16]:
    """An L in three dimensions whose arms differ in length: no turn or mirror of it is itself."""
    values = np.zeros(shape, np.int16)
    values[4:16, 5:9, 4:8] = 1000
    values[4:8, 5:21, 4:8] = 500
    values[4:8, 5:9, 4:18] = 1000
    return values


def as_stored(shares: NDArray[np.floating]) -> Probabilities:
    """Probabilities of 0..1 as the service keeps them."""
    stored: Probabilities = np.rint(shares * CERTAIN).astype(np.uint16)
    return stored


def scan_of(values: NDArray[Any], affine: NDArray[np.float64]) -> Scan:
    """A scan as the service reads it from a file."""
    return nifti.read(nifti_bytes(values, affine), LIMITS)


def test_every_orientation_gives_the_same_labels_back() -> None:
    """One scan turned and mirrored in all 48 ways, its affine with it: the labels are turned and mirrored alike."""
    values = asymmetric()
    affine = np.diag([1.0, 1, 1, 1])
    affine[:3, 3] = -10, 7, 3
    manifest = scan_manifest()
    expected = segment(scan_of(values, affine), manifest, by_intensity, max_voxels=10**6).labels
    assert set(np.unique(expected).tolist()) == {0, 1, 2}
    np.testing.assert_array_equal(expected, np.array([0, 1, 2])[values // 500])
    seen = set()
    for axes in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            turned = values.transpose(axes)[tuple(slice(None, None, sign) for sign in signs)]
            moved = affine[:, [*axes, 3]].copy()
            for axis, sign in enumerate(signs):
                if sign < 0:
                    moved[:3, 3] += moved[:3, axis] * (turned.shape[axis] - 1)
                    moved[:3, axis] *= -1
            found = segment(scan_of(turned, moved), manifest, by_intensity, max_voxels=10**6).labels
            assert found.shape == turned.shape
            np.testing.assert_array_equal(
                found, expected.transpose(axes)[tuple(slice(None, None, sign) for sign in signs)], str((axes, signs))
            )
            seen.add((axes, signs))
    assert len(seen) == 48


def test_the_network_sees_right_anterior_and_superior() -> None:
    """Of a scan in LPS the network sees the mirrored one: a mark on the patient's right is at the end of axis 0."""
    values = np.zeros((10, 12, 14), np.int16)
    values[0, 0, 13] = 1  # the patient's right, front and top in LPS
    scan = scan_of(values, np.diag([-1.0, -1, 1, 1]))
    placed = frame(scan.grid, orientation="RAS", spacing_mm=(1, 1, 1), max_voxels=10**6)
    assert placed.in_orientation(scan.values)[9, 11, 13] == 1


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 0.5, 0.5), (0.9, 1.3, 2.5), (2.0, 2.0, 2.0)])
def test_the_answer_is_in_the_scans_own_grid(spacing: tuple[float, float, float]) -> None:
    """At any spacing the labels of a large ball are those of the ball on the scan's grid, its border's half voxel apart."""
    sides = tuple(round(40 / step) for step in spacing)
    centres = [(np.arange(side) + 0.5) * 40 / side - 20 for side in sides]
    radius = np.sqrt(sum(axis**2 for axis in np.meshgrid(*centres, indexing="ij", sparse=True)))
    scan = scan_of(np.where(radius < 12, 1000, 0).astype(np.int16), np.diag([*spacing, 1]))
    found = segment(scan, scan_manifest(), by_intensity, max_voxels=10**6).labels
    assert found.shape == sides
    border = np.abs(radius - 12) < 1.2 * max(*spacing, 1.0)
    np.testing.assert_array_equal(found[~border], np.where(radius < 12, 2, 0)[~border])


def test_an_oblique_scan_keeps_its_axes() -> None:
    """Axes turned by 20 degrees are those of the nearest orientation; nothing is rotated."""
    angle = np.radians(20)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn
    found = segment(scan_of(asymmetric(), affine), scan_manifest(), by_intensity, max_voxels=10**6).labels
    np.testing.assert_array_equal(found, np.array([0, 1, 2])[asymmetric() // 500])


def test_no_class_appears_between_two_others() -> None:
    """Probabilities are sampled, then the best is taken: between class 0 and class 2 there is no rim of class 1 from labels."""
    scores = np.full((3, 4, 4, 4), -9.0, np.float32)
    scores[0, :2], scores[2, 2:] = 9, 9
    found = best_class(as_stored(softmax(scores[None])[0]), (16, 16, 16)).labels
    assert set(np.unique(found).tolist()) == {0, 2}


@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3), target=st.tuples(*[st.integers(1, 14)] * 3), slab=st.sampled_from([1, 50, 10**7])
)
def test_slabs_give_the_labels_of_the_whole(shape: Any, target: Any, slab: int) -> None:
    """However small the slabs are, the labels are those of scores that were sampled at once."""
    stored = as_stored(np.random.default_rng(3).random((4, *shape), np.float32))
    whole = np.stack([resized(plane.astype(np.float32), target) for plane in stored])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.pipeline.volume.SLAB_VOXELS", slab)
        found = best_class(stored, target).labels
    taken = np.take_along_axis(whole, found[None].astype(int), 0)[0]
    np.testing.assert_allclose(taken, whole.max(0), atol=1e-5 * CERTAIN)


@given(source=st.integers(1, 40), target=st.integers(1, 40))
def test_the_tent_keeps_constants_and_its_centre(source: int, target: int) -> None:
    """A constant stays constant, a mirror image stays one, and the same side is the identity."""
    weights = tent(source, target)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(weights, weights[::-1, ::-1], atol=1e-5)
    if source == target:
        np.testing.assert_array_equal(weights, np.eye(source, dtype=np.float32))


def test_a_ramp_is_sampled_without_a_shift() -> None:
    """Voxel centres lie at (i + 0.5) / side: a linear ramp keeps its values there."""
    ramp = np.broadcast_to((np.arange(12, dtype=np.float32) + 0.5)[:, None, None] / 12, (12, 3, 3))
    for side in (6, 24, 17):
        found = resized(np.ascontiguousarray(ramp), (side, 3, 3))[2:-2, 1, 1]
        np.testing.assert_allclose(found, ((np.arange(side) + 0.5) / side)[2:-2], atol=1e-3)


def test_slices_have_their_adjacent_slices() -> None:
    """Channel 1 is the slice, 0 and 2 those before and after; at the ends the outermost is repeated; the rest is 0."""
    across = np.arange(5, dtype=np.float32)[:, None, None] + np.zeros((5, 3, 6), np.float32)
    batch = slices(across, range(5), scan_manifest().input)
    assert batch.shape == (5, 8, 8, 3)
    assert batch[:, 0, 0].tolist() == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 4]]
    assert not batch[:, 3:].any()
    assert not batch[:, :, 6:].any()


def test_planes_are_averaged() -> None:
    """Two planes that disagree give the class of the larger sum of probabilities."""
    calls = []

    def run(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        calls.append(batch.shape)
        scores = np.zeros((len(batch), 3, *batch.shape[1:3]), np.float32)
        scores[:, 1 if batch.shape[1:3] == (24, 24) else 2] = 1 if batch.shape[1:3] == (24, 24) else 3
        return scores

    scan = scan_of(np.zeros((10, 17, 18), np.int16), np.eye(4))
    one = segment(scan, scan_manifest(planes=("sagittal",)), run, max_voxels=10**6).labels
    assert (one == 1).all()
    both = segment(scan, scan_manifest(planes=("sagittal", "coronal")), run, max_voxels=10**6).labels
    assert (both == 2).all()
    assert {shape[1:3] for shape in calls} == {(24, 24), (16, 24)}


@pytest.mark.parametrize("step", [2, 3])
@pytest.mark.parametrize("lanes", [1, 3])
def test_slices_between_those_that_run_are_interpolated(step: int, lanes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linearly between the two beside them, the last slice runs too, and lanes change no bit."""
    monkeypatch.setattr(tasks_volume, "BATCH_PIXELS", 1000)
    values = np.random.default_rng(4).random((12, 15, 17), dtype=np.float32)
    ran = []

    def run(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        ran.append(len(batch))
        return by_intensity(batch)

    expected = np.zeros((3, *values.shape))
    for axis in range(3):
        plane = ("sagittal", "coronal", "axial")[axis]
        every = np.moveaxis(probabilities(values, scan_manifest(planes=(plane,)), by_intensity) / CERTAIN, 1 + axis, 0)
        known = sorted({*range(0, len(every), step), len(every) - 1})
        for k in range(len(every)):
            above = next(one for one in known if one >= k)
            below = max(one for one in known if one <= k)
            share = (k - below) / max(1, above - below)
            np.moveaxis(expected, 1 + axis, 0)[k] += (every[below] * (1 - share) + every[above] * share) / 3
    found = probabilities(values, scan_manifest(slice_step=step), run, lanes=lanes)
    np.testing.assert_allclose(found / CERTAIN, expected, atol=3.5e-5)  # rounded once here, and once in each of expected's
    assert sum(ran) == sum(len({*range(0, side, step), side - 1}) for side in values.shape)
    np.testing.assert_array_equal(found, probabilities(values, scan_manifest(slice_step=step), by_intensity))


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("planes", [("axial",), ("axial", "coronal"), ("axial", "coronal", "sagittal")])
def test_the_mean_of_planes_is_exact_but_for_its_rounding(
    planes: tuple[str, ...], compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against float64, and where a network is certain, nothing overflows: 1 is 65535 at the most."""
    if not compiled:
        monkeypatch.setattr(tasks_volume, "_compiled", None)
    rng = np.random.default_rng(8)
    values = rng.random((40, 33, 70), dtype=np.float32)
    sharp = np.array([-60, 0, 60], np.float32)

    def run(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.stack([each * batch[..., 1] + batch[..., 0] ** 2 for each in sharp], 1).astype(np.float32)

    expected = np.zeros((3, *values.shape))
    for axis, name in enumerate(("sagittal", "coronal", "axial")):
        if name in planes:
            across = np.moveaxis(values, axis, 0)
            scores = run(slices(across, range(len(across)), scan_manifest().input)).astype(np.float64)
            raised = np.exp(scores - scores.max(1, keepdims=True))[:, :, : across.shape[1], : across.shape[2]]
            expected += np.moveaxis(raised / raised.sum(1, keepdims=True), 0, 1 + axis) / len(planes)
    found = probabilities(values, scan_manifest(planes=planes), run) / CERTAIN
    assert np.abs(found - expected).max() <= 3.1e-5
    assert found.max() > 0.999


@given(
    shape=st.tuples(*[st.integers(1, 40)] * 2, st.integers(1, 70)),
    step=st.integers(1, 4),
    planes=st.permutations(["sagittal", "coronal", "axial"]).flatmap(
        lambda names: st.sampled_from([names, names[:2], names[:1]])
    ),
    fastest=st.integers(0, 2),
)
@settings(max_examples=30)
def test_planes_are_added_in_c_as_in_numpy(shape: Any, step: int, planes: list[str], fastest: int) -> None:
    """Bit for bit, of any shape, any step between the slices that run, and any order of the voxels in memory."""
    if tasks_volume._compiled is None:
        pytest.skip("planes.c is not compiled: python service/pipeline/tasks/compiled.py")
    values = np.random.default_rng(7).random(shape, dtype=np.float32)
    values = np.moveaxis(np.ascontiguousarray(np.moveaxis(values, fastest, 2)), 2, fastest)
    manifest = scan_manifest(planes=tuple(planes), slice_step=step)
    found = probabilities(values, manifest, by_intensity)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks_volume, "_compiled", None)
        np.testing.assert_array_equal(found, probabilities(values, manifest, by_intensity))


def test_a_scan_is_kept_unless_it_may_be_overwritten() -> None:
    """Placed in its own memory, the network sees the same numbers; else the scan is what it was."""
    scan = scan_of(asymmetric(), np.diag([-1.0, 1, 1, 1]))
    before = scan.values.copy()
    kept = place(scan, scan_manifest(), max_voxels=10**6)
    np.testing.assert_array_equal(scan.values, before)
    assert not np.shares_memory(kept.values, scan.values)
    spent = place(scan, scan_manifest(), max_voxels=10**6, overwrite=True)
    np.testing.assert_array_equal(spent.values, kept.values)
    np.testing.assert_array_equal(spent.preview, kept.preview)
    assert np.shares_memory(spent.values, scan.values)


def test_an_error_of_one_slice_ends_the_others() -> None:
    """A deadline or a caller that left: no more than the batches under way still run."""
    ran = []

    def run(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        ran.append(len(batch))
        if len(ran) > 3:
            raise InferenceFailed("enough")
        return by_intensity(batch)

    with pytest.raises(InferenceFailed, match="enough"):
        probabilities(np.zeros((260, 250, 240), np.float32), scan_manifest(planes=("axial",)), run, lanes=2)
    assert len(ran) < 12


def test_blocks_are_the_whole_volume() -> None:
    """A network of volumes with a finite reach gives the same labels in blocks as at once."""

    def blur(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        middle = batch[..., 0]
        for axis in (1, 2, 3):  # a mean over 7 voxels, zeros beyond: what padded convolutions do
            pad = [(0, 0)] * 4
            pad[axis] = (3, 3)
            wide = np.pad(middle, pad)
            shifted = [np.take(wide, range(k, k + middle.shape[axis]), axis) for k in range(7)]
            middle = np.mean(shifted, 0, dtype=np.float32)
        return np.stack([-40 * (middle - level) ** 2 for level in (0.0, 0.3, 0.6)], 1).astype(np.float32)

    values = np.random.default_rng(4).integers(0, 1000, (37, 30, 41)).astype(np.int16)
    scan = scan_of(values, np.eye(4))
    policy = InputPolicy.model_validate(
        {"working_size": (32, 32), "working_depth": 32, "dimensions": 3, "channels": 1, "dtype": "float32", "multiple": 4}
        | {"intensity": PERCENTILES, "orientation": "RAS"}
    )
    manifest = make_manifest(input=policy, stride=1, halo=4)
    sizes = []

    def run(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        sizes.append(batch.size)
        return blur(batch)

    whole = segment(scan, manifest, run, max_voxels=10**6).labels
    assert len(sizes) == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.pipeline.tasks.volume.BLOCK_VOXELS", 16**3)
        np.testing.assert_array_equal(segment(scan, manifest, run, max_voxels=10**6).labels, whole)
    assert len(sizes) > 20
    assert max(sizes[1:]) <= 16**3
    unknown = manifest.model_copy(update={"halo": None})
    np.testing.assert_array_equal(segment(scan, unknown, run, max_voxels=10**6).labels, whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.pipeline.tasks.volume.WHOLE_VOXELS", 1000)
        with pytest.raises(ImageTooLarge, match="whole volumes only"):
            segment(scan, unknown, run, max_voxels=10**6)


def test_a_scan_that_grows_too_large_at_the_networks_spacing_is_refused() -> None:
    """The limit holds where the work is done: 64 thick voxels are a large volume at 1 mm."""
    scan = scan_of(np.zeros((4, 4, 4), np.int16), np.diag([500.0, 500, 500, 1]))
    with pytest.raises(ImageTooLarge, match="at the network's 1 x 1 x 1 mm") as caught:
        segment(scan, scan_manifest(), by_intensity, max_voxels=10**6)
    assert caught.value.actual == 2000**3


def test_scores_that_are_not_numbers_are_a_failure() -> None:
    """Never a label volume of class 0."""
    scan = scan_of(asymmetric(), np.eye(4))
    with pytest.raises(InferenceFailed, match="not finite numbers"):
        segment(scan, scan_manifest(), lambda batch: by_intensity(batch) * np.float32(np.nan), max_voxels=10**6)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 30, 30), (30, 1, 2), (64, 3, 3)])
def test_thin_scans_are_segmented(shape: tuple[int, int, int]) -> None:
    """A single voxel, a single slice and a needle are scans too."""
    values = np.random.default_rng(5).integers(0, 1000, shape).astype(np.int16)
    found = segment(scan_of(values, np.diag([1.2, 0.8, 3, 1])), scan_manifest(), by_intensity, max_voxels=10**6).labels
    assert found.shape == shape
    assert found.dtype == np.uint8


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("spacing", [1.0, 2.0])
def test_the_certainty_is_calibrated_and_no_label_changes(temperature: float, spacing: float) -> None:
    """Of one plane: the softmax of the scores over the temperature; at another spacing, of the sampled probabilities."""
    rng = np.random.default_rng(6)
    scan = scan_of(rng.integers(0, 900, (12, 13, 14)).astype(np.int16), np.diag([spacing, 1, 1, 1]))
    scores = rng.normal(0, 3, (3, 16, 16)).astype(np.float32)

    def run(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.broadcast_to(scores, (len(batch), *scores.shape))

    plain = scan_manifest(planes=("sagittal",))
    told = {"temperature": temperature, "fitted_on": "val", "ece_before": 0.1, "ece_after": 0.05}
    calibrated = plain.model_copy(update={"calibration": Calibration.model_validate(told)})
    found, before = (segment(scan, manifest, run, max_voxels=10**6) for manifest in (calibrated, plain))
    np.testing.assert_array_equal(found.labels, before.labels)
    scaled = scores[:, :13, :14].astype(np.float64) / temperature
    expected = (np.exp(scaled) / np.exp(scaled).sum(0)).max(0) * 255
    rounded = 0.51 if temperature <= 1 else 0.6  # the root of a small probability has lost digits of its own
    assert np.abs(found.certainty.astype(float) - expected).max() <= rounded


def test_the_mean_of_planes_is_calibrated_after_it_is_taken() -> None:
    """p^(1/T) over its sum, of the averaged probabilities."""
    found = np.random.default_rng(7).dirichlet([1, 1, 1], (5, 6, 7)).astype(np.float32).transpose(3, 0, 1, 2)
    sharp = found.astype(np.float64) ** 2
    best = best_class(as_stored(np.ascontiguousarray(found)), (5, 6, 7), temperature=0.5)
    np.testing.assert_array_equal(best.labels, found.argmax(0))
    assert np.abs(best.certainty - (sharp / sharp.sum(0)).max(0) * 255).max() <= 0.51
