"""The connections below gRPC, by their peers.

grpc.aio can neither cancel a call from the server's side nor say what came of a message so far. The operating system can end a
connection, and has counted its bytes.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

DESCRIPTORS = Path("/dev/fd")
"""Has a name for each open descriptor of this process, on Linux, macOS and the BSDs."""
RECEIVED = struct.Struct("=Q")
RECEIVED_AT = 128
"""Where ``tcpi_bytes_received`` is in Linux' ``struct tcp_info``, since version 4.1."""

Address = tuple[str, int]


def received(port: int) -> dict[Address, int]:
    """Return how many bytes have come on each connection to a port of this process, by its peer.

    It is empty where the system does not count them.
    """
    found: dict[Address, int] = {}
    if not hasattr(socket, "TCP_INFO"):
        return found
    for descriptor, peer in _connections(port):
        with contextlib.suppress(OSError):
            info = _getsockopt(descriptor)
            if len(info) >= RECEIVED_AT + RECEIVED.size:
                found[peer] = RECEIVED.unpack_from(info, RECEIVED_AT)[0]
    return found


def close(port: int, peer: Address | None) -> bool:
    """End the connection of a peer to a port of this process. Return False if there is none."""
    for descriptor, found in _connections(port):
        if found != peer:
            continue
        # A copy: meanwhile the descriptor may have become another connection's.
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as link:
            if _peer(link) == peer:
                link.shutdown(socket.SHUT_RDWR)
                return True
    return False


def address_of(peer: str) -> Address | None:
    """Return the address of a peer; None if the connection is not TCP.

    Takes:
        peer: as gRPC writes it: ``ipv4:10.0.0.1:4711``, ``ipv6:%5B::1%5D:4711``
    """
    family, _, address = peer.partition(":")
    if family not in ("ipv4", "ipv6"):
        return None
    host, _, port = unquote(address).rpartition(":")
    try:
        return _plain(host.strip("[]")), int(port)
    except ValueError:
        return None


def _connections(port: int) -> Iterator[tuple[int, Address]]:
    """Yield descriptor and peer of each connection to a port."""
    with contextlib.suppress(OSError):
        for path in [*DESCRIPTORS.iterdir()]:
            with contextlib.suppress(OSError):
                descriptor = int(path.name)
                if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                    continue
                link = socket.socket(fileno=descriptor)
                try:
                    peer = (
                        _peer(link)
                        if link.family in (socket.AF_INET, socket.AF_INET6) and link.getsockname()[1] == port
                        else None
                    )
                finally:
                    link.detach()  # it is gRPC's, and stays open
                if peer is not None:
                    yield descriptor, peer


def _peer(link: socket.socket) -> Address:
    host, port = link.getpeername()[:2]
    return _plain(host), port


def _plain(host: str) -> str:
    """Return one text for an address, also where IPv6 carries IPv4."""
    address = ipaddress.ip_address(host.partition("%")[0])
    return str(getattr(address, "ipv4_mapped", None) or address)


def _getsockopt(descriptor: int) -> bytes:
    link = socket.socket(fileno=descriptor)
    try:
        return link.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    finally:
        link.detach()
