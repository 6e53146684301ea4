"""What a format may know of a mask.

May import: numpy; ``service.pipeline.manifest`` for its type alone, so that a client need not install what it imports;
``service.encodings.components``, and with it cv2, only where components are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from service.encodings import selection
from service.encodings.color import ColoredRow, palette_of
from service.encodings.options import NO_OPTIONS, Options
from service.encodings.runs import ClassRow, ValueMap

if TYPE_CHECKING:
    from service.pipeline.manifest import Manifest


@dataclass(frozen=True, eq=False)
class MaskView:
    """One finished mask, and whatever a format may want to show beside it."""

    labels: NDArray[np.uint8]
    """H x W uint8: the class id of every pixel; 255 is unlabelled."""
    image: NDArray[np.uint8]
    """H x W x 3 uint8 RGB: the upright image."""
    manifest: Manifest
    """Of the model that made it: class table and palette."""
    sha256: str
    """Of the model's file."""
    confidence: Callable[[], NDArray[np.uint8]]
    """Computes, when a format asks for it, the winner's probability: H x W uint8, 255 is certainty."""
    options: Options = NO_OPTIONS

    @property
    def model(self) -> dict[str, str]:
        """Which model made it, as the JSON formats say it."""
        return {"name": self.manifest.name, "version": self.manifest.version, "sha256": self.sha256}

    @property
    def classes(self) -> Sequence[ColoredRow]:
        """The class table of the ids that are written."""
        return self.options.rows(self.manifest.classes)

    def palette(self) -> NDArray[np.uint8]:
        """The colour of every pixel value that is written: 256 x 3 uint8 RGB; values without a class are black."""
        return palette_of(self.classes)

    def selected(self) -> MaskView:
        """The view of those pixels that the options leave, in the ids that they ask for."""
        options, labels = self.options, self.labels
        if options.min_confidence > 0:
            labels = selection.drop_uncertain(labels, self.confidence(), options.min_confidence)
        if options.keep is not None:
            labels = selection.keep_classes(labels, options.keep)
        if options.translation is not None:
            labels = options.translation.apply(labels)
        return replace(self, labels=labels)

    def masks(self) -> tuple[ValueMap, Sequence[ClassRow]]:
        """The masks that a document holds: the classes, or the components of those that can be counted.

        Gives:
            the value map and its rows: see ``runs``
        """
        if not self.options.instances:
            return self.labels, self.classes
        from service.encodings import components  # noqa: PLC0415 - brings OpenCV, which a client need not have

        return components.split(self.labels, self.classes, self.options.min_area)
