"""Traces, as a collector on a real socket gets them from a real process."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from service.client import Client
from service.pipeline.segmentation import Timing
from tests.conftest import encode_image, make_image
from tests.live import ROOT, LiveProcess, live_process

STAGES = tuple(Timing().stages())

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@contextmanager
def collector() -> Iterator[tuple[str, list[Any]]]:
    """An OTLP receiver: its address, and the spans that came."""
    spans: list[Any] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            assert self.path == "/v1/traces"
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                spans.extend(span for scope in resource.scope_spans for span in scope.spans)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", spans
        server.shutdown()
        thread.join()


def end(live: LiveProcess) -> list[dict[str, Any]]:
    """End a server in order; the requests of its log."""
    live.process.terminate()
    assert live.process.wait(timeout=120) == 0
    lines = [json.loads(line) for line in live.log.read_text("utf-8").splitlines() if line.startswith("{")]
    return [line for line in lines if line["message"] == "request"]


def test_a_request_is_a_span_of_its_callers_trace_with_its_stages_below(
    tmp_path: Path, artifact_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The collector has them when the process has ended; the log has the trace's id; probes are left out."""
    image = encode_image(make_image())
    with collector() as (address, spans):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        with live_process(tmp_path, {"models_dir": artifact_dir, "log_format": "json"}) as live:
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-ID": "mine"}
            assert httpx.post(f"{live.base_url}/segment", content=image, headers=headers).status_code == 200
            assert httpx.post(f"{live.base_url}/segment", content=b"none").status_code == 415
            with Client(live.base_url) as client:
                assert len(list(client.stream([image, image]))) == 2
            requests = end(live)
    traced, refused, stream = (span for span in spans if span.name not in STAGES)
    assert (traced.name, traced.trace_id.hex(), traced.parent_span_id.hex()) == ("POST /segment", TRACE, PARENT)
    attributes = {entry.key: entry.value.string_value or entry.value.int_value for entry in traced.attributes}
    assert attributes["fcn.request_id"] == "mine"
    assert (attributes["http.route"], attributes["http.response.status_code"]) == ("/segment", 200)
    stages = [span for span in spans if span.parent_span_id == traced.span_id]
    assert tuple(span.name for span in stages) == STAGES
    assert all(one.end_time_unix_nano == next_.start_time_unix_nano for one, next_ in itertools.pairwise(stages))
    assert traced.start_time_unix_nano <= stages[0].start_time_unix_nano
    assert stages[-1].end_time_unix_nano <= traced.end_time_unix_nano
    assert not [span for span in spans if span.parent_span_id == refused.span_id]
    assert len([span for span in spans if span.parent_span_id == stream.span_id]) >= len(STAGES)
    found = {request["request_id"]: request["trace_id"] for request in requests}
    assert found["mine"] == TRACE
    assert set(found.values()) == {span.trace_id.hex() for span in (traced, refused, stream)}


def test_without_an_address_there_are_neither_traces_nor_an_sdk(tmp_path: Path, artifact_dir: Path) -> None:
    """What is off costs no import, and a caller's header changes nothing."""
    with live_process(tmp_path, {"models_dir": artifact_dir, "log_format": "json"}) as live:
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        assert httpx.post(f"{live.base_url}/segment", content=encode_image(make_image()), headers=headers).status_code == 200
        maps = Path(f"/proc/{live.process.pid}/maps")
        if maps.exists():
            assert "google/_upb" not in maps.read_text("utf-8")
        (line,) = end(live)
    assert "trace_id" not in line
    code = "import sys, service.server; sys.exit(any(name.startswith('opentelemetry.sdk') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, env=os.environ).returncode == 0


def test_a_missing_collector_stops_no_request(tmp_path: Path, artifact_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks come as ever, and the process ends in time."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    with live_process(tmp_path, {"models_dir": artifact_dir, "log_format": "json"}) as live:
        assert httpx.post(f"{live.base_url}/segment", content=encode_image(make_image())).status_code == 200
        assert len(end(live)) == 1
