"""What a format may know of a mask.

May import: numpy; ``service.pipeline.manifest`` for its type alone, so that a client need not install what it imports.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

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

    @property
    def model(self) -> dict[str, str]:
        """Which model made it, as the JSON formats say it."""
        return {"name": self.manifest.name, "version": self.manifest.version, "sha256": self.sha256}
