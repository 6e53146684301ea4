"""Label map to bytes and back: one file a format, and the list of them all.

``FORMATS`` is what ``format=`` may say. To add a format, write its file and add its line.

May import: numpy, isal, ``service.errors``: whoever decodes a mask needs nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from service.encodings import autoware, coco, color, cvat, labelstudio, npy, overlay, png, polygons, rle
from service.encodings.view import MaskView
from service.errors import UnsupportedFormat

__all__ = ["DEFAULT_FORMAT", "FORMATS", "Encoded", "Format", "MaskView", "encode", "to_json"]

Document = dict[str, Any]


@dataclass(frozen=True)
class Encoded:
    """A mask, ready to be sent or stored."""

    body: bytes
    media_type: str


@dataclass(frozen=True)
class Format:
    """One way to write a mask."""

    media_type: str
    encode: Callable[[MaskView], bytes]
    document: Callable[[MaskView], Document] | None = None
    """For a JSON format: the same before it becomes text, so that several masks can share a reply."""


def to_json(document: object) -> bytes:
    """Write JSON without spaces, as UTF-8."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _json(document: Callable[[MaskView], Document]) -> Format:
    return Format("application/json", lambda view: to_json(document(view)), document)


DEFAULT_FORMAT = "png"

FORMATS: dict[str, Format] = {
    "png": Format("image/png", lambda view: png.encode_indexed(view.labels, view.manifest.palette())),
    "rle": _json(lambda view: rle.encode(view.labels, view.manifest.classes) | {"model": view.model}),
    "coco": _json(lambda view: coco.encode(view.labels, view.manifest.classes) | {"model": view.model}),
    "coco-uncompressed": _json(
        lambda view: coco.encode(view.labels, view.manifest.classes, compressed=False) | {"model": view.model}
    ),
    "labelstudio": _json(
        lambda view: (
            labelstudio.encode(view.labels, view.manifest.classes)
            | {"model": view.model, "model_version": f"{view.manifest.name}@{view.manifest.version}"}
        )
    ),
    "cvat": _json(lambda view: cvat.encode(view.labels, view.manifest.classes) | {"model": view.model}),
    "polygons": _json(lambda view: polygons.encode(view.labels, view.manifest.classes) | {"model": view.model}),
    "autoware": Format("application/x-autoware-rle", lambda view: autoware.encode(view.labels)),
    "overlay": Format(
        "image/png", lambda view: png.encode_rgb(overlay.blend(view.image, view.labels, view.manifest.palette()))
    ),
    "color": Format("image/png", lambda view: png.encode_rgb(color.colorize(view.labels, view.manifest.palette()))),
    "gray": Format("image/png", lambda view: png.encode_gray(view.labels)),
    "npy": Format("application/x-npy", lambda view: npy.encode(view.labels)),
    "confidence": Format("image/png", lambda view: png.encode_gray(view.confidence())),
}
"""Every format by name; where several share a media type, the first one is what ``Accept`` gets."""


def encode(name: str, view: MaskView) -> Encoded:
    """Write a mask in the format of that name.

    Raises:
        UnsupportedFormat: naming those that exist
    """
    chosen = FORMATS.get(name)
    if chosen is None:
        raise UnsupportedFormat(f"no format {name!r}; there are {', '.join(FORMATS)}", allowed=list(FORMATS))
    return Encoded(chosen.encode(view), chosen.media_type)
