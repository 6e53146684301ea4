"""MCAP files, of any profile and with messages of any encoding, whole or cut off.

Read record by record from the beginning: nothing depends on the index at the end. Where it is there, it tells which channels to
expect. Format: https://mcap.dev/spec
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from service.batch.recordings import Channel, Contents, Message, contents_of
from service.batch.recordings.streams import ByteStream, CutOff
from service.errors import CorruptImage, UnsupportedImage
from service.optional import load

MAGIC = b"\x89MCAP0\r\n"
_FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK = 0x02, 0x03, 0x04, 0x05, 0x06


class McapRecording:
    """One MCAP file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damage: list[str] = []
        self._records_of = load("mcap.records")
        self._data_stream = load("mcap.data_stream").ReadDataStream
        with path.open("rb"):  # a file that cannot be read is told before anything is written
            pass

    def contents(self) -> Contents:
        """Find the channels in the index, or in the whole file where it has none."""
        return self._indexed() or contents_of(self.messages())

    def messages(self) -> Generator[Message, None, None]:
        """Give every message that is whole, in the order of the file; messages of channels without a record are left out."""
        schemas: dict[int, Any] = {}
        channels: dict[int, Channel] = {}
        self.damage, strays = [], 0
        for opcode, payload in self._records():
            if opcode == _SCHEMA:
                schema = self._parsed("Schema", payload)
                schemas[schema.id] = schema
            elif opcode == _CHANNEL:
                record = self._parsed("Channel", payload)
                channels[record.id] = _channel(record, schemas.get(record.schema_id))
            elif opcode == _MESSAGE and len(payload) >= 22:
                number, _, log_ns, publish_ns = struct.unpack_from("<HIQQ", payload)
                if number in channels:
                    yield Message(channels[number], log_ns, publish_ns, payload[22:])
                else:
                    strays += 1
        if strays:
            self.damage.append(f"{strays} messages belong to a channel that the file does not describe")

    def close(self) -> None:
        """Nothing stays open between two readings."""

    def _indexed(self) -> Contents | None:
        """Return what the summary at the end says, or None."""
        try:
            with self.path.open("rb") as file:
                summary = load("mcap.reader").SeekingReader(file).get_summary()
            if summary is None or summary.statistics is None or not summary.channels:
                return None
            channels = tuple(_channel(record, summary.schemas.get(record.schema_id)) for record in summary.channels.values())
            return Contents(channels, dict(summary.statistics.channel_message_counts))
        except (OSError, MemoryError):
            raise
        except Exception:  # noqa: BLE001 - a summary that cannot be read, in whatever way, is none
            return None

    def _parsed(self, kind: str, payload: bytes) -> Any:
        return getattr(self._records_of, kind).read(self._data_stream(io.BytesIO(payload)))

    def _records(self) -> Iterator[tuple[int, bytes]]:
        """Give opcode and payload of each schema, channel and message; those of a chunk in its place."""
        stream = ByteStream(self.path)
        try:
            try:
                magic = stream.read(len(MAGIC))
            except EOFError:
                magic = b""
            if magic != MAGIC:
                raise UnsupportedImage("not a bag that can be read: it does not begin as an MCAP file does")
            while True:
                try:
                    opcode, length = struct.unpack("<BQ", stream.read(9))
                except EOFError as error:  # without the records that every end has
                    raise CutOff from error
                try:
                    payload = stream.read(length) if length else b""
                except EOFError as error:
                    raise CutOff from error
                except CutOff as cut:
                    if opcode == _CHUNK:
                        yield from self._chunk(cut.rest)
                    raise
                if opcode == _FOOTER:
                    self._expect_magic(stream)
                    return
                if opcode == _CHUNK:
                    try:
                        yield from self._chunk(payload)
                    except (CorruptImage, struct.error) as error:
                        self.damage.append(str(error))
                elif opcode in (_SCHEMA, _CHANNEL, _MESSAGE):
                    yield opcode, payload
        finally:
            stream.close()

    @staticmethod
    def _expect_magic(stream: ByteStream) -> None:
        """Read the bytes that every whole file ends with."""
        try:
            if stream.read(len(MAGIC)) == MAGIC:
                return
        except EOFError:
            pass
        raise CutOff

    def _chunk(self, payload: bytes) -> Iterator[tuple[int, bytes]]:
        """Give the whole records of a chunk, which may itself be cut off."""
        _, _, size, checksum, name_length = struct.unpack_from("<QQQII", payload)
        at = 32 + name_length
        compression = payload[32:at].decode()
        (stored,) = struct.unpack_from("<Q", payload, at)
        data = payload[at + 8 : at + 8 + stored]
        try:
            records = _decompressed(compression, data)
        except Exception as error:
            raise CorruptImage(f"a part of the file cannot be decompressed: {error}") from error
        if len(data) == stored and checksum and zlib.crc32(records) != checksum:
            self.damage.append("a checksum is not that of its data")
        at = 0
        while at + 9 <= len(records):
            opcode, length = struct.unpack_from("<BQ", records, at)
            if at + 9 + length > len(records):
                break
            if opcode in (_SCHEMA, _CHANNEL, _MESSAGE):
                yield opcode, records[at + 9 : at + 9 + length]
            at += 9 + length
        if len(data) == stored and (at != len(records) or len(records) != size):
            raise CorruptImage("a part of the file is damaged")


def _decompressed(compression: str, data: bytes) -> bytes:
    """Decompress as much as there is."""
    if compression == "zstd":
        return bytes(load("zstandard").ZstdDecompressor().decompressobj().decompress(data))
    if compression == "lz4":
        return bytes(load("lz4.frame").LZ4FrameDecompressor().decompress(data))
    if compression:
        raise UnsupportedImage(f"compression {compression!r} is not known")
    return data


def _channel(record: Any, schema: Any) -> Channel:
    named = schema is not None
    return Channel(
        record.id,
        record.topic,
        schema.name if named else "",
        record.message_encoding,
        schema.encoding if named else "",
        bytes(schema.data) if named else b"",
        dict(record.metadata),
    )
