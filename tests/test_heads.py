"""The generator of brain scans: exact labels, T1's order of intensities, the same head from the same seed."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from models.heads import ANY, IGNORED, TISSUES, USUAL, Conditions, generate, read_map, tissue_labels
from models.heads.__main__ import main
from models.heads.contrast import draw_means
from models.heads.fields import blur, density, smooth
from models.heads.scanner import scanned
from models.heads.shape import deformed
from models.heads.stripping import brain_mask
from models.heads.surroundings import surrounded
from models.heads.tissue import CLASSES, OUTSIDE
from tests.phantoms import nifti_bytes, phantom_map

pytestmark = pytest.mark.usefixtures("one_thread")


def test_each_intensity_class_has_its_tissue() -> None:
    """Fluid is csf, cortex and nuclei are grey, white matter and brain stem white, vessels ignored, the outside background."""
    names = [*TISSUES, "ignored"]
    found = [names[min(int(k), 4)] for k in tissue_labels(np.arange(CLASSES, dtype=np.uint8))]
    grey, white = "grey-matter", "white-matter"
    assert found[:14] == [
        "background",
        "csf",
        white,
        grey,
        white,
        grey,
        grey,
        grey,
        grey,
        white,
        white,
        "ignored",
        "ignored",
        white,
    ]
    assert set(found[14:]) == {"background"}
    assert tissue_labels(np.array([11], np.uint8)) == [IGNORED]


def test_the_same_seed_gives_the_same_head() -> None:
    """A head is a function of its map and seed; another seed is another head."""
    classes = phantom_map(40)
    first, second, other = (generate(classes, seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.labels, second.labels)
    assert first.image.shape != other.image.shape or np.mean(first.image != other.image) > 0.1


@pytest.mark.parametrize("seed", range(8))
def test_the_tissues_have_the_order_of_t1(seed: int) -> None:
    """Whatever is drawn, fluid is darker than grey matter, and grey matter darker than white matter."""
    head = generate(phantom_map(), seed)
    assert set(np.unique(head.labels).tolist()) <= {0, 1, 2, 3, IGNORED}
    fluid, grey, white = (float(np.median(head.image[head.labels == k])) for k in (1, 2, 3))
    assert fluid < grey < white
    assert np.isfinite(head.image).all()
    assert head.image.min() >= 0


def test_half_of_the_heads_keep_their_skull() -> None:
    """One to one, drawn from the seed; a stripped head is 0 exactly where nothing was kept."""
    heads = [generate(phantom_map(24), seed) for seed in range(60)]
    assert 18 <= sum(head.stripped for head in heads) <= 42
    bare = generate(phantom_map(), 3, stripped=True)
    assert bare.stripped
    assert np.mean(bare.image == 0) > 0.1
    assert not bare.image[0].any()
    assert np.mean(bare.image[bare.labels > 0] > 0) > 0.95


def test_a_deformation_invents_no_class() -> None:
    """Labels are sampled, never mixed: a map of two distant ids has these two alone."""
    classes = torch.from_numpy(np.where(phantom_map(32) > 0, np.uint8(22), np.uint8(3)))
    for seed in range(5):
        found = deformed(classes, np.random.default_rng(seed))
        assert set(torch.unique(found).tolist()) <= {0, 3, 22}


def test_an_undeformed_map_comes_back() -> None:
    """With all random numbers at their middle the sampling is the identity: no shift by half a voxel."""
    classes = torch.from_numpy(phantom_map(33))
    found = deformed(classes, _Middle())  # type: ignore[arg-type]
    assert found.shape == classes.shape
    assert torch.equal(found, classes)


class _Middle:
    """A generator whose uniform numbers are the middle of their range."""

    def uniform(self, low: float, high: float, size: object = None) -> object:
        middle = (low + high) / 2 if (low, high) != (0.88, 1.1) and (low, high) != (0.86, 1.14) else 1.0
        middle = 0.0 if low == 0 else middle
        return middle if size is None else np.full(size, middle)  # type: ignore[call-overload]

    def random(self) -> float:
        return 0.75

    def choice(self, values: list[float]) -> float:
        return values[-1]

    def integers(self, *_: object) -> int:
        return 1


def test_surroundings_leave_the_brain_alone() -> None:
    """What is invented lies in the air and outside the skull; brain and fluid keep every voxel."""
    classes = torch.from_numpy(phantom_map())
    brain = (classes > 0) & (classes < OUTSIDE)
    changed = 0.0
    for seed in range(6):
        found = surrounded(classes, np.random.default_rng(seed))
        assert torch.equal(found[brain], classes[brain])
        assert not ((found > 0) & (found < OUTSIDE) & ~brain).any()
        changed = max(changed, float((found != classes).float().mean()))
    assert changed > 0.05


@pytest.mark.parametrize("seed", range(6))
def test_stripping_keeps_most_of_the_brain_and_little_else(seed: int) -> None:
    """Grey and white matter stay but for a rim; of skull and scalp no more than shreds do."""
    labels = torch.from_numpy(tissue_labels(phantom_map()))
    mask = brain_mask(labels, np.random.default_rng(seed))
    matter = (labels == 2) | (labels == 3)
    assert mask[matter].float().mean() > 0.9
    far = density(labels > 0, 3.0) < 0.05
    assert mask[far].float().mean() < 0.02


@pytest.mark.parametrize("conditions", [ANY, USUAL])
def test_means_keep_the_order_of_t1(conditions: Conditions) -> None:
    """Nuclei lie between fluid and a little more than white matter; fluid and grey matter in their ranges."""
    for seed in range(200):
        mean = draw_means(np.random.default_rng(seed), conditions)
        assert conditions.fluid[0] <= mean[1] / mean[2] <= conditions.fluid[1]
        assert conditions.grey[0] <= (mean[3] - mean[1]) / (mean[2] - mean[1]) <= conditions.grey[1]
        assert mean[1] < mean[3] < mean[2]
        assert all(mean[1] < mean[k] < 1.1 * mean[2] for k in (4, 5, 6, 7, 8, 9, 13))


def test_a_usual_scan_has_little_noise_and_no_thick_slices() -> None:
    """Noise of an even volume stays below 5 % and differs from voxel to voxel; of any scans, some have more or thick slices."""
    noise, alike = zip(*(_noise(conditions, seed) for conditions in (USUAL, ANY) for seed in range(16)), strict=True)
    assert max(noise[:16]) < 0.05 < max(noise[16:])
    assert max(alike[:16]) < 0.15 < max(alike[16:])


def _noise(conditions: Conditions, seed: int) -> tuple[float, float]:
    """What a scanner adds to an even volume, as a share of it; and the correlation of it in adjacent voxels."""
    image = scanned(torch.full((24, 24, 24), 160.0), np.random.default_rng(seed), conditions).double()
    image = image / image.mean()
    apart = image - blur(image, (1.5,) * 3)
    alike = [float((apart.narrow(axis, 1, 23) * apart.narrow(axis, 0, 23)).mean() / apart.var()) for axis in range(3)]
    return float(apart.std()), max(alike)


def test_a_blur_is_gaussian() -> None:
    """A point becomes a Gaussian of the standard deviation that was asked for, on each axis by itself."""
    point = torch.zeros(31, 31, 31)
    point[15, 15, 15] = 1
    found = blur(point, (1.0, 2.0, 0.1))
    assert found.sum() == pytest.approx(1, abs=1e-5)
    steps = torch.arange(31) - 15.0
    for axis, sigma in ((0, 1.0), (1, 2.0)):
        line = found.sum(tuple(other for other in range(3) if other != axis))
        assert float((line * steps**2).sum()) ** 0.5 == pytest.approx(sigma, rel=0.08)
    assert found[:, :, 15].sum() == pytest.approx(1, abs=1e-5)
    assert torch.allclose(blur(torch.full((9, 9, 9), 3.0), (1.0, 1.0, 1.0)), torch.tensor(3.0))


def test_a_smooth_field_is_smooth() -> None:
    """Neighbouring voxels differ by little against the field's own spread."""
    field = smooth((40, 40, 40), 20, np.random.default_rng(0))[0]
    assert float((field[1:] - field[:-1]).abs().mean()) < 0.15 * float(field.std())


def test_heads_are_written_as_training_reads_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``python -m models.heads`` writes pairs of one name and shape."""
    maps = tmp_path / "maps"
    maps.mkdir()
    (maps / "a.nii.gz").write_bytes(nifti_bytes(phantom_map(24)))
    assert main(["--maps", str(maps), "--count", "2", "--seed", "4", "--skull", "kept", "--out", str(tmp_path / "out")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    for name in ("head-000004.nii.gz", "head-000005.nii.gz"):
        image, labels = (nibabel.load(tmp_path / "out" / folder / name) for folder in ("images", "labels"))
        assert image.shape == labels.shape
        assert labels.get_data_dtype() == np.uint8
    assert main(["--maps", str(maps), "--seed", "4", "--skull", "kept", "--usual", "--out", str(tmp_path / "usual")]) == 0
    usual = generate(phantom_map(24), 4, stripped=False, conditions=USUAL)
    np.testing.assert_array_equal(nibabel.load(tmp_path / "usual" / "images" / "head-000004.nii.gz").get_fdata(), usual.image)


def test_a_map_of_other_values_is_refused(tmp_path: Path) -> None:
    """A scan in the place of a map is named, and not wrapped into classes."""
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(nifti_bytes(np.full((4, 4, 4), 25, np.uint8)))
    with pytest.raises(ValueError, match=r"scan\.nii\.gz: expected a volume of intensity classes 0\.\.24"):
        read_map(path)
