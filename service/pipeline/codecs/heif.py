"""HEIF: AVIF, which Pillow decodes, and HEIC, which pillow-heif does where it is installed.

Source: ISO/IEC 14496-12 (boxes), 23008-12 (HEIF), the AVIF specification 1.1 (AOMedia).
"""

from __future__ import annotations

import importlib.util
import io
import re
import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import AvifImagePlugin

from service.errors import CorruptImage, UnsupportedImage
from service.extras import needs
from service.pipeline.codecs import pillow
from service.pipeline.codecs.limits import Limits, check_size

MAX_BOXES = 1024
"""Read at one level; a photo of many tiles has some hundred."""

_AVIF = re.compile(rb"avif|avis|av01")
_HEIC = re.compile(rb"heic|heix|hevc|hevx|heim|heis|hevm|hevs|hvc1|avci|avcs")
_GENERIC = (b"mif1", b"mif2", b"msf1", b"miaf")
_PATH = (b"meta", b"iprp", b"ipco")
"""Boxes around the properties of pictures."""


def kind(data: bytes) -> str:
    """Return AVIF or HEIC, by the brands; empty for other files."""
    if data[4:8] != b"ftyp":
        return ""
    major = data[8:12]
    brands = data[8 : min(4096, int.from_bytes(data[:4], "big"))]
    if _AVIF.match(major) or (major in _GENERIC and _AVIF.search(brands)):
        return "AVIF"
    if _HEIC.match(major) or (major in _GENERIC and (_HEIC.search(brands) or _HEIC.search(data[:4096]))):
        return "HEIC"
    return "AVIF" if major in _GENERIC else ""


def size(data: bytes) -> tuple[int, int]:
    """Read (width, height) of the largest picture; the others are its tiles and thumbnails.

    Raises:
        CorruptImage: if there is none
        UnsupportedImage: for HEIC without pillow-heif, and for AVIF without libavif
        struct.error: if the file ends within its header
    """
    if kind(data) == "HEIC" and importlib.util.find_spec("pillow_heif") is None:
        raise UnsupportedImage(f"a HEIC image; {needs('to read it, the service needs', 'heif')}; or convert it to JPEG or PNG")
    if kind(data) == "AVIF" and not AvifImagePlugin.SUPPORTED:
        raise UnsupportedImage("an AVIF image, and this build of Pillow reads none; convert it to JPEG or PNG")
    start, end = 0, len(data)
    for name in _PATH:
        inside = next(((first, last) for found, first, last in _boxes(data, start, end) if found == name), None)
        if inside is None:
            raise CorruptImage(f"the HEIF image has no box '{name.decode()}'")
        start, end = inside[0] + (4 if name == b"meta" else 0), inside[1]
    sizes = [struct.unpack_from(">II", data, first + 4) for found, first, _ in _boxes(data, start, end) if found == b"ispe"]
    if not sizes:
        raise CorruptImage("the HEIF image does not say its size")
    width, height = max(sizes, key=lambda sides: int(sides[0]) * int(sides[1]))
    return int(width), int(height)


def decode(data: bytes, limits: Limits) -> NDArray[np.uint8]:
    """Decode the primary picture of a HEIC file.

    Gives:
        H x W x 3 uint8 RGB, upright
    """
    from pillow_heif import HeifImageFile  # noqa: PLC0415 - an extra

    try:
        picture = HeifImageFile(io.BytesIO(data))  # type: ignore[no-untyped-call]
    except SyntaxError as error:
        raise CorruptImage(f"the HEIC image is damaged: {error}") from error
    check_size("HEIC", picture.width, picture.height, limits)
    picture.load()  # type: ignore[no-untyped-call]
    return pillow.decode(picture)


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield (type, start of the content, end) of the boxes at one level."""
    for _ in range(MAX_BOXES):
        if start + 8 > end:
            return
        length, name = struct.unpack_from(">I4s", data, start)
        head = 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, start + 8)
            head = 16
        last = end if length == 0 else min(end, start + length)
        if last < start + head:
            return
        yield name, start + head, last
        start = last
