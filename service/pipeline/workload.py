"""The cost of an image, from its header alone: admission counts it before anything is decoded."""

from __future__ import annotations

import math
from typing import NamedTuple

from service.pipeline import plan
from service.pipeline.manifest import Manifest
from service.pipeline.tiling import Halo, Tiling
from service.pipeline.volume import Shape

PIXEL_WORK = 1 / 8
"""The time of a pixel in decoding, labelling and encoding, over its time in the network. Measured with the shipped network on
2 cores: 1/7 for a PNG of 50 megapixels answered as an overlay, 1/50 for a camera's JPEG."""


SCAN_COST = 3
"""Megapixels of the queue's capacity that a million voxels take: as floats, as probabilities and as labels."""


class Workload(NamedTuple):
    """The cost of one image."""

    megapixels: float
    """The image's own size; 0 where it is not known yet."""
    network_size: tuple[int, ...]
    """(h, w) at which the network runs, or the sides of a scan at its spacing; not small for a single pixel either."""
    network_megapixels: float
    """The pixels of all runs of the network together: more than the image's where tiles overlap."""

    @classmethod
    def of(cls, height: int, width: int, manifest: Manifest) -> Workload:
        """Return the cost of an image of this size, at the network's working size."""
        h, w = size = plan.fit_size(height, width, manifest.input)
        return cls(height * width / 1e6, size, h * w / 1e6)

    @classmethod
    def native(cls, height: int, width: int, manifest: Manifest, tiling: Tiling, halo: Halo = "exact") -> Workload:
        """Return the cost of an image of this size, at its own resolution, with this halo around each tile."""
        size = plan.native_size(height, width, manifest.input)
        return cls(height * width / 1e6, size, tiling.seen_pixels(size, manifest, halo) / 1e6)

    @classmethod
    def scan(cls, shape: Shape, working: Shape, manifest: Manifest) -> Workload:
        """Return the cost of a scan.

        Takes:
            shape: of the file
            working: at the network's spacing
        """
        runs = max(1, len(manifest.input.planes)) / manifest.input.slice_step
        return cls(SCAN_COST * math.prod(shape) / 1e6, working, runs * math.prod(working) / 1e6)

    @classmethod
    def least(cls, manifest: Manifest) -> Workload:
        """Return the lowest cost that any image can have."""
        h, w = size = plan.least_size(manifest.input)
        return cls(0.0, size, h * w / 1e6)

    @property
    def cost(self) -> float:
        """Megapixels of the queue's capacity that the image takes: its own, or the network's where those are more."""
        return max(self.megapixels, math.prod(self.network_size) / 1e6)

    @property
    def work(self) -> float:
        """The time of all steps, in megapixels of the network."""
        return self.network_megapixels + PIXEL_WORK * self.megapixels
