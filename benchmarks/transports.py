"""REST, gRPC and shared memory side by side, and two workers beside one process of two lanes: ratios of medians of one run.

python benchmarks/transports.py --rounds 30

Requests of the kinds take turns, so that the machine's other load falls on all of them alike.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from PIL import Image
from tritonclient.utils import shared_memory

from tests.live import ROOT, free_port, live_process

MODEL = "fcn4s-lite0-streets"
STREET = ROOT / "docs" / "images" / "street.jpg"
CALLERS, A_BLOCK = 4, 12


def transports(rounds: int) -> None:
    """Print the time of a raw 1080p frame and of a file, by transport."""
    pixels = np.asarray(Image.open(STREET).convert("RGB").resize((1920, 1080)))
    prefix, port = f"/fcn-bench-{uuid.uuid4().hex[:8]}", free_port()
    with TemporaryDirectory() as folder, ExitStack() as held:
        settings = {"grpc_port": port, "shared_memory": prefix, "reload_s": 0}
        server = held.enter_context(live_process(Path(folder), settings))
        rest = held.enter_context(triton_http.InferenceServerClient(server.base_url.removeprefix("http://")))
        grpc = held.enter_context(triton_grpc.InferenceServerClient(f"127.0.0.1:{port}"))
        region = shared_memory.create_shared_memory_region("frames", f"{prefix}-frames", 2 * pixels.nbytes)
        held.callback(shared_memory.destroy_shared_memory_region, region)
        rest.register_system_shared_memory("frames", f"{prefix}-frames", 2 * pixels.nbytes)
        file = np.array([STREET.read_bytes()], object)
        calls: dict[str, Callable[[], object]] = {}
        for name, kind, client in (("REST", triton_http, rest), ("gRPC", triton_grpc, grpc)):
            raw = kind.InferInput("image", list(pixels.shape), "UINT8")
            raw.set_data_from_numpy(pixels)
            jpeg = kind.InferInput("image", [1], "BYTES")
            jpeg.set_data_from_numpy(file)
            shared, output = kind.InferInput("image", list(pixels.shape), "UINT8"), kind.InferRequestedOutput("labels")
            shared.set_shared_memory("frames", pixels.nbytes)
            output.set_shared_memory("frames", pixels.nbytes // 3, pixels.nbytes)
            calls[f"{name}, JPEG"] = partial(client.infer, MODEL, [jpeg])

            def send_raw(client: Any = client, kind: Any = kind) -> object:
                sent = kind.InferInput("image", list(pixels.shape), "UINT8")
                sent.set_data_from_numpy(pixels)
                return client.infer(MODEL, [sent])

            def send_shared(client: Any = client, shared: Any = shared, output: Any = output) -> object:
                shared_memory.set_shared_memory_region(region, [pixels])
                reply = client.infer(MODEL, [shared], outputs=[output])
                shared_memory.get_contents_as_numpy(region, np.uint8, [1080, 1920], pixels.nbytes)
                return reply

            calls[f"{name}, raw 1080p"] = send_raw
            calls[f"{name}, raw 1080p in shared memory"] = send_shared
        spent: dict[str, list[float]] = {name: [] for name in calls}
        for number in range(rounds + 2):
            for name, call in calls.items():
                begun = time.monotonic()
                call()
                if number >= 2:
                    spent[name].append(time.monotonic() - begun)
        for name, times in spent.items():
            ratio = statistics.median(times) / statistics.median(spent[f"REST, {'JPEG' if 'JPEG' in name else 'raw 1080p'}"])
            print(f"{name:35} {1000 * statistics.median(times):8.1f} ms   {ratio:.2f} x REST")


def workers(rounds: int) -> None:
    """Print the throughput of two workers over that of one process, with as many lanes together, on connections that stay."""
    image = STREET.read_bytes()
    with TemporaryDirectory() as one, TemporaryDirectory() as two, ExitStack() as held:
        kinds = {"one process": {"workers": 1}, "two workers": {"workers": 2}}
        urls = {
            name: held.enter_context(live_process(Path(folder), {**settings, "reload_s": 0, "deadline_ms": 600_000})).base_url
            for (name, settings), folder in zip(kinds.items(), (one, two), strict=True)
        }
        callers = held.enter_context(ThreadPoolExecutor(CALLERS))
        client = held.enter_context(httpx.Client(timeout=600, limits=httpx.Limits(max_connections=2 * CALLERS)))
        time.sleep(20)  # the second worker may still be opening its models

        def block(url: str) -> float:
            def call(_: int) -> None:
                assert client.post(f"{url}/segment", content=image).status_code == 200  # noqa: S101

            begun = time.monotonic()
            list(callers.map(call, range(A_BLOCK)))
            return A_BLOCK / (time.monotonic() - begun)

        rates: dict[str, list[float]] = {name: [] for name in urls}
        for number in range(rounds + 1):
            for name, url in urls.items():
                rate = block(url)
                if number:
                    rates[name].append(rate)
        for name, found in rates.items():
            ratio = statistics.median(found) / statistics.median(rates["one process"])
            print(f"{name:12} {statistics.median(found):6.2f} frames/s   {ratio:.2f} x one process")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    asked = parser.parse_args()
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}")
    transports(asked.rounds)
    workers(max(3, asked.rounds // 6))
