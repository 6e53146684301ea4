"""Access over HTTP: the header that holds a key, and the pages whose scripts may open a stream."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException


def offered_key(headers: Mapping[str, str]) -> str:
    """Return the key that a caller offers in the headers; empty without one."""
    if key := headers.get("x-api-key"):
        return key
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    return credentials.strip() if scheme.lower() == "bearer" else ""


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
