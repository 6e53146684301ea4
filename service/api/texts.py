"""Bodies that are text where an image is expected: refused with what was sent and what to send instead.

The first bytes decide, and not the Content-Type: curl and others label an image as a form, and it is read all the same. Images
are told apart by the control characters that their first bytes have; plain PNM, which has none, begins like no text below.

May import: ``service.errors``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from service.errors import UnsupportedImage

START_BYTES = 256
"""Bytes of a body that decide."""
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


@dataclass(frozen=True)
class Text:
    """A kind of text, and what to say of it."""

    pattern: re.Pattern[bytes]
    """Matches at the first byte that is not white space."""
    found: str
    remedy: str


def _text(pattern: bytes, found: str, remedy: str) -> Text:
    return Text(re.compile(pattern, re.IGNORECASE | re.DOTALL), found, remedy)


TEXTS = (
    _text(
        rb"""data:[^,]{0,100},""",
        "a data URL",
        "decode what follows the comma, and send the bytes of the image file",
    ),
    _text(
        rb"""[{\[][\s"{\[\]}\d-]""",
        "JSON",
        "send the bytes of the image file as the body, or a form with the field 'image'; images as Base64 in JSON are read at "
        "POST /v2/models/{name}/infer, as a BYTES tensor",
    ),
    _text(
        rb"""<!doctype html|<html|<head|<body""",
        "an HTML page",
        "send the bytes of the image file; a link to an image often leads to a page about it",
    ),
    _text(
        rb"""https?://|file://|s3://|gs://""",
        "an address",
        "fetch the image first, and send its bytes: the service fetches nothing",
    ),
    _text(
        rb"""--[^\r\n]{1,200}\r?\ncontent-disposition:""",
        "a form whose Content-Type is not multipart/form-data",
        "send the Content-Type that your library makes for the form, with its boundary",
    ),
    _text(
        rb"""[\w.%-]{1,40}=(?:[\w.%+/@:-]|&|$)""",
        "a form of texts (application/x-www-form-urlencoded)",
        "send the bytes of the image file as the body, or a multipart/form-data form with the field 'image'",
    ),
    # The beginnings of JPEG, PNG, GIF, WebP and TIFF files as Base64.
    _text(
        rb"""(?:/9j/|iVBORw0KGgo|R0lGOD|UklGR|SUkqA|TU0AK)[\w+/=\r\n-]*\Z""",
        "an image as Base64 text",
        "decode it, and send the bytes of the image file",
    ),
)


def refuse_text(body: bytes) -> None:
    """Return if a body may be an image.

    Raises:
        UnsupportedImage: if it is a text of a kind that is often sent by mistake
    """
    start = body[:START_BYTES].removeprefix(b"\xef\xbb\xbf").lstrip()
    if _CONTROL.search(start):
        return
    for text in TEXTS:
        if text.pattern.match(start):
            raise UnsupportedImage(f"the body is {text.found}, not an image: {text.remedy}")
