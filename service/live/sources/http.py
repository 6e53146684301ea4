"""A camera that sends over HTTP: ``http://[USER:PASSWORD@]HOST[:PORT]/PATH`` and ``https://``.

Motion JPEG (``multipart/x-mixed-replace``), and whatever else FFmpeg plays: MPEG-TS, FLV, HLS. The operator who starts the run
names the address; no request of a caller ever does.
"""

from __future__ import annotations

import contextlib
import http.client
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import av

from service.live.capture import Capture, Feed, Loss
from service.live.options import LiveOptions
from service.live.sources.addresses import without_password
from service.live.sources.rtsp import host_of, unreachable

_OPTIONS = {
    "protocol_whitelist": "http,https,httpproxy,tcp,tls,crypto,data",
    "fflags": "nobuffer",
    "analyzeduration": "1000000",
}
UNTIMED = frozenset({"mpjpeg", "mjpeg", "jpeg_pipe", "h264", "hevc"})
"""FFmpeg numbers their frames as if there were 25 a second."""
_PROBE_S = 3.0


def open_source(address: str, options: LiveOptions) -> Capture:  # noqa: ARG001 - every kind is made alike
    """Make the source of an HTTP stream.

    Raises:
        BadSetting: if the address names no host
    """
    host = host_of(address)
    port = urlsplit(address).port or (443 if address.lower().startswith("https") else 80)

    def explain(error: OSError | ValueError | av.FFmpegError) -> Loss:
        if isinstance(error, av.error.HTTPUnauthorizedError | av.error.HTTPForbiddenError):
            return Loss("it wants another user and password: http://USER:PASSWORD@HOST/...", lasting=True)
        if isinstance(error, av.error.HTTPClientError):
            return Loss(f"{error.strerror}; check the path", lasting=True)
        kind = _content_type(address)
        if kind is not None and kind.startswith(("text/", "application/json", "application/xml", "image/")):
            return Loss(f"it answers with {kind}, not with a video; name the camera's stream itself", lasting=True)
        if isinstance(error, av.error.InvalidDataError):
            return Loss(f"it answers with {kind or 'something'} that cannot be played", lasting=True)
        return unreachable(error, host, port)

    return Capture(without_password(address), Feed(address, explain, options=_OPTIONS, untimed=UNTIMED))


def _content_type(address: str) -> str | None:
    """Return what kind of content an address has; None if it cannot be told."""
    parts = urlsplit(address)
    plain = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    unanswered = contextlib.suppress(OSError, ValueError, http.client.HTTPException)
    with unanswered, urllib.request.urlopen(plain, timeout=_PROBE_S) as reply:  # noqa: S310 - http
        kind: str = reply.headers.get_content_type()
        return kind
    return None
