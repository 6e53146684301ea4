"""What goes wrong around the service: starts that cannot succeed, full disks, a process that is killed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from service.batch.records import NAME as RECORD
from service.client import Client
from service.pipeline.providers import CUDA
from tests.conftest import encode_image, make_image, make_labels, make_manifest, write_artifact
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parent.parent
FULL = Path("/dev/full")

needs_full = pytest.mark.skipif(not FULL.exists(), reason="needs a device that is always full")
AS_ANYBODY = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
"""Root may read everything; without these two rights it does not."""


def command(*words: object, before: Sequence[str] = (), **settings: object) -> subprocess.CompletedProcess[str]:
    """``fcn-serve`` with words and settings, until it ends."""
    environment = {**os.environ, **{f"FCN_{name.upper()}": str(value) for name, value in settings.items()}}
    line = [*before, sys.executable, "-m", "service", *map(str, words)]
    return subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)


def free_port() -> int:
    """A free port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


# A start that cannot succeed -------------------------------------------------------------------------------------------------


def missing(_folder: Path) -> dict[str, Any]:
    """A folder that is not there."""
    return {"models_dir": "/nowhere/at/all"}


def no_folder(folder: Path) -> dict[str, Any]:
    """A file in its place."""
    (folder / "file").touch()
    return {"models_dir": folder / "file"}


def empty(folder: Path) -> dict[str, Any]:
    """A mount that was forgotten."""
    (folder / "a.onnx").unlink()
    return {"models_dir": folder}


def broken(folder: Path) -> dict[str, Any]:
    """No artifact in it can be served."""
    (folder / "a.onnx").write_bytes((folder / "a.onnx").read_bytes()[:-300])
    return {"models_dir": folder}


def unknown_default(folder: Path) -> dict[str, Any]:
    """A model that does not exist."""
    return {"models_dir": folder, "default_model": "unicorn"}


def one_port_for_two(folder: Path) -> dict[str, Any]:
    """Public and private at once."""
    return {"models_dir": folder, "port": 8765, "admin_port": 8765}


def bad_number(folder: Path) -> dict[str, Any]:
    """No number."""
    return {"models_dir": folder, "threads": "many"}


def bad_host(folder: Path) -> dict[str, Any]:
    """No address."""
    return {"models_dir": folder, "admin_port": free_port(), "admin_host": "no.such.host.invalid"}


STARTS: list[tuple[Callable[[Path], dict[str, Any]], int, str]] = [
    (missing, 2, "FCN_MODELS_DIR: cannot read the folder /nowhere/at/all: No such file or directory"),
    (no_folder, 2, "Not a directory"),
    (empty, 2, "FCN_MODELS_DIR: there is no artifact (*.onnx) in"),
    (broken, 1, "no model can be served: a.onnx: is truncated"),
    (unknown_default, 1, "no model 'unicorn'; there are: colours"),
    (one_port_for_two, 2, "FCN_ADMIN_PORT: 8765 is FCN_PORT"),
    (bad_number, 2, "FCN_THREADS:"),
    (bad_host, 2, "FCN_ADMIN_HOST: 'no.such.host.invalid' is not an address of this machine"),
]


@pytest.mark.parametrize(("make", "code", "line"), STARTS, ids=[row[0].__name__ for row in STARTS])
def test_a_start_that_cannot_succeed_is_one_clear_line(
    make: Callable[[Path], dict[str, Any]], code: int, line: str, tmp_path: Path
) -> None:
    """It says what is wrong and where, ends with a code that is not 0, and shows no trace."""
    write_artifact(tmp_path / "a.onnx")
    done = command("serve", **{"port": free_port(), **make(tmp_path)})
    assert done.returncode == code
    (said,) = done.stderr.splitlines()
    assert said.startswith("fcn-serve: ")
    assert line in said


@pytest.mark.parametrize("setting", ["port", "admin_port"])
def test_a_port_that_is_taken_is_one_clear_line(artifact_dir: Path, setting: str) -> None:
    """The setting is named."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        taken = holder.getsockname()[1]
        done = command("serve", **{"models_dir": artifact_dir, "port": free_port(), setting: taken})
    assert done.returncode == 2
    assert (
        done.stderr == f"fcn-serve: FCN_{setting.upper()}: cannot listen on port {taken} of 127.0.0.1: Address already in use\n"
    )


def test_fewer_file_descriptors_than_connections_is_one_clear_line(artifact_dir: Path) -> None:
    """Said at the start, and not when the first one is missing."""
    few = ["sh", "-c", 'ulimit -n 500 && exec "$@"', "sh", sys.executable, "-m", "service", "serve", "--port", str(free_port())]
    environment = {**os.environ, "FCN_MODELS_DIR": str(artifact_dir)}
    done = subprocess.run(few, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    told = "800 connections need 900 file descriptors, and this process may have 500 (ulimit -Hn)"
    assert done.stderr == f"fcn-serve: FCN_MAX_CONNECTIONS: {told}\n"


@pytest.mark.skipif(CUDA in onnxruntime.get_available_providers(), reason="this machine may have a GPU")
def test_cuda_without_a_gpu_is_one_clear_line(artifact_dir: Path) -> None:
    """Strict: the CPU never replaces the GPU in silence."""
    done = command("serve", models_dir=artifact_dir, provider="cuda", port=free_port())
    assert done.returncode == 1
    assert done.stderr == "fcn-serve: CUDA was asked for, but this ONNX Runtime has none; install onnxruntime-gpu\n"


@pytest.mark.skipif(bool(AS_ANYBODY) and shutil.which("setpriv") is None, reason="root may read everything")
def test_a_folder_and_a_file_without_permission_are_one_clear_line(tmp_path: Path) -> None:
    """Who may not read is told what."""
    models = tmp_path / "models"
    models.mkdir()
    write_artifact(models / "a.onnx").chmod(0)
    done = command("serve", before=AS_ANYBODY, models_dir=models, port=free_port())
    assert done.returncode == 1
    assert done.stderr == "fcn-serve: no model can be served: a.onnx: cannot be read: Permission denied\n"
    models.chmod(0)
    done = command("serve", before=AS_ANYBODY, models_dir=models, port=free_port())
    models.chmod(0o700)
    assert done.returncode == 2
    assert done.stderr == f"fcn-serve: FCN_MODELS_DIR: cannot read the folder {models}: Permission denied\n"


# A disk that is full ---------------------------------------------------------------------------------------------------------


@needs_full
def test_a_full_disk_stops_no_service(artifact_dir: Path, png: bytes) -> None:
    """Its log cannot be written; it serves, and ends in order."""
    with FULL.open("wb") as sink, serving(free_port(), sink, models_dir=artifact_dir) as (process, client):
        for _ in range(20):
            assert client.segment(png).labels.shape == (96, 128)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0


@needs_full
def test_a_full_disk_is_the_reason_why_a_mask_was_not_written(artifact_dir: Path, tmp_path: Path) -> None:
    """The image is named, the others are done, and no half of a mask is left."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(encode_image(make_image()))
    out = tmp_path / "out"
    out.mkdir()
    (out / ".a.mask.png.part").symlink_to(FULL)
    done = command("segment", tmp_path / "a.png", tmp_path / "b.png", "--out", out, models_dir=artifact_dir)
    assert done.returncode == 1
    assert "1 of 2 segmented" in done.stdout
    assert f"{tmp_path / 'a.png'}: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in out.iterdir()) == [RECORD, "b.mask.png", "b.overlay.png"]


@needs_full
def test_a_full_disk_behind_the_standard_output_is_one_clear_line(artifact_dir: Path) -> None:
    """A list that cannot be written is a failure."""
    environment = {**os.environ, "FCN_MODELS_DIR": str(artifact_dir)}
    with FULL.open("wb") as sink:
        line = [sys.executable, "-m", "service", "models"]
        done = subprocess.run(line, cwd=ROOT, env=environment, stdout=sink, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "fcn-serve: No space left on device\n"


# A process that is killed ----------------------------------------------------------------------------------------------------


@contextmanager
def serving(port: int, log: Any, **settings: object) -> Iterator[tuple[subprocess.Popen[bytes], Client]]:
    """A server, ready, and a client of it."""
    process = start(port, log, **settings)
    try:
        with Client(f"http://127.0.0.1:{port}") as client:
            wait_until(client.ready, "the service to be ready")
            yield process, client
    finally:
        process.kill()
        process.wait()


def start(port: int, log: Any, **settings: object) -> subprocess.Popen[bytes]:
    """``fcn-serve serve``, begun."""
    environment = {**os.environ, **{f"FCN_{name.upper()}": str(value) for name, value in settings.items()}}
    line = [sys.executable, "-m", "service", "serve", "--port", str(port)]
    return subprocess.Popen(line, cwd=ROOT, env=environment, stderr=log)


def test_the_client_hides_a_process_that_is_killed_and_started_again(artifact_dir: Path, png: bytes, tmp_path: Path) -> None:
    """``kill -9`` under a supervisor: a client that retries has every mask, and the right one."""
    port, ended = free_port(), threading.Event()
    born: list[subprocess.Popen[bytes]] = []

    def supervise() -> None:
        with (tmp_path / "log").open("wb") as log:
            while not ended.is_set():
                born.append(start(port, log, models_dir=artifact_dir))
                born[-1].wait()

    supervisor = threading.Thread(target=supervise)
    supervisor.start()
    try:
        with Client(f"http://127.0.0.1:{port}", retries=30) as client:
            wait_until(client.ready, "the service to be ready")
            for round_ in range(2):
                born[-1].send_signal(signal.SIGKILL)
                wait_until(lambda count=round_ + 2: len(born) >= count, "a new process")  # type: ignore[misc]
                for _ in range(5):
                    assert np.mean(client.segment(png).labels == make_labels()) > 0.9
    finally:
        ended.set()
        born[-1].kill()
        supervisor.join()


def test_a_restart_serves_what_is_in_the_folder_then(tmp_path: Path, png: bytes) -> None:
    """An artifact that was replaced while the service was down is served, and so is one that was unloaded before."""
    port = free_port()
    write_artifact(tmp_path / "a.onnx")
    with (tmp_path / "log").open("wb") as log, serving(port, log, models_dir=tmp_path) as (_, client):
        assert client.segment(png).model.version == "1.0.0"
    write_artifact(tmp_path / ".new", make_manifest(version="2.0.0"))
    shutil.move(tmp_path / ".new", tmp_path / "a.onnx")
    with (tmp_path / "log").open("wb") as log, serving(port, log, models_dir=tmp_path) as (_, client):
        assert client.segment(png).model.version == "2.0.0"
