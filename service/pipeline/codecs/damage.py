"""The one error of a picture that is truncated or damaged, whatever its decoder raises."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator

from service.errors import CorruptImage, ServiceError


@contextlib.contextmanager
def damage(kind: str) -> Iterator[None]:
    """Make a CorruptImage of what decoders raise in the block. They raise nearly anything, and only some of it is readable.

    Takes:
        kind: the file's format
    Raises:
        CorruptImage: with the decoder's reason where it is readable
        ServiceError: as the block raises it
    """
    try:
        yield
    except ServiceError:
        raise
    except Exception as error:
        reason = f": {error}" if isinstance(error, OSError | ValueError | struct.error) else ""
        raise CorruptImage(f"the {kind} image is truncated or damaged{reason}") from error
