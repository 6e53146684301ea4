"""A window of Foxglove: a client of its WebSocket protocol ``foxglove.sdk.v1``, written from its specification.

Text messages are JSON: ``serverInfo``, ``advertise``, ``subscribe``. Binary message data is 1, a subscription's id (uint32),
the log time in nanoseconds (uint64), both little-endian, and the message, whose schema the advertisement has.
"""

from __future__ import annotations

import base64
import contextlib
import json
import struct
from dataclasses import dataclass
from typing import Any, Self

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from tests.waiting import DEADLINE_S

PROTOCOL = Subprotocol("foxglove.sdk.v1")


@dataclass(frozen=True)
class Received:
    """One message."""

    topic: str
    log_ns: int
    content: Any
    """A message of protobuf, or what JSON says."""


def decoder_of(encoding: str, schema_name: str, schema: bytes) -> Any:
    """A function from a channel's bytes to its messages."""
    if encoding == "json":
        return json.loads
    files = descriptor_pb2.FileDescriptorSet.FromString(schema)
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(schema_name)).FromString


class FoxgloveWindow:
    """One connected window.

    Takes:
        port: of the server
    """

    def __init__(self, port: int) -> None:
        self._port, self._until = port, contextlib.ExitStack()
        self.server: dict[str, Any] = {}
        self.channels: dict[str, dict[str, Any]] = {}
        self._decoders: dict[int, tuple[str, Any]] = {}

    def __enter__(self) -> Self:
        address = f"ws://127.0.0.1:{self._port}"
        opening = connect(address, subprotocols=[PROTOCOL], max_size=None, max_queue=1, open_timeout=DEADLINE_S)
        self._connection = self._until.enter_context(opening)
        assert self._connection.subprotocol == PROTOCOL
        return self

    def __exit__(self, *_: object) -> None:
        self._until.close()

    def await_channels(self, count: int) -> None:
        """Read until so many channels are advertised."""
        while len(self.channels) < count:
            self._read()

    def subscribe(self, *topics: str) -> None:
        """Subscribe to topics, or to all of them."""
        asked = []
        for topic in topics or sorted(self.channels):
            channel = self.channels[topic]
            asked.append({"id": channel["id"] + 100, "channelId": channel["id"]})
            schema = base64.b64decode(channel["schema"]) if channel["encoding"] == "protobuf" else b""
            self._decoders[channel["id"] + 100] = topic, decoder_of(channel["encoding"], channel["schemaName"], schema)
        self._connection.send(json.dumps({"op": "subscribe", "subscriptions": asked}))

    def next(self) -> Received:
        """Wait for the next message of a subscription."""
        while (received := self._read()) is None:
            pass
        return received

    def _read(self) -> Received | None:
        message = self._connection.recv(timeout=DEADLINE_S)
        if isinstance(message, str):
            document = json.loads(message)
            if document["op"] == "serverInfo":
                self.server = document
            elif document["op"] == "advertise":
                self.channels |= {channel["topic"]: channel for channel in document["channels"]}
            return None
        opcode, subscription, log_ns = struct.unpack_from("<BIQ", message)
        if opcode != 1:
            return None
        topic, decode = self._decoders[subscription]
        return Received(topic, log_ns, decode(message[13:]))
