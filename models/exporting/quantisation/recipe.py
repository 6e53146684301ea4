"""From a float32 graph and calibration frames to the int8 graph.

Weights have 7 of their 8 bits. On processors without VNNI the products of a full range overflow the 16-bit sums of
``vpmaddubsw``; on all others the shorter range costs neither labels nor time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from models.exporting.quantisation.equalisation import equalise
from models.exporting.quantisation.last_layers import as_products
from models.exporting.quantisation.maps import Maps
from models.exporting.quantisation.qdq import quantised
from models.exporting.quantisation.ranges import Range, find_ranges
from models.exporting.quantisation.rounding import Rounded, round_weights
from models.exporting.quantisation.statistics import collect
from models.nets.normalisation import by_rows

BITS = 7
"""Of a weight."""


@dataclass(frozen=True)
class Quantisation:
    """Everything that the frames decided."""

    maps: Maps
    """The equalised float32 graph."""
    ranges: dict[str, Range]
    rounded: dict[str, Rounded]

    def model(self) -> onnx.ModelProto:
        """Return the int8 graph."""
        return by_rows(as_products(quantised(self.maps, self.ranges, self.rounded)))

    def alone(self) -> Iterator[tuple[str, onnx.ModelProto]]:
        """Each layer's name, with a graph in which that layer alone is quantised: its weights, and the map that it makes."""
        for name, rounded in self.rounded.items():
            carried = self.maps.carried(name)
            yield name, quantised(self.maps, {carried: self.ranges[carried]}, {name: rounded})


def quantise(model: onnx.ModelProto, frames: Sequence[NDArray[np.generic]], bits: int = BITS) -> Quantisation:
    """Decide on everything.

    Takes:
        model: float32, as :func:`models.exporting.tracing.to_onnx` makes it; it is left as it is
        frames: calibration frames, each a batch of one image as the network takes it
        bits: of a weight
    """
    maps = Maps(model)
    found = equalise(maps, collect(maps, frames))
    return Quantisation(
        found.maps,
        find_ranges(found.maps, found.statistics),
        round_weights(found.maps, found.statistics.moments, bits),
    )
