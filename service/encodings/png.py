"""PNG files: a writer for label maps, grey and RGB pictures, and a reader for label maps; ``format=png``.

The writer is its own, because a general encoder spends longer on searching for a smaller file than the rest of the service on
the whole frame. All rows carry one filter and are compressed at level 1, by ISA-L where it is installed, otherwise by zlib.
The reader needs numpy and zlib alone, so that a client needs no image library. W3C, Portable Network Graphics (Third Edition).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from service.encodings.by_rows import ByRows, Sheet
from service.encodings.document import check_size
from service.encodings.format import Format
from service.encodings.several import zipped
from service.encodings.view import MaskView

try:
    from isal.isal_zlib import compress, compressobj, crc32
except ImportError:  # the same pixels, more slowly
    from zlib import compress, compressobj, crc32  # type: ignore[assignment]

SIGNATURE = b"\x89PNG\r\n\x1a\n"

Pixels = Callable[[MaskView], NDArray[np.uint8]]
"""The pixels of a band: rows x W uint8, or rows x W x 3 of a picture in colours."""

# Medians on 2 cores (Xeon), CamVid labels and their overlays at 1280 x 720:
#               label map            overlay (RGB)
#   isal 1      0.3 ms    16 kB       8 ms   850 kB     (isal 0: as fast, labels 1.5 x, overlays 1.15 x the bytes)
#   zlib 1      2.4 ms    20 kB      36 ms   890 kB
#   Pillow     10.5 ms    11 kB     271 ms   710 kB
_LEVEL = 1

# Subtracting the row above saves a photograph 38 % of its bytes and costs no time; a label map gains nothing from it.
_FILTER_NONE, _FILTER_SUB, _FILTER_UP, _FILTER_AVERAGE, _FILTER_PAETH = range(5)

GRAY, RGB, INDEXED = 0, 2, 3
_CHANNELS = {GRAY: 1, RGB: 3, INDEXED: 1}
_DEPTHS = {GRAY: (1, 2, 4, 8, 16), RGB: (8,), INDEXED: (1, 2, 4, 8)}
"""Bits a channel that are read."""


def encode_indexed(labels: NDArray[np.uint8], palette: NDArray[np.uint8]) -> bytes:
    """Write a label map as an indexed PNG: the pixel value is the class id, the palette its colour.

    Takes:
        labels: H x W uint8, H and W at least 1
        palette: 256 x 3 uint8 RGB, the colour of every pixel value
    Gives:
        the PNG file; a reader that keeps the palette gets exactly ``labels``
    """
    return _file(labels, INDEXED, _FILTER_NONE, _chunk(b"PLTE", palette.tobytes()))


def encode_gray(array: NDArray[np.uint8]) -> bytes:
    """Write one channel as a grey PNG.

    Takes:
        array: H x W uint8, H and W at least 1
    Gives:
        the PNG file
    """
    return _file(array, GRAY, _FILTER_UP)


def encode_gray16(array: NDArray[np.uint16]) -> bytes:
    """Write one channel of 16 bits as a grey PNG.

    Takes:
        array: H x W uint16, H and W at least 1
    Gives:
        the PNG file
    """
    return _file(array.astype(">u2").view(np.uint8), GRAY, _FILTER_UP, depth=16)


def encode_rgb(image: NDArray[np.uint8]) -> bytes:
    """Write a colour image as an RGB PNG.

    Takes:
        image: H x W x 3 uint8 RGB, H and W at least 1
    Gives:
        the PNG file
    """
    return _file(image, RGB, _FILTER_UP)


class RowWriter:
    """Writes one file by rows: the pixels of the functions above, in one chunk a band.

    Takes:
        file: empty
        color: indexed, grey or RGB
        pixels: those of a band
    """

    def __init__(self, file: BinaryIO, sheet: Sheet, color: int, pixels: Pixels) -> None:
        self._file, self._pixels = file, pixels
        self._filter = _FILTER_NONE if color == INDEXED else _FILTER_UP
        self._stream = compressobj(_LEVEL)
        self._above: NDArray[np.uint8] | None = None
        file.write(SIGNATURE + _first_chunk(sheet.height, sheet.width, color))
        if color == INDEXED:
            file.write(_chunk(b"PLTE", sheet.palette.tobytes()))

    def add(self, view: MaskView) -> None:
        """Write a band."""
        pixels = np.ascontiguousarray(self._pixels(view))
        lines = _scanlines(pixels, self._filter, self._above)
        self._above = pixels[-1].reshape(-1)
        self._put(self._stream.compress(lines.tobytes()))

    def finish(self) -> None:
        """Write the end."""
        self._put(self._stream.flush())
        self._file.write(_chunk(b"IEND", b""))

    def _put(self, data: bytes) -> None:
        if data:
            self._file.write(_chunk(b"IDAT", data))


def by_rows(color: int, pixels: Pixels, *, pictured: bool = False) -> ByRows:
    """Return how a format of PNG files writes by rows.

    Takes:
        color, pixels: as of :class:`RowWriter`
        pictured: whether it shows the picture itself
    """
    return ByRows(lambda file, sheet: RowWriter(file, sheet, color, pixels), pictured)


def decode(data: bytes) -> NDArray[np.uint8]:
    """Read a label map back, from an indexed or a grey file.

    Takes:
        data: the file
    Gives:
        H x W uint8: the pixel values, whatever the palette
    Raises:
        ValueError: if it is not a whole PNG file of one channel of up to 8 bits, or if it is interlaced
    """
    array = read(data)
    if array.ndim != 2 or array.dtype != np.uint8:
        raise ValueError("a PNG file of several channels or of 16 bits: a label map is indexed or grey, of up to 8 bits")
    return array.astype(np.uint8, copy=False)


def read(data: bytes) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Read the pixel values of a PNG file.

    Takes:
        data: the file: indexed, grey of up to 16 bits, or RGB of 8 bits; not interlaced
    Gives:
        H x W uint8 (indexed, grey), H x W uint16 (grey of 16 bits) or H x W x 3 uint8 RGB; palettes are not applied
    Raises:
        ValueError: if it is another file, or not whole
    """
    header, packed = _chunks(data)
    length = header.height * (1 + header.row_bytes)
    inflater = zlib.decompressobj()
    try:
        raw = inflater.decompress(packed, length)
    except zlib.error as error:
        raise ValueError(f"not a whole PNG file: {error}") from error
    if len(raw) != length:
        raise ValueError(f"not a whole PNG file: {len(raw)} bytes of {length} of its pixels")
    rows = _unfiltered(np.frombuffer(raw, np.uint8).reshape(header.height, -1), header.pixel_bytes)
    if header.depth == 16:
        return rows.view(">u2").astype(np.uint16)
    if header.depth < 8:
        bits = np.unpackbits(rows, axis=1).reshape(header.height, -1, header.depth)[:, : header.width]
        values: NDArray[np.uint8] = np.packbits(bits, axis=2)[..., 0] >> np.uint8(8 - header.depth)
        scale = 255 // ((1 << header.depth) - 1) if header.color == GRAY else 1
        return values * np.uint8(scale)
    return rows.reshape(header.height, header.width, 3) if header.color == RGB else rows


@dataclass(frozen=True)
class _Header:
    """What IHDR says."""

    width: int
    height: int
    depth: int
    color: int

    @property
    def row_bytes(self) -> int:
        """Bytes of a row, without its filter."""
        return (self.width * _CHANNELS[self.color] * self.depth + 7) // 8

    @property
    def pixel_bytes(self) -> int:
        """Bytes between a byte and the one that filters compare it with."""
        return max(1, _CHANNELS[self.color] * self.depth // 8)


def _chunks(data: bytes) -> tuple[_Header, bytes]:
    """Read the header and the compressed pixels; every chunk's checksum is verified."""
    if not data.startswith(SIGNATURE):
        raise ValueError("not a PNG file")
    header: _Header | None = None
    packed: list[bytes] = []
    at = len(SIGNATURE)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        at += 12 + length
        if at > len(data) or struct.unpack_from(">I", data, at - 4)[0] != zlib.crc32(body, zlib.crc32(kind)):
            break
        if header is None:
            header = _header(kind, body)
        elif kind == b"IDAT":
            packed.append(body)
        elif kind == b"IEND":
            return header, b"".join(packed)
    raise ValueError("not a whole PNG file: it ends early, or a checksum is wrong")


def _header(kind: bytes, body: bytes) -> _Header:
    if kind != b"IHDR" or len(body) != 13:
        raise ValueError("not a PNG file: it has no header")
    width, height, depth, color, compression, filters, interlace = struct.unpack(">IIBBBBB", body)
    check_size(height, width)
    if depth not in _DEPTHS.get(color, ()) or compression or filters:
        raise ValueError(f"a PNG file of colour type {color} and {depth} bits, which holds no mask")
    if interlace:
        raise ValueError("an interlaced PNG file; save it without interlacing")
    return _Header(width, height, depth, color)


def _unfiltered(lines: NDArray[np.uint8], pixel_bytes: int) -> NDArray[np.uint8]:
    """Undo the filters (section 9): H x (1 + bytes a row) -> H x bytes a row, contiguous."""
    kinds, rows = lines[:, 0], lines[:, 1:]
    if (kinds == _FILTER_NONE).all():
        return np.ascontiguousarray(rows)
    if (kinds == _FILTER_UP).all():
        return np.cumsum(rows, axis=0, dtype=np.uint8)
    made = np.empty(rows.shape, np.uint8)
    above = np.zeros(rows.shape[1], np.uint8)
    for kind, row, target in zip(kinds.tolist(), rows, made, strict=True):
        if kind == _FILTER_NONE:
            target[:] = row
        elif kind == _FILTER_SUB:
            target[:] = np.cumsum(row.reshape(-1, pixel_bytes), axis=0, dtype=np.uint8).reshape(-1)
        elif kind == _FILTER_UP:
            np.add(row, above, out=target)
        elif kind in (_FILTER_AVERAGE, _FILTER_PAETH):
            target[:] = _predicted(row.tolist(), above.tolist(), pixel_bytes, paeth=kind == _FILTER_PAETH)
        else:
            raise ValueError(f"not a whole PNG file: a row has filter {kind}")
        above = target
    return made


def _predicted(row: list[int], above: list[int], pixel_bytes: int, *, paeth: bool) -> list[int]:
    """Undo a filter whose prediction needs the byte just decoded: a loop, and slow; this service writes neither."""
    made = [0] * pixel_bytes  # the pixel left of the first
    corner = [0] * pixel_bytes + above
    for at, (value, up) in enumerate(zip(row, above, strict=True)):
        left = made[at]
        if not paeth:
            made.append((value + (left + up) // 2) & 255)
            continue
        diagonal = corner[at]
        base = left + up - diagonal
        to_left, to_up, to_diagonal = abs(base - left), abs(base - up), abs(base - diagonal)
        nearest = left if to_left <= to_up and to_left <= to_diagonal else up if to_up <= to_diagonal else diagonal
        made.append((value + nearest) & 255)
    return made[pixel_bytes:]


def _file(array: NDArray[np.uint8], color_type: int, row_filter: int, palette: bytes = b"", *, depth: int = 8) -> bytes:
    head = _first_chunk(array.shape[0], array.shape[1] * 8 // depth, color_type, depth=depth)
    data = compress(_scanlines(array, row_filter), _LEVEL)
    return b"".join((SIGNATURE, head, palette, _chunk(b"IDAT", data), _chunk(b"IEND", b"")))


def _first_chunk(height: int, width: int, color_type: int, *, depth: int = 8) -> bytes:
    """Return the first chunk."""
    return _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0))


def _scanlines(array: NDArray[np.uint8], row_filter: int, above: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """Put every row behind its filter byte.

    Takes:
        array: H x W or H x W x C uint8
        row_filter: ``_FILTER_NONE`` or ``_FILTER_UP``
        above: the bytes of the row above these; None at the top
    Gives:
        H x (1 + bytes a row) uint8, contiguous
    """
    rows = array.reshape(array.shape[0], -1)
    lines = np.empty((rows.shape[0], 1 + rows.shape[1]), np.uint8)
    lines[:, 0] = row_filter
    lines[:, 1:] = rows
    if row_filter == _FILTER_UP:
        lines[1:, 1:] -= rows[:-1]  # modulo 256, as the format wants it
        if above is not None:
            lines[0, 1:] -= above
    return lines


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc32(data, zlib.crc32(kind)))


FORMAT = Format(
    "png",
    ".png",
    "image/png",
    "The pixel value is the class id, the palette its colour: an indexed PNG of the image's own size.",
    encode=lambda view: encode_indexed(view.labels, view.palette()),
    decode=decode,
    gather=zipped(".png"),
    by_rows=by_rows(INDEXED, lambda view: view.labels),
    takes=frozenset(("palette",)),
)
