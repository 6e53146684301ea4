"""Some rows of a PNG file as a PNG file of their own, one part after the other.

Pixels are one stream of compressed bytes, so it is read from the top. A row may be coded by its difference to the row above it;
that is undone here, by libpng: a part is first read as bytes, without colours. ``rows`` turns the whole, and no part.

Source: Portable Network Graphics, third edition (W3C, 2025), sections 5, 7, 9, 10.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from service.errors import CorruptImage, UnsupportedImage
from service.pipeline.codecs import pillow, png
from service.pipeline.codecs.file_bytes import FileBytes
from service.pipeline.codecs.limits import Limits

READ_BYTES = 1 << 20
"""Bytes that are read from the file at a time."""
PART_BYTES = 8 << 20
"""Bytes of a part, at four a pixel."""
MAX_CHUNKS = 1 << 24
"""Walked through: writers make chunks of 8 KiB."""
MAX_KEPT = 1 << 22
"""Bytes of a chunk on which the pixels depend."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Samples of a pixel by colour type."""
_KEPT = (b"PLTE", b"tRNS", b"iCCP")
"""Chunks that go along with every part: the pixels depend on them."""
_EXIF = b"eXIf"
_BYTES = {1: (0, 8), 2: (4, 8), 3: (2, 8), 4: (6, 8), 6: (2, 16), 8: (6, 16)}
"""Colour type and bits of pixels of so many bytes: filters work on bytes, whatever these mean."""


class Chunk(NamedTuple):
    """Where a chunk lies."""

    kind: bytes
    start: int
    """Of its data."""
    length: int


class Parts:
    """The rows of a PNG file.

    Takes:
        file: a PNG file on the disk
    Raises:
        UnsupportedImage: if it is interlaced, or of a depth that PNG does not have
        CorruptImage: if a chunk is cut short
    """

    def __init__(self, file: FileBytes) -> None:
        self._file = file
        header = file[8:33]
        if len(header) < 25:
            raise CorruptImage("the PNG image ends within its header")
        self.width, self.height, self._bits, self._color, _, _, interlaced = struct.unpack(">IIBBBBB", header[8:21])
        if interlaced:
            raise UnsupportedImage(
                "an interlaced PNG image, which is not read by rows; save it without interlacing "
                "(magick IN -interlace none OUT)"
            )
        if self._color not in _CHANNELS:
            raise UnsupportedImage(f"a PNG image of colour type {self._color}, which PNG does not have")
        self._chunks = list(_chunks(file))
        self._head = header + self._stored(*_KEPT)
        bits = self._bits * _CHANNELS[self._color]
        self._row_bytes, self._pixel_bytes = (self.width * bits + 7) // 8, max(1, bits // 8)
        has_key = any(chunk.kind == b"tRNS" for chunk in self._chunks)
        self.needs_levels = self._bits == 16 or self._color in (4, 6) or has_key
        """Whether the pixels of a part depend on the others."""

    @property
    def orientation(self) -> int:
        """As in EXIF; other numbers than 2 to 8 leave the picture as it is."""
        black = np.zeros((1, self._row_bytes), np.uint8)
        row = self._file_of(self._head + self._stored(_EXIF), self.width, 1, black)
        return png.orientation_of(row, Limits(max_pixels=self.width, max_side=self.width))

    def _stored(self, *kinds: bytes) -> bytes:
        """Return the chunks of these kinds, as they are stored; those that are too long are left out."""
        chosen = (chunk for chunk in self._chunks if chunk.kind in kinds and chunk.length <= MAX_KEPT)
        return b"".join(self._file[chunk.start - 8 : chunk.start + chunk.length + 4] for chunk in chosen)

    def __iter__(self) -> Iterator[bytes]:
        """Give the file in parts, from the top row to the bottom one.

        Raises:
            CorruptImage: if pixels are missing, or a checksum is wrong
            zlib.error: if they are damaged
        """
        line = 1 + self._row_bytes
        rows = max(1, PART_BYTES // (4 * self.width))
        above = bytes(self._row_bytes)
        done, held = 0, bytearray()
        for piece in self._inflated(line * self.height):
            held += piece
            while len(held) >= line * min(rows, self.height - done) and done < self.height:
                count = min(rows, self.height - done)
                lines = np.frombuffer(bytes(held[: count * line]), np.uint8).reshape(count, line)
                del held[: count * line]
                plain = lines[:, 1:] if not lines[:, 0].any() else self._unfiltered(above, lines)
                above = plain[-1].tobytes()
                yield self._file_of(self._head, self.width, count, plain)
                done += count
        if done < self.height:
            raise CorruptImage(f"the PNG image is truncated: it has {done} of {self.height} rows, or a few more")

    def _unfiltered(self, above: bytes, lines: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Undo the filters: rows x bytes a row, from rows behind the byte that names the filter of each."""
        color, depth = _BYTES[self._pixel_bytes]
        first = np.frombuffer(b"\0" + above, np.uint8)[None]
        width = self._row_bytes // self._pixel_bytes
        header = struct.pack(">IIBBBBB", width, len(lines) + 1, depth, color, 0, 0, 0)
        file = b"".join((_SIGNATURE, _chunk(b"IHDR", header), _pixels(np.concatenate([first, lines])), _chunk(b"IEND", b"")))
        if depth == 8:
            limits = Limits(max_pixels=(len(lines) + 1) * width, max_side=max(width, len(lines) + 1))
            pixels = np.asarray(pillow.load(file, "PNG", limits))
        else:
            found = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED)
            if found is None:
                raise CorruptImage("the PNG image is damaged: its rows cannot be read")
            order = [2, 1, 0, 3][: self._pixel_bytes // 2]
            pixels = np.ascontiguousarray(found[..., order].astype(">u2")).view(np.uint8)
        return pixels.reshape(len(lines) + 1, self._row_bytes)[1:]

    def _file_of(self, head: bytes, width: int, rows: int, plain: NDArray[np.uint8]) -> bytes:
        """Return rows without filters as a file with these chunks before the pixels."""
        header = struct.pack(">II", width, rows) + head[16:21]
        lines = np.zeros((rows, 1 + self._row_bytes), np.uint8)
        lines[:, 1:] = plain
        return b"".join((_SIGNATURE, _chunk(b"IHDR", header), head[25:], _pixels(lines), _chunk(b"IEND", b"")))

    def _inflated(self, length: int) -> Iterator[bytes]:
        """Decompress the pixels, at most ``READ_BYTES`` at a time."""
        stream = zlib.decompressobj()
        for piece in self._packed():
            left = piece
            while left and not stream.eof and length > 0:
                found = stream.decompress(left, min(READ_BYTES, length))
                length -= len(found)
                left = stream.unconsumed_tail
                yield found
            if length == 0 and not stream.eof:
                stream.decompress(left, 1)  # reads on to the checksum

    def _packed(self) -> Iterator[bytes]:
        """Read the compressed pixels, and compare the checksum of every chunk of them."""
        for chunk in self._chunks:
            if chunk.kind != b"IDAT":
                continue
            checksum = zlib.crc32(chunk.kind)
            for start in range(chunk.start, chunk.start + chunk.length, READ_BYTES):
                piece = self._file[start : min(start + READ_BYTES, chunk.start + chunk.length)]
                checksum = zlib.crc32(piece, checksum)
                yield piece
            end = chunk.start + chunk.length
            if self._file[end : end + 4] != struct.pack(">I", checksum):
                raise CorruptImage("the PNG image is damaged: the checksum of its pixels is wrong")


def _chunks(file: FileBytes) -> Iterator[Chunk]:
    """Walk through the chunks; the last one may be cut short."""
    at = len(_SIGNATURE)
    for _ in range(MAX_CHUNKS):
        head = file[at : at + 8]
        if len(head) < 8 or head[4:] == b"IEND":
            return
        length = int.from_bytes(head[:4], "big")
        yield Chunk(head[4:], at + 8, min(length, len(file) - at - 8))
        at += 12 + length


def _pixels(lines: NDArray[np.uint8]) -> bytes:
    return _chunk(b"IDAT", zlib.compress(lines.tobytes(), 0))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
