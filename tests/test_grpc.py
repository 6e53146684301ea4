"""The Open Inference Protocol over gRPC against a real server, spoken by Triton's own clients and by hand."""

from __future__ import annotations

import asyncio
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
import tritonclient.http as triton_http
from grpc_health.v1 import health_pb2, health_pb2_grpc
from numpy.typing import NDArray
from pydantic import SecretStr
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from service.api.v2.grpc.refusals import DETAILS
from service.errors import BadSetting
from service.settings import Settings
from tests.conftest import encode_image, make_image, make_manifest, write_artifact
from tests.live import ROOT, free_port, live_process, live_server, metric
from tests.waiting import wait_until

MAX_BYTES = 2_000_000
OUTPUTS = ("labels", "labels_png", "confidence", "scores")
KEY, ADMIN = "a caller's key", "an administrator's key"


@dataclass(frozen=True)
class Both:
    """One service by its two transports."""

    url: str
    grpc: str

    def metric(self, name: str) -> float:
        """A metric by its name and labels as written; 0 if it has not been counted yet."""
        return metric(self.url, name)


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models: ``colours``, the default, and ``again``."""
    folder = tmp_path_factory.mktemp("models")
    write_artifact(folder / "colours.onnx")
    write_artifact(folder / "again.onnx", make_manifest(name="again", version="2.0.0"))
    return folder


@pytest.fixture(scope="module")
def both(models_dir: Path) -> Iterator[Both]:
    """A server of both transports."""
    port = free_port()
    settings = Settings(models_dir=models_dir, default_model="colours", max_image_bytes=MAX_BYTES, grpc_port=port)
    with live_server(settings) as url:
        yield Both(url, f"127.0.0.1:{port}")


@pytest.fixture(scope="module")
def client(both: Both) -> Iterator[triton.InferenceServerClient]:
    """Triton's client."""
    with triton.InferenceServerClient(both.grpc) as client:
        yield client


@pytest.fixture(scope="module")
def stub(both: Both) -> Iterator[Any]:
    """The calls without a client around them."""
    with grpc.insecure_channel(both.grpc) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def tensor(kind: Any, array: NDArray[Any], datatype: str) -> Any:
    """An input of one of Triton's clients."""
    sent = kind.InferInput("image", list(array.shape), datatype)
    sent.set_data_from_numpy(array)
    return sent


def pixels(height: int = 40, width: int = 60) -> Any:
    """Pixels as an input."""
    return tensor(triton, make_image(height, width), "UINT8")


def message(**changes: Any) -> Any:
    """A request as a message, of 4 x 6 pixels."""
    request = service_pb2.ModelInferRequest(model_name="colours", raw_input_contents=[bytes(range(72))])
    request.inputs.add(name="image", datatype="UINT8", shape=[4, 6, 3])
    for name, value in changes.items():
        if isinstance(value, str):
            setattr(request, name, value)
        else:
            getattr(request, name).extend(value)
    return request


def status_of(error: grpc.RpcError) -> dict[str, Any]:
    """The trailing metadata of a failed call."""
    return dict(error.trailing_metadata())


# --- equal to REST -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "datatype"),
    [
        (np.array([encode_image(make_image(40, 60), "JPEG"), encode_image(make_image(40, 60))], object), "BYTES"),
        (np.array([[encode_image(make_image(33, 17))]], object), "BYTES"),
        (make_image(40, 60), "UINT8"),
        (np.stack([make_image(24, 31), make_image(24, 31)[::-1]]), "UINT8"),
    ],
)
def test_replies_equal_those_of_rest_bit_for_bit(array: NDArray[Any], datatype: str, both: Both) -> None:
    """Files and pixels, one and several, and each output; names, shapes and datatypes too."""
    found = []
    for kind, address in ((triton, both.grpc), (triton_http, both.url.removeprefix("http://"))):
        wanted = [kind.InferRequestedOutput(name) for name in OUTPUTS]
        with kind.InferenceServerClient(address) as client:
            reply = client.infer(
                "again", [tensor(kind, array, datatype)], "2.0.0", wanted, "mine", priority=1, timeout=30_000_000
            )
        described = reply.get_response(as_json=True) if kind is triton else reply.get_response()
        assert (described["model_name"], described["model_version"], described["id"]) == ("again", "2.0.0", "mine")
        shapes = [[output["name"], output["datatype"], [*map(int, output.get("shape", []))]] for output in described["outputs"]]
        found.append((shapes, [reply.as_numpy(name) for name in OUTPUTS]))
    assert found[0][0] == found[1][0]
    for ours, others in zip(found[0][1], found[1][1], strict=True):
        assert ours.dtype == others.dtype
        assert ours.tobytes() == others.tobytes() if ours.dtype != object else (ours == others).all()


def test_the_asyncio_client_asks_many_at_once(both: Both) -> None:
    """Fifty requests on one connection, each with its own answer."""

    async def ask() -> list[Any]:
        async with triton_aio.InferenceServerClient(both.grpc) as client:
            inputs = [tensor(triton, np.full((8, 9, 3), number, np.uint8), "UINT8") for number in range(50)]
            asked = [client.infer("colours", [one], request_id=str(at)) for at, one in enumerate(inputs)]
            return await asyncio.gather(*asked)

    replies = asyncio.run(ask())
    assert [reply.get_response().id for reply in replies] == [str(number) for number in range(50)]
    with triton_http.InferenceServerClient(both.url.removeprefix("http://")) as client:
        for number in (0, 49):
            one = tensor(triton_http, np.full((8, 9, 3), number, np.uint8), "UINT8")
            assert (client.infer("colours", [one]).as_numpy("labels") == replies[number].as_numpy("labels")).all()


def test_the_server_and_its_models_are_described_as_over_rest(both: Both, client: triton.InferenceServerClient) -> None:
    """Metadata, configuration, statistics and the index."""
    with triton_http.InferenceServerClient(both.url.removeprefix("http://")) as rest:
        assert client.get_server_metadata(as_json=True) == rest.get_server_metadata()
        ours, others = client.get_model_metadata("colours", as_json=True), rest.get_model_metadata("colours")
        assert [one["name"] for one in ours["outputs"]] == [one["name"] for one in others["outputs"]]
        assert ours["inputs"] == [{**one, "shape": [str(side) for side in one["shape"]]} for one in others["inputs"]]
        config = client.get_model_config("colours", as_json=True)["config"]
        assert [one["data_type"] for one in config["output"]] == [
            one["data_type"] for one in rest.get_model_config("colours")["output"]
        ]
        assert client.get_model_repository_index(as_json=True)["models"] == [
            {name: value for name, value in one.items() if value} for one in rest.get_model_repository_index()
        ]
        before = rest.get_inference_statistics("colours")["model_stats"][0]["inference_stats"]["success"]["count"]
        client.infer("colours", [pixels()])
        assert int(client.get_inference_statistics("colours").model_stats[0].inference_stats.success.count) == before + 1
        assert [one.name for one in client.get_inference_statistics().model_stats] == ["again", "colours"]
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("again", "1")
    assert not client.is_model_ready("again", "3.0.0")
    assert not client.is_model_ready("unicorn")


def test_a_request_without_a_name_is_for_the_default_model_and_contents_may_be_in_the_message(stub: Any) -> None:
    """UINT8 as numbers and BYTES as elements give the same as raw bytes."""
    raw = stub.ModelInfer(message(model_name=""))
    assert raw.model_name == "colours"
    request = message()
    request.inputs[0].contents.uint_contents.extend(range(72))
    del request.raw_input_contents[:]
    assert stub.ModelInfer(request).raw_output_contents == raw.raw_output_contents
    file = encode_image(np.arange(72, dtype=np.uint8).reshape(4, 6, 3))
    request = service_pb2.ModelInferRequest(model_name="colours")
    request.inputs.add(name="image", datatype="BYTES", shape=[1]).contents.bytes_contents.append(file)
    assert stub.ModelInfer(request).raw_output_contents == raw.raw_output_contents


# --- metadata ------------------------------------------------------------------------------------------------------------


def test_replies_carry_in_their_metadata_what_http_has_in_headers(stub: Any) -> None:
    """The request's id, the frame's id and stamp, the model and the stages; of refusals too."""
    sent = (("x-request-id", "mine-7"), ("x-frame-id", "cam0/17"), ("x-frame-stamp", "1700000000.25"))
    _, call = stub.ModelInfer.with_call(message(), metadata=sent)
    told = dict(call.trailing_metadata())
    assert {name: told[name] for name, _ in sent} == dict(sent)
    assert told["x-model"].startswith("colours@")
    assert "infer;dur=" in told["server-timing"]
    with pytest.raises(grpc.RpcError) as refused:
        stub.ModelInfer(message(model_name="unicorn"), metadata=sent)
    assert {name: status_of(refused.value)[name] for name, _ in sent} == dict(sent)


def test_calls_are_counted_as_grpc(both: Both, stub: Any) -> None:
    """By their route, with the status that HTTP would have."""
    series = 'fcn_requests_total{method="GRPC",route="/inference.GRPCInferenceService/ModelInfer",status="%d"}'
    before = [both.metric(series % status) for status in (200, 404)]
    stub.ModelInfer(message())
    with pytest.raises(grpc.RpcError):
        stub.ModelInfer(message(model_name="unicorn"))
    wait_until(lambda: [both.metric(series % status) for status in (200, 404)] == [one + 1 for one in before])


# --- refusals ------------------------------------------------------------------------------------------------------------


def double(request: Any) -> None:
    """Send the input twice."""
    request.inputs.add().CopyFrom(request.inputs[0])


def both_ways(request: Any) -> None:
    """Send raw bytes and numbers."""
    request.inputs[0].contents.uint_contents.append(1)


def large_numbers(request: Any) -> None:
    """Send numbers that are not bytes."""
    del request.raw_input_contents[:]
    request.inputs[0].contents.uint_contents.extend([256] * 72)


def ranking(request: Any) -> None:
    """Ask for a ranking."""
    request.outputs.add(name="labels").parameters["classification"].int64_param = 3


def sequence(request: Any) -> None:
    """Ask for a sequence."""
    request.parameters["sequence_id"].int64_param = 7


def long_wait(request: Any) -> None:
    """Ask for more time than any request may have."""
    request.parameters["timeout"].int64_param = 10**12


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda request: request.inputs.pop(), "one input"),
        (lambda request: (request.inputs.pop(), request.raw_input_contents.pop()), "no inputs"),
        (lambda request: request.raw_input_contents.append(b""), "one element of raw_input_contents"),
        (lambda request: request.outputs.add(name="dreams"), "no output 'dreams'"),
        (lambda request: request.inputs[0].shape.append(1), "4, 6, 3, 1"),
        (lambda request: setattr(request.inputs[0], "datatype", "FP32"), "not 'FP32'"),
        (double, "one input"),
        (both_ways, "then no contents"),
        (large_numbers, "whole numbers from 0 to 255"),
        (ranking, "nothing to rank"),
        (sequence, "every request stands for itself"),
        (long_wait, "timeout: at most"),
    ],
)
def test_requests_that_make_no_sense_are_refused_in_words(spoil: Any, sentence: str, stub: Any) -> None:
    """INVALID_ARGUMENT and what would be right; never an internal error."""
    request = message()
    spoil(request)
    with pytest.raises(grpc.RpcError, match=sentence) as refused:
        stub.ModelInfer(request)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert b"fcn-serve" in status_of(refused.value)[DETAILS]


@pytest.mark.parametrize("name", ["ModelInfer", "ModelReady", "RepositoryIndex", "ModelConfig"])
def test_bytes_of_a_broken_message_are_refused_in_words(name: str, both: Both) -> None:
    """A broken message is the caller's fault."""
    with grpc.insecure_channel(both.grpc) as channel:
        call = channel.unary_unary(f"/inference.GRPCInferenceService/{name}")
        with pytest.raises(grpc.RpcError, match="the message is not a ") as refused:
            call(b"\xff\xff\xff garbage")
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_a_call_without_a_message_is_refused(both: Both) -> None:
    """And one with two is answered for the first."""
    with grpc.insecure_channel(both.grpc) as channel:
        call = channel.stream_unary("/inference.GRPCInferenceService/ModelReady")
        with pytest.raises(grpc.RpcError, match="no message"):
            call(iter(()))
        assert call(iter((b"", b""))) == b"\x08\x01"


def test_a_message_too_large_is_refused_and_the_connection_goes_on(both: Both, stub: Any) -> None:
    """By its length, before it is in memory; other calls may not be as large as inferences."""
    with pytest.raises(grpc.RpcError) as refused:
        stub.ModelInfer(message(raw_input_contents=[bytes(MAX_BYTES + 100_000)]))
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(MAX_BYTES + 65536) in refused.value.details()
    with pytest.raises(grpc.RpcError, match="65536 are allowed") as refused:
        stub.ModelReady(service_pb2.ModelReadyRequest(name="x" * 70_000))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert stub.ModelInfer(message()).model_name == "colours"


def test_calls_that_are_not_offered_say_so(client: triton.InferenceServerClient) -> None:
    """With what to do instead."""
    for ask in (client.get_cuda_shared_memory_status, client.get_trace_settings, client.get_log_settings):
        with pytest.raises(InferenceServerException, match="not offered") as refused:
            ask()
        assert refused.value.status() == "StatusCode.UNIMPLEMENTED"


def test_garbage_on_the_port_ends_its_connection_alone(both: Both, stub: Any) -> None:
    """HTTP/1.1, TLS and noise are not answered, and other callers are not disturbed."""
    for garbage in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", bytes(range(256)) * 40):
        with socket.create_connection(("127.0.0.1", int(both.grpc.rpartition(":")[2])), timeout=60) as link, suppress(OSError):
            link.sendall(garbage)
            link.shutdown(socket.SHUT_WR)
            while link.recv(65536):
                pass
    assert stub.ModelInfer(message()).model_name == "colours"


def test_idle_connections_are_closed_and_let_others_in(models_dir: Path) -> None:
    """Those of clients that have begun well and make no call."""
    port = free_port()
    settings = Settings(models_dir=models_dir, grpc_port=port, max_connections=2, keep_alive_s=1.0)
    with live_server(settings), ExitStack() as opened:
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)) + bytes((0, 0, 0, 4, 1, 0, 0, 0, 0))
        links = [opened.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30)) for _ in range(2)]
        for link in links:
            link.sendall(preface)
        for link in links:
            with suppress(ConnectionResetError):
                while link.recv(65536):
                    pass
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            ask = service_pb2_grpc.GRPCInferenceServiceStub(channel).ServerLive
            assert ask(service_pb2.ServerLiveRequest(), timeout=60, wait_for_ready=True).live


def test_probes_read_no_message(both: Both) -> None:
    """They are answered before their caller has sent one; other calls wait for theirs."""
    end = threading.Event()

    def never() -> Iterator[bytes]:
        end.wait(60)
        yield from ()

    with grpc.insecure_channel(both.grpc) as channel:
        try:
            for name, live in (("ServerLive", b"\x08\x01"), ("ServerReady", b"\x08\x01")):
                call = channel.stream_unary(f"/inference.GRPCInferenceService/{name}")
                assert call(never(), timeout=30) == live
            waiting = channel.stream_unary("/inference.GRPCInferenceService/ModelReady").future(never())
            with pytest.raises(grpc.FutureTimeoutError):
                waiting.result(timeout=0.2)
            waiting.cancel()
        finally:
            end.set()


# --- keys ----------------------------------------------------------------------------------------------------------------


def test_keys_travel_in_the_metadata_and_probes_need_none(models_dir: Path) -> None:
    """As over REST: either header; loading and unloading want an administrator's."""
    port = free_port()
    api_keys, admin_keys = (SecretStr(KEY),), (SecretStr(ADMIN),)
    settings = Settings(
        models_dir=models_dir, default_model="colours", grpc_port=port, api_keys=api_keys, admin_keys=admin_keys
    )
    with (
        live_server(settings) as url,
        triton.InferenceServerClient(f"127.0.0.1:{port}") as client,
    ):
        assert client.is_server_live()
        assert client.is_server_ready()
        for headers in (None, {"x-api-key": "another"}, {"authorization": f"Basic {KEY}"}):
            with pytest.raises(InferenceServerException, match="wants a key") as refused:
                client.infer("colours", [pixels()], headers=headers)
            assert refused.value.status() == "StatusCode.UNAUTHENTICATED"
        for headers in ({"x-api-key": KEY}, {"authorization": f"Bearer {KEY}"}):
            assert client.infer("colours", [pixels()], headers=headers).as_numpy("labels").shape == (40, 60)
        failed: queue.Queue[Any] = queue.Queue()
        client.start_stream(lambda result, error: failed.put(error))
        assert "wants a key" in str(failed.get(timeout=60))
        client.stop_stream()
        refused_streams = (
            'fcn_requests_total{method="GRPC",route="/inference.GRPCInferenceService/ModelStreamInfer",status="401"}'
        )
        wait_until(lambda: Both(url, "").metric(refused_streams) == 1, "the refused stream to be counted")
        with pytest.raises(InferenceServerException, match="wants a key"):
            client.unload_model("again", headers={"x-api-key": KEY})
        client.unload_model("again", headers={"x-api-key": ADMIN})
        assert not client.is_model_ready("again", headers={"x-api-key": KEY})
        client.load_model("again", headers={"x-api-key": ADMIN})
        assert client.is_model_ready("again", headers={"x-api-key": KEY})
        with pytest.raises(InferenceServerException, match="not supported: there are none"):
            client.load_model("again", headers={"x-api-key": ADMIN}, config="{}")


def test_administration_is_off_without_keys(client: triton.InferenceServerClient) -> None:
    """PERMISSION_DENIED, with the setting that would allow it."""
    with pytest.raises(InferenceServerException, match="FCN_ADMIN_KEYS") as refused:
        client.unload_model("again")
    assert refused.value.status() == "StatusCode.PERMISSION_DENIED"


# --- time and queue ------------------------------------------------------------------------------------------------------


def test_deadlines_end_calls_wherever_they_are_named(both: Both, gate: threading.Event, stub: Any) -> None:
    """The call's own, the metadata's, the parameter's; the work is given up."""
    gate.clear()
    with pytest.raises(grpc.RpcError) as missed:
        stub.ModelInfer(message(), timeout=0.2)
    assert missed.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    request = message()
    request.parameters["timeout"].int64_param = 100_000
    for asked, metadata in ((request, ()), (message(), (("x-deadline-ms", "100"),))):
        with pytest.raises(grpc.RpcError, match="not finished within 100") as missed:
            stub.ModelInfer(asked, timeout=60, metadata=metadata)
        assert missed.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    with pytest.raises(grpc.RpcError, match="x-deadline-ms: 'soon'"):
        stub.ModelInfer(message(), metadata=(("x-deadline-ms", "soon"),))
    gate.set()
    wait_until(lambda: both.metric("fcn_queue_depth") == 0, "the queue to be empty")
    assert stub.ModelInfer(message(), timeout=60).model_name == "colours"


def test_cancelled_calls_give_up_their_place(both: Both, gate: threading.Event, stub: Any) -> None:
    """What waits leaves the queue at once; what a worker has begun, when the worker is done."""
    gate.clear()
    calls = [stub.ModelInfer.future(message()) for _ in range(6)]
    wait_until(lambda: both.metric("fcn_queue_depth") == 6, "all to be admitted")
    for call in calls:
        call.cancel()
    wait_until(lambda: both.metric("fcn_requests_in_flight") <= 1, "all calls to end")  # the reading of the metrics is one
    gate.set()
    wait_until(lambda: both.metric("fcn_queue_depth") == 0, "all places to be free")


def test_a_full_queue_says_when_to_come_again(models_dir: Path, gate: threading.Event) -> None:
    """RESOURCE_EXHAUSTED with retry info, before the message is decoded; the streams' bound likewise."""
    port = free_port()
    settings = Settings(models_dir=models_dir, grpc_port=port, queue_megapixels=0.01, max_streams=0)
    with live_server(settings) as url, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        gate.clear()
        first = stub.ModelInfer.future(message(model_name=""))
        wait_until(lambda: Both(url, "").metric("fcn_queue_depth") == 1, "the first to be admitted")
        with pytest.raises(grpc.RpcError, match="the queue is full; try again in") as refused:
            stub.ModelInfer(message(model_name=""))
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        told = status_of(refused.value)
        assert float(told["grpc-retry-pushback-ms"]) >= 100
        assert b"RetryInfo" in told[DETAILS]
        with pytest.raises(grpc.RpcError, match="FCN_MAX_STREAMS"):
            next(stub.ModelStreamInfer(iter((message(),))))
        gate.set()
        assert first.result(timeout=60).model_name


def test_calls_in_work_are_answered_when_the_service_ends(models_dir: Path, gate: threading.Event) -> None:
    """Both transports drain together."""
    port = free_port()
    with ExitStack() as held, ThreadPoolExecutor(1) as ender, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        url = held.enter_context(live_server(Settings(models_dir=models_dir, grpc_port=port)))
        gate.clear()
        call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer.future(message(model_name=""))
        wait_until(lambda: Both(url, "").metric("fcn_queue_depth") == 1, "the call to be admitted")
        ended = ender.submit(held.close)
        gate.set()
        assert call.result(timeout=60).raw_output_contents
        ended.result(timeout=60)


def test_a_draining_service_says_so_over_grpc_and_its_health_service(models_dir: Path, tmp_path: Path) -> None:
    """SIGTERM turns both red while a request over HTTP is finished; then the process ends with 0."""
    port = free_port()
    with live_process(tmp_path, {"models_dir": models_dir, "default_model": "colours", "grpc_port": port}) as server:
        with (
            grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
            socket.create_connection(("127.0.0.1", int(server.base_url.rpartition(":")[2])), timeout=60) as slow,
        ):
            stub, health = service_pb2_grpc.GRPCInferenceServiceStub(channel), health_pb2_grpc.HealthStub(channel)
            watched = health.Watch(health_pb2.HealthCheckRequest(service="inference.GRPCInferenceService"))
            assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
            assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
            with pytest.raises(grpc.RpcError) as unknown:
                health.Check(health_pb2.HealthCheckRequest(service="unicorn"))
            assert unknown.value.code() == grpc.StatusCode.NOT_FOUND
            image = encode_image(make_image())
            slow.sendall(b"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(image) + image[:50])
            wait_until(lambda: Both(server.base_url, "").metric("fcn_requests_in_flight") == 2, "the upload to begin")
            server.process.send_signal(signal.SIGTERM)
            assert next(watched).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert not stub.ServerReady(service_pb2.ServerReadyRequest()).ready
            with pytest.raises(grpc.RpcError, match="about to end") as refused:
                stub.ModelInfer(message())
            assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
            slow.sendall(image[50:])
            assert slow.recv(12) == b"HTTP/1.1 200"
        assert server.process.wait(60) == 0


# --- streams -------------------------------------------------------------------------------------------------------------


def test_a_stream_answers_in_order_and_goes_on_after_an_error(client: triton.InferenceServerClient, both: Both) -> None:
    """Each request has its own answer; those of a stream equal those of single calls."""
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    images = [make_image(20 + number, 30) for number in range(12)]
    for number, image in enumerate(images):
        model = "unicorn" if number == 5 else "colours"
        sent = tensor(triton, image, "UINT8")
        client.async_stream_infer(model, [sent], request_id=str(number), enable_empty_final_response=True)
    for number, image in enumerate(images):
        result, error = answers.get(timeout=60)
        if number == 5:
            assert "no model 'unicorn'" in str(error)
            continue
        reply = result.get_response()
        assert (reply.id, reply.parameters["triton_final_response"].bool_param) == (str(number), True)
        assert (result.as_numpy("labels") == client.infer("colours", [tensor(triton, image, "UINT8")]).as_numpy("labels")).all()
    client.stop_stream()
    wait_until(lambda: both.metric("fcn_streams") == 0, "the stream to end")


def test_a_failed_request_of_a_stream_names_its_id_and_code(stub: Any) -> None:
    """Programs find both in the answer that has the sentence."""
    (answer,) = stub.ModelStreamInfer(iter((message(model_name="unicorn", id="seven"),)))
    assert "no model" in answer.error_message
    assert answer.infer_response.id == "seven"
    assert answer.infer_response.parameters["code"].string_param == "unknown_model"


def test_a_stream_that_is_cancelled_leaves_nothing_behind(both: Both, gate: threading.Event, stub: Any) -> None:
    """Only a few requests of a stream are in work at once, and none after its end."""
    gate.clear()
    stream = stub.ModelStreamInfer(message() for _ in range(40))
    wait_until(lambda: both.metric("fcn_queue_depth") == 4, "the first requests to be admitted")
    stream.cancel()
    gate.set()
    wait_until(lambda: both.metric("fcn_streams") == both.metric("fcn_queue_depth") == 0, "the stream to end")


# --- starting ------------------------------------------------------------------------------------------------------------


def test_a_port_that_cannot_be_had_is_named(both: Both, models_dir: Path) -> None:
    """In one line, with exit code 2, before anything is served; also where the other service shares its port."""
    with pytest.raises(BadSetting, match="FCN_GRPC_PORT: 8000 is taken by HTTP"):
        Settings.load(port=8000, grpc_port=8000)
    taken = both.grpc.rpartition(":")[2]
    environment = {**os.environ, "FCN_GRPC_PORT": taken, "FCN_PORT": str(free_port()), "FCN_MODELS_DIR": str(models_dir)}
    command = [sys.executable, "-m", "service", "serve"]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 2
    assert f"FCN_GRPC_PORT: cannot listen on port {taken}" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_descriptors_are_counted_for_both_transports(models_dir: Path) -> None:
    """300 for 100 connections of each: a limit of 250 is named before anything is served."""
    limited = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (250, 250)); from service.cli import main; main()"
    environment = {
        **os.environ,
        "FCN_MODELS_DIR": str(models_dir),
        "FCN_PORT": str(free_port()),
        "FCN_GRPC_PORT": str(free_port()),
        "FCN_MAX_CONNECTIONS": "100",
    }
    command = [sys.executable, "-c", limited, "serve"]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 2
    assert "100 connections of HTTP and as many of gRPC need 300 file descriptors" in ended.stderr


def test_a_missing_extra_is_named_before_the_start() -> None:
    """With the command that installs it."""
    blocker = "import sys; sys.modules['grpc'] = None; from service.cli.serve import serve; serve(port=0)"
    environment = {**os.environ, "FCN_GRPC_PORT": str(free_port())}
    ended = subprocess.run(
        [sys.executable, "-c", blocker], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert "FCN_GRPC_PORT: calls over gRPC need the extra 'grpc': pip install" in ended.stderr


def test_the_default_model_answers_to_its_alias(models_dir: Path) -> None:
    """Over both transports, under the name that was asked; a model of that name goes before."""
    port = free_port()
    settings = Settings(models_dir=models_dir, default_model="colours", model_alias="street", grpc_port=port)
    with live_server(settings) as url, triton.InferenceServerClient(f"127.0.0.1:{port}") as over_grpc:
        with triton_http.InferenceServerClient(url.removeprefix("http://")) as over_rest:
            for kind, client in ((triton, over_grpc), (triton_http, over_rest)):
                assert client.is_model_ready("street")
                reply = client.infer("street", [tensor(kind, make_image(8, 9), "UINT8")]).get_response()
                assert (reply["model_name"] if isinstance(reply, dict) else reply.model_name) == "street"
            assert over_rest.get_model_metadata("street")["name"] == "street"
            assert over_grpc.get_model_config("street").config.name == "street"
        assert httpx.get(f"{url}/models/street").json()["name"] == "colours"
        body = {
            "model_name": "street",
            "inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 1, 3], "data": [1, 2, 3]}],
        }
        assert httpx.post(f"{url}/v2/models/street/infer", json=body).json()["model_name"] == "street"
    with live_server(Settings(models_dir=models_dir, default_model="colours", model_alias="again")) as url:
        assert httpx.get(f"{url}/models/again").json()["name"] == "again"
