"""What an image will cost, told by its header alone: admission counts it before anything is decoded.

May import: the pipeline's ``codecs``, ``manifest`` and ``plan``.
"""

from __future__ import annotations

from dataclasses import dataclass

from service.pipeline import plan
from service.pipeline.manifest import Manifest

PIXEL_WORK = 1 / 8
"""The time of a pixel in decoding, labelling and encoding, over its time in the network. Measured with the shipped network on
2 cores: 1/7 for a PNG of 50 megapixels answered as an overlay, 1/50 for a camera's JPEG."""


@dataclass(frozen=True)
class Workload:
    """The cost of one image."""

    megapixels: float
    """Of the image itself; 0 where it is not known yet."""
    network_size: tuple[int, int]
    """(h, w) at which the network runs; not small for a single pixel either."""

    @classmethod
    def of(cls, height: int, width: int, manifest: Manifest) -> Workload:
        """Return the cost of an image of this size."""
        return cls(height * width / 1e6, plan.fit_size(height, width, manifest.input))

    @classmethod
    def least(cls, manifest: Manifest) -> Workload:
        """Return the lowest cost that any image can have."""
        return cls(0.0, plan.least_size(manifest.input))

    @property
    def room(self) -> float:
        """Megapixels of the queue that the image takes: its own, or the network's where those are more."""
        return max(self.megapixels, self._network_megapixels)

    @property
    def work(self) -> float:
        """The time of all steps, in megapixels of the network."""
        return self._network_megapixels + PIXEL_WORK * self.megapixels

    @property
    def _network_megapixels(self) -> float:
        h, w = self.network_size
        return h * w / 1e6
