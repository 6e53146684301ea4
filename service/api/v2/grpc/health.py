"""gRPC's own health service, which tells readiness: ``grpc.health.v1``. It wants no key, so it holds little.

The library's servicer is not used: it reads messages as long as an image, and one watcher who reads nothing stops the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from service.api.readiness import Readiness
from service.api.transport.bounds import Bounds
from service.api.v2.grpc import refusals
from service.api.v2.grpc.exchange import message_of, send
from service.api.v2.grpc.messages import SERVICE
from service.errors import BadParameter, Overloaded, ServiceError
from service.serving.deadline import within

NAME = "grpc.health.v1.Health"
KNOWN = ("", SERVICE)
"""The names that may be asked. The answer is the same for each."""
CHECK_S = 0.5
"""Seconds between two checks of readiness for watchers. A call of Check always reads it."""
READING_AT_ONCE = 4
"""Messages that may come in at the same time: gRPC takes them as long as those of inferences."""
READ_S = 1.0
"""Seconds for a message to come."""
MAX_BYTES = 4096

Status = health_pb2.HealthCheckResponse


@dataclass
class Health:
    """Answers probes. On one event loop only.

    Takes:
        readiness: whether new requests are accepted
        bounds: on the time that a reply takes
        port: of gRPC
        max_watchers: how many may watch at the same time: each is one of the calls that may be open
    """

    readiness: Readiness
    bounds: Bounds
    port: int
    max_watchers: int
    _reading: int = 0
    _watchers: int = 0

    def handlers(self) -> dict[str, Any]:
        """Return the handler of every call, by its name."""
        served = {"Check": self._check, "Watch": self._watch}
        return {name: grpc.stream_stream_rpc_method_handler(handler) for name, handler in served.items()}

    async def _check(self, requests: AsyncIterator[bytes], context: Any) -> None:
        try:
            known = await self._is_known(requests)
            if known:
                await self._send(context, self._status())
                return
            refusal = refusals.not_served(f"no such service: ask for {SERVICE!r}, or leave the name empty").refusal
        except ServiceError as error:
            refusal = refusals.refusal_of(error)
        await context.abort(refusal.code, refusal.detail, tuple(refusal.metadata()))

    async def _watch(self, requests: AsyncIterator[bytes], context: Any) -> None:
        self._watchers += 1
        try:
            if self._watchers > self.max_watchers:
                raise Overloaded(f"{self.max_watchers} callers watch, and no more may: ask Check", retry_after_s=1.0)
            known, told = await self._is_known(requests), None
            while True:
                status = self._status() if known else Status.SERVICE_UNKNOWN
                if status != told:
                    await self._send(context, status)
                    told = status
                await asyncio.sleep(CHECK_S)
        except ServiceError as error:
            refusal = refusals.refusal_of(error)
        finally:
            self._watchers -= 1
        await context.abort(refusal.code, refusal.detail, tuple(refusal.metadata()))

    def _status(self) -> Any:
        return Status.SERVING if self.readiness.is_green() else Status.NOT_SERVING

    async def _send(self, context: Any, status: Any) -> None:
        await send(context, Status(status=status).SerializeToString(), self.bounds.reply_s, self.port)

    async def _is_known(self, requests: AsyncIterator[bytes]) -> bool:
        """Return whether the service is one of ours. While too many messages come in, no name is read: probes must be answered.

        Raises:
            DeadlineExceeded: if the message does not come
            BodyTooLarge, BadParameter: if it is not one of these
        """
        if self._reading >= READING_AT_ONCE:
            return True
        self._reading += 1
        try:
            async with within(READ_S, "the message did not arrive"):
                body = await message_of(requests, MAX_BYTES)
            return health_pb2.HealthCheckRequest.FromString(body).service in KNOWN
        except DecodeError as error:
            raise BadParameter("the message is not a HealthCheckRequest", parameter="message") from error
        finally:
            self._reading -= 1
