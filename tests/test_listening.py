"""A Unix socket in the place of a port: for callers on the same machine."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import unix_connect

from service.cli import listening
from service.errors import BadSetting
from tests.live import ROOT
from tests.waiting import wait_until


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose path is short enough for a socket."""
    folder = tmp_path_factory.mktemp("s")
    if len(str(folder / "fcn.sock")) > 100:
        pytest.skip("the folder for temporary files has a path that is too long for a socket")
    return folder


@contextmanager
def serving(path: Path, artifact_dir: Path, log: Path, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """``fcn-serve serve --uds``, ready for requests."""
    environment = {**os.environ, "FCN_MODELS_DIR": str(artifact_dir), **settings}
    command = [sys.executable, "-m", "service", "serve", "--uds", str(path)]
    with log.open("wb") as sink, subprocess.Popen(command, cwd=ROOT, env=environment, stderr=sink) as process:
        try:
            wait_until(lambda: process.poll() is not None or listens(path), "the service listens")
            assert process.poll() is None, log.read_text("utf-8")
            with caller(path) as http:  # the first request waits until the models are open
                assert http.get("/readyz").status_code == 200
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def caller(path: Path) -> httpx.Client:
    """A client of a Unix socket."""
    return httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://localhost", timeout=60)


def listens(path: Path) -> bool:
    """Whether a process accepts connections there."""
    with socket.socket(socket.AF_UNIX) as link:
        return link.connect_ex(str(path)) == 0


def test_a_unix_socket_serves_requests_streams_and_half_closed_callers(
    folder: Path, artifact_dir: Path, tmp_path: Path, png: bytes
) -> None:
    """Everything that a port serves; the log says where, and the socket is gone in the end."""
    path, log = folder / "fcn.sock", tmp_path / "log"
    with serving(path, artifact_dir, log) as process, caller(path) as http:
        mask = http.post("/segment", content=png)
        assert mask.status_code == 200
        assert http.post("/segment", files={"image": png}).content == mask.content
        with unix_connect(str(path), uri="ws://localhost/stream", compression=None) as stream:
            stream.send(png)
            assert '"outcome": "mask"' in str(stream.recv(timeout=60))
            assert stream.recv(timeout=60) == mask.content
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(60)
            link.connect(str(path))
            link.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            link.shutdown(socket.SHUT_WR)
            received = b""
            while chunk := link.recv(65536):
                received += chunk
            assert received.startswith(b"HTTP/1.1 200 ")
        process.terminate()
        assert process.wait(60) == 0
    said = log.read_text("utf-8")
    assert f"listens on unix:{path}" in said
    assert "Traceback" not in said
    assert not path.exists()


def test_a_socket_that_a_killed_service_left_is_replaced(folder: Path, artifact_dir: Path, tmp_path: Path) -> None:
    """A start after ``kill -9`` needs no cleaning up by hand."""
    path = folder / "fcn.sock"
    with serving(path, artifact_dir, tmp_path / "log") as process:
        process.kill()
        process.wait()
    assert stat.S_ISSOCK(path.lstat().st_mode)
    with serving(path, artifact_dir, tmp_path / "log"), caller(path) as http:
        assert http.get("/livez").status_code == 200


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_the_socket_has_the_permissions_that_are_set(folder: Path, mode: int) -> None:
    """From its first moment on no others may call."""
    before = os.umask(0o022)
    try:
        with listening.unix(folder / "fcn.sock", mode):
            assert stat.S_IMODE((folder / "fcn.sock").lstat().st_mode) == mode
        assert not (folder / "fcn.sock").exists()
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


def test_a_socket_at_which_another_process_listens_is_left_alone(folder: Path) -> None:
    """Two services at one path would take each other's callers."""
    path = folder / "fcn.sock"
    with listening.unix(path, 0o600):
        with pytest.raises(BadSetting, match="FCN_UDS: another process listens at"), listening.unix(path, 0o600):
            pass
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(str(path))


def test_a_busy_socket_is_left_alone_too(folder: Path) -> None:
    """A full queue of callers does not show that the process is gone."""
    path = folder / "fcn.sock"
    with listening.unix(path, 0o600) as listener:
        listener.listen(0)
        links = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for link in links:
            link.setblocking(False)
            link.connect_ex(str(path))
        with pytest.raises(BadSetting, match="another process listens"), listening.unix(path, 0o600):
            pass
        for link in links:
            link.close()
        assert path.exists()


def test_a_file_in_the_place_of_the_socket_is_never_removed(folder: Path) -> None:
    """A mistyped path deletes no data."""
    path = folder / "data"
    path.write_text("precious")
    with pytest.raises(BadSetting, match="exists, and is not a socket"), listening.unix(path, 0o600):
        pass
    assert path.read_text() == "precious"


@pytest.mark.parametrize("name", ["missing/fcn.sock", "x" * 200])
def test_a_path_that_cannot_be_is_one_clear_line(folder: Path, artifact_dir: Path, name: str) -> None:
    """The setting is named, and the reason."""
    environment = {**os.environ, "FCN_MODELS_DIR": str(artifact_dir), "FCN_UDS": str(folder / name)}
    command = [sys.executable, "-m", "service", "serve"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"fcn-serve: FCN_UDS: cannot listen at {folder}/")


def test_a_socket_that_another_service_has_replaced_is_not_removed(folder: Path) -> None:
    """At the end only its own is removed."""
    path = folder / "fcn.sock"
    with listening.unix(path, 0o600):
        path.unlink()
        other = socket.socket(socket.AF_UNIX)
        other.bind(str(path))
    assert path.exists()
    other.close()
