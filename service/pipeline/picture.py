"""A picture as a network takes it: decoded, its intensities scaled, brought to a size. Training and serving call this file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.pipeline import intensity, plan
from service.pipeline.codecs import decoding
from service.pipeline.codecs.grey import Conversion
from service.pipeline.manifest import InputPolicy


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded picture."""

    image: NDArray[np.uint8]
    """H x W x 3: upright, as people see it."""
    values: NDArray[Any]
    """H x W x 3 uint8, or of one channel H x W of the policy's dtype, after its intensity policy."""
    converted: tuple[Conversion, ...] = ()
    """What was changed of a picture that is another than the network takes."""

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.image.shape[0], self.image.shape[1]

    def fitted(self, size: tuple[int, int], *, native: bool = False) -> NDArray[Any]:
        """Resize the values to the network's size.

        Takes:
            size: (h, w), of ``plan.fit_size`` or ``plan.native_size``
            native: whether it is the picture's own size, up to rounding
        Gives:
            h x w x channels
        """
        fitted = plan.native_image(self.values, size) if native else plan.resize_image(self.values, size)
        return fitted[..., None] if fitted.ndim == 2 else fitted


def read_picture(
    source: bytes | NDArray[np.uint8], policy: InputPolicy, limits: decoding.Limits, header: decoding.Header | None = None
) -> Picture:
    """Decode a picture for a network of pictures.

    Takes:
        source: a file's bytes, or H x W x 3 uint8 RGB
        header: what ``decoding.probe`` returned for this source, if it was called before
    Raises:
        as ``decoding.decode`` and ``decoding.decode_grey``
    """
    if not policy.takes_grey:
        image = decoding.decode(source, limits, header)
        return Picture(image, image)
    grey = decoding.decode_grey(source, limits, policy.dtype, header)
    values = intensity.policed(grey.values, policy.intensity)
    return Picture(intensity.preview(values), values, grey.converted)
