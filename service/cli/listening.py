"""Sockets that listen, of TCP and of this machine alone.

They are bound and listen before anything else starts, so that callers who come while the models are being opened wait for them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from service.errors import BadSetting


@contextlib.contextmanager
def tcp(host: str, port: int, setting: str) -> Iterator[socket.socket]:
    """Listen on a port. Of two services that start at once on one port, the second fails here: in uvloop both would start, and
    one would get every caller.

    Takes:
        setting: the name of the port's setting, for errors
    Raises:
        BadSetting: naming the setting, if that is not possible
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:
        raise BadSetting(f"{setting.replace('PORT', 'HOST')}: {host!r} is not an address of this machine") from error
    with socket.socket(family, kind) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            listener.listen()
        except OSError as error:
            raise BadSetting(f"{setting}: cannot listen on port {port} of {host}: {error.strerror}") from error
        yield listener


@contextlib.contextmanager
def unix(path: Path, mode: int) -> Iterator[socket.socket]:
    """Listen on a Unix socket, and remove it in the end. A socket that a killed process left behind is replaced.

    Takes:
        path: where the socket appears
        mode: its permissions; every user with the right to write to it may call
    Raises:
        BadSetting: if another process listens there, if the path is something else than a socket, or if it cannot be made
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            _remove_stale(path)
            before = os.umask(0o177)  # no moment in which others than the owner may call
            try:
                listener.bind(str(path))
            finally:
                os.umask(before)
            made = path.lstat()
            path.chmod(mode)
            listener.listen()
        except OSError as error:
            raise BadSetting(f"FCN_UDS: cannot listen at {path}: {error.strerror or error}") from error
        try:
            yield listener
        finally:
            with contextlib.suppress(OSError):
                if os.path.samestat(path.lstat(), made):
                    path.unlink()


def _remove_stale(path: Path) -> None:
    """Remove a socket at which no process listens.

    Raises:
        BadSetting: if one listens, or if the path is something else than a socket
    """
    try:
        is_socket = stat.S_ISSOCK(path.lstat().st_mode)
    except FileNotFoundError:
        return
    if not is_socket:
        raise BadSetting(f"FCN_UDS: {path} exists, and is not a socket; name another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.settimeout(1.0)
        refused = caller.connect_ex(str(path))
    if refused == errno.ECONNREFUSED:
        path.unlink()
    elif refused != errno.ENOENT:
        raise BadSetting(f"FCN_UDS: another process listens at {path}")
