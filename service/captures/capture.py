"""Takes captures on the way of a reply, and writes them on a thread of its own.

A reply waits for one reading of the clock, the mean confidence of a frame when one is due, and an entry in a short queue.
A full queue drops the capture. Encoding, the disk and its errors are the writer's.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
import queue
import threading
import time
from collections import Counter
from dataclasses import dataclass

import numpy as np

from service.captures import rules
from service.captures.rules import Pace, Rules
from service.captures.store import FACTS, Store
from service.encodings import MaskView, encode, png, to_json
from service.pipeline.codecs import decoding
from service.pipeline.predictor import Source
from service.pipeline.segmentation import Segmentation

OUTCOMES = ("written", "dropped", "failed", "evicted")
"""Written; dropped by a full queue; failed on the disk; removed for a newer one."""
WAITING = 4
"""Captures that may wait for the disk: each holds an image's bytes and its labels."""
_SUFFIXES = {"JPEG": ".jpg", "TIFF": ".tif", "RGB": ".png"}
_QUIET_S = 60.0
"""Between two warnings of a disk that fails."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Taken:
    """A frame that waits for the writer."""

    source: Source
    kind: str
    result: Segmentation
    confidence: float
    reason: str
    time: dt.datetime


class Captures:
    """The captures of one service.

    Takes:
        store: written by this object's thread alone
        chosen: which frames
        per_minute: how many at the most
    """

    def __init__(self, store: Store, chosen: Rules, per_minute: float) -> None:
        self.outcomes: Counter[str] = Counter(dict.fromkeys(OUTCOMES, 0))
        """How many captures had each of :data:`OUTCOMES`."""
        self._store, self._rules, self._pace = store, chosen, Pace(per_minute)
        self._waiting: queue.Queue[_Taken | None] = queue.Queue(WAITING)
        self._counting = threading.Lock()
        self._warned_s = -_QUIET_S
        self._writer = threading.Thread(target=self._write_all, name="fcn-captures", daemon=True)
        self._writer.start()

    @property
    def bytes(self) -> int:
        """Bytes on disk."""
        return self._store.bytes

    def consider(self, source: Source, header: decoding.Header, result: Segmentation) -> None:
        """Take a frame if a rule names it and one is due. Never raises, and never waits.

        Takes:
            source: the bytes as sent, or decoded pixels
            header: of these bytes
            result: of the network
        """
        if result.scan is not None or not self._pace.is_due():
            return
        try:
            confidence = rules.confidence_of(result)
            reason = self._rules.reason(result, confidence, rules.chance())
            if reason is None or not self._pace.take():
                return
            now = dt.datetime.now(dt.UTC)
            self._waiting.put_nowait(_Taken(source, header.format, result, confidence, reason, now))
        except queue.Full:
            self._count("dropped")
        except Exception as error:  # noqa: BLE001 - a reply must not fail because of its capture
            self._count("failed")
            self._warn(error)

    def close(self, timeout_s: float = 5.0) -> None:
        """Write what waits, and end the writer.

        Takes:
            timeout_s: how long to wait for the disk; what is not written then is lost
        """
        try:
            self._waiting.put(None, timeout=timeout_s)
        except queue.Full:
            return
        self._writer.join(timeout_s)

    def _count(self, outcome: str, by: int = 1) -> None:
        with self._counting:
            self.outcomes[outcome] += by

    def _warn(self, error: Exception) -> None:
        now_s = time.monotonic()
        if now_s - self._warned_s >= _QUIET_S:
            self._warned_s = now_s
            log.warning("a capture was not kept: %s; masks are not affected", error)

    # --- on the writer's thread ---------------------------------------------------------------------------------------

    def _write_all(self) -> None:
        while (taken := self._waiting.get()) is not None:
            try:
                name, files = _files(taken)
                evicted = self._store.add(name, files)
            except Exception as error:  # noqa: BLE001 - the next one may succeed
                self._count("failed")
                self._warn(error)
            else:
                self._count("evicted", evicted)
                self._count("written")
            finally:
                taken = None  # its image is not kept while the thread waits


def _files(taken: _Taken) -> tuple[str, dict[str, bytes]]:
    """Return the name of a capture's folder, and its files."""
    source, result = taken.source, taken.result
    data = png.encode_rgb(source) if isinstance(source, np.ndarray) else bytes(source)
    name = f"{taken.time:%Y%m%dT%H%M%S.%fZ}-{hashlib.sha256(data).hexdigest()[:8]}"
    image = f"image{_SUFFIXES.get(taken.kind, f'.{taken.kind.lower()}')}"
    view = MaskView.of(result, file_name=image)
    height, width = result.labels.shape
    shown = {"image": f"{name}/{image}"}
    prediction, shapes = encode("labelstudio", view).body, encode("cvat", view).body
    facts = {
        "time": taken.time.isoformat(),
        "reason": taken.reason,
        "confidence": round(taken.confidence, 4),
        "size": [height, width],
        "image": image,
        "model": view.made_by,
        "classes": [entry.name for entry in result.manifest.classes],
    }
    return name, {
        image: data,
        "labelstudio.json": b'{"data":' + to_json(shown) + b',"predictions":[' + prediction + b"]}",
        "cvat.json": shapes,
        FACTS: to_json(facts),
    }
