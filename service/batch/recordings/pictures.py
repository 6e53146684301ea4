"""Messages that hold pictures: ROS 2, ROS 1, Foxglove; as CDR, ROS 1's serialisation, protobuf or JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from service.batch.recordings import Channel, Message
from service.errors import BadSetting, CorruptImage, ServiceError, UnsupportedImage
from service.optional import load
from service.pipeline.codecs.messages import MessageDecoder, Picture, base_name, kind_of

IMAGE, COMPRESSED, LABEL_INFO = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage", "vision_msgs/msg/LabelInfo"

_LABEL_INFO_DEFINITION = """\
std_msgs/Header header
vision_msgs/VisionClass[] class_map
float32 threshold
"""
_VISION_CLASS_DEFINITION = """\
uint16 class_id
string class_name
"""


@lru_cache(maxsize=1)
def types() -> Any:
    """Return rosbags' store of the messages of ROS 2 Humble, and of the two of vision_msgs that are not among them."""
    typesys = load("rosbags.typesys")
    store = typesys.get_typestore(typesys.Stores.ROS2_HUMBLE)
    found = typesys.get_types_from_msg(_VISION_CLASS_DEFINITION, "vision_msgs/msg/VisionClass")
    store.register(found | typesys.get_types_from_msg(_LABEL_INFO_DEFINITION, LABEL_INFO))
    return store


def holds_pictures(channel: Channel) -> bool:
    """Say whether the messages of a channel are pictures, by the name of their type."""
    return kind_of(channel.schema) is not None


def reader_of(channel: Channel) -> PictureReader:
    """Return what reads the pictures of one channel, message after message.

    Raises:
        UnsupportedImage: if its messages are written in a way that is not read, or their definition is damaged
        BadSetting: if a package is missing
    """
    try:
        parse = _PARSERS[channel.message_encoding](channel)
    except KeyError:
        how = channel.message_encoding or "no encoding"
        raise UnsupportedImage(f"{channel.topic}: {channel.schema} in {how} is not read; {', '.join(_PARSERS)} are") from None
    except BadSetting:
        raise
    except Exception as error:
        raise UnsupportedImage(
            f"{channel.topic}: the definition of {channel.schema} ({channel.schema_encoding}) cannot be read: "
            f"{str(error) or type(error).__name__}"
        ) from error
    return PictureReader(channel.schema, parse)


class PictureReader(MessageDecoder):
    """Reads the pictures of one topic, in order: later frames of a video need those before them."""

    def __init__(self, schema: str, parse: Callable[[bytes], Any]) -> None:
        super().__init__(schema)
        self._parse = parse

    def read(self, message: Message) -> Picture:
        """Parse a message.

        Raises:
            CorruptImage: if it is not one of the channel's type
        """
        try:
            found = self._parse(message.data)
        except ServiceError:
            raise
        except Exception as error:
            raise CorruptImage(f"not a message that can be read: {str(error) or type(error).__name__}") from error
        return self.picture(found)


def _cdr(channel: Channel) -> Callable[[bytes], Any]:
    store, name = _store_for(channel, types)
    return lambda data: store.deserialize_cdr(data, name)


def _ros1(channel: Channel) -> Callable[[bytes], Any]:
    store, name = _store_for(channel, _noetic)
    return lambda data: store.deserialize_ros1(data, name)


def _noetic() -> Any:
    typesys = load("rosbags.typesys")
    return typesys.get_typestore(typesys.Stores.ROS1_NOETIC)


def _store_for(channel: Channel, standard: Callable[[], Any]) -> tuple[Any, str]:
    """Return a store that knows the channel's type, and the type's name in it."""
    package, _, kind = base_name(channel.schema).partition("/")
    name, store = f"{package}/msg/{kind}", standard()
    if name in store.fielddefs:
        return store, name
    typesys = load("rosbags.typesys")
    text = channel.definition.decode("utf-8", "replace")
    own = typesys.get_typestore(typesys.Stores.EMPTY)
    found = dict(store.fielddefs)
    parse = typesys.get_types_from_idl if channel.schema_encoding == "ros2idl" else None
    found |= parse(text) if parse else typesys.get_types_from_msg(text, name)
    own.register(found)
    return own, name


def _protobuf(channel: Channel) -> Callable[[bytes], Any]:
    descriptors = load("google.protobuf.descriptor_pb2").FileDescriptorSet.FromString(channel.definition)
    pool = load("google.protobuf.descriptor_pool").DescriptorPool()
    known = {file.name: file for file in descriptors.file}
    for kind in ("timestamp", "duration"):  # some writers leave out what every installation has
        file = load("google.protobuf.descriptor_pb2").FileDescriptorProto()
        load(f"google.protobuf.{kind}_pb2").DESCRIPTOR.CopyToProto(file)
        known.setdefault(file.name, file)
    added: set[str] = set()

    def add(name: str) -> None:
        """Add a file behind those that it depends on, in whatever order the set has them."""
        if name in added or name not in known:
            return
        added.add(name)
        for other in known[name].dependency:
            add(other)
        pool.Add(known[name])

    for name in known:
        add(name)
    made = load("google.protobuf.message_factory").GetMessageClass(pool.FindMessageTypeByName(channel.schema))
    return lambda data: made.FromString(data)  # noqa: PLW0108 - a method of a class that is made here


class _Document:
    """A JSON object whose members are attributes."""

    def __init__(self, members: dict[str, Any]) -> None:
        self.__dict__.update(members)


def _json(_: Channel) -> Callable[[bytes], Any]:
    return lambda data: json.loads(data, object_hook=_Document)


_PARSERS: dict[str, Callable[[Channel], Callable[[bytes], Any]]] = {
    "cdr": _cdr,
    "ros1": _ros1,
    "protobuf": _protobuf,
    "json": _json,
}
