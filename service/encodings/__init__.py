"""Label map to bytes and back: one file a format, and the list of them all.

``FORMATS`` is what ``format=`` may say. To add a format, write its file and add its line.

May import: numpy, isal, orjson, ``service.errors``: whoever decodes a mask needs nothing else. Legends, PNG files and polygons
with a tolerance need Pillow or OpenCV, which are imported there and then.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.encodings import (
    autoware,
    coco,
    color,
    cvat,
    labelstudio,
    npy,
    overlay,
    png,
    polygons,
    rle,
    selection,
    shares,
    tables,
)
from service.encodings.options import Options
from service.encodings.runs import ClassRow, ValueMap
from service.encodings.view import MaskView
from service.errors import BadParameter, UnsupportedFormat

__all__ = [
    "DEFAULT_FORMAT",
    "FORMATS",
    "Encoded",
    "Format",
    "MaskView",
    "Options",
    "decode",
    "encode",
    "to_json",
    "understood",
    "understood_together",
]

Document = dict[str, Any]
Labels = NDArray[np.uint8]


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
    decode: Callable[[bytes], Labels] | None = None
    """Where it can be read back into labels without being told their size."""
    document: Callable[[MaskView], Document] | None = None
    """For a JSON format: the same before it becomes text, so that several masks can share a reply."""
    takes: frozenset[str] = field(default=frozenset())
    """Those of the options that mean something to it alone, or to it and a few others."""

    @property
    def suffix(self) -> str:
        """Of a file."""
        return _SUFFIXES[self.media_type]


try:
    import orjson

    def to_json(document: object) -> bytes:
        """Write JSON without spaces, as UTF-8."""
        return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)

except ImportError:  # the same documents, in twenty times the time

    def to_json(document: object) -> bytes:
        """Write JSON without spaces, as UTF-8."""
        return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _from_json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except RecursionError as error:
        raise ValueError("JSON nested deeper than any document") from error


def _json(
    encode: Callable[[ValueMap, Sequence[ClassRow], MaskView], Document],
    decode: Callable[[Any], Labels],
    *takes: str,
) -> Format:
    def document(view: MaskView) -> Document:
        labels, rows = view.masks()
        made = encode(labels, rows, view)
        if view.options.statistics:
            for entry, more in zip(made["classes"], shares.describe(labels, rows, view.confidence()), strict=True):
                entry.update(more)
        return made | {"model": view.model}

    return Format(
        "application/json",
        lambda view: to_json(document(view)),
        lambda body: decode(_from_json(body)),
        document,
        frozenset(("statistics", *takes)),
    )


def _label_studio(labels: ValueMap, rows: Sequence[ClassRow], view: MaskView) -> Document:
    return labelstudio.encode(labels, rows) | {"model_version": f"{view.manifest.name}@{view.manifest.version}"}


def _overlay(view: MaskView) -> bytes:
    return png.encode_rgb(overlay.draw(view.image, view.labels, view.classes, legend=view.options.legend))


DEFAULT_FORMAT = "png"

_SUFFIXES = {
    "image/png": ".png",
    "application/json": ".json",
    "application/x-npy": ".npy",
    "application/x-autoware-rle": ".rle",
}

FORMATS: dict[str, Format] = {
    "png": Format("image/png", lambda view: png.encode_indexed(view.labels, view.palette()), png.decode),
    "rle": _json(lambda labels, rows, _: rle.encode(labels, rows), rle.decode),
    "coco": _json(lambda labels, rows, _: coco.encode(labels, rows), coco.decode, "instances"),
    "coco-uncompressed": _json(lambda labels, rows, _: coco.encode(labels, rows, compressed=False), coco.decode, "instances"),
    "labelstudio": _json(_label_studio, labelstudio.decode, "instances"),
    "cvat": _json(lambda labels, rows, _: cvat.encode(labels, rows), cvat.decode, "instances"),
    "polygons": _json(
        lambda labels, rows, view: polygons.encode(labels, rows, tolerance=view.options.tolerance),
        polygons.decode,
        "instances",
        "tolerance",
    ),
    "autoware": Format("application/x-autoware-rle", lambda view: autoware.encode(view.labels)),
    "overlay": Format("image/png", _overlay, takes=frozenset(("legend",))),
    "color": Format("image/png", lambda view: png.encode_rgb(color.colorize(view.labels, view.palette()))),
    "gray": Format("image/png", lambda view: png.encode_gray(view.labels), png.decode),
    "npy": Format("application/x-npy", lambda view: npy.encode(view.labels), npy.decode),
    "confidence": Format("image/png", lambda view: png.encode_gray(view.confidence())),
}
"""Every format by name; where several share a media type, the first one is what ``Accept`` gets."""

_BELONGS_TO = {"min_area": "instances"}
"""An option that goes where another one goes."""


def understood(
    name: str,
    table: Sequence[ClassRow],
    *,
    classes: Iterable[str] = (),
    min_confidence: float = 0.0,
    ids: str | None = None,
    statistics: bool = False,
    legend: bool = False,
    instances: bool = False,
    min_area: int = 0,
    tolerance: float = 0.0,
) -> Options:
    """Understand what a caller wants, before anything is computed.

    Takes:
        name: of the format
        table: the model's class table
        the others: as the query of ``POST /segment`` has them
    Raises:
        UnsupportedFormat: if there is no such format, or if it cannot do what is wanted; naming those that can
        UnknownClass, BadParameter: if a class, a table or a number makes no sense
    """
    wanted = {"statistics": statistics, "legend": legend, "instances": instances, "tolerance": tolerance > 0}
    chosen = _format(name)
    for option, asked in wanted.items():
        if asked and option not in chosen.takes:
            able = [other for other, form in FORMATS.items() if option in form.takes]
            raise UnsupportedFormat(f"{option} means nothing to {name}; it is for format={', '.join(able)}", allowed=able)
    if min_area and not instances:
        raise BadParameter("min_area is for the components of instances=true", parameter="min_area")
    translation = None if ids is None else tables.translation(ids, table)
    if instances:
        from service.encodings import components  # noqa: PLC0415 - brings OpenCV, which a client need not have

        components.countable(table if translation is None else [row for row in translation.targets if row is not None])
    words = list(classes)
    return Options(
        min_confidence=min_confidence,
        keep=selection.class_ids(words, table) if words else None,
        translation=translation,
        statistics=statistics,
        legend=legend,
        instances=instances,
        min_area=min_area,
        tolerance=tolerance,
    )


def understood_together(names: Sequence[str], table: Sequence[ClassRow], **query: Any) -> dict[str, Options]:
    """Understand what a caller wants of several formats at once: what only some of them can do is for those alone.

    Takes:
        names: of the formats
        table, query: as for :func:`understood`
    Gives:
        the options of each format
    Raises:
        as :func:`understood`; UnsupportedFormat, too, if none of the formats can do what is wanted
    """
    taken = frozenset().union(*(_format(name).takes for name in names))
    made = {}
    for name in names:
        others = taken - _format(name).takes
        mine = {option: value for option, value in query.items() if _BELONGS_TO.get(option, option) not in others}
        made[name] = understood(name, table, **mine)
    return made


def encode(name: str, view: MaskView) -> Encoded:
    """Write a mask in the format of that name, with what the view's options ask for.

    Raises:
        UnsupportedFormat: naming those that exist
    """
    chosen = _format(name)
    return Encoded(chosen.encode(view.selected()), chosen.media_type)


def decode(name: str, body: bytes, size: tuple[int, int] | None = None) -> Labels:
    """Read a mask back.

    Takes:
        name: of the format
        body: what was written
        size: (height, width), for a format that does not say it: ``autoware``
    Gives:
        H x W uint8; 255 is unlabelled
    Raises:
        UnsupportedFormat: if there is no such format, or if it does not hold labels
        ValueError: if the body is not of that format
    """
    chosen = _format(name)
    if name == "autoware" and size is not None:
        return autoware.decode(body, size)
    if chosen.decode is None:
        able = [other for other, form in FORMATS.items() if form.decode]
        hint = "; autoware needs a size" if name == "autoware" else ""
        raise UnsupportedFormat(f"{name} holds no labels and their size{hint}; {', '.join(able)} do", allowed=able)
    return chosen.decode(body)


def _format(name: str) -> Format:
    chosen = FORMATS.get(name)
    if chosen is None:
        raise UnsupportedFormat(f"no format {name!r}; there are {', '.join(FORMATS)}", allowed=list(FORMATS))
    return chosen
