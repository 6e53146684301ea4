"""Builds the wheel and tries it in two empty environments: the base installation, and the extra ``serve``.

::

    python deploy/try_wheel.py --python /path/to/python3.13

The base environment prints help and names the missing extra. The served one answers a request of the base environment's client
and segments an image file. Packages come from the index that pip is configured with.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STREET = ROOT / "service" / "api" / "page" / "street-1.jpg"
READY_S = 120.0
"""How long the server may take until it is ready, seconds."""

CALL = """
import sys
from service.client import Client
with Client(sys.argv[1]) as client:
    mask = client.segment(sys.argv[2])
assert mask.labels.shape == (405, 720), mask.labels.shape
print(mask.labels.shape, mask.labels.dtype, [found.name for found in mask.classes])
"""


def main() -> None:
    """Build, install, try; the exit code is 0 if every step did what it promises."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="the interpreter of the environments")
    parser.add_argument("--port", type=int, default=8765, help="a free port of 127.0.0.1")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = build(folder)
        base = installed(folder / "base", asked.python, str(wheel))
        try_base(base, folder)
        serve = installed(folder / "serve", asked.python, f"{wheel}[serve]")
        with serving(serve, asked.port, folder) as url:
            run([base / "python", "-P", "-c", CALL, url, STREET], folder)
        shutil.copy(STREET, folder / "street.jpg")
        run([serve / "fcn-serve", "segment", "street.jpg", "--out", "masks"], folder)
        require(any((folder / "masks").iterdir()), "fcn-serve segment wrote nothing")
    print(f"{wheel.name} works in empty environments of {asked.python}")


def build(folder: Path) -> Path:
    """Return the path of a wheel, built into a folder by the hatchling of this environment."""
    run([sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder], ROOT)
    (wheel,) = folder.glob("*.whl")
    return wheel


def installed(environment: Path, python: str, requirement: str) -> Path:
    """Return the ``bin`` folder of a new environment that holds one requirement."""
    run([python, "-m", "venv", environment], ROOT)
    binaries = environment / "bin"
    run([binaries / "python", "-m", "pip", "--disable-pip-version-check", "--quiet", "install", requirement], ROOT)
    return binaries


def try_base(binaries: Path, folder: Path) -> None:
    """Check that the base installation prints help, and that its commands name the extra."""
    require("serve" in run([binaries / "fcn-serve", "--help"], folder).stdout, "--help names no command")
    refused = subprocess.run([binaries / "fcn-serve", "serve"], cwd=folder, capture_output=True, text=True, check=False)
    require(refused.returncode == 2, f"fcn-serve serve ended with {refused.returncode}, not 2")
    require(refused.stderr.count("\n") == 1 and "[serve]" in refused.stderr, f"not one line: {refused.stderr}")
    print(refused.stderr, end="")


@contextlib.contextmanager
def serving(binaries: Path, port: int, folder: Path) -> Iterator[str]:
    """Give the address of a ready server; end it with SIGTERM."""
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen([binaries / "fcn-serve", "serve", "--port", str(port)], cwd=folder, env=clean())
    try:
        deadline = time.monotonic() + READY_S
        while not ready(url):
            if server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("fcn-serve serve did not become ready")
            time.sleep(0.1)
        yield url
    finally:
        server.terminate()
        server.wait(timeout=60)


def ready(url: str) -> bool:
    """Return whether the server says that it is ready."""
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5) as reply:  # noqa: S310 - 127.0.0.1
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def require(condition: bool, message: str) -> None:
    """End the program with a message unless a condition holds."""
    if not condition:
        raise SystemExit(message)


def clean() -> dict[str, str]:
    """The environment without anything that could lend a package or a setting."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "FCN_", "VIRTUAL_ENV"))}


def run(command: list[object], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder; its output is shown if it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=folder, env=clean(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    print(done.stdout, end="")
    return done


if __name__ == "__main__":
    main()
