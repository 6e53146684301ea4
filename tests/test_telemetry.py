"""Request ids, ``Server-Timing``, metrics, log lines, readiness."""

from __future__ import annotations

import logging
import logging.config
import os
import re
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from service.api.in_flight import InFlight
from service.api.metrics import COUNTED_TOGETHER, Metrics
from service.api.readiness import Readiness
from service.api.record import MAX_FRAME_HEADER, RequestRecord, record_of
from service.api.telemetry import Telemetry
from service.errors import LEAVES, NotReady
from service.log import StandardError
from service.pipeline.segmentation import Timing

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """The loop that the service runs on."""
    return "asyncio"


async def _work(request: Request) -> Response:
    record = record_of(request.scope)
    record.model = "colours@1"
    record.bytes_in = 1234
    record.add((96, 128), Timing(decode_s=0.00125, infer_s=0.007))
    record.add((96, 128), Timing(infer_s=0.003, encode_s=0.0005))
    return PlainTextResponse("done")


async def _crash(request: Request) -> Response:
    record_of(request.scope).model = "colours@1"
    raise RuntimeError("boom")


def apologise(name: str) -> Response:
    """The reply to a crash."""
    return PlainTextResponse(f"sorry, {name}", 500)


def small_app(metrics: Metrics) -> Starlette:
    """Two routes below the middleware."""
    return Starlette(
        routes=[Route("/work/{name}", _work, methods=["GET", "POST"]), Route("/crash", _crash)],
        middleware=[Middleware(Telemetry, metrics=metrics, in_flight=InFlight(), on_crash=apologise)],
    )


async def call(path: str, metrics: Metrics | None = None, method: str = "GET", **headers: Any) -> httpx.Response:
    """One request to the small application."""
    transport = httpx.ASGITransport(small_app(metrics or Metrics()))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample by name and sorted labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }


def watch(metrics: Metrics, **sources: Any) -> None:
    """Give the gauges some of their sources."""
    numbers = dict.fromkeys(("queue_depth", "queue_megapixels"), float)
    quiet: dict[str, Any] = {"ready": bool, "models": list, "refused": list, "artifacts": dict, **numbers}
    metrics.watch(**quiet | sources)


async def test_a_sane_request_id_is_taken() -> None:
    """A caller who names a request finds it again."""
    assert (await call("/work/a", x_request_id="car-7:frame/12+a=b@c._")).headers["x-request-id"] == "car-7:frame/12+a=b@c._"


@pytest.mark.parametrize("insane", ["", "with space", "x" * 129, "tab\tin", 'quote"s', "schön".encode()])
async def test_an_insane_request_id_is_replaced(insane: str | bytes) -> None:
    """What goes into every log line is never a caller's free text."""
    reply = await call("/work/a", x_request_id=insane)
    assert re.fullmatch("[0-9a-f]{16}", reply.headers["x-request-id"])


async def test_made_request_ids_differ() -> None:
    """Two requests are never one in the log."""
    assert (await call("/work/a")).headers["x-request-id"] != (await call("/work/a")).headers["x-request-id"]


async def test_frame_headers_come_back_untouched_on_every_reply() -> None:
    """A mask, or its refusal, can be matched with lidar of the same instant."""
    frame: dict[str, Any] = {"x_frame_id": "cam front/7 ", "x_frame_stamp": "1700000000.123456789"}
    for path in ("/work/a", "/crash", "/nowhere"):
        reply = await call(path, **frame)
        assert reply.headers["x-frame-id"] == "cam front/7 "
        assert reply.headers["x-frame-stamp"] == "1700000000.123456789"


async def test_a_frame_header_beyond_its_length_is_not_echoed() -> None:
    """A reply does not grow with what a caller sends."""
    assert "x-frame-id" in (await call("/work/a", x_frame_id="x" * MAX_FRAME_HEADER)).headers
    assert "x-frame-id" not in (await call("/work/a", x_frame_id="x" * (MAX_FRAME_HEADER + 1))).headers


async def test_server_timing_lists_the_stages_in_order_with_their_sums() -> None:
    """The header says where the time of a request went; several images are summed."""
    reply = await call("/work/a")
    assert (
        reply.headers["server-timing"] == "decode;dur=1.25, queue;dur=0.00, infer;dur=10.00, labels;dur=0.00, encode;dur=0.50"
    )
    assert reply.headers["x-model"] == "colours@1"


async def test_a_crash_is_answered_and_logged_with_its_trace(caplog: pytest.LogCaptureFixture) -> None:
    """The reply has the headers known so far; the log has the trace under the same id."""
    with caplog.at_level(logging.INFO, "service"):
        reply = await call("/crash", x_request_id="mine")
    assert (reply.status_code, reply.text) == (500, "sorry, mine")
    assert (reply.headers["x-request-id"], reply.headers["x-model"]) == ("mine", "colours@1")
    crash, line = caplog.records
    assert crash.exc_info is not None
    assert vars(crash)["fields"] == {"request_id": "mine"}
    assert (vars(line)["fields"]["status"], line.levelno) == (500, logging.WARNING)


async def test_every_request_is_one_line_with_its_sizes_and_timings(caplog: pytest.LogCaptureFixture) -> None:
    """What operators ask for is in the line; what was not known is not."""
    with caplog.at_level(logging.INFO, "service"):
        await call("/work/a", method="POST", x_request_id="mine", x_frame_id="7")
    (line,) = caplog.records
    fields: dict[str, Any] = vars(line)["fields"]
    assert fields.pop("duration_ms") > 0
    assert fields == {
        "request_id": "mine",
        "method": "POST",
        "path": "/work/a",
        "status": 200,
        "model": "colours@1",
        "bytes_in": 1234,
        "bytes_out": 4,
        "images": ["96x128", "96x128"],
        "frame_id": "7",
        "decode_ms": 1.25,
        "queue_ms": 0.0,
        "infer_ms": 10.0,
        "labels_ms": 0.0,
        "encode_ms": 0.5,
    }


async def test_requests_are_counted_by_template_method_and_status() -> None:
    """No path of a caller's making becomes a label."""
    metrics = Metrics()
    for name in ("a", "b", "c"):
        await call(f"/work/{name}", metrics)
    await call("/nowhere/1", metrics)
    await call("/nowhere/2", metrics, method="BREW")
    await call("/crash", metrics)
    counted = {
        (labels["route"], labels["method"], labels["status"]): value
        for (name, pairs), value in samples(metrics).items()
        if name == "fcn_requests_total"
        for labels in [dict(pairs)]
    }
    assert counted == {
        ("/work/{name}", "GET", "200"): 3,
        ("unmatched", "GET", "404"): 1,
        ("unmatched", "other", "404"): 1,
        ("/crash", "GET", "500"): 1,
    }
    assert samples(metrics)["fcn_errors_total", (("code", "internal_error"),)] == 1


async def test_stages_and_images_are_measured() -> None:
    """Latency by stage in seconds, image sizes in pixels and bytes."""
    metrics = Metrics()
    await call("/work/a", metrics)
    found = samples(metrics)
    assert found["fcn_stage_duration_seconds_sum", (("stage", "infer"),)] == pytest.approx(0.01)
    assert found["fcn_request_duration_seconds_count", (("route", "/work/{name}"),)] == 1
    assert found["fcn_image_pixels_sum", ()] == 2 * 96 * 128
    assert found["fcn_image_bytes_sum", ()] == 1234


def test_gauges_are_read_when_the_metrics_are() -> None:
    """Depth, megapixels and readiness are those of the moment."""
    metrics, state = Metrics(), {"ready": False, "depth": 0}
    watch(
        metrics,
        ready=lambda: state["ready"] == 1,
        queue_depth=lambda: state["depth"],
        queue_megapixels=lambda: 2.5,
    )
    metrics.watch_traffic(in_flight=lambda: 6, connections=lambda: 5, streams=lambda: 4)
    assert samples(metrics)["fcn_ready", ()] == 0
    state.update(ready=True, depth=3)
    found = samples(metrics)
    assert (found["fcn_ready", ()], found["fcn_queue_depth", ()], found["fcn_queue_megapixels", ()]) == (1, 3, 2.5)
    assert (found["fcn_connections", ()], found["fcn_streams", ()], found["fcn_requests_in_flight", ()]) == (5, 4, 6)


def test_the_models_served_now_are_an_info_metric() -> None:
    """A model that is gone is gone from the metrics."""
    metrics = Metrics()
    old = {"name": "a", "version": "1", "sha256": "00", "provider": "cpu"}
    models = [old]
    watch(metrics, models=lambda: models)
    assert samples(metrics)["fcn_model_info", tuple(sorted(old.items()))] == 1
    models[:] = [{**old, "version": "2"}]
    rows = [labels for name, labels in samples(metrics) if name == "fcn_model_info"]
    assert rows == [tuple(sorted({**old, "version": "2"}.items()))]


def test_artifacts_are_counted_by_what_became_of_them() -> None:
    """Refusals by cause; and which files are refused now."""
    metrics, refused = Metrics(), ["a.onnx"]
    watch(metrics, refused=lambda: refused, artifacts=lambda: {("served", ""): 1, ("refused", "truncated"): 2})
    found = samples(metrics)
    assert found["fcn_artifacts_total", (("cause", "truncated"), ("outcome", "refused"))] == 2
    assert found["fcn_artifacts_total", (("cause", ""), ("outcome", "served"))] == 1
    assert found["fcn_artifact_refused", (("file", "a.onnx"),)] == 1
    refused.clear()
    assert not [labels for name, labels in samples(metrics) if name == "fcn_artifact_refused"]


@pytest.mark.parametrize("finished", [1, COUNTED_TOGETHER, COUNTED_TOGETHER + 1])
def test_every_finished_request_is_counted_when_the_metrics_are_read(finished: int) -> None:
    """However many are counted together."""
    metrics = Metrics()
    for number in range(finished):
        metrics.observe("/segment", "POST", 429, RequestRecord("a", code="overloaded"))
        metrics.observe_frame("ok", RequestRecord("b", bytes_in=number + 1))
    found = samples(metrics)
    labels = (("method", "POST"), ("route", "/segment"), ("status", "429"))
    assert found["fcn_requests_total", labels] == finished
    assert found["fcn_request_duration_seconds_count", (("route", "/segment"),)] == finished
    assert found["fcn_errors_total", (("code", "overloaded"),)] == finished
    assert found["fcn_stream_frames_total", (("outcome", "ok"),)] == finished
    assert found["fcn_image_bytes_sum", ()] == finished * (finished + 1) / 2


def test_two_applications_do_not_share_their_metrics() -> None:
    """Each has its own registry."""
    first, second = Metrics(), Metrics()
    first.observe("/", "GET", 200, RequestRecord("a"))
    assert ("fcn_requests_total", (("method", "GET"), ("route", "/"), ("status", "200"))) not in samples(second)


def test_readiness_is_red_while_draining_and_whenever_the_pipeline_is_broken() -> None:
    """It gives the reason to health checks and to rejected requests."""
    faults: list[str] = []

    def check() -> None:
        for fault in faults:
            raise NotReady(fault)

    readiness = Readiness(check)
    readiness.check()
    assert readiness.is_green()
    faults.append("the worker died")
    assert not readiness.is_green()
    with pytest.raises(NotReady, match="the worker died"):
        readiness.check()
    readiness.drain()
    with pytest.raises(NotReady, match="about to end"):
        readiness.check()


def test_lost_lines_are_a_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    """By their cause; those of the handler that is in use."""
    handler = StandardError(os.open(os.devnull, os.O_WRONLY), lines_a_second=1)
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    for _ in range(5):
        handler.handle(logging.makeLogRecord({"name": "service.request", "msg": "request"}))
    found = samples(Metrics())
    assert found["fcn_log_lines_lost_total", (("reason", "flood"),)] == 4
    assert found["fcn_log_lines_lost_total", (("reason", "unread"),)] == 0


def test_every_refusal_has_a_counter_from_the_start() -> None:
    """By its cause: an alert on one that never came yet finds a 0."""
    found = samples(Metrics())
    assert {leaf.code for leaf in LEAVES} <= {dict(labels)["code"] for name, labels in found if name == "fcn_errors_total"}


async def test_tasks_and_threads_are_gauges() -> None:
    """What leaks shows."""
    found = samples(Metrics())
    assert found["fcn_tasks", ()] >= 1
    assert found["fcn_threads", ()] >= 1
