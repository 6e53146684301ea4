"""A mask as formats see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.encodings import selection, things
from service.encodings.geo import Geo
from service.encodings.options import NO_OPTIONS, Options
from service.encodings.palettes import ColoredRow, palette_of
from service.encodings.runs import ClassRow, ValueMap
from service.encodings.things import Instances
from service.encodings.volume import SegmentedScan, VolumeFacts, mosaic


class ModelFacts(Protocol):
    """The fields of a model that formats read; an artifact's manifest has it."""

    @property
    def name(self) -> str:
        """The model's name."""

    @property
    def version(self) -> str:
        """The model's version."""

    @property
    def classes(self) -> Sequence[ColoredRow]:
        """The class table: id, name and colour of each class."""


class Segmented(Protocol):
    """The result of a network for one image; ``service.pipeline.segmentation`` has it."""

    @property
    def labels(self) -> NDArray[np.uint8]:
        """H x W uint8: the class id of every pixel."""

    @property
    def image(self) -> NDArray[np.uint8]:
        """H x W x 3 uint8 RGB: the upright image."""

    @property
    def manifest(self) -> ModelFacts:
        """The model that made it."""

    @property
    def sha256(self) -> str:
        """The checksum of the model's file."""

    def confidence(self) -> NDArray[np.uint8]:
        """Return the winner's probability: H x W uint8, 255 is certainty."""

    def confidence_at(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.uint8]:
        """Return the winner's probability at some pixels: N uint8, 255 is certainty."""

    @property
    def geo(self) -> Geo | None:
        """Where the image lies on the earth; None if its file does not say."""

    @property
    def has_instances(self) -> bool:
        """Whether :meth:`instances` may be called."""

    def instances(self) -> Instances:
        """Return the objects that the network told apart."""

    @property
    def scan(self) -> SegmentedScan | None:
        """The scan in the place of the image, if it is one."""


@dataclass(frozen=True, eq=False)
class MaskView:
    """One finished mask, and what a format may show beside it."""

    labels: NDArray[np.uint8]
    """H x W uint8: the class id of every pixel; 255 is unlabelled."""
    image: NDArray[np.uint8]
    """H x W x 3 uint8 RGB: the upright image."""
    model: ModelFacts
    """The model that made it."""
    sha256: str
    """The checksum of the model's file."""
    confidence: Callable[[], NDArray[np.uint8]]
    """Computes, when a format asks for it, the winner's probability: H x W uint8, 255 is certainty."""
    options: Options = NO_OPTIONS
    instances: Callable[[], Instances] | None = None
    """Computes, when a format asks for it, the objects that the network told apart; None where it has not learned them."""
    file_name: str | None = None
    """The image's file name, as the caller sent it."""
    geo: Geo | None = None
    """Where the image lies on the earth; None where it does not say."""
    some_confidence: Callable[[NDArray[np.intp], NDArray[np.intp]], NDArray[np.uint8]] | None = None
    """Computes the winner's probability at rows and columns alone; None where only ``confidence`` does."""
    volume: VolumeFacts | None = None
    """The scan, whose labels and confidence are then X x Y x Z in its order; None for an image."""

    @classmethod
    def of(cls, result: Segmented, options: Options = NO_OPTIONS, file_name: str | None = None) -> MaskView:
        """View the result of a network.

        Takes:
            file_name: of the image, as the caller sent it
        """
        instances = result.instances if result.has_instances else None
        return cls(
            result.labels,
            result.image,
            result.manifest,
            result.sha256,
            result.confidence,
            options,
            instances=instances,
            file_name=file_name,
            geo=result.geo,
            some_confidence=result.confidence_at,
            volume=None if result.scan is None else VolumeFacts.of(result.scan),
        )

    def confidence_at(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.uint8]:
        """Return the winner's probability at some pixels of an image: N uint8, 255 is certainty."""
        if self.some_confidence is None:
            return self.confidence()[rows, columns]
        return self.some_confidence(rows, columns)

    @property
    def made_by(self) -> dict[str, str]:
        """The model that made it, as the JSON formats write it."""
        return {"name": self.model.name, "version": self.model.version, "sha256": self.sha256}

    @property
    def classes(self) -> Sequence[ColoredRow]:
        """The class table of the ids that are written."""
        return self.options.rows(self.model.classes)

    def palette(self) -> NDArray[np.uint8]:
        """The colour of every pixel value that is written: 256 x 3 uint8 RGB; values without a class are black."""
        return palette_of(self.classes)

    def as_picture(self) -> MaskView:
        """Lay slices of a scan side by side, where a format draws; an image is one already."""
        if self.volume is None:
            return self
        grey = mosaic(self.volume.preview, self.volume.affine)
        labels = mosaic(self.labels, self.volume.affine)
        return replace(self, labels=labels, image=np.repeat(grey[..., None], 3, 2), volume=None)

    def selected(self) -> MaskView:
        """Apply the options' filters and ids to the labels."""
        options, labels = self.options, self.labels
        if options.min_confidence > 0:
            labels = selection.drop_uncertain(labels, self.confidence(), options.min_confidence)
        if options.instances and self.instances is not None:
            labels = things.claim(labels, self.instances())
        if options.keep is not None:
            labels = selection.keep_classes(labels, options.keep)
        if options.translation is not None:
            labels = options.translation.apply(labels)
        return replace(self, labels=labels)

    def masks(self) -> tuple[ValueMap, Sequence[ClassRow]]:
        """Return the masks that a document of a selected view holds: the classes, or the things of those that can be counted.

        Gives:
            the value map and its rows: see ``runs``
        """
        options = self.options
        if not options.instances:
            return self.labels, self.classes
        if self.instances is not None:
            return things.split(self.labels, self.classes, self.instances(), options.min_area)
        from service.encodings import components  # noqa: PLC0415 - brings OpenCV, which a client need not have

        return components.split(self.labels, self.classes, options.min_area)
