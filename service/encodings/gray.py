"""The class ids as a grey PNG (``format=gray``), for OpenCV, imageio and libvips, which paint an indexed PNG's colours."""

from __future__ import annotations

from service.encodings import png
from service.encodings.format import Format
from service.encodings.several import zipped

FORMAT = Format(
    "gray",
    ".png",
    "image/png",
    "The pixel value is the class id, as a grey PNG: the one for OpenCV, imageio and libvips.",
    encode=lambda view: png.encode_gray(view.labels),
    decode=png.decode,
    gather=zipped(".png"),
    by_rows=png.by_rows(png.GRAY, lambda view: view.labels),
)
