"""Several processes behind one port: what they share, what each does for itself, and what happens when one dies."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc
import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import Receive, Scope, Send
from tritonclient.grpc import service_pb2, service_pb2_grpc

from service.api.peers import Peers
from service.errors import BadSetting
from service.server import _Server
from service.settings import Settings
from tests.conftest import encode_image, make_image, make_manifest, write_artifact
from tests.live import ROOT, LiveProcess, free_port, live_process, metric
from tests.waiting import wait_until

LISTENS = re.compile(r"listens on")


def workers_of(server: LiveProcess) -> set[int]:
    """The processes that serve: the children that are not multiprocessing's own."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text("ascii").split()
    return {int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()}


def has_ended(process: int) -> bool:
    """Whether a process is gone, or dead and not reaped: the first process of a container may leave orphans so."""
    try:
        state = Path(f"/proc/{process}/stat").read_text("ascii").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"


def starts(server: LiveProcess) -> int:
    """How many workers have begun to listen so far."""
    return len(LISTENS.findall(server.log.read_text("utf-8")))


def connections_of(worker: int, server: LiveProcess) -> int:
    """How many established connections of the public port a process holds."""
    port = f":{int(server.base_url.rpartition(':')[2]):04X}"
    rows = (line.split() for line in Path(f"/proc/{worker}/net/tcp").read_text("ascii").splitlines())
    sockets = {f"socket:[{row[9]}]" for row in rows if row[1].endswith(port) and row[3] == "01"}
    return sum(str(entry.readlink()) in sockets for entry in Path(f"/proc/{worker}/fd").iterdir())


def segmented(server: LiveProcess, image: bytes) -> str:
    """The id of a request that was answered with a mask; a connection that its worker dropped is opened once more."""
    for _ in range(20):
        try:
            reply = httpx.post(f"{server.base_url}/segment", content=image, timeout=60)
        except httpx.TransportError:
            continue
        assert reply.status_code == 200, reply.text
        return reply.headers["x-request-id"]
    raise AssertionError("no answer")


def test_workers_share_a_port_and_metrics_and_a_killed_one_comes_back(tmp_path: Path) -> None:
    """Connections too; each request is answered once; counters go on, gauges are of those that live; gRPC, reload, drain."""
    folder, port = tmp_path / "models", free_port()
    folder.mkdir()
    write_artifact(folder / "colours.onnx")
    image = encode_image(make_image())
    # No connection ends by itself while 40 are opened.
    settings = {
        "models_dir": folder,
        "workers": 2,
        "grpc_port": port,
        "reload_s": 0.1,
        "default_model": "colours",
        "keep_alive_s": 600,
    }
    with live_process(tmp_path, settings) as server:
        wait_until(lambda: starts(server) == 2, "both workers to listen")
        workers = workers_of(server)
        assert len(workers) == 2
        with ExitStack() as held:
            for _ in range(40):
                caller = held.enter_context(httpx.Client(base_url=server.base_url, timeout=60))
                assert caller.get("/livez").status_code == 200
            shares = [connections_of(worker, server) for worker in workers]
            assert sum(shares) == 40
            assert max(shares) - min(shares) <= 2
        with ThreadPoolExecutor(8) as callers:
            ids = list(callers.map(lambda _: segmented(server, image), range(80)))
        assert len(set(ids)) == 80
        answered = 'fcn_requests_total{method="POST",route="/segment",status="200"}'
        wait_until(lambda: metric(server.base_url, answered) == 80, "all to be counted")
        lines = Counter(re.findall(r"request request_id=(\S+).*path=/segment", server.log.read_text("utf-8")))
        assert {lines[one] for one in ids} == {1}
        wait_until(lambda: metric(server.base_url, "fcn_ready") == 1)
        assert metric(server.base_url, "fcn_queue_depth") == 0

        killed = min(workers)
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: starts(server) == 3 and len(workers_of(server)) == 2, "another worker in its place", deadline_s=180)
        assert killed not in workers_of(server)
        more = [segmented(server, image) for _ in range(20)]
        assert not set(more) & set(ids)
        wait_until(lambda: metric(server.base_url, answered) == 100, "none of the killed worker's counts to be lost")

        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            request = service_pb2.ModelInferRequest(model_name="colours", raw_input_contents=[bytes(72)])
            request.inputs.add(name="image", datatype="UINT8", shape=[4, 6, 3])
            assert service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request).raw_output_contents

        write_artifact(tmp_path / "again.onnx", make_manifest(name="again"))
        shutil.copy(tmp_path / "again.onnx", folder / "again.onnx")
        wait_until(lambda: server.log.read_text("utf-8").count("again@") >= 2, "both workers to serve the new file")

        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
        assert all(map(has_ended, workers))


def test_workers_end_when_their_supervisor_is_killed(tmp_path: Path, artifact_dir: Path) -> None:
    """No process stays on the port."""
    with live_process(tmp_path, {"models_dir": artifact_dir, "workers": 2}) as server:
        wait_until(lambda: starts(server) == 2, "both workers to listen", deadline_s=180)
        workers = workers_of(server)
        server.process.kill()
        wait_until(lambda: all(map(has_ended, workers)), "the workers to end")


def test_a_start_that_fails_is_one_line_of_each_worker_and_an_exit_code(tmp_path: Path) -> None:
    """And the supervisor does not try for ever."""
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    environment = {**os.environ, "FCN_WORKERS": "2", "FCN_MODELS_DIR": str(tmp_path), "FCN_PORT": str(free_port())}
    command = [sys.executable, "-m", "service", "serve"]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=180)
    assert ended.returncode == 1
    assert "fcn-serve: no model can be served" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_what_would_reach_one_worker_alone_is_refused() -> None:
    """Before the start, with the setting to unset."""
    for setting, value in (("admin_keys", "key"), ("shared_memory", "/fcn-"), ("capture_dir", "/tmp/captures")):
        with pytest.raises(BadSetting, match=f"unset FCN_{setting.upper()}"):
            Settings.load(workers=2, **{setting: value})


def test_metrics_of_workers_are_summed_and_counters_outlive_them(tmp_path: Path) -> None:
    """Gauges of a dead worker go, its counters and histograms stay; readiness is that of the worst."""
    text = (
        '# TYPE fcn_requests counter\nfcn_requests_total{{route="/"}} {0}\n# TYPE fcn_queue_depth gauge\nfcn_queue_depth {0}\n'
        '# TYPE fcn_ready gauge\nfcn_ready {1}\n# TYPE x histogram\nx_bucket{{le="1.0"}} {0}\nx_bucket{{le="+Inf"}} {0}\n'
        "x_sum {0}\nx_count {0}\n"
    )
    peers = Peers(tmp_path)
    peers.publish(text.format(3, 0).encode(), 1)
    peers.publish(text.format(4, 1).encode(), 2)

    def values(own: int) -> dict[str, float]:
        told = peers.text(text.format(own, 1).encode()).decode()
        return {sample.name: sample.value for family in text_string_to_metric_families(told) for sample in family.samples}

    assert values(5) == {
        "fcn_requests_total": 12,
        "fcn_queue_depth": 12,
        "fcn_ready": 0,
        "x_bucket": 12,
        "x_sum": 12,
        "x_count": 12,
    }
    peers.forget(1)
    peers.forget(99)
    assert values(6) == {
        "fcn_requests_total": 13,
        "fcn_queue_depth": 10,
        "fcn_ready": 1,
        "x_bucket": 13,
        "x_sum": 13,
        "x_count": 13,
    }


def test_a_worker_with_more_connections_leaves_the_next_one_to_others(tmp_path: Path) -> None:
    """Alone it takes every one; one that drains leaves all; one that has ended does not count."""
    peers = Peers(tmp_path)
    peers.tell_open(3)
    assert not peers.has_fewer_open(3)
    (tmp_path / "1.open").write_text("2\n", "ascii")
    assert peers.has_fewer_open(3)
    assert not peers.has_fewer_open(2)
    peers.leave()
    peers.tell_open(0)
    assert peers.has_fewer_open(0)
    assert [path.name for path in tmp_path.glob("*.open")] == ["1.open"]
    peers.forget(1)
    assert not peers.has_fewer_open(5)


def test_a_worker_is_left_no_connection_before_it_accepts(tmp_path: Path) -> None:
    """While its models open, the others do not wait for it."""
    told: list[set[str]] = []

    def names() -> set[str]:
        return {path.name for path in tmp_path.iterdir()}

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "lifespan"
        await receive()
        told.append(names())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def start(listener: socket.socket) -> None:
        config = uvicorn.Config(application, lifespan="on", log_config=None)
        config.load()
        server = _Server(config, listener, FastAPI(), 1.0, Peers(tmp_path))
        server.lifespan = config.lifespan_class(config)
        await server.startup([listener])
        told.append(names())
        for each in server.servers:
            each.close()
        await server.lifespan.shutdown()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        asyncio.run(start(listener))
    assert told == [set(), {f"{os.getpid()}.open"}]


def test_a_folder_that_cannot_be_written_stops_neither_metrics_nor_workers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning until it can be written again; the worker that is asked tells its own as they are."""

    def text(number: int) -> bytes:
        return f"# TYPE x counter\nx_total {number}\n".encode()

    folder = tmp_path / "metrics"
    folder.mkdir()
    peers = Peers(folder)
    peers.publish(text(1))
    for _ in range(2):
        folder.rename(tmp_path / "away")
        with caplog.at_level(logging.WARNING, "service"):
            caplog.clear()
            peers.publish(text(2))
            peers.publish(text(3), 7)
            assert b"\nx_total 4.0\n" in peers.text(text(4))
        assert len(caplog.records) == 1
        (tmp_path / "away").rename(folder)
        peers.publish(text(5), 7)
        assert b"\nx_total 11.0\n" in peers.text(text(6))
