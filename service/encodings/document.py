"""Reading documents that come from elsewhere: what is wrong with one is a ``ValueError`` that says so.

May import: numpy.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

MAX_PIXELS = 1 << 31
"""No map is larger: a document of a few bytes cannot ask for all memory."""


@contextlib.contextmanager
def reading(what: str) -> Iterator[None]:
    """Whatever goes wrong while a document is read.

    Takes:
        what: the kind of document, for the message
    Raises:
        ValueError: in the place of whatever a missing field or a value of the wrong type leads to
    """
    try:
        yield
    except (LookupError, TypeError, AttributeError, OverflowError, UnicodeError) as error:
        raise ValueError(f"not {what}: {error!r}") from error


def size_of(document: Mapping[str, Any]) -> tuple[int, int]:
    """The size that a document says, as ``(height, width)``.

    Raises:
        ValueError: if it is none
    """
    height, width = document["size"]
    if not (isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0 and height * width <= MAX_PIXELS):
        raise ValueError(f"size is {document['size']!r}, not [height, width]")
    return height, width
