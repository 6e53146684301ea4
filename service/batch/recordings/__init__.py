"""Recordings of topics, read message by message in the order of the file: MCAP, the databases of rosbag2, bags of ROS 1.

A reader gives every message that is whole, and passes over damaged parts where it can; then it raises.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from service.errors import UnsupportedImage

SUFFIXES = (".mcap", ".db3", ".bag")
COMPRESSED_SUFFIXES = (".zst", ".zstd")
MAGIC_ZSTD = b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True)
class Channel:
    """One topic of one file, and how its messages are written."""

    id: int
    """Within its file."""
    topic: str
    schema: str
    """The type's name, as ``sensor_msgs/msg/Image``; empty if the file does not say it."""
    message_encoding: str
    """``cdr``, ``ros1``, ``protobuf``, ``json`` or another one."""
    schema_encoding: str = ""
    """How the definition is written: ``ros2msg``, ``ros1msg``, ``protobuf``, ``jsonschema`` or another one."""
    definition: bytes = b""
    metadata: Mapping[str, str] = field(default_factory=dict, hash=False)
    """As MCAP has it, the offered quality of service among it."""


@dataclass(frozen=True, eq=False)
class Message:
    """One message, as it was recorded."""

    channel: Channel
    log_ns: int
    publish_ns: int
    data: bytes


@dataclass(frozen=True)
class Contents:
    """The channels of a file, and how many messages each has, where the file or a first reading tells it."""

    channels: tuple[Channel, ...]
    counts: Mapping[int, int]


class Recording(Protocol):
    """One file of a recording."""

    path: Path
    damage: list[str]
    """What was found damaged, or belongs to no channel; complete when all messages are read."""

    def contents(self) -> Contents:
        """Find the channels. Of a file without an index this reads all of it; what lies behind a damaged part is not found."""
        ...

    def messages(self) -> Generator[Message, None, None]:
        """Give every message that is whole, in the order of the file.

        Raises:
            CorruptImage, or any error of its library: where nothing behind a damaged part can be read
        """
        ...

    def close(self) -> None:
        """Close the file."""
        ...


def contents_of(messages: Iterable[Message]) -> Contents:
    """Find the channels of a file without an index, and count their messages, by reading all of them.

    Takes:
        messages: those of ``Recording.messages``; where they break off, what came before counts

    Raises:
        UnsupportedImage: not one message could be read
    """
    channels: dict[int, Channel] = {}
    counts: Counter[int] = Counter()
    try:
        for message in messages:
            channels[message.channel.id] = message.channel
            counts[message.channel.id] += 1
    except Exception as error:
        if not channels:
            if isinstance(error, UnsupportedImage):
                raise
            raise UnsupportedImage(f"not a bag that can be read: {error or type(error).__name__}") from error
    return Contents(tuple(channels.values()), dict(counts))


def is_recording(path: Path) -> bool:
    """Say whether a file is a recording, by its name: ``.mcap``, ``.db3`` or ``.bag``, perhaps with ``.zst`` or ``.zstd``."""
    return plain_name(path).lower().endswith(SUFFIXES)


def plain_name(path: Path) -> str:
    """Return the name of a file without the suffix of its compression."""
    return path.stem if path.suffix.lower() in COMPRESSED_SUFFIXES else path.name
