"""Warnings that a fault of every frame causes: each sentence at once, then now and then with its count."""

from __future__ import annotations

import logging
import threading
import time

AGAIN_S = 30.0
"""Seconds until the same sentence is written again."""
_SENTENCES = 100
"""So many different sentences are remembered."""


class Complaints:
    """Writes warnings. Thread-safe.

    Takes:
        log: where they go
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log, self._lock = log, threading.Lock()
        self._said: dict[str, tuple[float, int]] = {}
        """By the sentence: when it was written, and how often it came since."""

    def say(self, sentence: str) -> None:
        """Write a sentence, unless it was written in the last :data:`AGAIN_S` seconds; then it is counted."""
        now = time.monotonic()
        with self._lock:
            written, count = self._said.pop(sentence, (None, 0))
            if written is not None and now - written < AGAIN_S:
                self._said[sentence] = (written, count + 1)
                return
            while len(self._said) >= _SENTENCES:
                del self._said[next(iter(self._said))]
            self._said[sentence] = (now, 0)
        if count:
            self._log.warning("%s (%d times more since)", sentence, count)
        else:
            self._log.warning("%s", sentence)
