"""Access: with one of the keys, where keys are set; and from a browser only by pages of this host, unless others are allowed.

May import: starlette.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException


def offered_key(headers: Mapping[str, str]) -> str:
    """Return the key that a caller offers in the headers; empty without one."""
    if key := headers.get("x-api-key"):
        return key
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    return credentials.strip() if scheme.lower() == "bearer" else ""


class Keys:
    """The keys of the service. Only their digests are kept.

    Takes:
        keys: without any, every caller is accepted
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key) for key in keys]
        self.is_open = not self._digests
        """Whether every caller is accepted."""

    def check(self, offered: str) -> None:
        """Return None if the caller is accepted.

        Takes:
            offered: the caller's key; empty without one
        Raises:
            HTTPException: 401
        """
        # Every key is compared, each to its end and at one length: the time that it takes tells nothing.
        matches = [hmac.compare_digest(_digest(offered), digest) for digest in self._digests]
        if matches and not any(matches):
            detail = "this service wants a key: send it as X-API-Key, or as Authorization: Bearer"
            raise HTTPException(401, detail, headers={"WWW-Authenticate": "Bearer"})


class Origins:
    """The pages whose scripts may open a stream. A browser lets any page open a WebSocket to any host. It only names the page's
    host, so that the other one can refuse.

    Takes:
        allowed: origins such as ``https://cars.example``, besides the service's own; ``*`` is every one
    """

    def __init__(self, allowed: Iterable[str]) -> None:
        self._allowed = {origin.lower().rstrip("/") for origin in allowed}

    def check(self, origin: str | None, host: str) -> None:
        """Return None if the caller is not a page, or an allowed one.

        Takes:
            origin: the header of that name; None without it: only browsers send it
            host: the header of that name
        Raises:
            HTTPException: 403
        """
        if origin is None or "*" in self._allowed or origin.lower() in self._allowed:
            return
        if _authority(origin) != _authority(f"//{host}"):
            detail = "this page belongs to another host; FCN_ALLOWED_ORIGINS names those that may open a stream"
            raise HTTPException(403, detail)


def _authority(url: str) -> str:
    """Return host and port; the default port of http or https is left out."""
    return urlsplit(url.lower()).netloc.removesuffix(":80").removesuffix(":443")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
