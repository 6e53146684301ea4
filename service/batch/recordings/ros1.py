"""Bags of ROS 1 (``.bag``, version 2.0), read record by record: an index that was never written is not needed.

Format: http://wiki.ros.org/Bags/Format/2.0
"""

from __future__ import annotations

import bz2
import struct
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from service.batch.recordings import Channel, Contents, Message, contents_of
from service.batch.recordings.streams import ByteStream, CutOff
from service.errors import CorruptImage, UnsupportedImage
from service.optional import load

MAGIC = b"#ROSBAG V2.0\n"
_MESSAGE, _CHUNK, _CONNECTION = 2, 5, 7


@dataclass(frozen=True)
class _Record:
    header: dict[str, bytes]
    data: bytes

    @property
    def kind(self) -> int:
        """The record's op code."""
        return self.header.get("op", b"\0")[0]


class Ros1Recording:
    """One bag of ROS 1."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damage: list[str] = []
        with path.open("rb"):
            pass

    def contents(self) -> Contents:
        """Find the connections and count their messages, by reading all of the file."""
        return contents_of(self.messages())

    def messages(self) -> Generator[Message, None, None]:
        """Give every message that is whole, in the order of the file."""
        channels: dict[int, Channel] = {}
        self.damage, strays = [], 0
        for record in self._records():
            if record.kind == _CONNECTION:
                channel = _channel(record)
                channels[channel.id] = channel
            elif record.kind == _MESSAGE:
                (number,) = struct.unpack("<I", record.header["conn"])
                seconds, nanoseconds = struct.unpack("<II", record.header["time"])
                time_ns = seconds * 10**9 + nanoseconds
                if number in channels:
                    yield Message(channels[number], time_ns, time_ns, record.data)
                else:
                    strays += 1
        if strays:
            self.damage.append(f"{strays} messages belong to a connection that the file does not describe")

    def close(self) -> None:
        """Nothing stays open between two readings."""

    def _records(self) -> Iterator[_Record]:
        stream = ByteStream(self.path)
        try:
            try:
                magic = stream.read(len(MAGIC))
            except (EOFError, CutOff):
                magic = b""
            if magic != MAGIC:
                raise UnsupportedImage("not a bag that can be read: it does not begin as a bag of ROS 1 does")
            indexed, record = False, _Record({}, b"")
            while True:
                try:
                    head = stream.read(4)
                except EOFError as error:
                    if indexed:
                        return
                    raise CutOff from error
                try:
                    header = _fields(_sized(stream, head))
                    record = _Record(header, b"")
                    record = _Record(header, _sized(stream, stream.read(4)))
                except EOFError as error:
                    raise CutOff from error
                except CutOff as cut:
                    if record.kind == _CHUNK:
                        yield from _chunk(_Record(record.header, cut.rest), whole=False)
                    raise
                if record.kind == _CHUNK:
                    try:
                        yield from _chunk(record)
                    except (CorruptImage, UnsupportedImage) as error:
                        self.damage.append(error.message)
                else:
                    indexed = indexed or record.kind == _CONNECTION  # outside of chunks they stand in the index alone
                    yield record
        finally:
            stream.close()


def _sized(stream: ByteStream, length: bytes) -> bytes:
    (count,) = struct.unpack("<I", length)
    return stream.read(count) if count else b""


def _fields(data: bytes) -> dict[str, bytes]:
    found, at = {}, 0
    while at + 4 <= len(data):
        (length,) = struct.unpack_from("<I", data, at)
        name, equals, value = data[at + 4 : at + 4 + length].partition(b"=")
        if not equals or at + 4 + length > len(data):
            raise CorruptImage("a part of the file is damaged")
        found[name.decode("utf-8", "replace")] = value
        at += 4 + length
    return found


def _chunk(record: _Record, *, whole: bool = True) -> Iterator[_Record]:
    """Give the records of a chunk; of one that is cut off those that are whole."""
    compression = record.header.get("compression", b"none").decode("utf-8", "replace")
    try:
        data = _decompressed(compression, record.data)
    except Exception as error:
        raise CorruptImage(f"a part of the file cannot be decompressed: {error}") from error
    at = 0
    while at < len(data):
        parts = []
        for _ in range(2):  # header and data
            if at + 4 > len(data):
                break
            (length,) = struct.unpack_from("<I", data, at)
            if at + 4 + length > len(data):
                break
            parts.append(data[at + 4 : at + 4 + length])
            at += 4 + length
        if len(parts) < 2:
            if whole:
                raise CorruptImage("a part of the file is damaged")
            return
        yield _Record(_fields(parts[0]), parts[1])


def _decompressed(compression: str, data: bytes) -> bytes:
    """Decompress as much as there is."""
    if compression == "bz2":
        return bz2.BZ2Decompressor().decompress(data)
    if compression == "lz4":
        return bytes(load("lz4.frame").LZ4FrameDecompressor().decompress(data))
    if compression == "none":
        return data
    raise UnsupportedImage(f"compression {compression!r} is not known")


def _channel(record: _Record) -> Channel:
    (number,) = struct.unpack("<I", record.header["conn"])
    told = _fields(record.data)
    text = {name: value.decode("utf-8", "replace") for name, value in told.items()}
    topic = record.header["topic"].decode("utf-8", "replace")
    kept: tuple[str, ...] = ("callerid", "latching", "md5sum")
    metadata = {name: text[name] for name in kept if name in text}
    definition = told.get("message_definition", b"")
    return Channel(number, topic, text.get("type", ""), "ros1", "ros1msg", definition, metadata)
