"""EXIF orientation: read from a block of EXIF, and applied to pixels."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

Pixel = TypeVar("Pixel", bound=np.generic)

TURNED = range(2, 9)
"""Orientations of a picture that is not upright."""
SIDEWAYS = range(5, 9)
"""Those whose stored rows are columns of the upright picture."""
_ORIENTATION = 0x0112
_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}
"""Formats of ``struct`` by EXIF's types."""


def upright(pixels: NDArray[Pixel], orientation: int) -> NDArray[Pixel]:
    """Turn a picture.

    Takes:
        pixels: H x W x C or H x W; uint8, uint16 or float32
        orientation: of EXIF, 1..8; other numbers leave the picture as it is
    Gives:
        C-contiguous; W x H x C for orientations 5 to 8
    """
    turn = _TURNS.get(orientation)
    return np.ascontiguousarray(turn(pixels) if turn else pixels, pixels.dtype)


def upright_size(height: int, width: int, orientation: int) -> tuple[int, int]:
    """Return (height, width) of the upright picture.

    Takes:
        height, width: as stored
    """
    return (width, height) if orientation in SIDEWAYS else (height, width)


def of_exif(exif: bytes) -> int:
    """Read the orientation of a block of EXIF: the first directory's tag 0x0112, of whatever integer type.

    SHORT is the type that the standard asks for; BYTE and LONG are written too, and obeyed by libvips, libtiff and exiftool.

    Takes:
        exif: with or without the prefix ``Exif``; may be empty or broken
    Gives:
        1 where it says nothing
    """
    body = exif[6:] if exif.startswith(b"Exif\0") else exif
    order = {b"II": "<", b"MM": ">"}.get(body[:2])
    if order is None:
        return 1
    try:
        (at,) = struct.unpack_from(order + "I", body, 4)
        (count,) = struct.unpack_from(order + "H", body, at)
        for tag, kind, _, value in struct.iter_unpack(order + "HHI4s", body[at + 2 : at + 2 + 12 * count]):
            if tag == _ORIENTATION and kind in _INTEGERS:
                (found,) = struct.unpack_from(order + _INTEGERS[kind], value)
                return int(found)
    except struct.error:
        pass
    return 1


# Strided numpy views give the same; copying them into order takes six times as long.
_TURNS: dict[int, Callable[[NDArray[Any]], cv2.typing.MatLike]] = {
    2: lambda image: cv2.flip(image, 1),
    3: lambda image: cv2.rotate(image, cv2.ROTATE_180),
    4: lambda image: cv2.flip(image, 0),
    5: cv2.transpose,
    6: lambda image: cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE),
    7: lambda image: cv2.flip(cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE), 0),
    8: lambda image: cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE),
}
