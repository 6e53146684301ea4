"""Names and colours of the classes, drawn into a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.extras import needs

try:
    from PIL import Image, ImageDraw, ImageFont
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(needs("legends need", "serve"), name=error.name) from error

_INK = (255, 255, 255)
_PAPER_WEIGHT = 0.6
"""The share of the black under the letters."""
_SMALLEST, _LARGEST = 9, 32
"""Heights of a line's letters in pixels: a legend of less cannot be read, one of more covers the picture."""


def draw(image: NDArray[np.uint8], rows: Sequence[tuple[str, tuple[int, int, int]]]) -> None:
    """Draw a legend into the upper left corner.

    Takes:
        image: H x W x 3 uint8 RGB, changed in place; one too small for all the rows gets the first of them
        rows: name and RGB colour of each line
    """
    height = image.shape[0]
    letters = min(max(height // 36, _SMALLEST), _LARGEST)
    margin, line = letters // 2, letters + letters // 2
    shown = rows[: max(0, (height - margin) // line)]
    if not shown:
        return
    font = ImageFont.load_default(letters)
    across = int(max(font.getlength(name) for name, _ in shown)) + 1
    box = image[: len(shown) * line + margin, : 3 * margin + letters + across]
    picture = Image.fromarray((box * (1 - _PAPER_WEIGHT)).astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    for number, (name, color) in enumerate(shown):
        top = margin + number * line
        pen.rectangle((margin, top, margin + letters, top + letters), fill=color, outline=_INK)
        pen.text((2 * margin + letters, top + letters // 2), name, fill=_INK, font=font, anchor="lm")
    box[...] = np.asarray(picture)
