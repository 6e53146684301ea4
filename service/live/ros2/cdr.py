"""A writer of plain CDR, little-endian (XCDR1; OMG DDSI-RTPS 2.5, section 10), for messages of types that are brought along."""

from __future__ import annotations

import struct


class Cdr:
    """One serialised message; values are written in the order of the type's fields."""

    def __init__(self) -> None:
        self._data = bytearray()

    def number(self, form: str, value: float) -> None:
        """Write a number, aligned to its size.

        Takes:
            form: one letter of ``struct``
            value: the number
        """
        size = struct.calcsize("<" + form)
        self._data += bytes(-len(self._data) % size) + struct.pack("<" + form, value)

    def text(self, value: str) -> None:
        """Write a string: its length with the zero byte, its UTF-8, the zero byte."""
        data = value.encode() + b"\x00"
        self.number("I", len(data))
        self._data += data

    def message(self) -> bytes:
        """Return the message behind its encapsulation header."""
        return b"\x00\x01\x00\x00" + bytes(self._data)
