"""The winner's probability of every pixel as a grey PNG: ``format=confidence``."""

from __future__ import annotations

from service.encodings import png
from service.encodings.format import Format

FORMAT = Format(
    "confidence",
    ".png",
    "image/png",
    "The probability of each pixel's class as a grey PNG: 255 is certainty.",
    encode=lambda view: png.encode_gray(view.confidence()),
    confident=True,
    by_rows=png.by_rows(png.GRAY, lambda view: view.confidence()),
)
