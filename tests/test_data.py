"""Frames and labels: what is read, how it is resized, and that an image and its labels stay together come what may."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from models.training.classes import CAMVID
from models.training.data import GREY, Augmentation, DataError, frame_pairs, load_frames, read_image, read_labels
from models.training.losses import IGNORED
from service.pipeline import plan
from service.pipeline.codecs.decoding import Limits, decode
from service.pipeline.manifest import InputPolicy

PALETTE = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (11, 3)))
"""A colour for every class, far from one another."""

AS_IT_IS = Augmentation(crop=(48, 64), scale=(1.0, 1.0), stretch=0.0, rotation_degrees=0.0, color=0.0)
"""No variation but the flip."""


def write_frame(folder: Path, name: str, image: NDArray[np.uint8], labels: NDArray[np.uint8], suffix: str = ".png") -> None:
    """One image and its label file."""
    for part, content, ending in (("images", image, suffix), ("labels", labels, ".png")):
        (folder / part).mkdir(parents=True, exist_ok=True)
        Image.fromarray(content).save(folder / part / f"{name}{ending}")


def patches(n: int, height: int = 48, width: int = 64, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Frames of patches of 8 x 8 pixels and more, whose colour says their class.

    Gives:
        N x 3 x H x W uint8; N x H x W uint8
    """
    coarse = np.random.default_rng(seed).integers(0, 11, (n, height // 8, width // 8))
    labels = torch.from_numpy(coarse.repeat(8, 1).repeat(8, 2))
    return PALETTE[labels].permute(0, 3, 1, 2).to(torch.uint8), labels.to(torch.uint8)


def inner(labels: Tensor) -> Tensor:
    """Pixels whose eight neighbours are of their own class: N x H x W bool."""
    windows = labels[:, None].float()
    highest = torch.nn.functional.max_pool2d(windows, 3, 1, 1)
    lowest = -torch.nn.functional.max_pool2d(-windows, 3, 1, 1)
    even = (highest == lowest)[:, 0]
    even[:, [0, -1]] = even[:, :, [0, -1]] = False
    return even & (labels != IGNORED)


def farthest_from_its_color(images: Tensor, labels: Tensor) -> float:
    """The largest difference of an inner pixel from the colour of its class, 0..255."""
    where = inner(labels)
    assert where.float().mean() > 0.1
    return float((images.permute(0, 2, 3, 1)[where] - PALETTE[labels[where]]).abs().max())


# --- reading ---------------------------------------------------------------------------------------------------------


def test_frames_are_paired_by_name_in_order(tmp_path: Path) -> None:
    """Image and label files of one stem; other files are no frames."""
    blank, none = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)
    for name, suffix in (("b", ".jpg"), ("a", ".png"), ("c", ".JPEG")):
        write_frame(tmp_path, name, blank, none, suffix)
    (tmp_path / "images" / "notes.txt").touch()
    assert [(image.name, label.name) for image, label in frame_pairs(tmp_path)] == [
        ("a.png", "a.png"),
        ("b.jpg", "b.png"),
        ("c.JPEG", "c.png"),
    ]


def test_a_folder_without_frames_says_what_was_expected(tmp_path: Path) -> None:
    """A wrong path and an empty folder are one clear sentence."""
    with pytest.raises(DataError, match=r"nowhere: no images in .*expected images/\*.* and labels/\*\.png"):
        frame_pairs(tmp_path / "nowhere")


def test_an_image_without_labels_is_named(tmp_path: Path) -> None:
    """The first missing file, and how many there are."""
    write_frame(tmp_path, "a", np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8))
    for name in ("b", "c"):
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / f"{name}.png")
    with pytest.raises(DataError, match=r"2 images have no label, first .*labels/b\.png"):
        frame_pairs(tmp_path)


def test_an_unknown_pixel_value_is_named(tmp_path: Path) -> None:
    """A label file of another class table must not be trained on; ignored values become the one that nothing counts."""
    values = np.array([[0, 10, 11, 255], [3, 77, 12, 11]], np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: pixel values \[12, 77\] are no class of 'camvid'"):
        read_labels(tmp_path / "a.png", CAMVID)
    Image.fromarray(values[:1]).save(tmp_path / "b.png")
    assert read_labels(tmp_path / "b.png", CAMVID).tolist() == [[0, 10, IGNORED, IGNORED]]


def test_a_palette_image_is_read_by_its_ids_not_its_colors(tmp_path: Path) -> None:
    """Published label files are indexed PNGs; what counts is the pixel value."""
    ids = np.array([[0, 5], [10, 3]], np.uint8)
    picture = Image.fromarray(ids)
    picture.putpalette([value for entry in CAMVID.entries for value in entry.color])
    picture.save(tmp_path / "a.png")
    assert picture.mode == "P"
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png", CAMVID), ids)


@pytest.mark.parametrize("mode", ["RGB", "I;16", "LA"])
def test_labels_of_any_other_kind_are_refused(mode: str, tmp_path: Path) -> None:
    """A coloured mask in the labels' place is found out, not trained on."""
    Image.new(mode, (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="expected an 8-bit single-channel PNG of class ids"):
        read_labels(tmp_path / "a.png", CAMVID)


@pytest.mark.parametrize("part", ["images", "labels"])
@pytest.mark.parametrize("keep", [0, 60])
def test_a_damaged_file_is_named(part: str, keep: int, tmp_path: Path) -> None:
    """One bad file of thousands must be found by the message alone."""
    noise = np.random.default_rng(0).integers(0, 11, (64, 64, 3), dtype=np.uint8)
    write_frame(tmp_path, "a", noise, noise[..., 0])
    damaged = tmp_path / part / "a.png"
    damaged.write_bytes(damaged.read_bytes()[:keep])
    with pytest.raises(DataError, match=rf"{part}/a\.png: "):
        load_frames([tmp_path], CAMVID, InputPolicy(working_size=(64, 64)))


def test_an_image_is_read_upright_and_in_colour(tmp_path: Path) -> None:
    """EXIF orientation is applied and grey becomes RGB, as in the service."""
    picture = Image.fromarray(np.array([[0, 0, 255], [0, 0, 255]], np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    picture.save(tmp_path / "a.png", exif=exif)
    found = read_image(tmp_path / "a.png")
    assert found.shape == (3, 2, 3)
    assert found[:, :, 0].tolist() == [[0, 0], [0, 0], [255, 255]]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_deep_image_is_scaled_as_the_service_scales_it(suffix: str, tmp_path: Path) -> None:
    """16 bits become 8 over their whole range, not clipped to the lowest."""
    deep = np.linspace(0, 65535, 48).astype(np.uint16).reshape(6, 8)
    Image.fromarray(deep).save(tmp_path / f"a{suffix}")
    found = read_image(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(found, decode((tmp_path / f"a{suffix}").read_bytes(), Limits()))
    np.testing.assert_allclose(found[..., 0], deep / 257, atol=0.5)
    assert found.flags.writeable


def test_what_the_service_would_refuse_is_refused_here_too(tmp_path: Path) -> None:
    """By the file's name, with the service's own reason; a folder in a file's place as well."""
    Image.new("RGB", (20000, 1)).save(tmp_path / "wide.png")
    with pytest.raises(DataError, match=r"wide\.png: the image is 20000 x 1; a side has at most 16384 pixels"):
        read_image(tmp_path / "wide.png")
    with pytest.raises(DataError, match=r".*: Is a directory"):
        read_image(tmp_path)


# --- loading ---------------------------------------------------------------------------------------------------------


def test_frames_are_resized_as_the_service_resizes_them(tmp_path: Path) -> None:
    """Pixel for pixel what ``service.pipeline.plan`` gives; labels by their nearest pixel, so that no class is made up."""
    rng = np.random.default_rng(1)
    images = {name: rng.integers(0, 256, (*size, 3), dtype=np.uint8) for name, size in (("a", (90, 120)), ("b", (301, 403)))}
    for name, image in images.items():
        write_frame(tmp_path, name, image, np.where(image[..., 0] < 128, 3, 8).astype(np.uint8))
    policy = InputPolicy(working_size=(64, 80))
    frames = load_frames([tmp_path], CAMVID, policy)
    assert frames.names == ("a", "b")
    assert len(frames) == 2
    for index, (name, image) in enumerate(images.items()):
        h, w = plan.fit_size(image.shape[0], image.shape[1], policy)
        expected = plan.resize_image(image, (h, w))
        np.testing.assert_array_equal(frames.images[index, :, :h, :w].permute(1, 2, 0).numpy(), expected, err_msg=name)
        rows, columns = ((np.arange(n) + 0.5) * full / n for n, full in ((h, image.shape[0]), (w, image.shape[1])))
        nearest = image[rows.astype(int)[:, None], columns.astype(int), 0]
        np.testing.assert_array_equal(frames.labels[index, :h, :w].numpy(), np.where(nearest < 128, 3, 8), err_msg=name)


def test_frames_of_unlike_shape_are_padded_with_what_is_ignored(tmp_path: Path) -> None:
    """A wide and a tall frame share a tensor; what belongs to neither is grey, and counted by nothing."""
    white = np.full((120, 120, 3), 255, np.uint8)
    write_frame(tmp_path, "tall", white[:, :60], np.zeros((120, 60), np.uint8))
    write_frame(tmp_path, "wide", white[:60], np.zeros((60, 120), np.uint8))
    frames = load_frames([tmp_path], CAMVID, InputPolicy(working_size=(64, 64)))
    (tall_h, tall_w), (wide_h, wide_w) = (88, 48), (48, 88)
    assert frames.images.shape == (2, 3, tall_h, wide_w)
    for index, (h, w) in enumerate([(tall_h, tall_w), (wide_h, wide_w)]):
        inside = torch.zeros(frames.labels.shape[1:], dtype=torch.bool)
        inside[:h, :w] = True
        assert torch.equal(frames.labels[index] == 0, inside)
        assert torch.equal(frames.labels[index] == IGNORED, ~inside)
        assert frames.images[index][:, inside].eq(255).all()
        assert frames.images[index][:, ~inside].eq(GREY).all()


def test_labels_of_another_size_than_their_image_are_refused(tmp_path: Path) -> None:
    """Resized separately they would look right and be wrong."""
    write_frame(tmp_path, "a", np.zeros((8, 16, 3), np.uint8), np.zeros((16, 8), np.uint8))
    with pytest.raises(DataError, match=r"a\.png: \(16, 8\) labels for an image of \(8, 16\)"):
        load_frames([tmp_path], CAMVID, InputPolicy(working_size=(64, 64)))


# --- varying ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [(0.6, 2.0), (1.0, 1.0), (0.5, 0.6)])
def test_an_image_and_its_labels_stay_together(scale: tuple[float, float]) -> None:
    """Scaled, stretched, turned, flipped and cropped: away from the borders of a class, the colour is still the class's."""
    images, labels = patches(8)
    vary = Augmentation(crop=(40, 56), scale=scale, stretch=0.3, rotation_degrees=10.0, color=0.0)
    x, y = vary(images, labels, torch.Generator().manual_seed(3))
    assert (x.shape, x.dtype) == ((8, 3, 40, 56), torch.float32)
    assert (y.shape, y.dtype) == ((8, 40, 56), torch.int64)
    assert farthest_from_its_color(x, y) < 0.01


def test_the_check_of_the_above_notices_a_shift_of_two_pixels() -> None:
    """It would prove nothing if it were blind."""
    images, labels = patches(8)
    x, y = AS_IT_IS(images, labels, torch.Generator().manual_seed(3))
    assert farthest_from_its_color(x, y) < 0.01
    assert farthest_from_its_color(torch.roll(x, 2, 3), y) > 50


def test_without_variation_a_frame_comes_back_as_it_is_or_mirrored() -> None:
    """Exactly, pixel for pixel; and both occur."""
    images, labels = patches(16)
    x, y = AS_IT_IS(images, labels, torch.Generator().manual_seed(0))
    mirrored = 0
    for image, label, found, truth in zip(images, labels, x, y, strict=True):
        flip = bool((truth != label).any())
        torch.testing.assert_close(found, image.flip(2).float() if flip else image.float(), rtol=0, atol=1e-2)
        assert torch.equal(truth, label.flip(1).long() if flip else label.long())
        mirrored += flip
    assert 3 < mirrored < 13


def test_what_lies_outside_the_image_is_grey_and_ignored() -> None:
    """At half the size in a crop of the whole, a quarter is image and the rest is neither trained on nor of any colour."""
    images, labels = patches(4)
    x, y = replace(AS_IT_IS, scale=(0.5, 0.5))(images, labels, torch.Generator().manual_seed(1))
    outside = y == IGNORED
    assert outside.float().mean() == 0.75
    grown = -torch.nn.functional.max_pool2d(-outside[:, None].float(), 3, 1, 1) > 0  # without the pixels next to the image
    assert x[grown.expand_as(x)].sub(GREY).abs().max() < 1e-3


def test_a_magnified_frame_is_smooth_and_a_crop_of_the_source() -> None:
    """At scale 2 half of each side is seen, bilinearly: nearly no colour that the source's neighbours do not span."""
    ramp = torch.arange(64, dtype=torch.uint8).expand(1, 3, 48, 64) * 3
    x, y = replace(AS_IT_IS, scale=(2.0, 2.0))(
        ramp, torch.zeros(1, 48, 64, dtype=torch.uint8), torch.Generator().manual_seed(5)
    )
    step = x[0, 0, :, 2:-2].diff(dim=1).abs()
    torch.testing.assert_close(step, torch.full_like(step, 1.5), rtol=0, atol=1e-2)
    assert y.eq(0).all()


@pytest.mark.parametrize("color", [0.0, 1.0])
def test_a_seed_gives_the_same_variations(color: float) -> None:
    """Whatever torch's own generator stands at; another seed gives others."""
    images, labels = patches(4)
    vary = Augmentation(crop=(32, 32), color=color, paste=0.5, paste_classes=(1, 2))
    found = []
    for seed in (7, 7, 8):
        torch.rand(5)
        found.append(vary(images, labels, torch.Generator().manual_seed(seed)))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert not torch.equal(found[0][0], found[2][0])
    assert not torch.equal(found[0][1], found[2][1])


def test_colors_change_and_labels_do_not() -> None:
    """Each frame by its own amount, within 0..255, without moving anything."""
    images, labels = patches(8)
    plain, same = AS_IT_IS(images, labels, torch.Generator().manual_seed(2))
    varied, y = replace(AS_IT_IS, color=1.0)(images, labels, torch.Generator().manual_seed(2))
    assert torch.equal(y, same)
    assert float(varied.min()) >= 0
    assert float(varied.max()) <= 255
    change = (varied - plain).abs().mean((1, 2, 3))
    assert (change > 2).all()
    assert change.std() > 1
    for image, brightness in zip(varied.mean(1), plain.mean(1), strict=True):  # dark stays darker than light
        assert np.corrcoef(image.flatten().numpy(), brightness.flatten().numpy())[0, 1] > 0.6


def test_pasted_objects_bring_their_pixels_and_their_labels() -> None:
    """Only the classes asked for are pasted, each whole from one other frame of the batch, and colour and class still agree."""
    images, labels = patches(12, seed=4)
    before, truth = AS_IT_IS(images, labels, torch.Generator().manual_seed(9))
    after, y = replace(AS_IT_IS, paste=1.0, paste_classes=(3, 6))(images, labels, torch.Generator().manual_seed(9))
    moved = y != truth
    assert moved.any(2).any(1).sum() >= 6
    assert set(y[moved].tolist()) == {3, 6}
    donors, givers = torch.roll(truth, 1, 0), torch.roll(before, 1, 0)
    assert torch.equal(y[moved], donors[moved])
    assert torch.equal(after.permute(0, 2, 3, 1)[moved], givers.permute(0, 2, 3, 1)[moved])
    assert torch.equal(
        after.permute(0, 2, 3, 1)[~moved & (truth != donors)], before.permute(0, 2, 3, 1)[~moved & (truth != donors)]
    )
    assert farthest_from_its_color(after, y) < 0.01


def test_a_probability_of_pasting_is_kept() -> None:
    """At a half, about half of the frames take something."""
    images, labels = patches(64, seed=5)
    _, truth = AS_IT_IS(images, labels, torch.Generator().manual_seed(9))
    _, y = replace(AS_IT_IS, paste=0.5, paste_classes=tuple(range(11)))(images, labels, torch.Generator().manual_seed(9))
    share = float((y != truth).any(2).any(1).float().mean())
    assert 0.3 < share < 0.7
