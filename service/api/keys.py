"""Who may call: any holder of one of the keys, or everybody where there are none; and of the pages that a browser shows, those
of this very host.

May import: starlette.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException


def offered_key(headers: Mapping[str, str]) -> str:
    """The key that a caller offers in the headers; empty if there is none."""
    if key := headers.get("x-api-key"):
        return key
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    return credentials.strip() if scheme.lower() == "bearer" else ""


class Keys:
    """The keys that open the service. Only their digests are kept.

    Takes:
        keys: none at all opens the service to everybody
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key) for key in keys]
        self.is_open = not self._digests
        """Whether everybody may come in."""

    def check(self, offered: str) -> None:
        """Nothing, if the caller may come in.

        Takes:
            offered: the caller's key; empty if there is none
        Raises:
            HTTPException: 401
        """
        # Every key is compared, each to its end and at one length: the time taken tells nothing.
        matches = [hmac.compare_digest(_digest(offered), digest) for digest in self._digests]
        if matches and not any(matches):
            detail = "this service wants a key: send it as X-API-Key, or as Authorization: Bearer"
            raise HTTPException(401, detail, headers={"WWW-Authenticate": "Bearer"})


class Origins:
    """The pages whose scripts may open a stream. A browser asks nobody before it lets a page of one host open a WebSocket to
    another; it only says whose page it is, so that whoever answers can refuse.

    Takes:
        allowed: origins such as ``https://cars.example``, besides the service's own; ``*`` is every one
    """

    def __init__(self, allowed: Iterable[str]) -> None:
        self._allowed = {origin.lower().rstrip("/") for origin in allowed}

    def check(self, origin: str | None, host: str) -> None:
        """Nothing, if the caller is no page, or one that may come in.

        Takes:
            origin: the header of that name; None if there is none, as from whatever is no browser
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
    """Host and port; a port that goes without saying is left out."""
    return urlsplit(url.lower()).netloc.removesuffix(":80").removesuffix(":443")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
