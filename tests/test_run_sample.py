"""``make run``'s script, as a user runs it: started, used, ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.conftest import encode_image, make_image
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "deploy" / "run_sample.py"


@pytest.fixture
def port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
    return number


@pytest.fixture
def keys(request: pytest.FixtureRequest) -> str:
    """The setting ``FCN_API_KEYS``: none, unless a test names some."""
    return str(getattr(request, "param", ""))


@pytest.fixture
def demonstration(port: int, artifact_dir: Path, tmp_path: Path, keys: str) -> Iterator[subprocess.Popen[str]]:
    """The script over the colour network, in a process group of its own as a terminal would start it."""
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), "--port", str(port), "--out", str(tmp_path / "out")],
        cwd=ROOT,
        env={**os.environ, "FCN_MODELS_DIR": str(artifact_dir), "PYTHONUNBUFFERED": "1", "FCN_API_KEYS": keys},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    yield process
    process.terminate()  # the script ends its service, which is in another process group
    process.communicate()


def read_until(process: subprocess.Popen[str], sign: str) -> str:
    """What the script printed, up to and with the line that holds a sign."""
    assert process.stdout is not None
    text = ""
    for line in process.stdout:
        text += line
        if sign in line:
            return text
    raise AssertionError(f"ended without {sign!r}:\n{text}")


def answers(port: int) -> bool:
    """Whether anything listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def is_empty(group: int) -> bool:
    """Whether no process of the group is left. The last one may still have to be reaped."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def test_it_serves_shows_a_street_and_ends_with_everything_on_ctrl_c(
    demonstration: subprocess.Popen[str], port: int, tmp_path: Path
) -> None:
    """The mask has the picture's size, the classes and the page's address are printed, and Ctrl-C leaves nothing behind."""
    text = read_until(demonstration, "The page:")
    assert "colours@1.0.0" in text
    assert f"http://127.0.0.1:{port}/" in text
    assert any(name in text and "%" in text for name in ("red", "green", "blue"))
    with Image.open(tmp_path / "out" / "street.jpg") as street, Image.open(tmp_path / "out" / "street-mask.png") as mask:
        assert mask.size == street.size == (480, 360)
        assert mask.mode == "P"
    assert httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
    os.killpg(demonstration.pid, signal.SIGINT)
    assert demonstration.wait(30) == 0
    wait_until(lambda: is_empty(demonstration.pid), "every process to end")
    assert not answers(port)


def test_ctrl_c_answers_the_request_in_work(demonstration: subprocess.Popen[str], port: int) -> None:
    """The service gets one signal, and drains: an upload that has begun still gets its mask."""
    read_until(demonstration, "The page:")
    png = encode_image(make_image())
    head = f"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Length: {len(png)}\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=30) as link:
        link.sendall(head.encode() + png[:100])
        time.sleep(0.5)
        os.killpg(demonstration.pid, signal.SIGINT)
        time.sleep(0.5)
        link.sendall(png[100:])
        assert link.recv(64).startswith(b"HTTP/1.1 200")
    assert demonstration.wait(30) == 0


@pytest.mark.parametrize("keys", [" first , second"], indirect=True)
def test_it_sends_its_own_key_where_keys_are_set(demonstration: subprocess.Popen[str], port: int) -> None:
    """A service that wants a key is shown as well; without the key it refuses."""
    assert "colours@1.0.0 found" in read_until(demonstration, "The page:")
    assert httpx.get(f"http://127.0.0.1:{port}/models").status_code == 401
    assert httpx.get(f"http://127.0.0.1:{port}/models", headers={"X-API-Key": "second"}).status_code == 200


def test_sigterm_to_the_script_alone_takes_the_service_with_it(demonstration: subprocess.Popen[str], port: int) -> None:
    """A supervisor signals one process, not a group."""
    read_until(demonstration, "The page:")
    demonstration.terminate()
    assert demonstration.wait(30) == 0
    wait_until(lambda: is_empty(demonstration.pid), "every process to end")
    assert not answers(port)


def test_a_taken_port_is_one_clear_line() -> None:
    """No traceback, no second server, and the remedy in the line."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        taken = holder.getsockname()[1]
        done = subprocess.run(
            [sys.executable, str(SCRIPT), "--port", str(taken)], capture_output=True, text=True, check=False, timeout=60
        )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines() == [f"make run: port {taken} on 127.0.0.1 is taken; try `make run PORT={taken + 1}`"]
