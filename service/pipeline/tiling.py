"""Runs a network on a picture that is too large for one run: tile by tile, with the result of one run.

A score depends on the receptive field alone. Each tile is read with a halo around it, so its scores are those of the whole
picture (Long et al. 2015, section 3: a fully convolutional network is a filter). The memory is that of one tile.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from service.errors import BadParameter
from service.pipeline.blocks import blocks
from service.pipeline.engine import Engine
from service.pipeline.manifest import Manifest

Resolution = Literal["working", "native"]
"""``working``: the network sees the picture at the size that it was trained at; ``native``: at the picture's own."""

Halo = Literal["exact", "effective"]
"""What a tile sees around the part that is kept: ``exact``, all that can change a score; ``effective``, the measured reach. Few
labels are then others, at a lower price."""

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

    def for_rows(self) -> Tiling:
        """Return the tiling of a picture that is read by rows: the rest of the memory is for its rows and their scores."""
        return replace(self, memory_mb=self.memory_mb // 2)

    def is_needed(self, size: tuple[int, int]) -> bool:
        """Whether an input of (h, w) is too large for one run."""
        return size[0] * size[1] > self.pixels

    def seen_pixels(self, size: tuple[int, int], manifest: Manifest, halo: Halo = "exact") -> int:
        """Return the pixels of all runs together, halos counted each time: the price of the picture.

        Takes:
            size: (h, w) of the network's input
        """
        if not self.is_needed(size) or halo_of(manifest, halo) is None:
            return size[0] * size[1]
        cut = self._cut(manifest, halo)
        return math.prod(sum(block.read[0].stop - block.read[0].start for block in blocks([side], **cut)) for side in size)

    def run(
        self,
        engine: Engine,
        fitted: NDArray[np.uint8],
        outputs: Sequence[str],
        *,
        halo: Halo = "exact",
        alone: bool = True,
        check: Callable[[], None] = lambda: None,
    ) -> dict[str, NDArray[np.float32]]:
        """Run the network on one picture, in tiles.

        Takes:
            fitted: h x w x C, sides multiples of the manifest's
            outputs: names of the wanted outputs
            halo: how much each tile sees of its surroundings
            alone: whether all threads may be used
            check: called before each tile; what it raises ends the run
        Gives:
            by name, planes x h/stride x w/stride float32: with the exact halo, within rounding those of one run
        Raises:
            BadParameter: if the manifest does not know its halo
            InferenceFailed: as ``Engine.run``
        """
        manifest = engine.manifest
        h, w = fitted.shape[:2]
        strides = {output.name: output.stride for output in manifest.outputs}
        whole: dict[str, NDArray[np.float32]] = {}
        tops = dict.fromkeys(outputs, 0)
        bands = self.bands(
            engine, lambda *part: np.ascontiguousarray(fitted[part]), (h, w), outputs, halo=halo, alone=alone, check=check
        )
        for band in bands:
            for name, values in band.items():
                if name not in whole:
                    whole[name] = np.empty((len(values), h // strides[name], w // strides[name]), np.float32)
                whole[name][:, tops[name] : tops[name] + values.shape[1]] = values
                tops[name] += values.shape[1]
        return whole

    def bands(
        self,
        engine: Engine,
        window: Callable[[slice, slice], NDArray[Any]],
        size: tuple[int, int],
        outputs: Sequence[str],
        *,
        halo: Halo = "exact",
        alone: bool = True,
        check: Callable[[], None] = lambda: None,
    ) -> Iterator[Mapping[str, NDArray[np.float32]]]:
        """Run the network on one picture, one row of tiles after the other.

        Takes:
            window: returns rows x columns x C of the picture, of the network's dtype; its rows never go back up
            size: (h, w) of the picture, multiples of the manifest's
            halo, outputs, alone, check: as of :meth:`run`
        Gives:
            by name, planes x n x w/stride float32: the outputs of the next rows, from top to bottom
        Raises:
            BadParameter, InferenceFailed: as :meth:`run`
        """
        manifest = engine.manifest
        if self.is_needed(size) and halo_of(manifest, halo) is None:
            raise BadParameter(
                f"{manifest.name} does not know its receptive field, so it takes whole pictures only, and this one is larger "
                f"than {self.pixels / 1e6:.1f} megapixels; leave out resolution=native",
                parameter="resolution",
            )
        strides = {output.name: output.stride for output in manifest.outputs}
        cut = self._cut(manifest, halo) if self.is_needed(size) else {"halo": 0, "multiple": 1, "largest": max(size)}
        for place, row in groupby(blocks(size, **cut), key=lambda block: block.place[0]):
            band: dict[str, NDArray[np.float32]] = {}
            for block in row:
                check()
                found = engine.run(window(*block.read)[None], outputs, alone=alone)
                for name, (values,) in found.items():
                    stride = strides[name]
                    if name not in band:
                        band[name] = np.empty(
                            (len(values), (place.stop - place.start) // stride, size[1] // stride), np.float32
                        )
                    (rows, columns), (_, to) = (
                        [_scaled(part, stride) for part in parts] for parts in (block.keep, block.place)
                    )
                    band[name][:, :, to] = values[:, rows, columns]
            yield band

    def _cut(self, manifest: Manifest, halo: Halo) -> dict[str, int]:
        """The arguments of :func:`blocks`. The exact halo is a multiple of the coarsest stride, which is a power of two: the
        largest power of two in the halo is a multiple of that stride, too.
        """
        exact, wanted = manifest.halo or 0, halo_of(manifest, halo) or 0
        multiple = math.lcm(manifest.input.multiple, exact & -exact) if exact else manifest.input.multiple
        return {"halo": -(-wanted // multiple) * multiple, "multiple": multiple, "largest": math.isqrt(self.pixels)}


def check_native(manifest: Manifest, resolution: Resolution, halo: Halo) -> None:
    """Check that a network has this resolution and this halo.

    Raises:
        BadParameter: naming the parameter
    """
    if halo != "exact" and resolution != "native":
        raise BadParameter(f"halo={halo} is for tiles, and so for resolution=native", parameter="halo")
    halo_of(manifest, halo)
    if resolution == "native" and manifest.input.fit == "stretch":
        reason = f"{manifest.name} takes one size only; leave out resolution=native"
        raise BadParameter(reason, parameter="resolution")


def halo_of(manifest: Manifest, halo: Halo) -> int | None:
    """Return the pixels around a tile; None where the manifest does not know them.

    Raises:
        BadParameter: if the effective halo is wanted, and it was not measured
    """
    if halo == "exact":
        return manifest.halo
    if manifest.effective is None:
        reason = f"the effective halo of {manifest.name} was not measured; leave out halo=effective, for exact tiles"
        raise BadParameter(reason, parameter="halo")
    return manifest.effective.halo


def _scaled(part: slice, stride: int) -> slice:
    return slice(part.start // stride, part.stop // stride)
