"""Callers of gRPC who send nothing, or read nothing, by hand on real sockets: what they hold, and for how long."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from service.api.transport.bounds import Bounds
from service.api.v2.grpc import sockets
from service.api.v2.grpc.exchange import ARRIVING_AT_ONCE
from service.api.v2.grpc.health import MAX_BYTES, READING_AT_ONCE
from service.settings import Settings
from tests.conftest import write_artifact
from tests.http2 import DATA, END_STREAM, HEADERS, Caller
from tests.live import free_port, live_server, metric
from tests.waiting import wait_until

INFER = "/inference.GRPCInferenceService/ModelInfer"
LONG = 600.0
"""Seconds that no test waits: what would take so long is a failure."""
WAIT = 60
"""Seconds that a call may take."""


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model."""
    folder = tmp_path_factory.mktemp("models")
    write_artifact(folder / "colours.onnx")
    return folder


@contextmanager
def served(models_dir: Path, bounds: Bounds, **settings: Any) -> Iterator[tuple[str, int, grpc.Channel]]:
    """A server with bounds, its URL, its port of gRPC, and a channel of a caller who behaves."""
    port = free_port()
    with (
        live_server(Settings(models_dir=models_dir, grpc_port=port, **settings), bounds) as url,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield url, port, channel


def message() -> Any:
    """A request of 4 x 6 pixels."""
    request = service_pb2.ModelInferRequest(raw_input_contents=[bytes(range(72))])
    request.inputs.add(name="image", datatype="UINT8", shape=[4, 6, 3])
    return request


def infer(channel: grpc.Channel) -> Any:
    """Make an inference."""
    return service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(message(), timeout=WAIT, wait_for_ready=True)


def in_flight(url: str, number: int) -> None:
    """Wait for calls to be with their handlers; the reading of the metrics is one more."""
    wait_until(lambda: metric(url, "fcn_requests_in_flight") == number + 1, f"{number} calls to begin")


def trailers(caller: Caller, number: int) -> list[bytes]:
    """Those of the calls that end first."""
    ended = (frame.payload for frame in caller.frames() if frame.kind == HEADERS and frame.flags & END_STREAM)
    return [*islice(ended, number)]


@pytest.mark.parametrize("times", [1, 3])
def test_an_unread_reply_ends_its_connection_and_frees_its_place(models_dir: Path, times: int) -> None:
    """Of a caller who grants no window; every call of the service may be one of those."""
    with served(models_dir, Bounds(reply_s=0.5), max_connections=times) as (url, port, _):
        with Caller(port, window=0) as caller:
            for _ in range(times):
                caller.message(caller.call(INFER), message().SerializeToString())
            replies = [frame for frame in caller.frames() if frame.kind == DATA]
            assert replies == []
        with grpc.insecure_channel(f"127.0.0.1:{port}") as another:
            wait_until(lambda: is_free(another), "the places to be free")
            assert infer(another).model_name == "colours"
        route = f'fcn_requests_total{{method="GRPC",route="{INFER}",status="504"}}'
        assert metric(url, route) >= 1


def is_free(channel: grpc.Channel) -> bool:
    """Whether one more call is taken."""
    try:
        infer(channel)
    except grpc.RpcError as refused:
        assert refused.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)  # noqa: PT017 - it may be taken
        return False
    return True


def test_a_caller_who_reads_nothing_at_all_is_disconnected(models_dir: Path) -> None:
    """One who does not even answer a ping: its calls end, and their places are free."""
    bounds = Bounds(upload_s=LONG, reply_s=1.0)
    with served(models_dir, bounds, deadline_ms=100_000) as (url, port, _), Caller(port) as caller:
        for _ in range(3):
            caller.call(INFER)
        in_flight(url, 3)
        in_flight(url, 0)


def test_one_connection_holds_half_of_the_places(models_dir: Path) -> None:
    """Calls that send nothing, more than there are places, on one connection: others are served at once."""
    bounds = Bounds(upload_s=LONG, silent_s=LONG)
    with served(models_dir, bounds, deadline_ms=100_000) as (url, port, channel), Caller(port) as caller:
        for _ in range(2 * ARRIVING_AT_ONCE):
            caller.call(INFER)
        in_flight(url, 2 * ARRIVING_AT_ONCE)
        assert infer(channel).model_name == "colours"


def test_calls_that_send_nothing_lose_their_places_to_those_that_wait(models_dir: Path) -> None:
    """Two connections hold all places. One sends byte after byte, and keeps them: it is answered at the end."""
    bounds = Bounds(upload_s=LONG, silent_s=1.0)
    with served(models_dir, bounds, deadline_ms=100_000) as (url, port, channel), Caller(port) as silent, Caller(port) as slow:
        for caller in (silent, slow):
            streams = [caller.call(INFER) for _ in range(ARRIVING_AT_ONCE // 2)]
        in_flight(url, ARRIVING_AT_ONCE)
        body = message().SerializeToString()
        framed = b"\0" + len(body).to_bytes(4, "big") + body
        enough = threading.Event()

        def trickle() -> int:
            """Send all but the last byte, in at least two steps; return how many."""
            for at in range(len(framed) - 1):
                slow.send(DATA, 0, streams[0], framed[at : at + 1])
                enough.wait(0.1)
            return len(framed) - 1

        sending = threading.Thread(target=trickle)
        sending.start()
        try:
            assert infer(channel).model_name == "colours"
        finally:
            enough.set()
            sending.join()
        slow.send(DATA, END_STREAM, streams[0], framed[-1:])
        reply = next(frame for frame in slow.frames() if frame.kind in (DATA, HEADERS) and frame.stream == streams[0])
        assert not reply.flags & END_STREAM  # it has an answer
        for told in trailers(silent, ARRIVING_AT_ONCE // 2):
            assert b"nothing of the message came for 1000 ms" in told


# --- health ----------------------------------------------------------------------------------------------------------------


def test_health_is_told_while_others_send_nothing(models_dir: Path) -> None:
    """Messages that do not come are waited for a second, and a few at a time; probes are answered meanwhile."""
    with served(models_dir, Bounds()) as (_, port, channel), Caller(port) as caller:
        probe = health_pb2_grpc.HealthStub(channel)
        for _ in range(2 * READING_AT_ONCE):
            caller.call("/grpc.health.v1.Health/Check")
        for _ in range(5):
            assert probe.Check(health_pb2.HealthCheckRequest(), timeout=WAIT).status == health_pb2.HealthCheckResponse.SERVING
        told = trailers(caller, 2 * READING_AT_ONCE)
        assert sum(b"the message did not arrive within 1000 ms" in one for one in told) == READING_AT_ONCE


def test_health_has_a_small_bound_of_its_own(models_dir: Path) -> None:
    """On messages, and on what may be said in them."""
    with served(models_dir, Bounds()) as (_, _, channel):
        probe = health_pb2_grpc.HealthStub(channel)
        for call in (probe.Check, lambda request: next(probe.Watch(request))):
            with pytest.raises(grpc.RpcError, match=f"{MAX_BYTES} are allowed") as refused:
                call(health_pb2.HealthCheckRequest(service="x" * MAX_BYTES))
            assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.RpcError, match="no such service: ask for") as refused:
            probe.Check(health_pb2.HealthCheckRequest(service="unicorn"))
        assert refused.value.code() == grpc.StatusCode.NOT_FOUND
        watched = probe.Watch(health_pb2.HealthCheckRequest(service="unicorn"))
        assert next(watched).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        watched.cancel()
        with pytest.raises(grpc.RpcError, match="not a HealthCheckRequest"):
            channel.unary_unary("/grpc.health.v1.Health/Check")(b"\xff\xff\xff")


def test_watchers_hold_half_of_the_calls_and_one_who_reads_nothing_stops_no_other(models_dir: Path) -> None:
    """The next one is told to ask Check; the one who reads nothing is disconnected."""
    with served(models_dir, Bounds(reply_s=0.5), max_connections=6) as (_, port, channel), ExitStack() as held:
        probe = health_pb2_grpc.HealthStub(channel)
        with Caller(port, window=0) as caller:
            caller.message(caller.call("/grpc.health.v1.Health/Watch"), b"")
            assert probe.Check(health_pb2.HealthCheckRequest(), timeout=WAIT).status == health_pb2.HealthCheckResponse.SERVING
            assert [frame for frame in caller.frames() if frame.kind == DATA] == []
        for _ in range(3):
            watched = probe.Watch(health_pb2.HealthCheckRequest())
            held.callback(watched.cancel)
            assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError, match="3 callers watch, and no more may") as refused:
            next(probe.Watch(health_pb2.HealthCheckRequest()))
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert probe.Check(health_pb2.HealthCheckRequest(), timeout=WAIT).status == health_pb2.HealthCheckResponse.SERVING


# --- sockets ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:10.0.0.1:4711", ("10.0.0.1", 4711)),
        ("ipv6:%5B::1%5D:4711", ("::1", 4711)),
        ("ipv6:[::ffff:10.0.0.1]:4711", ("10.0.0.1", 4711)),
        ("unix:/run/fcn", None),
        ("ipv4:nonsense", None),
        ("", None),
    ],
)
def test_a_peer_is_found_by_the_name_that_grpc_gives_it(peer: str, address: sockets.Address | None) -> None:
    """IPv4 within IPv6 is IPv4."""
    assert sockets.address_of(peer) == address


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_bytes_are_counted_and_one_connection_is_ended_alone(family: socket.AddressFamily) -> None:
    """Of two connections to one port."""
    with socket.socket(family) as listener, ExitStack() as opened:
        listener.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        callers, served = [], []
        for _ in range(2):
            callers.append(opened.enter_context(socket.create_connection(listener.getsockname()[:2], timeout=WAIT)))
            served.append(opened.enter_context(listener.accept()[0]))
        peers = [caller.getsockname()[:2] for caller in callers]
        callers[0].sendall(bytes(1000))
        wait_until(lambda: sockets.received(port) == {peers[0]: 1000, peers[1]: 0}, "the bytes to be counted")
        assert not sockets.close(port, ("127.0.0.1", 1))
        assert sockets.close(port, peers[1])
        assert callers[1].recv(1) == b""
        served[0].sendall(b"x")
        assert callers[0].recv(1) == b"x"
