"""A network camera: ``rtsp://[USER:PASSWORD@]HOST[:PORT]/PATH``, and ``rtsps://``.

RTP comes over the RTSP connection, where no packet is lost between; a camera that refuses that is asked for UDP.
"""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import av

from service.errors import BadSetting
from service.live.capture import Capture, Feed, Loss, sentence
from service.live.options import LiveOptions
from service.live.sources.addresses import without_password

_OPTIONS = {
    "rtsp_flags": "prefer_tcp",
    "protocol_whitelist": "rtsp,rtsps,rtp,udp,tcp,tls,srtp,crypto",
    "fflags": "nobuffer",
    "analyzeduration": "1000000",
}
_PORTS = {"rtsp": 554, "rtsps": 322}


def open_source(address: str, options: LiveOptions) -> Capture:  # noqa: ARG001 - every kind is made alike
    """Make the source of a network camera.

    Raises:
        BadSetting: if the address names no host
    """
    host = host_of(address)
    port = urlsplit(address).port or _PORTS.get(urlsplit(address).scheme.lower(), 554)

    def explain(error: OSError | ValueError | av.FFmpegError) -> Loss:
        if isinstance(error, av.error.HTTPUnauthorizedError | av.error.HTTPForbiddenError):
            return Loss("it wants another user and password: rtsp://USER:PASSWORD@HOST/...", lasting=True)
        if isinstance(error, av.error.HTTPNotFoundError):
            return Loss("the camera answers, but has no stream of this path now")
        if isinstance(error, av.error.InvalidDataError):
            return Loss("it answers, but not as an RTSP camera does; check host, port and path", lasting=True)
        return unreachable(error, host, port)

    return Capture(without_password(address), Feed(address, explain, options=_OPTIONS))


def host_of(address: str) -> str:
    """Return the host of a URL.

    Raises:
        BadSetting: if it names none, or its port is not a number
    """
    try:
        parts = urlsplit(address)
        parts.port  # noqa: B018 - raises
    except ValueError as error:
        raise BadSetting(f"--from {without_password(address)}: {error}") from error
    if not parts.hostname:
        raise BadSetting(f"--from {without_password(address)}: there is no host in it")
    return parts.hostname


def unreachable(error: Exception, host: str, port: int) -> Loss:
    """Return the reason why a host cannot be reached. FFmpeg's own word for an unknown host is "Input/output error"."""
    try:
        socket.getaddrinfo(host, port)
    except OSError:
        return Loss(f"the host {host} is not known; check its name and the network")
    if isinstance(error, ConnectionRefusedError):
        return Loss(f"nothing listens on port {port} of {host}")
    return Loss(sentence(error))
