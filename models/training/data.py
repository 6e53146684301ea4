"""Frames and labels: how they are read, and how training varies them.

A data set is a folder with ``images/`` and ``labels/``: files of one stem, labels as 8-bit PNG whose pixel value is the class
id. Frames are decoded, scaled and resized by the service's own code, so that training sees what serving will see: for a network
of one channel all bits of grey PNG and TIFF files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from models.scenes import draw_scene
from models.training.classes import ClassTable, ClassTableError
from models.training.losses import IGNORED
from models.training.objects import MOST, UNSURE, clear_objects
from service.errors import ServiceError
from service.pipeline.codecs.decoding import Limits, decode
from service.pipeline.manifest import InputPolicy
from service.pipeline.picture import Picture
from service.pipeline.picture import read_picture as read_as_served
from service.pipeline.plan import fit_size

GREY = 127
"""The colour outside of an image. Outside of a picture of floats, whose intensities a policy scaled, is 0."""

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"))
LIMITS = Limits()
"""Of a frame: the service's own."""


Read = TypeVar("Read")


class DataError(ValueError):
    """A data folder that can't be used; the message says what was expected."""


def image_files(folder: Path) -> list[Path]:
    """The image files directly in a folder, sorted by name; none where there is no such folder."""
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in IMAGE_SUFFIXES)


def split_of(folder: Path) -> str:
    """Name a split by its folder: the last two parts of the path, as in ``camvid-val``."""
    return "-".join(folder.resolve().parts[-2:])


def evenly_spread(count: int, most: int) -> list[int]:
    """Choose among so many things: all indices, or ``most`` of them from the first to the last."""
    return [int(index) for index in np.linspace(0, count - 1, min(most, count)).round()]


def spread_images(folder: Path, most: int) -> Iterator[NDArray[np.uint8]]:
    """Read images of a folder, evenly spread by name.

    Takes:
        folder: images, or a data set with ``images/``
        most: how many are read
    Gives:
        H x W x 3 uint8 RGB each, as :func:`read_image`
    Raises:
        DataError: if there are none; later, if one can't be read
    """
    files = image_files(folder / "images") or image_files(folder)
    if not files:
        raise DataError(f"{folder}: no images, neither in images/ nor in itself")
    return (read_image(files[index]) for index in evenly_spread(len(files), most))


def frame_pairs(folder: Path) -> list[tuple[Path, Path]]:
    """The (image, label) files of a data set, sorted by name.

    Raises:
        DataError: if the folder has no such pairs, or an image lacks its label
    """
    images = image_files(folder / "images")
    if not images:
        raise DataError(f"{folder}: no images in images/; expected images/*.jpg|png and labels/*.png of the same names")
    pairs = [(image, folder / "labels" / f"{image.stem}.png") for image in images]
    missing = [label.name for _, label in pairs if not label.is_file()]
    if missing:
        raise DataError(f"{folder}: {len(missing)} images have no label, first {folder / 'labels' / missing[0]}")
    return pairs


def read_image(path: Path) -> NDArray[np.uint8]:
    """H x W x 3 uint8 RGB, upright: what the service decodes from the same file, 16-bit and grey ones included.

    Raises:
        DataError: if the file can't be read, or the service would refuse it
    """
    return _served(path, lambda data: decode(data, LIMITS))


def read_picture(path: Path, policy: InputPolicy) -> Picture:
    """Read an image as a network takes it: what the service makes of the same file, of one channel with all its bits.

    Raises:
        DataError: if the file can't be read, or the service would refuse it
    """
    return _served(path, lambda data: read_as_served(data, policy, LIMITS))


def _served(path: Path, decoded: Callable[[bytes], Read]) -> Read:
    try:
        return decoded(path.read_bytes())
    except ServiceError as error:
        raise DataError(f"{path}: {error.message}") from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error


def read_labels(path: Path, table: ClassTable) -> NDArray[np.uint8]:
    """H x W uint8 class ids, 255 where ignored.

    Raises:
        DataError: if the file can't be read, or a pixel value is neither a class nor ignored
    """
    try:
        with Image.open(path) as image:
            labels = np.array(image)
    except OSError as error:
        raise DataError(f"{path}: {error}") from error
    if labels.ndim != 2 or labels.dtype != np.uint8:
        raise DataError(f"{path}: expected an 8-bit single-channel PNG of class ids, found {labels.dtype} {labels.shape}")
    try:
        return table.class_ids(labels)
    except ClassTableError as error:
        raise DataError(f"{path}: {error}") from error


@dataclass(frozen=True)
class Frames:
    """A data set in memory at the network's size, frames of unlike shape padded at the right and the bottom."""

    images: Tensor
    """N x channels x h x w: uint8 RGB, or one channel of the policy's dtype."""
    labels: Tensor
    """N x h x w uint8, 255 where ignored or padded."""
    objects: Tensor
    """N x h x w uint8 object map (``models.training.objects``)."""
    sizes: Tensor
    """N x 2 int64: (height, width) of each frame without its padding."""
    weights: Tensor
    """N float32: share of each frame's semantic loss."""
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def to(self, device: torch.device) -> Frames:
        """The same frames on a device."""
        return Frames(
            self.images.to(device),
            self.labels.to(device),
            self.objects.to(device),
            self.sizes.to(device),
            self.weights.to(device),
            self.names,
        )

    def take(self, chosen: Tensor) -> Frames:
        """Some of the frames. Takes: int64 indices, on the frames' device."""
        return Frames(
            self.images[chosen],
            self.labels[chosen],
            self.objects[chosen],
            self.sizes[chosen],
            self.weights[chosen],
            tuple(self.names[index] for index in chosen.tolist()),
        )


@dataclass(frozen=True)
class Frame:
    """One frame at the network's size."""

    name: str
    image: NDArray[Any]
    """h x w x channels: uint8 RGB, or one channel of the policy's dtype."""
    labels: NDArray[np.uint8]
    """h x w, 255 where ignored."""
    objects: NDArray[np.uint8]
    """h x w object map."""
    weight: float = 1.0
    """Share of its semantic loss."""


def outside(images: Tensor) -> int:
    """Return the value of what lies outside of an image: grey, or 0 of floats, whose intensities a policy scaled."""
    return 0 if images.is_floating_point() else GREY


def stacked(frames: list[Frame]) -> Frames:
    """Frames as one value, padded to the largest."""
    height, width = (max(frame.labels.shape[axis] for frame in frames) for axis in (0, 1))
    channels, dtype = frames[0].image.shape[2], frames[0].image.dtype
    images = np.full((len(frames), height, width, channels), outside(torch.from_numpy(frames[0].image)), dtype)
    labels = np.full((len(frames), height, width), IGNORED, np.uint8)
    objects = np.zeros((len(frames), height, width), np.uint8)
    for index, frame in enumerate(frames):
        h, w = frame.labels.shape
        images[index, :h, :w], labels[index, :h, :w], objects[index, :h, :w] = frame.image, frame.labels, frame.objects
    return Frames(
        torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(labels),
        torch.from_numpy(objects),
        torch.tensor([frame.labels.shape for frame in frames]),
        torch.tensor([frame.weight for frame in frames]),
        tuple(frame.name for frame in frames),
    )


def load_frames(folders: list[Path], table: ClassTable, policy: InputPolicy, *, objects: bool = False) -> Frames:
    """Read data sets into memory.

    Takes:
        objects: whether the objects of the countable classes are wanted
    Raises:
        DataError: if a folder or a file can't be used
    """
    return stacked([frame for folder in folders for frame in read_frames(folder, table, policy, objects=objects)])


def read_frames(folder: Path, table: ClassTable, policy: InputPolicy, *, objects: bool = False) -> Iterator[Frame]:
    """Read the frames of a data set one after another, sorted by name; takes and raises as :func:`load_frames`."""
    for image_path, label_path in frame_pairs(folder):
        picture, label = read_picture(image_path, policy), read_labels(label_path, table)
        if picture.size != label.shape:
            raise DataError(f"{label_path}: {label.shape} labels for an image of {picture.size}")
        h, w = fit_size(label.shape[0], label.shape[1], policy)
        found = objects_of(folder, image_path.stem, label, table) if objects else np.zeros_like(label)
        yield Frame(image_path.stem, picture.fitted((h, w)), _nearest(label, (h, w)), _nearest(found, (h, w)))


def objects_of(folder: Path, name: str, labels: NDArray[np.uint8], table: ClassTable) -> NDArray[np.uint8]:
    """Return the objects of a frame: from its file in objects/ if there is one, else the clear components of its labels.

    Takes:
        name: the frame's file name without its ending
        labels: H x W uint8 class ids
    Gives:
        H x W uint8 object map
    Raises:
        DataError: if the file can't be used
    """
    path = folder / "objects" / f"{name}.png"
    return read_objects(path, labels) if path.is_file() else clear_objects(labels, table.names, table.things)


def painted_frames(count: int, policy: InputPolicy, *, first_seed: int = 0, weight: float = 1.0) -> Iterator[Frame]:
    """Scenes of ``models.scenes`` at the working size, seeds counted up from ``first_seed``."""
    height, width = fit_size(*policy.working_size, policy)
    for seed in range(first_seed, first_seed + count):
        scene = draw_scene(height, width, seed)
        objects = np.where(scene.objects > MOST, UNSURE, scene.objects).astype(np.uint8)
        yield Frame(f"scene-{seed:06d}", scene.image, scene.labels, objects, weight)


def read_objects(path: Path, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The object map of a 16-bit PNG: 0 none, 1, 2, ... objects, 65535 unsure.

    Raises:
        DataError: if the file can't be read, or has not the labels' size
    """
    found = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if found is None:
        raise DataError(f"{path}: not a readable PNG")
    if found.dtype != np.uint16 or found.shape != labels.shape:
        raise DataError(f"{path}: expected 16-bit grey of {labels.shape}, found {found.dtype} {found.shape}")
    return np.where(found > MOST, UNSURE, found).astype(np.uint8)


def _nearest(plane: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(plane, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
