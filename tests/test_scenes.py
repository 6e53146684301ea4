"""The generator of street scenes: exact labels, any size, the same scene from the same seed."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.scenes import CLASSES, COUNTABLE, VIEW, draw_scene, street_scene, street_view
from models.scenes.__main__ import main

SKY, BUILDING, POLE, ROAD = 0, 1, 2, 3
SIZES = [(16, 16), (17, 31), (90, 40), (97, 131), (361, 481), (720, 1280)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_a_scene_has_the_size_asked_for(height: int, width: int) -> None:
    """Picture and labels are of exactly the size asked for, odd ones included, and hold known classes only."""
    image, labels = street_scene(height, width, seed=3)
    assert image.shape == (height, width, 3)
    assert labels.shape == (height, width)
    assert image.dtype == labels.dtype == np.uint8
    assert labels.max() < len(CLASSES)


@given(height=st.integers(16, 200), width=st.integers(16, 200), seed=st.integers(0, 10_000))
@settings(max_examples=20)
def test_every_size_and_seed_is_a_scene(height: int, width: int, seed: int) -> None:
    """A tall and narrow one too, which sees what lies beside the street far away only."""
    assert street_scene(height, width, seed)[1].shape == (height, width)


def test_the_narrowest_and_the_widest_are_scenes() -> None:
    """At many seeds: what is drawn differs by them."""
    for seed in range(12):
        assert street_scene(160, 16, seed)[1].shape == (160, 16)
        assert street_scene(16, 160, seed)[1].shape == (16, 160)


@pytest.mark.parametrize(("height", "width", "seed"), [(15, 64, 0), (64, 15, 0), (64, 64, -1)])
def test_what_cannot_be_a_scene_is_refused(height: int, width: int, seed: int) -> None:
    """A side below 16 pixels or a negative seed is a ValueError, not a strange picture."""
    with pytest.raises(ValueError, match=r"16 x 16|negative"):
        street_scene(height, width, seed)


def test_the_same_seed_gives_the_same_scene() -> None:
    """A scene is a function of its size and seed; another seed is another street."""
    first, second, other = (street_scene(120, 160, seed) for seed in (11, 11, 12))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert np.mean(first[1] != other[1]) > 0.05
    assert np.mean(first[0] != other[0]) > 0.5


@pytest.mark.parametrize(("height", "width"), [(1, 1), (30, 40), (97, 131), (960, 1280)])
def test_a_view_is_the_scene_at_another_size(height: int, width: int) -> None:
    """Smaller, larger or squeezed, it is the same street; what its caller does to it changes no later one."""
    view = street_view(height, width, seed=11)
    assert view.shape == (height, width, 3)
    painted = street_scene(*VIEW, seed=11)[0]
    again = cv2.resize(view, VIEW[::-1], interpolation=cv2.INTER_LINEAR).astype(float)
    assert abs(float(view.mean()) - float(painted.mean())) < 3
    assert min(height, width) < 30 or np.corrcoef(again.ravel(), painted.ravel())[0, 1] > 0.8
    view[:] = 0
    assert street_view(height, width, seed=11).any()


@pytest.mark.parametrize(("height", "width"), [(119, 161), (240, 320), (361, 479), (539, 961)])
def test_an_edge_in_the_picture_lies_on_its_edge_in_the_labels(height: int, width: int) -> None:
    """Across the border of sky and buildings, the steepest step of brightness is within a pixel of the labels' step."""
    offsets = np.concatenate([_edge_offsets(*street_scene(height, width, seed)) for seed in range(3)])
    assert len(offsets) > 100
    assert np.mean(np.abs(offsets) <= 1) > 0.98
    assert np.mean(offsets == 0) > 0.8
    assert abs(offsets.mean()) < 0.1  # and to neither side of it on the whole


def test_most_scenes_hold_every_class() -> None:
    """At CamVid's size, three scenes of four show all eleven classes, and every class is in nearly all of them."""
    present = np.array([np.bincount(street_scene(360, 480, seed)[1].ravel(), minlength=11) > 0 for seed in range(12)])
    assert present.all(axis=1).mean() >= 0.7
    assert present.mean(axis=0).min() >= 0.7


def test_a_scene_is_laid_out_as_a_street() -> None:
    """On the average sky is above, road below, and each takes about the share that it has in a dashboard's view."""
    scenes = np.stack([street_scene(90, 120, seed)[1] for seed in range(12)])
    shares = np.bincount(scenes.ravel(), minlength=11) / scenes.size
    assert 0.10 < shares[SKY] < 0.30
    assert 0.15 < shares[BUILDING] < 0.35
    assert 0.22 < shares[ROAD] < 0.42
    assert not np.any(scenes[:, -30:] == SKY)
    assert not np.any(scenes[:, :30] == ROAD)


@pytest.mark.slow
def test_a_scene_can_fill_a_large_screen() -> None:
    """2160 x 3840 pixels are made like any others."""
    image, labels = street_scene(2160, 3840, seed=5)
    assert image.shape == (2160, 3840, 3)
    assert len(np.unique(labels)) >= 9


def test_the_command_writes_what_training_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """images/*.jpg and labels/*.png of the same names; the label file's values are the class ids."""
    assert main(["--count", "2", "--size", "96x128", "--seed", "7", "--out", str(tmp_path)]) == 0
    pictures, truths = sorted((tmp_path / "images").iterdir()), sorted((tmp_path / "labels").iterdir())
    assert [path.suffix for path in pictures + truths] == [".jpg", ".jpg", ".png", ".png"]
    assert [path.stem for path in pictures] == [path.stem for path in truths]
    assert capsys.readouterr().out.split() == [str(path) for path in pictures]
    for seed, picture, truth in zip((7, 8), pictures, truths, strict=True):
        image, labels = street_scene(96, 128, seed)
        np.testing.assert_array_equal(cv2.imread(str(truth), cv2.IMREAD_UNCHANGED), labels)
        objects = np.asarray(cv2.imread(str(tmp_path / "objects" / truth.name), cv2.IMREAD_UNCHANGED))
        np.testing.assert_array_equal(objects, draw_scene(96, 128, seed).objects)
        assert objects.dtype == np.uint16
        read = np.asarray(cv2.imread(str(picture), cv2.IMREAD_COLOR))[..., ::-1]
        assert np.abs(read.astype(int) - image).mean() < 3


@pytest.mark.parametrize("arguments", [["--size", "8x8"], ["--size", "large"], ["--count", "0"], ["--seed", "-1"]])
def test_the_command_refuses_nonsense(arguments: list[str], tmp_path: Path) -> None:
    """A size, count or seed that makes no scene ends with usage and status 2."""
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--out", str(tmp_path)])
    assert stop.value.code == 2


def test_scenes_need_numpy_and_opencv_only() -> None:
    """The sample can be made where nothing but serving is installed: no torch, no onnx, no Pillow."""
    program = (
        "import sys\n"
        "for name in ('torch', 'torchvision', 'onnx', 'onnxruntime', 'PIL', 'scipy', 'matplotlib', 'pydantic'):\n"
        "    sys.modules[name] = None\n"
        "from models.scenes import street_scene\n"
        "print(street_scene(32, 48, 1)[1].shape)\n"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=root, check=False)
    assert done.stdout.strip() == "(32, 48)", done.stderr


def _edge_offsets(image: NDArray[np.uint8], labels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How far the steepest step of brightness lies from each step of the labels between sky and buildings or poles.

    Measured along columns and along rows, where four pixels on either side are of one class and of clearly unlike brightness.
    """
    found: list[int] = []
    grey = image.astype(float).mean(axis=2)
    for light, ids in ((grey, labels), (grey.T, labels.T)):
        sky, solid = ids == SKY, ids == BUILDING
        for line, above, below in zip(light.T, sky.T, solid.T, strict=True):
            for step in np.flatnonzero(above[:-1] & below[1:] | below[:-1] & above[1:]):
                if step < 4 or step + 5 >= len(line):
                    continue
                first, second = (above, below) if above[step] else (below, above)
                before, after = line[step - 3 : step + 1], line[step + 1 : step + 5]
                whole = first[step - 3 : step + 1].all() and second[step + 1 : step + 5].all()
                # Even surroundings, so that the border is the only strong edge in sight.
                if whole and abs(before[:2].mean() - after[2:].mean()) > 70 and max(np.ptp(before[:3]), np.ptp(after[1:])) < 40:
                    found.append(int(np.argmax(np.abs(np.diff(line[step - 3 : step + 5])))) - 3)
    return np.array(found)


def test_every_countable_pixel_belongs_to_an_object_of_its_class() -> None:
    """Objects are numbered 1, 2, ... without a gap, each of one class, and lie nowhere else."""
    for seed in range(4):
        scene = draw_scene(120, 160, seed)
        np.testing.assert_array_equal(scene.objects > 0, np.isin(scene.labels, COUNTABLE))
        numbers = np.unique(scene.objects[scene.objects > 0])
        assert numbers.tolist() == list(range(1, len(numbers) + 1))
        assert all(len(np.unique(scene.labels[scene.objects == number])) == 1 for number in numbers)


def test_objects_that_touch_are_told_apart() -> None:
    """Over some scenes there are far more objects than connected parts of their classes: crowds, and cars in rows."""
    objects = parts = 0
    for seed in range(8):
        scene = draw_scene(180, 240, seed)
        objects += int(scene.objects.max())
        parts += sum(cv2.connectedComponents((scene.labels == k).astype(np.uint8))[0] - 1 for k in COUNTABLE)
    assert objects > parts
