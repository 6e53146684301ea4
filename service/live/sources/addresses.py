"""Addresses of cameras, as they may be shown."""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit

_SECRET = re.compile(r"(?i)([?&][^=&]*(?:pass|pwd|token|key|secret|auth|user|usr)[^=&]*=)[^&#]*")


def without_password(url: str) -> str:
    """Return a URL without what is secret in it: user and password, and such fields of its query.

    Takes:
        url: as the command line has it
    """
    try:
        parts = urlsplit(url)
        plain = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    except ValueError:  # no URL, such as rtsp://me:secret@[
        plain = re.sub(r"//[^/?#]*@", "//", url)
    return _SECRET.sub(r"\1***", plain)
