"""PNG.

Source: Portable Network Graphics, third edition (W3C, 2025).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL.ImageFile import ImageFile

from service.errors import CorruptImage, UnsupportedImage
from service.pipeline.codecs import depth, grey, orientation, pillow
from service.pipeline.codecs.levels import Levels
from service.pipeline.codecs.limits import Limits
from service.pipeline.codecs.profiles import to_srgb

MAX_CHUNKS = 1 << 16
"""Walked through, where that is needed."""
BAND_PIXELS = 1 << 18
"""Pixels that are converted at a time."""
MAX_DARK = 63
"""Largest 8-bit value of a 16-bit picture whose samples have 14 bits or fewer."""

_GREY, _RGB = 0, 2
_DEPTHS = {_GREY: (1, 2, 4, 8, 16), _RGB: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""Bits by colour type."""
_FOR_PIXELS = (b"tRNS", b"iCCP", b"eXIf")
"""Ancillary chunks on which the pixels depend."""
_REJECTED = (CorruptImage, ValueError, OSError, SyntaxError, EOFError, struct.error, IndexError, zlib.error)
"""Errors of Pillow for a file that it rejects."""


def size(data: bytes) -> tuple[int, int]:
    """Read (width, height) from the first chunk.

    Raises:
        UnsupportedImage: for Apple's variant
        CorruptImage: if the first chunk is not the header
        struct.error: if the file ends within it
    """
    if data[12:16] == b"CgBI":
        raise UnsupportedImage(
            "an Apple-optimised PNG (CgBI), which is not a PNG; send the original, or revert it (`xcrun pngcrush "
            "-revert-iphone-optimizations`)"
        )
    if data[12:16] not in (b"IHDR", b"IHDR"[: len(data[12:16])]):
        raise CorruptImage("the PNG image does not begin with its header (IHDR)")
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def decode(data: bytes, limits: Limits, levels: Levels | None = None) -> NDArray[np.uint8]:
    """Decode a PNG file. Ancillary chunks (text, time, profiles, ...) that are damaged are left out, as libpng does.

    Takes:
        levels: of the picture that these are some rows of; None: it is the whole
    Gives:
        H x W x 3 uint8 RGB, upright
    Raises:
        UnsupportedImage: if PNG has no pixels of that depth
        CorruptImage, ValueError, OSError, SyntaxError: if the file is truncated or damaged
    """
    data, picture, key = _load(data, limits)
    bits, color = data[24], data[25]
    is_keyed = key is not None
    if bits < 16 or not (is_keyed or _is_dark(picture, color, levels)):
        return pillow.decode(picture, levels)
    info = picture.info
    del picture  # OpenCV's copy is as large
    pixels = to_srgb(_wide(data, key, levels), (info.get("icc_profile") or b"") if color & 2 else b"")
    return orientation.upright(pixels, orientation.of_exif(info.get("exif") or b""))


def orientation_of(data: bytes, limits: Limits) -> int:
    """Read how a picture is turned, as of EXIF.

    Raises:
        as :func:`decode`
    """
    _, picture, _ = _load(data, limits)
    return orientation.of_exif(picture.info.get("exif") or b"")


def survey(data: bytes, limits: Limits) -> Levels:
    """Read the numbers of some rows of a picture, for :func:`decode` of all its parts.

    Raises:
        as :func:`decode`
    """
    data, picture, key = _load(data, limits)
    levels = pillow.levels(picture)
    if data[24] < 16:
        return levels
    levels = replace(levels, largest=_brightest(picture, data[25]))
    if key is None and levels.largest > MAX_DARK:
        return levels  # no picture with these rows is dark
    wide, wide_alpha = _largest_of(_samples(data), key)
    return replace(levels, wide=wide, wide_alpha=wide_alpha)


def _load(data: bytes, limits: Limits) -> tuple[bytes, ImageFile, int | tuple[int, int, int] | None]:
    """Load a picture.

    Gives:
        the file, without damaged ancillary chunks; the picture; the colour of transparent pixels, if one is
    """
    if len(data) > 25 and data[24] not in _DEPTHS.get(data[25], ()):
        raise UnsupportedImage(
            f"a PNG image of {data[24]} bits and colour type {data[25]}, which PNG does not have; send it with 8 or 16 bits"
        )
    try:
        picture = pillow.load(data, "PNG", limits)
    except _REJECTED:
        sound = b"".join(_sound(data))
        if sound == data:
            raise
        data = sound
        picture = pillow.load(data, "PNG", limits)
    bits, color = data[24], data[25]
    key = picture.info.get("transparency") if color in (_GREY, _RGB) else None
    if bits < 8 and color == _GREY and isinstance(key, int) and picture.mode == "L":
        picture.info["transparency"] = (key & (1 << bits) - 1) * (255 // ((1 << bits) - 1))  # Pillow expands the pixels alone
    return data, picture, key


def is_wide(data: bytes) -> bool:
    """Return whether the samples have 16 bits."""
    return data[24:25] == b"\x10"


def decode_grey(data: bytes, limits: Limits, levels: Levels | None = None) -> tuple[NDArray[np.uint16], bool]:
    """Decode a PNG file of 16 bits to one channel, with all its bits. Transparent pixels are white, as :func:`decode` has them.

    Takes:
        levels: as of :func:`survey_grey`; None: it is the whole
    Gives:
        H x W uint16, upright, as stored; and whether it had colours. A colour profile is not applied: it is one of colours
    Raises:
        CorruptImage, ValueError, OSError, SyntaxError: if the file is truncated or damaged
        UnsupportedImage: if OpenCV does not decode it
    """
    read = _read_grey(data, limits)
    known, found = levels or read.levels(), read.values
    if read.alpha is not None:
        found = grey.over_white(found, read.alpha, known)
    if read.is_clear is not None:
        found = np.where(read.is_clear, np.uint16((1 << depth.significant_bits(known.largest)) - 1), found)
    return orientation.upright(found, read.orientation), read.was_colour


def survey_grey(data: bytes, limits: Limits) -> Levels | None:
    """Read the numbers of some rows of a picture, for :func:`decode_grey` of all its parts; None for one of 8 bits.

    Raises:
        as :func:`decode_grey`
    """
    return _read_grey(data, limits).levels() if is_wide(data) else None


class _Grey(NamedTuple):
    """A picture of 16 bits as one channel, and its transparency."""

    values: NDArray[np.uint16]
    alpha: NDArray[np.uint16] | None
    is_clear: NDArray[np.bool_] | None
    """Pixels of the transparent colour; None if the file names none."""
    was_colour: bool
    orientation: int

    def levels(self) -> Levels:
        """Return the numbers that decide about white; those of the transparent colour do not count."""
        opaque = self.values if self.is_clear is None else self.values[~self.is_clear]
        return grey.levels_of(opaque, self.alpha)


def _read_grey(data: bytes, limits: Limits) -> _Grey:
    data, picture, key = _load(data, limits)
    info = picture.info
    del picture  # OpenCV's copy is as large
    samples = _samples(data)
    values, was_colour = grey.luma(samples[..., min(samples.shape[2] - 1, 2) :: -1])
    alpha = samples[..., 3] if samples.shape[2] == 4 else None
    is_clear = None if key is None else _is_key(samples, key)[..., 0]
    return _Grey(values, alpha, is_clear, was_colour, orientation.of_exif(info.get("exif") or b""))


def _is_dark(picture: ImageFile, color: int, levels: Levels | None) -> bool:
    """Return whether the upper 8 bits of 16 lose too much. Grey without alpha has all its bits in Pillow."""
    if color == _GREY:
        return False
    return (levels.largest if levels else _brightest(picture, color)) <= MAX_DARK


def _brightest(picture: ImageFile, color: int) -> int:
    """Return the largest sample of the colours, as Pillow has it."""
    return max(pillow.largest(picture)[: 3 if color & 2 else 1])


def _wide(data: bytes, key: int | tuple[int, int, int] | None, levels: Levels | None) -> NDArray[np.uint8]:
    """Scale a 16-bit picture by its depth: of coloured samples Pillow keeps the upper 8 bits alone.

    Takes:
        key: grey or (red, green, blue) of transparent pixels, 0..65535. They are white, and do not count for the depth
        levels: of the whole picture; None: it is this one
    Gives:
        H x W x 3 uint8 RGB, as stored
    Raises:
        UnsupportedImage: if OpenCV does not decode it
    """
    samples = _samples(data)
    largest, largest_alpha = (levels.wide, levels.wide_alpha) if levels else _largest_of(samples, key)
    bits, alpha_bits = depth.significant_bits(largest), depth.significant_bits(max(largest, largest_alpha))
    rgb = np.empty((*samples.shape[:2], 3), np.uint8)
    for rows in _rows(samples):
        band = samples[rows]
        narrow = depth.to_8_bits(band[..., 2::-1], bits)
        if largest_alpha:
            alpha = depth.to_8_bits(band[..., 3:], alpha_bits).astype(np.uint16)
            narrow = ((narrow * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
        if key is not None:
            narrow = np.where(_is_key(band, key), np.uint8(255), narrow)
        rgb[rows] = narrow
    return rgb


def _samples(data: bytes) -> NDArray[np.uint16]:
    """Read the samples of a 16-bit picture.

    Gives:
        H x W x C uint16: grey, or blue, green, red and perhaps alpha
    Raises:
        UnsupportedImage: if OpenCV does not decode it
    """
    samples = cv2.imdecode(np.frombuffer(_pixels_alone(data), np.uint8), cv2.IMREAD_UNCHANGED)
    if samples is not None and samples.ndim == 2:
        samples = samples[..., None]
    if samples is None or samples.dtype != np.uint16 or samples.shape[2] not in (1, 3, 4):
        raise UnsupportedImage("a PNG image of 16 bits that cannot be scaled; send it with 8 bits")
    return samples.astype(np.uint16, copy=False)


def _largest_of(samples: NDArray[np.uint16], key: int | tuple[int, int, int] | None) -> tuple[int, int]:
    """Return the largest sample of the colours, transparent pixels left out, and that of alpha."""
    bands = (samples[rows] for rows in _rows(samples))
    largest = max(int(band[..., :3].max(initial=0, where=~_is_key(band, key))) for band in bands)
    return largest, int(samples[..., 3].max()) if samples.shape[2] == 4 else 0


def _rows(samples: NDArray[np.uint16]) -> Iterator[slice]:
    """Yield the rows that are worked on at a time."""
    rows = max(1, BAND_PIXELS // samples.shape[1])
    for top in range(0, len(samples), rows):
        yield slice(top, top + rows)


def _is_key(band: NDArray[np.uint16], key: int | tuple[int, int, int] | None) -> NDArray[np.bool_]:
    """Find the transparent pixels of some rows of blue, green, red samples, or of grey ones: rows x columns x 1."""
    if key is None:
        return np.zeros((1, 1, 1), np.bool_)
    color = np.array([key] if isinstance(key, int) else key[::-1], np.uint16)
    return np.asarray(np.all(band == color, axis=2, keepdims=True), np.bool_)


def _sound(data: bytes) -> Iterator[bytes]:
    """Yield the file in pieces: pixels, palette, and those ancillary chunks for pixels that are sound.

    These are transparency, colour profile and orientation; the first of each. An unsound one has a wrong checksum, or Pillow
    rejects it in a file of its own.
    """
    yield data[:8]
    end, seen = 8, set()
    for start, end in _chunks(data):
        kind, chunk = data[start + 4 : start + 8], data[start:end]
        if kind[0] & 0x20:
            is_first = kind in _FOR_PIXELS and kind not in seen
            seen.add(kind)
            if not is_first or chunk[-4:] != struct.pack(">I", zlib.crc32(chunk[4:-4])) or not _is_taken(data[8:33], chunk):
                continue
        yield chunk
    yield data[end:]


def _is_taken(header: bytes, chunk: bytes) -> bool:
    """Return whether Pillow reads a file of this header and this chunk."""
    try:
        pillow.open_file(data=b"\x89PNG\r\n\x1a\n" + header + chunk + b"\0\0\0\0IDAT\x35\xaf\x06\x1e", kind="PNG")
    except _REJECTED:
        return False
    return True


def _pixels_alone(data: bytes) -> bytes:
    """Return the file with its header and its pixels alone: OpenCV believes the length of any other chunk, and allocates it."""
    coded = b"".join(data[start + 8 : end - 4] for start, end in _chunks(data) if data[start + 4 : start + 8] == b"IDAT")
    body = b"IDAT" + coded
    pixels = struct.pack(">I", len(coded)) + body + struct.pack(">I", zlib.crc32(body))
    return data[:33] + pixels + b"\0\0\0\0IEND\xae\x42\x60\x82"


def _chunks(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of the chunks; the last one may be cut short, with as many bytes as there are."""
    start = 8
    for _ in range(MAX_CHUNKS):
        if start + 12 > len(data):
            return
        end = min(len(data), start + 12 + int.from_bytes(data[start : start + 4], "big"))
        yield start, end
        start = end
