"""Runs a network on a picture that is too large for one run: tile by tile, with the result of one run.

A score depends on the receptive field alone. Each tile is read with a halo around it, so its scores are those of the whole
picture (Long et al. 2015, section 3: a fully convolutional network is a filter). The memory is that of one tile.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.errors import BadParameter
from service.pipeline.blocks import blocks
from service.pipeline.engine import Engine
from service.pipeline.manifest import Manifest

Resolution = Literal["working", "native"]
"""``working``: the network sees the picture at the size that it was trained at; ``native``: at the picture's own."""

BYTES_PER_PIXEL = 125
"""Peak memory of a run for each input pixel, of the shipped network (2026-11-30: 73 to 124 for 1 to 4 megapixels)."""


@dataclass(frozen=True)
class Tiling:
    """How pictures are cut.

    Takes:
        memory_mb: what one run of the network may take
    """

    memory_mb: int = 1024

    @property
    def pixels(self) -> int:
        """The largest input of one run, halo included."""
        return self.memory_mb * 1_000_000 // BYTES_PER_PIXEL

    def is_needed(self, size: tuple[int, int]) -> bool:
        """Whether an input of (h, w) is too large for one run."""
        return size[0] * size[1] > self.pixels

    def seen_pixels(self, size: tuple[int, int], manifest: Manifest) -> int:
        """Return the pixels of all runs together, halos counted each time: the price of the picture.

        Takes:
            size: (h, w) of the network's input
        """
        if not self.is_needed(size) or manifest.halo is None:
            return size[0] * size[1]
        cut = self._cut(manifest)
        return math.prod(sum(block.read[0].stop - block.read[0].start for block in blocks([side], **cut)) for side in size)

    def run(
        self,
        engine: Engine,
        fitted: NDArray[np.uint8],
        outputs: Sequence[str],
        *,
        alone: bool = True,
        check: Callable[[], None] = lambda: None,
    ) -> dict[str, NDArray[np.float32]]:
        """Run the network on one picture, in tiles.

        Takes:
            fitted: h x w x C, sides multiples of the manifest's
            outputs: names of the wanted outputs
            alone: whether all threads may be used
            check: called before each tile; what it raises ends the run
        Gives:
            by name, planes x h/stride x w/stride float32: within rounding those of one run
        Raises:
            BadParameter: if the manifest does not know its halo
            InferenceFailed: as ``Engine.run``
        """
        manifest = engine.manifest
        if manifest.halo is None:
            raise BadParameter(
                f"{manifest.name} does not know its receptive field, so it takes whole pictures only, and this one is larger "
                f"than {self.pixels / 1e6:.1f} megapixels; leave out resolution=native",
                parameter="resolution",
            )
        strides = {output.name: output.stride for output in manifest.outputs}
        h, w = fitted.shape[:2]
        whole: dict[str, NDArray[np.float32]] = {}
        for block in blocks([h, w], **self._cut(manifest)):
            check()
            found = engine.run(np.ascontiguousarray(fitted[block.read])[None], outputs, alone=alone)
            for name, (values,) in found.items():
                stride = strides[name]
                if name not in whole:
                    whole[name] = np.empty((len(values), h // stride, w // stride), np.float32)
                kept, place = ([_scaled(part, stride) for part in parts] for parts in (block.keep, block.place))
                whole[name][:, place[0], place[1]] = values[:, kept[0], kept[1]]
        return whole

    def _cut(self, manifest: Manifest) -> dict[str, int]:
        """The arguments of :func:`blocks`. The halo is a multiple of the coarsest stride, which is a power of two: the largest
        power of two in the halo is a multiple of that stride, too.
        """
        halo = manifest.halo or 0
        multiple = math.lcm(manifest.input.multiple, halo & -halo) if halo else manifest.input.multiple
        return {"halo": -(-halo // multiple) * multiple, "multiple": multiple, "largest": math.isqrt(self.pixels)}


def _scaled(part: slice, stride: int) -> slice:
    return slice(part.start // stride, part.stop // stride)
