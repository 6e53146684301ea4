"""The log: lines for people or for machines on the standard error, written by a separate thread and limited in a flood."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import re
import threading
import time
from collections import Counter as Tally
from collections.abc import Callable
from typing import Any, Literal

MAX_WAITING_LINES = 10_000
"""Log lines that wait to be written; about 3 MB."""
LINES_A_SECOND = 200
"""Log lines of one kind that are written a second; a kind is a logger's message and a problem's code."""
MAX_KINDS = 64
"""Kinds that are counted separately a second; all further kinds are counted as one."""
GATHER_S = 0.02
"""Seconds that a line waits for others, to be written with them."""
LINES_AT_ONCE = 100
FLUSH_S = 1.0
"""Seconds that the end of the process waits for the lines."""
OPENINGS_LOGGER = "uvicorn.error.websocket"
"""Has the lines of uvicorn's WebSocket."""
LOSSES = ("unread", "flood")
"""Causes for which a log line is not written: the log is not read, or too many lines of one kind come."""


def log_config(log_format: Literal["text", "json"], log_level: str = "info") -> dict[str, Any]:
    """Return the logging of the whole process, for ``uvicorn.run(log_config=...)`` with ``access_log=False``.

    Takes:
        log_format: lines for people or for machines
        log_level: the least severe lines that are written
    Gives:
        a dictionary for ``logging.config.dictConfig``; lines go to the standard error
    """
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": JsonFormatter if log_format == "json" else TextFormatter}},
        "handlers": {"stderr": {"()": StandardError, "formatter": "line"}},
        "root": {"handlers": ["stderr"], "level": "WARNING"},
        "loggers": {
            **{name: {"level": log_level.upper()} for name in ("service", "uvicorn")},
            # uvicorn and websockets tell of each opening once more, with its whole query.
            OPENINGS_LOGGER: {"level": "WARNING"},
            # Pillow's warnings about damaged files are not for the operator: the sender gets each of them as an answer.
            "PIL": {"level": "CRITICAL"},
        },
    }


def flush() -> None:
    """Wait until the log's lines are written: what a command prints next stands behind them."""
    for handler in logging.getLogger().handlers:
        handler.flush()


class StandardError(logging.Handler):
    """Writes lines to the standard error on a separate thread.

    If the log is not read, lines are dropped and counted, because a full pipe must not stop the service. A flood of requests
    must not become a flood of lines: of each kind, ``lines_a_second`` are written and the others counted.

    Takes:
        descriptor: the file descriptor to write to
        lines_a_second: the lines of one kind that are written a second
        clock: gives seconds, as ``time.monotonic``
    """

    def __init__(
        self, descriptor: int = 2, lines_a_second: int = LINES_A_SECOND, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self.dropped = 0
        """Dropped lines since the last line that was accepted."""
        self.lost: Tally[str] = Tally()
        """Lines since the start that were not written, by cause."""
        self._lines_a_second = lines_a_second
        self._clock = clock
        self._second = 0.0  # its beginning, by the clock
        self._came: Tally[str] = Tally()  # lines in that second, by kind
        self._descriptor = descriptor
        self._lines: queue.Queue[str] = queue.Queue(MAX_WAITING_LINES)
        threading.Thread(target=self._write, name="fcn-log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Accept a line without waiting."""
        if self._clock() - self._second >= 1:
            self._begin_second()
        kind = _kind(record)
        if kind not in self._came and len(self._came) >= MAX_KINDS:
            kind = "other lines"
        self._came[kind] += 1
        if self._came[kind] > self._lines_a_second:
            self.lost["flood"] += 1
        else:
            self._take(record)

    def _begin_second(self) -> None:
        for kind, count in self._came.items():
            if count > self._lines_a_second:
                self._take(_news(f"{count - self._lines_a_second} more in a second were not written: {kind}"))
        self._came.clear()
        self._second = self._clock()

    def _take(self, record: logging.LogRecord) -> None:
        try:
            if self.dropped:
                self._lines.put_nowait(self.format(_news(f"{self.dropped} log lines were dropped: the log is not read")))
                self.dropped = 0
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            self.dropped += 1
            self.lost["unread"] += 1

    def flush(self) -> None:
        """Wait until all lines are written, at most ``FLUSH_S``."""
        with self.lock or contextlib.nullcontext():
            self._begin_second()
        deadline = time.monotonic() + FLUSH_S
        while self._lines.unfinished_tasks and time.monotonic() < deadline:
            time.sleep(0.001)

    def _write(self) -> None:
        # Written to the descriptor: a buffer of Python's would stay locked while a full pipe blocks, and abort the end.
        while True:
            lines = [self._lines.get()]
            # Lines are gathered: waking this thread for each costs the event loop more than rejecting a request does.
            time.sleep(GATHER_S)
            with contextlib.suppress(queue.Empty):
                while len(lines) < LINES_AT_ONCE:
                    lines.append(self._lines.get_nowait())
            rest = "".join(f"{line}\n" for line in lines).encode(errors="backslashreplace")
            with contextlib.suppress(OSError):
                while rest:
                    rest = rest[os.write(self._descriptor, rest) :]
            for _ in lines:
                self._lines.task_done()


def _kind(record: logging.LogRecord) -> str:
    """Return the part that lines about different requests share."""
    return " ".join(filter(None, (record.name, str(record.msg)[:80], getattr(record, "fields", {}).get("code"))))


def _news(message: str) -> logging.LogRecord:
    """Return a log line about the log."""
    return logging.makeLogRecord({"name": __name__, "levelname": "WARNING", "msg": message})


class JsonFormatter(logging.Formatter):
    """Formats each record as a JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """Write the line."""
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """Formats time, level and message, then ``name=value``; values that could break the line are quoted."""

    def format(self, record: logging.LogRecord) -> str:
        """Write the line."""
        fields = "".join(f" {name}={_quoted(value)}" for name, value in getattr(record, "fields", {}).items())
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = f"{clock} {record.levelname.lower():7} {record.getMessage()}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _quoted(value: Any) -> str:
    text = ",".join(value) if isinstance(value, list) else str(value)
    return text if re.fullmatch(r"[!-~]+", text) else json.dumps(text)
