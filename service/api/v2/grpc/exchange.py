"""One call, from its metadata to its reply: its record and its key, its message, its answer or its refusal.

Every call is served as a stream of bytes, which is the same on the wire. So the key, readiness and the queue are checked
before the message is read, and a message is read within a bound. gRPC keeps a reply that is not read, and its call among its
``FCN_MAX_CONNECTIONS``, until the connection ends, and has no way to cancel the call. So such a connection is ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from opentelemetry import propagate, trace

from service.api import schemas
from service.api.in_flight import InFlight
from service.api.keys import offered_key
from service.api.problems import CLIENT_GONE
from service.api.record import RequestRecord, join_trace, new_record
from service.api.services import Services
from service.api.stream import Streams
from service.api.telemetry import finish
from service.api.transport.bounds import Bounds
from service.api.v2.grpc import calls, messages, refusals, sockets
from service.api.v2.grpc.places import Places
from service.api.v2.grpc.refusals import Refusal, Refused
from service.api.v2.inference import limit_s as limit_s_of
from service.errors import BadParameter, BodyTooLarge, DeadlineExceeded, ServiceError
from service.serving.deadline import Deadline, within

METHOD = "GRPC"
"""The method of these calls in metrics and log lines."""
OK = 200
ARRIVING_AT_ONCE = 16
"""Messages of inferences that may come in at the same time."""
SMALL_AT_ONCE = 8
"""Messages of other calls that may come in at the same time: gRPC takes them as long as those of inferences."""
IN_WORK_A_STREAM = 4
"""Requests of one stream that may be in work or wait to be sent. Meanwhile no other one is read."""

Requests = AsyncIterator[bytes]
Context = Any
"""grpc.aio.ServicerContext."""

_tracer = trace.get_tracer("fcn-serve")

log = logging.getLogger("service.request")


@dataclass(frozen=True)
class Exchanges:
    """Serves calls with the services of the application.

    Takes:
        services: as of HTTP
        in_flight: has the calls that are being answered, of every transport
        streams: bounds the open streams, of every transport
        bounds: on the time that a message or its reply takes
        max_bytes: the limit on the message of an inference
        port: of gRPC
        arriving: places of the messages of inferences
        small_arriving: places of all other messages
    """

    services: Services
    in_flight: InFlight
    streams: Streams
    bounds: Bounds
    max_bytes: int
    port: int
    arriving: Places
    small_arriving: Places

    def handlers(self) -> dict[str, Any]:
        """Return the handler of every call, by its name."""
        served = {name: self._simple(name, call) for name, call in calls.CALLS.items()}
        served["ModelInfer"] = self._infer
        served["ModelStreamInfer"] = self._stream
        served |= {name: self._not_offered(name, reason) for name, reason in calls.NOT_OFFERED.items()}
        return {name: grpc.stream_stream_rpc_method_handler(handler) for name, handler in served.items()}

    # --- the calls ---------------------------------------------------------------------------------------------------

    def _simple(self, name: str, call: calls.Call) -> Callable[[Requests, Context], Awaitable[None]]:
        request_class = messages.message(f"inference.{call.request}")

        async def answer(caller: calls.Caller, requests: Requests) -> Any:
            if not request_class.DESCRIPTOR.fields:  # there is nothing to read: probes are answered whatever else comes in
                return await call.answer(caller, request_class())
            async with self.small_arriving.one(caller.peer, self.bounds.head_s):
                body = await message_of(requests, calls.MAX_SMALL_BYTES)
            try:
                request = request_class.FromString(body)
            except DecodeError as error:
                raise BadParameter(f"the message is not a {call.request}", parameter="message") from error
            return await call.answer(caller, request)

        async def serve(requests: Requests, context: Context) -> None:
            await self._serve(name, call.access, requests, context, answer)

        return serve

    def _not_offered(self, name: str, reason: str) -> Callable[[Requests, Context], Awaitable[None]]:
        async def answer(_caller: calls.Caller, _requests: Requests) -> Any:
            raise refusals.not_offered(reason)

        async def serve(requests: Requests, context: Context) -> None:
            await self._serve(name, calls.Access.CALLERS, requests, context, answer)

        return serve

    async def _infer(self, requests: Requests, context: Context) -> None:
        async def answer(caller: calls.Caller, requests: Requests) -> Any:
            self.services.readiness.check()
            self.services.plane.check_capacity(b"", caller.deadline)
            async with self.arriving.one(caller.peer, self.bounds.upload_s):
                body = await message_of(requests, self.max_bytes)
            return await calls.infer(caller, body)

        await self._serve("ModelInfer", calls.Access.CALLERS, requests, context, answer)

    async def _stream(self, requests: Requests, context: Context) -> None:
        """Answer the requests of a stream in their order. A request that fails is answered with its error; each is counted, and
        the stream itself where it is refused.
        """
        route, record = _route("ModelStreamInfer"), _record_of(context)
        try:
            with self._checked(record, context, calls.Access.CALLERS, route), self.streams.one_more():
                self.services.readiness.check()
                await self._run_stream(record, requests, context)
        except (ServiceError, Refused) as error:
            refusal = refusals.refusal_of(error)
            record.code = refusal.name
            finish(self.services.metrics, record, path=route, route=route, method=METHOD, status=refusal.http_status)
            await _refuse(context, record, refusal)

    async def _run_stream(self, record: RequestRecord, requests: Requests, context: Context) -> None:
        headers, answers = _headers_of(context), asyncio.Queue[asyncio.Task[bytes] | None]()
        room = asyncio.Semaphore(IN_WORK_A_STREAM)
        try:
            async with asyncio.TaskGroup() as tasks:

                async def read() -> None:
                    try:
                        number = 0
                        await room.acquire()
                        async for body in _until(self.streams.draining, requests, self.bounds.stream_idle_s):
                            one = self._streamed(RequestRecord(f"{record.request_id}/{number}"), headers, body, context.peer())
                            answers.put_nowait(tasks.create_task(one))
                            del body, one
                            number += 1
                            await room.acquire()
                    finally:
                        answers.put_nowait(None)

                tasks.create_task(read())
                while (answer := await answers.get()) is not None:
                    await self._send(context, await answer)
                    room.release()
        except* (ServiceError, Refused) as errors:
            raise errors.exceptions[0] from None
        self.services.readiness.check()  # a stream that ends because the service does says so

    async def _streamed(self, record: RequestRecord, headers: Mapping[str, str], body: bytes, peer: str) -> bytes:
        """Answer one request of a stream."""
        status = CLIENT_GONE
        self.in_flight.add(record)
        try:
            limits_ms = (_deadline_ms(headers),)
            limit_s = limit_s_of(self.services.deadline_s, *limits_ms)
            async with Deadline(limit_s, record.elapsed_s) as deadline:
                reply = await calls.infer(calls.Caller(self.services, record, deadline, limits_ms, peer), body)
            payload: bytes = messages.StreamResponse(infer_response=reply).SerializeToString()
            status = OK
        except (ServiceError, Refused) as error:
            refusal = refusals.refusal_of(error)
            status, record.code = refusal.http_status, refusal.name
            payload = _stream_error(_id_of(body), refusal)
        except Exception:
            log.exception("unhandled exception", extra={"fields": {"request_id": record.request_id}})
            status, record.code = refusals.INTERNAL.http_status, refusals.INTERNAL.name
            payload = _stream_error(_id_of(body), refusals.INTERNAL)
        finally:
            self.in_flight.discard(record)
            route = _route("ModelStreamInfer")
            finish(self.services.metrics, record, path=route, route=route, method=METHOD, status=status)
        record.bytes_out = len(payload)
        return payload

    # --- the parts of every call -------------------------------------------------------------------------------------

    async def _serve(
        self,
        name: str,
        access: calls.Access,
        requests: Requests,
        context: Context,
        answer: Callable[[calls.Caller, Requests], Awaitable[Any]],
    ) -> None:
        """Answer a call of one message with one message."""
        route, record = _route(name), _record_of(context)
        status, refusal = CLIENT_GONE, None
        self.in_flight.add(record)
        try:
            with self._checked(record, context, access, route):
                headers = _headers_of(context)
                limits_ms = (_granted_ms(context), _deadline_ms(headers))
                limit_s = limit_s_of(self.services.deadline_s, *limits_ms)
                async with Deadline(limit_s, record.elapsed_s) as deadline:
                    caller = calls.Caller(self.services, record, deadline, limits_ms, context.peer())
                    payload = (await answer(caller, requests)).SerializeToString()
                record.bytes_out = len(payload)
                context.set_trailing_metadata(_metadata_of(record))
                await self._send(context, payload)
                status = OK
        except asyncio.CancelledError:
            record.code = "client_gone"
            raise
        except (ServiceError, Refused) as error:
            refusal = refusals.refusal_of(error)
        except Exception:
            log.exception("unhandled exception", extra={"fields": {"request_id": record.request_id}})
            refusal = refusals.INTERNAL
        finally:
            if refusal is not None:
                status, record.code = refusal.http_status, refusal.name
            self.in_flight.discard(record)
            finish(self.services.metrics, record, path=route, route=route, method=METHOD, status=status)
        if refusal is not None:
            await _refuse(context, record, refusal)

    @contextlib.contextmanager
    def _checked(self, record: RequestRecord, context: Context, access: calls.Access, route: str) -> Iterator[None]:
        """Open the call's span, and check its key.

        Raises:
            Unauthorized: if it has none
            Refused: if no key opens the call
        """
        headers = _headers_of(context)
        with _tracer.start_as_current_span(route, propagate.extract(headers), trace.SpanKind.SERVER):
            join_trace(record)
            if access is calls.Access.ADMINISTRATORS:
                if self.services.admin_keys is None:
                    raise refusals.forbidden("administration is off: the service was started without FCN_ADMIN_KEYS")
                self.services.admin_keys.check(offered_key(headers))
            elif access is calls.Access.CALLERS:
                self.services.plane.keys.check(offered_key(headers))
            yield

    async def _send(self, context: Context, payload: bytes) -> None:
        """Send a message.

        Raises:
            DeadlineExceeded: if the caller does not read it in time; its connection is ended
        """
        await send(context, payload, self.bounds.reply_s, self.port)


async def send(context: Context, payload: Any, limit_s: float, port: int) -> None:
    """Send a message to a caller that reads it in time.

    Takes:
        limit_s: seconds that it may take
        port: of gRPC
    Raises:
        DeadlineExceeded: if it takes longer; then the connection is ended, with every other call on it
    """
    try:
        async with within(limit_s, "the reply was not read"):
            await context.write(payload)
    except DeadlineExceeded:
        peer = context.peer()
        if sockets.close(port, sockets.address_of(peer)):
            log.warning("gRPC: the connection of %s is ended: a reply was not read within %g s", peer, limit_s)
        raise


async def message_of(requests: Requests, max_bytes: int) -> bytes:
    """Read the one message of a call.

    Raises:
        BodyTooLarge: if it is too large
        BadParameter: if there is none
    """
    body = await anext(requests, None)
    if body is None:
        raise BadParameter("the call has no message", parameter="message")
    if len(body) > max_bytes:
        reason = f"the message has {len(body)} bytes, and {max_bytes} are allowed"
        raise BodyTooLarge(reason, limit=max_bytes, actual=len(body), unit="bytes")
    return body


async def _until(end: asyncio.Event, requests: Requests, idle_s: float) -> AsyncIterator[bytes]:
    """Yield the messages of a stream until its caller sends no more, or until an event is set.

    Raises:
        DeadlineExceeded: if no message comes for so long
    """
    ending = asyncio.ensure_future(end.wait())
    coming: asyncio.Future[bytes | None] | None = None
    try:
        while True:
            coming = asyncio.ensure_future(_next(requests))
            done, _ = await asyncio.wait((coming, ending), timeout=idle_s, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                raise DeadlineExceeded(f"no request for {idle_s:g} s", deadline_ms=1000 * idle_s)
            if coming not in done or (body := coming.result()) is None:
                return
            coming = None
            yield body
            del body
    finally:
        ending.cancel()
        if coming is not None:
            coming.cancel()


async def _next(requests: Requests) -> bytes | None:
    return await anext(requests, None)


async def _refuse(context: Context, record: RequestRecord, refusal: Refusal) -> None:
    await context.abort(refusal.code, refusal.detail, (*_metadata_of(record), *refusal.metadata()))


def _route(name: str) -> str:
    return f"/{messages.SERVICE}/{name}"


def _headers_of(context: Context) -> dict[str, str]:
    """Return the call's metadata, without binary ones."""
    return {name: value for name, value in context.invocation_metadata() or () if isinstance(value, str)}


def _record_of(context: Context) -> RequestRecord:
    return new_record((name.encode(), value.encode()) for name, value in _headers_of(context).items())


def _metadata_of(record: RequestRecord) -> list[tuple[str, str]]:
    """Return the trailing metadata: the headers that every reply of HTTP carries."""
    return [(name.decode(), value.decode("latin-1")) for name, value in record.headers()]


def _granted_ms(context: Context) -> float | None:
    """Return the milliseconds that the call's own deadline leaves; None if it has none."""
    left_s = context.time_remaining()
    return None if left_s is None else min(max(1000 * left_s, 0.001), schemas.MAX_DEADLINE_MS)


def _deadline_ms(headers: Mapping[str, str]) -> float | None:
    """Return the milliseconds of the metadata ``x-deadline-ms``; None without it.

    Raises:
        BadParameter: if it is not a number in the range that HTTP takes
    """
    text = headers.get("x-deadline-ms")
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= schemas.MAX_DEADLINE_MS:
        reason = f"more than 0 and at most {schemas.MAX_DEADLINE_MS:g} milliseconds"
        raise BadParameter(f"x-deadline-ms: {text[:64]!r} is not {reason}", parameter="x-deadline-ms")
    return value


def _id_of(body: bytes) -> str:
    """Return the id of a request; empty if it has none, or cannot be read."""
    try:
        return str(messages.InferRequest.FromString(body).id)
    except DecodeError:
        return ""


def _stream_error(request_id: str, refusal: Refusal) -> bytes:
    """Return the answer to a request of a stream that failed."""
    response = messages.StreamResponse(error_message=refusal.detail)
    response.infer_response.id = request_id
    response.infer_response.parameters["code"].string_param = refusal.name
    if refusal.retry_after_s is not None:
        response.infer_response.parameters["retry_after_s"].double_param = refusal.retry_after_s
    payload: bytes = response.SerializeToString()
    return payload
