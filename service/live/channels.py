"""One run as Foxglove's channels, for its window and for MCAP files.

Of one source they are ``/camera`` and ``/segmentation/...``; of several, ``/1/camera``, ``/1/segmentation/...`` and so on, in
the order of the command line. All messages of a frame carry its stamp, as their own time and as their log time, so that a
window or a reader puts them side by side.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import simplejpeg
from foxglove import Channel, Context
from foxglove.channels import CompressedImageChannel, ImageAnnotationsChannel
from foxglove.messages import Color, CompressedImage, ImageAnnotations, Point2, TextAnnotation, Timestamp
from numpy.typing import NDArray

from service.encodings import overlay, png
from service.encodings.palettes import ColoredRow, palette_of
from service.live.frame import LiveFrame
from service.live.label_places import places
from service.live.outbox import Mask
from service.live.session import LiveSession

QUALITY = 85
"""Of the JPEGs of camera and overlay."""
A_SOURCE = 7
"""Channels of a source."""

_NUMBER = {"type": "number"}
TIMING = {
    "title": "fcn_serve.Timing",
    "type": "object",
    "properties": {
        "latency_ms": _NUMBER,
        "latency_median_ms": _NUMBER,
        "latency_p99_ms": _NUMBER,
        "decode_ms": _NUMBER,
        "infer_ms": _NUMBER,
        "labels_ms": _NUMBER,
        "queue_ms": _NUMBER,
        "masks_per_second": _NUMBER,
        "received": {"type": "integer"},
        "masks": {"type": "integer"},
        "dropped": {"type": "integer"},
        "failed": {"type": "integer"},
    },
}
"""The schema of ``/segmentation/timing``."""
_CLASSES = {
    "title": "fcn_serve.Classes",
    "type": "object",
    "properties": {
        "classes": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "id": {"type": "integer"},
                    "name": {"type": "string"},
                    "color": {"type": "string"},
                    "share": _NUMBER,
                },
            },
        }
    },
}


class SourceChannels:
    """The channels of one source.

    Takes:
        context: what they belong to
        prefix: of their topics, such as ``/1``
        source: the source's address
        session: the run
    """

    def __init__(self, context: Context, prefix: str, source: str, session: LiveSession) -> None:
        facts = {"source": source, "model": f"{session.model.name}@{session.model.version}"}
        self._session = session
        self._palette = palette_of(session.classes)

        def pictures(topic: str) -> CompressedImageChannel:
            return CompressedImageChannel(f"{prefix}{topic}", metadata=facts, context=context)

        self._camera = pictures("/camera")
        self._overlay = pictures("/segmentation/overlay")
        self._mask = pictures("/segmentation/mask")
        self._confidence = pictures("/segmentation/confidence")
        self._labels = ImageAnnotationsChannel(f"{prefix}/segmentation/labels", metadata=facts, context=context)
        self._classes = Channel(f"{prefix}/segmentation/classes", schema=_CLASSES, metadata=facts, context=context)
        self._timing = Channel(f"{prefix}/segmentation/timing", schema=TIMING, metadata=facts, context=context)

    @property
    def watched(self) -> int:
        """Channels that a window or a file takes."""
        every = (self._camera, self._overlay, self._mask, self._confidence, self._labels, self._classes, self._timing)
        return sum(channel.has_sinks() for channel in every)

    def log(self, mask: Mask) -> None:
        """Send a mask to the channels that are watched; the others cost nothing."""
        frame, view, at = mask.frame, mask.result.view, max(0, mask.frame.stamp_ns)
        stamp = Timestamp(*divmod(at, 1_000_000_000))

        def picture(channel: CompressedImageChannel, form: str, data: bytes) -> None:
            channel.log(CompressedImage(timestamp=stamp, frame_id=frame.frame_id, format=form, data=data), log_time=at)

        if self._mask.has_sinks():
            picture(self._mask, "png", png.encode_indexed(view.labels, self._palette))
        if self._camera.has_sinks():
            picture(self._camera, "jpeg", _camera_jpeg(frame, view.image))
        if self._overlay.has_sinks():
            picture(self._overlay, "jpeg", _jpeg(overlay.blend(view.image, view.labels, self._palette)))
        if self._confidence.has_sinks():
            picture(self._confidence, "png", png.encode_gray(view.confidence()))
        if self._labels.has_sinks():
            self._labels.log(_names(view.labels, self._session.classes, stamp), log_time=at)
        if self._classes.has_sinks():
            self._classes.log(_shares(view.labels, self._session.classes), log_time=at)
        if self._timing.has_sinks():
            self._timing.log(self._numbers(mask), log_time=at)

    def _numbers(self, mask: Mask) -> dict[str, Any]:
        now = self._session.counters[mask.frame.source].snapshot()
        return {
            "latency_ms": round(mask.latency_ms, 2),
            "latency_median_ms": now.latency_ms,
            "latency_p99_ms": now.latency_p99_ms,
            **{f"{stage}_ms": round(spent, 2) for stage, spent in mask.result.timing.items()},
            "masks_per_second": now.rate_hz,
            "received": now.received,
            "masks": now.masks,
            "dropped": now.dropped,
            "failed": now.failed,
        }


class Channels:
    """The channels of all sources of a run.

    Takes:
        context: what they belong to
        session: the run
    """

    def __init__(self, context: Context, session: LiveSession) -> None:
        self._context = context  # a channel does not keep its context, and logs nowhere without it
        several = len(session.sources) > 1
        self._of = {
            source: SourceChannels(context, f"/{number}" if several else "", source, session)
            for number, source in enumerate(session.sources, 1)
        }

    @property
    def watched(self) -> int:
        """Channels that a window or a file takes."""
        return sum(channels.watched for channels in self._of.values())

    def log(self, mask: Mask) -> None:
        """Send a mask to the channels of its source."""
        self._of[mask.frame.source].log(mask)


def facts_of(session: LiveSession) -> dict[str, str]:
    """Return what a recording says of the run: the model, its whole class table as JSON, the sources."""
    table = [{"id": row.id, "name": row.name, "color": list(row.color)} for row in session.classes]
    return {
        "model": session.model.name,
        "version": session.model.version,
        "sha256": session.sha256,
        "classes": json.dumps(table),
        "sources": json.dumps(session.sources),
    }


def _camera_jpeg(frame: LiveFrame, image: NDArray[np.uint8]) -> bytes:
    """Return the camera's own JPEG, if it sent one that is upright as it is; else one that is made here."""
    if isinstance(frame.image, bytes) and frame.image.startswith(b"\xff\xd8\xff") and b"Exif\0" not in frame.image[:64]:
        return frame.image
    return _jpeg(image)


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    return bytes(simplejpeg.encode_jpeg(image, quality=QUALITY, colorsubsampling="420"))


def _names(labels: NDArray[np.uint8], classes: Sequence[ColoredRow], stamp: Timestamp) -> ImageAnnotations:
    rows = {row.id: row for row in classes}
    size = max(9.0, labels.shape[0] / 36)
    texts = []
    for place in places(labels, sorted(rows)):
        row = rows[place.class_id]
        red, green, blue = row.color
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 140
        ink = Color(r=1.0, g=1.0, b=1.0, a=1.0) if dark else Color(r=0.0, g=0.0, b=0.0, a=1.0)
        paper = Color(r=red / 255, g=green / 255, b=blue / 255, a=0.8)
        at = Point2(x=place.x, y=place.y)
        texts.append(
            TextAnnotation(timestamp=stamp, position=at, text=row.name, font_size=size, text_color=ink, background_color=paper)
        )
    return ImageAnnotations(timestamp=stamp, texts=texts)


def _shares(labels: NDArray[np.uint8], classes: Sequence[ColoredRow]) -> dict[str, Any]:
    counts = np.bincount(labels.reshape(-1), minlength=256)
    return {
        "classes": [
            {
                "id": row.id,
                "name": row.name,
                "color": "#{:02x}{:02x}{:02x}".format(*row.color),
                "share": float(counts[row.id] / labels.size),
            }
            for row in classes
        ]
    }
