"""JSON documents: written without spaces, and read with every fault as a ``ValueError``."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

try:
    import orjson

    def to_json(document: object) -> bytes:
        """Write JSON without spaces, as UTF-8."""
        return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)

except ImportError:  # the same documents, in twenty times the time

    def to_json(document: object) -> bytes:
        """Write JSON without spaces, as UTF-8."""
        return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


MAX_PIXELS = 1 << 31
"""The largest map that is read: a document of a few bytes cannot ask for all memory."""


def from_json(body: bytes) -> Any:
    """Read JSON.

    Raises:
        ValueError: if it is not JSON, or nested too deeply
    """
    try:
        return json.loads(body)
    except RecursionError as error:
        raise ValueError("JSON nested deeper than any document") from error


@contextlib.contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn what a missing field or a value of the wrong type raises into a ``ValueError``.

    Takes:
        what: the kind of document, for the message
    Raises:
        ValueError: in the place of LookupError, TypeError, AttributeError, OverflowError and UnicodeError
    """
    try:
        yield
    except (LookupError, TypeError, AttributeError, OverflowError, UnicodeError) as error:
        raise ValueError(f"not {what}: {error!r}") from error


def size_of(document: Mapping[str, Any]) -> tuple[int, int]:
    """Read the ``size`` of a document.

    Gives:
        (height, width)

    Raises:
        ValueError: if it is not two positive whole numbers, or larger than ``MAX_PIXELS``
    """
    height, width = document["size"]
    check_size(height, width)
    return height, width


def check_size(height: object, width: object) -> None:
    """Reject what cannot be a map's size.

    Raises:
        ValueError: if a side is not a positive whole number, or the map is larger than ``MAX_PIXELS``
    """
    if not (isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0 and height * width <= MAX_PIXELS):
        raise ValueError(f"size is {[height, width]!r}, not [height, width]")
