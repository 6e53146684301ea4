"""The largest image that is decoded, checked against a header before a pixel is decoded or a buffer allocated."""

from __future__ import annotations

from dataclasses import dataclass

from service.errors import BodyTooLarge, CorruptImage, EmptyBody, ImageTooLarge


@dataclass(frozen=True)
class Limits:
    """The bounds of an image. A larger one is rejected without being decoded."""

    max_bytes: int = 32 * 2**20
    max_pixels: int = 52_000_000
    """Height times width."""
    max_side: int = 16_384
    """The longer side, in pixels."""
    max_file_pixels: int = 1_000_000_000
    """Height times width of a TIFF or PNG file that is read by rows: see ``rows``."""
    max_scan_bytes: int = 256 * 2**20
    """The bytes of a scan's file, as it comes: 256 x 256 x 256 voxels of 16 bits are 32 MiB and a header."""
    max_voxels: int = 2**26
    """The voxels of a scan, at its own spacing and at the network's: 512 x 512 x 256."""


def check_bytes(count: int, limits: Limits) -> None:
    """Check the length of a file.

    Takes:
        count: length in bytes
    Raises:
        EmptyBody: if it is 0
        BodyTooLarge: if it exceeds ``limits.max_bytes``
    """
    if not count:
        raise EmptyBody("the image is empty: 0 bytes")
    if count > limits.max_bytes:
        message = f"the image has {count} bytes; at most {limits.max_bytes} are taken"
        message += ": scale it down, or raise FCN_MAX_IMAGE_BYTES on the server"
        raise BodyTooLarge(message, limit=limits.max_bytes, actual=count, unit="bytes")


def check_size(kind: str, width: int, height: int, limits: Limits) -> None:
    """Check the size of a picture.

    Takes:
        kind: name of the format, for the error's text
        width, height: in pixels
    Raises:
        CorruptImage: if a side is below 1
        ImageTooLarge: if the picture has too many pixels, or one side is too long
    """
    if width < 1 or height < 1:
        raise CorruptImage(f"the {kind} image has no pixels: it is {width} x {height}")
    if width * height > limits.max_pixels:
        message = f"the image is {width} x {height} = {width * height} pixels; at most {limits.max_pixels} are taken"
        message += ": scale it down, or raise FCN_MAX_IMAGE_PIXELS on the server"
        raise ImageTooLarge(message, limit=limits.max_pixels, actual=width * height, unit="pixels")
    if max(width, height) > limits.max_side:
        message = f"the image is {width} x {height}; a side has at most {limits.max_side} pixels"
        message += ": scale it down, or raise FCN_MAX_IMAGE_SIDE on the server"
        raise ImageTooLarge(message, limit=limits.max_side, actual=max(width, height), unit="pixels a side")
