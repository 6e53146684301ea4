"""``make run``: start the service, send it one street over HTTP, show the result, keep serving until Ctrl-C.

<<<<<<< HEAD
Runs in the repository, with the serving set alone. The service is a child in the same process group, so that Ctrl-C and a
closed terminal reach both; this script ends only after it, and never leaves it behind.
=======
Runs in the repository, with the serving set alone. The service is a child in a process group of its own: Ctrl-C and SIGTERM
reach the script, which sends the service one signal and waits until it has drained.
>>>>>>> 0160c29 (Ctrl-C of make run sends the service one signal: requests in work are answered)
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 30.0
SAMPLE_SEED = 7
SAMPLE_SIZE = "360x480"


class Trouble(Exception):
    """A failure that is told in one line."""


def main() -> int:
    """Run the demonstration.

    Gives:
        the exit code: 0 after Ctrl-C, 1 if anything could not be done
    """
    parser = argparse.ArgumentParser(description="Start the service, send it one sample street, keep serving until Ctrl-C.")
    parser.add_argument("--port", type=int, default=8000, help="port on 127.0.0.1 (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "out", help="folder for the image, the mask and the overlay")
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)  # also where the parent ignores SIGINT, as a shell does for its background jobs
    try:
        return demonstrate(arguments.port, arguments.out)
    except Trouble as trouble:
        print(f"make run: {trouble}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


def demonstrate(port: int, out: Path) -> int:
    """Serve, send, show, and wait for the service's end.

    Raises:
        Trouble: if the port is taken, the service does not become ready or refuses the sample, or it ends by itself
        KeyboardInterrupt: on a signal, after the service has ended
    """
    refuse_taken_port(port)
    address = f"http://{HOST}:{port}"
    command = [sys.executable, "-m", "service", "serve", "--host", HOST, "--port", str(port)]
    # A process group of its own: a terminal sends Ctrl-C to the whole group, and a second signal ends the service at once.
    service = subprocess.Popen(command, cwd=ROOT, process_group=0)
    try:
        with httpx.Client(base_url=address, timeout=30.0, trust_env=False, headers=key_header(os.environ)) as http:
            wait_until_ready(http, service)
            show(http, out)
        print(f"\nThe page: {address}/    The API: {address}/docs    Ctrl-C ends it.\n", flush=True)
        raise Trouble(f"the service ended by itself with code {service.wait()}")
    finally:
        end(service)


def key_header(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the header with the first key of ``FCN_API_KEYS``, which the service inherits; without keys, none."""
    keys = [key for word in environment.get("FCN_API_KEYS", "").split(",") if (key := word.strip())]
    return {"X-API-Key": keys[0]} if keys else {}


def refuse_taken_port(port: int) -> None:
    """Find out now, in one line, instead of from the service's log."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the service does: a port in TIME_WAIT is free
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise Trouble(f"port {port} on {HOST} is taken; try `make run PORT={port + 1}`") from error


def wait_until_ready(http: httpx.Client, service: subprocess.Popen[bytes]) -> None:
    """Return when the model is loaded and warm."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if service.poll() is not None:
            raise Trouble(f"the service did not start (exit code {service.returncode}); its own words stand above")
        try:
            if http.get("/readyz").status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass  # not listening yet
        time.sleep(0.1)
    raise Trouble(f"the service was not ready within {START_TIMEOUT_S:.0f} s")


def show(http: httpx.Client, out: Path) -> None:
    """Send the sample in the three forms that a newcomer wants to see, and print what is in it."""
    image = draw_street()
    out.mkdir(parents=True, exist_ok=True)
    (out / "street.jpg").write_bytes(image)
    (out / "street-mask.png").write_bytes(segment(http, image, "png").content)
    (out / "street-overlay.png").write_bytes(segment(http, image, "overlay").content)
    reply = segment(http, image, "rle")
    found: dict[str, Any] = reply.json()
    height, width = found["size"]
    lines = [f"{reply.headers['X-Model']} found in a street of {width} x {height}:", ""]
    classes = sorted(found["classes"], key=lambda entry: -entry["pixels"])
    lines += [f"  {entry['name']:<14}{entry['share']:>7.1%}  {'#' * round(entry['share'] * 40)}".rstrip() for entry in classes]
    lines += ["", f"  {reply.headers['Server-Timing']}", ""]
    lines += [f"  wrote {short(out / name)}" for name in ("street.jpg", "street-mask.png", "street-overlay.png")]
    print("\n" + "\n".join(lines), flush=True)  # at once, so that the service's log lines stay outside


def draw_street() -> bytes:
    """A JPEG of the project's own, drawn by the generator of street scenes."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--count", "1", "--size", SAMPLE_SIZE, "--seed", str(SAMPLE_SEED), "--out", folder]
        command = [sys.executable, "-m", "models.scenes", *options]
        done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
        drawn = sorted(Path(folder, "images").glob("*.jpg"))
        if done.returncode or not drawn:
            raise Trouble(f"the sample street could not be drawn:\n{done.stderr.strip()}")
        return drawn[0].read_bytes()


def segment(http: httpx.Client, image: bytes, form: str) -> httpx.Response:
    """One call, as curl would make it: ``curl -F image=@street.jpg ADDRESS/segment?format=FORM``."""
    try:
        reply = http.post("/segment", params={"format": form}, files={"image": ("street.jpg", image, "image/jpeg")})
    except httpx.TransportError as error:
        raise Trouble(f"the service did not answer: {error}") from error
    if reply.is_error:
        raise Trouble(f"the service refused the sample: {reply.status_code} {reply.text}")
    return reply


def end(service: subprocess.Popen[bytes]) -> None:
    """Let the service drain, then make sure that it is gone. A second signal does not cut this short."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if service.poll() is None:
        service.terminate()
        try:
            service.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            service.kill()
            service.wait()


def short(path: Path) -> Path:
    """The path as a person in the repository would type it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
