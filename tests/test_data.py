"""Frames and labels: what is read, how it is resized, and that an image and its labels stay together come what may."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from models.scenes import draw_scene
from models.training.augmentation import DONOR, Augmentation
from models.training.classes import CAMVID
from models.training.data import (
    GREY,
    DataError,
    Frames,
    evenly_spread,
    frame_pairs,
    load_frames,
    painted_frames,
    read_image,
    read_labels,
    spread_images,
    stacked,
)
from models.training.losses import IGNORED
from models.training.objects import UNSURE
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


def frames_of(images: Tensor, labels: Tensor, objects: Tensor | None = None) -> Frames:
    """Frames of one size."""
    n, height, width = labels.shape
    sizes = torch.tensor([[height, width]] * n)
    found = torch.zeros_like(labels) if objects is None else objects
    return Frames(images, labels, found, sizes, torch.ones(n), tuple(map(str, range(n))))


def patches(n: int, height: int = 48, width: int = 64, *, seed: int = 0) -> Frames:
    """Frames of patches of 8 x 8 pixels and more, whose colour says their class, each patch an object."""
    coarse = np.random.default_rng(seed).integers(0, 11, (n, height // 8, width // 8))
    numbers = np.broadcast_to(np.arange(1, coarse[0].size + 1).reshape(coarse[0].shape), coarse.shape)
    labels, objects = (torch.from_numpy(values.repeat(8, 1).repeat(8, 2)) for values in (coarse, numbers))
    return frames_of(PALETTE[labels].permute(0, 3, 1, 2).to(torch.uint8), labels.to(torch.uint8), objects.to(torch.uint8))


def inner(labels: Tensor) -> Tensor:
    """Pixels whose eight adjacent pixels are of their own class: N x H x W bool."""
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
    """Image and label files of one stem; other files are not frames."""
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
    with pytest.raises(DataError, match=r"a\.png: pixel values \[12, 77\] are not classes of 'camvid'"):
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
    """Resized separately they would seem right and be wrong."""
    write_frame(tmp_path, "a", np.zeros((8, 16, 3), np.uint8), np.zeros((16, 8), np.uint8))
    with pytest.raises(DataError, match=r"a\.png: \(16, 8\) labels for an image of \(8, 16\)"):
        load_frames([tmp_path], CAMVID, InputPolicy(working_size=(64, 64)))


# --- varying ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [(0.6, 2.0), (1.0, 1.0), (0.5, 0.6)])
def test_an_image_and_its_labels_stay_together(scale: tuple[float, float]) -> None:
    """Scaled, stretched, turned, flipped and cropped: away from the borders of a class, the colour is still the class's."""
    vary = Augmentation(crop=(40, 56), scale=scale, stretch=0.3, rotation_degrees=10.0, color=0.0)
    batch = vary(patches(8), torch.Generator().manual_seed(3))
    x, y = batch.images, batch.labels
    assert (x.shape, x.dtype) == ((8, 3, 40, 56), torch.float32)
    assert (y.shape, y.dtype) == ((8, 40, 56), torch.int64)
    assert farthest_from_its_color(x, y) < 0.01


def test_the_check_of_the_above_notices_a_shift_of_two_pixels() -> None:
    """It would prove nothing if it were blind."""
    batch = AS_IT_IS(patches(8), torch.Generator().manual_seed(3))
    x, y = batch.images, batch.labels
    assert farthest_from_its_color(x, y) < 0.01
    assert farthest_from_its_color(torch.roll(x, 2, 3), y) > 50


def test_without_variation_a_frame_comes_back_as_it_is_or_mirrored() -> None:
    """Exactly, pixel for pixel; and both occur."""
    frames = patches(16)
    batch = AS_IT_IS(frames, torch.Generator().manual_seed(0))
    mirrored = 0
    for image, label, found, truth in zip(frames.images, frames.labels, batch.images, batch.labels, strict=True):
        flip = bool((truth != label).any())
        torch.testing.assert_close(found, image.flip(2).float() if flip else image.float(), rtol=0, atol=1e-2)
        assert torch.equal(truth, label.flip(1).long() if flip else label.long())
        mirrored += flip
    assert 3 < mirrored < 13


def test_what_lies_outside_the_image_is_grey_and_ignored() -> None:
    """At half the size in a crop of the whole, a quarter is image and the rest is neither trained on nor of any colour."""
    batch = replace(AS_IT_IS, scale=(0.5, 0.5))(patches(4), torch.Generator().manual_seed(1))
    x, outside = batch.images, batch.labels == IGNORED
    assert not batch.objects[outside].any()
    assert outside.float().mean() == 0.75
    grown = -torch.nn.functional.max_pool2d(-outside[:, None].float(), 3, 1, 1) > 0  # without the pixels next to the image
    assert x[grown.expand_as(x)].sub(GREY).abs().max() < 1e-3


def test_a_magnified_frame_is_smooth_and_a_crop_of_the_source() -> None:
    """At scale 2 half of each side is seen, bilinearly: nearly no colour that adjacent source pixels do not span."""
    ramp = torch.arange(64, dtype=torch.uint8).expand(1, 3, 48, 64) * 3
    frames = frames_of(ramp, torch.zeros(1, 48, 64, dtype=torch.uint8))
    batch = replace(AS_IT_IS, scale=(2.0, 2.0))(frames, torch.Generator().manual_seed(5))
    step = batch.images[0, 0, :, 2:-2].diff(dim=1).abs()
    torch.testing.assert_close(step, torch.full_like(step, 1.5), rtol=0, atol=1e-2)
    assert batch.labels.eq(0).all()


@pytest.mark.parametrize(("color", "camera"), [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0)])
def test_a_seed_gives_the_same_variations(color: float, camera: float) -> None:
    """Whatever the state of torch's own generator; another seed gives others."""
    vary = Augmentation(crop=(32, 32), color=color, camera=camera, paste=0.5, paste_classes=(1, 2))
    found = []
    for seed in (7, 7, 8):
        torch.rand(5)
        found.append(vary(patches(4), torch.Generator().manual_seed(seed)))
    for part in ("images", "labels", "objects"):
        first, second, other = (getattr(batch, part) for batch in found)
        assert torch.equal(first, second)
        assert not torch.equal(first, other)


def test_colors_change_and_labels_do_not() -> None:
    """Each frame by its own amount, within 0..255, without moving anything."""
    unchanged = AS_IT_IS(patches(8), torch.Generator().manual_seed(2))
    changed = replace(AS_IT_IS, color=1.0)(patches(8), torch.Generator().manual_seed(2))
    plain, varied = unchanged.images, changed.images
    assert torch.equal(changed.labels, unchanged.labels)
    assert float(varied.min()) >= 0
    assert float(varied.max()) <= 255
    change = (varied - plain).abs().mean((1, 2, 3))
    assert (change > 2).all()
    assert change.std() > 1
    for image, brightness in zip(varied.mean(1), plain.mean(1), strict=True):  # dark stays darker than light
        assert np.corrcoef(image.flatten().numpy(), brightness.flatten().numpy())[0, 1] > 0.6


def test_pasted_objects_bring_their_pixels_and_their_labels() -> None:
    """Only the classes asked for are pasted, each whole from one other frame of the batch, and colour and class still agree."""
    frames = patches(12, seed=4)
    frames.objects[:, :8, :8] = UNSURE
    unchanged = AS_IT_IS(frames, torch.Generator().manual_seed(9))
    changed = replace(AS_IT_IS, paste=1.0, paste_classes=(3, 6))(frames, torch.Generator().manual_seed(9))
    before, truth, after, y = unchanged.images, unchanged.labels, changed.images, changed.labels
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
    given = torch.roll(unchanged.objects, 1, 0)
    numbers = torch.where(given == UNSURE, UNSURE, given + DONOR)
    assert torch.equal(changed.objects[moved], numbers[moved])
    stayed = ~moved & (truth != donors)
    assert torch.equal(changed.objects[stayed], unchanged.objects[stayed])


def test_a_probability_of_pasting_is_kept() -> None:
    """At a half, about half of the frames take something."""
    frames = patches(64, seed=5)
    truth = AS_IT_IS(frames, torch.Generator().manual_seed(9)).labels
    vary = replace(AS_IT_IS, paste=0.5, paste_classes=tuple(range(11)))
    y = vary(frames, torch.Generator().manual_seed(9)).labels
    share = float((y != truth).any(2).any(1).float().mean())
    assert 0.3 < share < 0.7


def test_another_camera_turns_hues_and_keeps_brightness() -> None:
    """Hue turns the colour differences: the luma of a frame stays, its colours do not; labels and objects keep their pixels."""
    unchanged = AS_IT_IS(patches(1), torch.Generator().manual_seed(2))
    luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    vary = replace(AS_IT_IS, camera=1e-9)
    still = vary._filmed(unchanged.images, torch.Generator().manual_seed(0))
    torch.testing.assert_close(still, unchanged.images, rtol=0, atol=1e-2)
    grey = (unchanged.images * luma).sum(1, keepdim=True) * 0.5 + 64  # within 0..255 whatever the hue
    soft = grey + (unchanged.images - (unchanged.images * luma).sum(1, keepdim=True)) * 0.2
    turned = replace(AS_IT_IS, camera=0.9)._filmed(soft.expand(64, -1, -1, -1), torch.Generator().manual_seed(0))
    sharp = (turned - soft).abs().amax((1, 2, 3)) < 25  # those that are neither blurred nor compressed
    assert sharp.sum() > 10
    torch.testing.assert_close(
        (turned * luma).sum(1)[sharp], (soft * luma).sum(1).expand(int(sharp.sum()), -1, -1), rtol=0, atol=1
    )
    assert (turned - soft).abs().mean() > 1


@pytest.mark.parametrize("camera", [0.5, 1.0])
def test_perspective_keeps_an_image_and_its_labels_together(camera: float) -> None:
    """Away from the borders of a class the colour is still the class's."""
    vary = Augmentation(crop=(40, 56), stretch=0.3, rotation_degrees=10.0, color=0.0, camera=camera)
    generator = torch.Generator().manual_seed(3)
    frames = patches(8)
    grid = vary._grid(frames, generator)
    sampled = torch.nn.functional.grid_sample(frames.images.float(), grid, mode="bilinear", align_corners=False)
    labels = torch.nn.functional.grid_sample(
        frames.labels.float()[:, None] - IGNORED, grid, mode="nearest", align_corners=False
    )
    assert farthest_from_its_color(sampled, (labels[:, 0] + IGNORED).round().long()) < 0.01


def test_a_crop_lies_in_the_frame_and_not_in_its_padding(tmp_path: Path) -> None:
    """Of a tall and a wide frame in one tensor, a crop that fits into both has no grey pixel."""
    for name, size in (("tall", (120, 60)), ("wide", (60, 120))):
        write_frame(tmp_path, name, np.full((*size, 3), 255, np.uint8), np.zeros(size, np.uint8))
    frames = load_frames([tmp_path], CAMVID, InputPolicy(working_size=(64, 64)))
    batch = replace(AS_IT_IS, crop=(40, 40))(frames, torch.Generator().manual_seed(0))
    assert batch.labels.eq(0).all()
    assert batch.images.min() > 254


def test_objects_are_read_where_a_folder_has_them(tmp_path: Path) -> None:
    """16-bit numbers as they are; those that 8 bits cannot number are unsure. Else clear components are the objects."""
    labels = np.zeros((90, 120), np.uint8)
    labels[30:50, 20:50] = labels[30:50, 70:100] = 8
    for name in ("exact", "found"):
        write_frame(tmp_path, name, np.zeros((90, 120, 3), np.uint8), labels)
    (tmp_path / "objects").mkdir()
    objects = np.zeros((90, 120), np.uint16)
    objects[30:50, 20:50], objects[30:50, 70:100] = 7, 300
    cv2.imwrite(str(tmp_path / "objects" / "exact.png"), objects)
    policy = InputPolicy(working_size=(88, 120))
    exact, found = load_frames([tmp_path], CAMVID, policy, objects=True).objects
    assert (set(exact.unique().tolist()), set(found.unique().tolist())) == ({0, 7, UNSURE}, {0, 1, 2})
    assert not load_frames([tmp_path], CAMVID, policy).objects.any()
    cv2.imwrite(str(tmp_path / "objects" / "exact.png"), objects[:50])
    with pytest.raises(DataError, match=r"objects/exact\.png: expected 16-bit grey of \(90, 120\), found uint16 \(50, 120\)"):
        load_frames([tmp_path], CAMVID, policy, objects=True)


def test_painted_frames_are_scenes_at_the_working_size() -> None:
    """From seed to seed, their objects known, their loss a share of a photograph's."""
    policy = InputPolicy(working_size=(64, 80))
    frames = stacked(list(painted_frames(3, policy, first_seed=5, weight=0.25)))
    scene = draw_scene(64, 80, 6)
    assert torch.equal(frames.images[1].permute(1, 2, 0), torch.from_numpy(scene.image))
    assert torch.equal(frames.labels[1], torch.from_numpy(scene.labels))
    assert torch.equal(frames.objects[1].long(), torch.from_numpy(scene.objects.astype(np.int64)))
    assert frames.weights.tolist() == [0.25] * 3


@given(st.integers(0, 500), st.integers(1, 60))
def test_images_are_chosen_from_the_first_to_the_last(count: int, most: int) -> None:
    """As many as there may be, none twice, and all steps alike up to rounding."""
    chosen = evenly_spread(count, most)
    assert len(chosen) == min(count, most)
    assert all(0 <= index < count for index in chosen)
    gaps = np.diff(chosen)
    assert (gaps >= 1).all()
    assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1
    assert count == 0 or (chosen[0] == 0 and (most == 1 or chosen[-1] == count - 1))


def test_spread_images_are_those_of_a_data_set_or_of_a_folder(tmp_path: Path) -> None:
    """The first and the last of them, in the order of their names; a folder without any is named."""
    (tmp_path / "images").mkdir()
    for grey in range(5):
        Image.new("RGB", (8, 8), (grey, grey, grey)).save(tmp_path / "images" / f"{grey}.png")
    for folder in (tmp_path, tmp_path / "images"):
        assert [int(image[0, 0, 0]) for image in spread_images(folder, 3)] == [0, 2, 4]
    with pytest.raises(DataError, match="nowhere: no images"):
        spread_images(tmp_path / "nowhere", 3)
