"""Masks as lines of JSON on the standard output, for a pipe: ``--to -``.

Each line has ``source``, ``stamp_ns`` and ``frame_id`` of its frame, and all that ``format=rle`` has.
"""

from __future__ import annotations

import os
import sys

from service.encodings import FORMATS, to_json
from service.errors import BadSetting
from service.live.frame import LiveFrame
from service.live.options import LiveOptions
from service.live.session import LiveResult, LiveSession


class Lines:
    """The standard output."""

    def __init__(self, address: str) -> None:
        self.address = address

    def start(self, session: LiveSession) -> None:
        """Write nothing: each line names its classes."""

    def send(self, frame: LiveFrame, result: LiveResult) -> None:
        """Write one line.

        Raises:
            BadSetting: if the reader of the pipe is gone
        """
        head = to_json({"source": frame.source, "stamp_ns": frame.stamp_ns, "frame_id": frame.frame_id})
        line = head[:-1] + b"," + FORMATS["rle"].encode(result.view)[1:] + b"\n"
        try:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
        except BrokenPipeError as error:
            # Python writes what is left in the buffer once more at its end, and would tell the same error again.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
            raise BadSetting("--to -: nothing reads the standard output any more") from error

    def close(self) -> None:
        """Leave the standard output open."""


def open_sink(address: str, options: LiveOptions) -> Lines:  # noqa: ARG001 - every kind is made alike
    """Make the sink of the standard output."""
    return Lines(address)
