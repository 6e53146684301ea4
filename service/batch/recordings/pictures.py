"""Messages that hold pictures: ROS 2, ROS 1, Foxglove; as CDR, ROS 1's serialisation, protobuf or JSON."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.batch.optional import load
from service.batch.recordings import Channel, Message
from service.errors import BadSetting, CorruptImage, ServiceError, UnsupportedImage
from service.pipeline.codecs import decoding, depth, raw
from service.pipeline.codecs.raw import RawImage

IMAGE, COMPRESSED, LABEL_INFO = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage", "vision_msgs/msg/LabelInfo"

_RAW, _PACKED, _VIDEO = "raw", "packed", "video"
_KINDS = {
    "sensor_msgs/Image": _RAW,
    "sensor_msgs/CompressedImage": _PACKED,
    "foxglove_msgs/RawImage": _RAW,
    "foxglove_msgs/CompressedImage": _PACKED,
    "foxglove_msgs/CompressedVideo": _VIDEO,
}
"""What a type holds; ``sensor_msgs/msg/Image``, ``foxglove.RawImage`` and their like are the same types."""

VIDEO_CODECS = {"h264": "h264", "h265": "hevc", "hevc": "hevc", "vp9": "vp9", "av1": "libdav1d"}
"""What a compressed video says of itself, and FFmpeg's name of it."""
_FILES = ("jpeg", "jpg", "mjpeg", "png")
"""Encodings that some drivers give an ``Image`` whose data is a whole file."""

_LABEL_INFO_DEFINITION = """\
std_msgs/Header header
vision_msgs/VisionClass[] class_map
float32 threshold
"""
_VISION_CLASS_DEFINITION = """\
uint16 class_id
string class_name
"""


@dataclass(frozen=True)
class Head:
    """When a picture was taken, and where."""

    seconds: int
    nanoseconds: int
    frame_id: str


@dataclass(frozen=True, eq=False)
class Picture:
    """A message with a picture, its pixels not yet decoded."""

    head: Head
    kind: str
    raw: RawImage | None = None
    packed: bytes = b""
    format: str = ""


@lru_cache(maxsize=1)
def types() -> Any:
    """Return rosbags' store of the messages of ROS 2 Humble, and of the two of vision_msgs that are not among them."""
    typesys = load("rosbags.typesys")
    store = typesys.get_typestore(typesys.Stores.ROS2_HUMBLE)
    found = typesys.get_types_from_msg(_VISION_CLASS_DEFINITION, "vision_msgs/msg/VisionClass")
    store.register(found | typesys.get_types_from_msg(_LABEL_INFO_DEFINITION, LABEL_INFO))
    return store


def _base_name(schema: str) -> str:
    """``sensor_msgs/msg/Image`` -> ``sensor_msgs/Image``, ``foxglove.RawImage`` -> ``foxglove_msgs/RawImage``."""
    if schema.startswith("foxglove."):
        return f"foxglove_msgs/{schema.removeprefix('foxglove.')}"
    return schema.replace("/msg/", "/").replace("::msg::", "/")


def holds_pictures(channel: Channel) -> bool:
    """Say whether the messages of a channel are pictures, by the name of their type."""
    return _base_name(channel.schema) in _KINDS


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
    return PictureReader(_KINDS[_base_name(channel.schema)], parse)


class PictureReader:
    """Reads the pictures of one topic, in order: later frames of a video need those before them."""

    def __init__(self, kind: str, parse: Callable[[bytes], Any]) -> None:
        self._kind, self._parse = kind, parse
        self._decoder: Any = None
        self._codec = ""
        self._largest = 0
        self.is_wide = False
        """Whether there were images of 16 bits."""

    @property
    def is_raw(self) -> bool:
        """Say whether images come as plain pixels."""
        return self._kind == _RAW

    @property
    def bits(self) -> int:
        """How many bits the 16-bit values have that were seen so far; 16 if there were none."""
        return depth.significant_bits(self._largest)

    def picture(self, message: Message) -> Picture:
        """Parse a message.

        Raises:
            CorruptImage: if it is not one of the channel's type
        """
        try:
            found = self._parse(message.data)
            if self._kind == _RAW:
                return self._raw(found)
            return Picture(_head(found), self._kind, packed=_bytes(found.data).tobytes(), format=str(found.format))
        except ServiceError:
            raise
        except Exception as error:
            raise CorruptImage(f"not a message that can be read: {str(error) or type(error).__name__}") from error

    def _raw(self, found: Any) -> Picture:
        data, encoding = _bytes(found.data), str(found.encoding)
        if encoding.strip().lower() in _FILES:
            return Picture(_head(found), _PACKED, packed=data.tobytes(), format=encoding)
        big = bool(getattr(found, "is_bigendian", False))
        sizes = (int(found.height), int(found.width), int(found.step))
        image = RawImage(data, encoding, *sizes, big_endian=big)
        if raw.is_wide(encoding):
            self.is_wide = True
            self._largest = max(self._largest, raw.largest(image))
        return Picture(_head(found), _RAW, raw=image)

    def decode(self, picture: Picture, limits: decoding.Limits) -> NDArray[np.uint8]:
        """Decode the pixels.

        Takes:
            picture: of this reader; of a video each one, in order
        Gives:
            H x W x 3 uint8 RGB
        Raises:
            UnsupportedImage, CorruptImage, and what ``decoding.decode`` raises
        """
        if picture.raw is not None:
            return raw.to_rgb(picture.raw, self.bits)
        if picture.kind == _VIDEO or picture.format.strip().lower() in VIDEO_CODECS:
            return self._next_of_video(picture)
        if "compresseddepth" in picture.format.lower():
            raise UnsupportedImage("a depth image (compressedDepth) has no colours to segment")
        image = decoding.decode(picture.packed, limits)
        mosaic = _mosaic_of(picture.format)
        if mosaic and np.array_equal(image[..., 0], image[..., 1]) and np.array_equal(image[..., 0], image[..., 2]):
            return raw.demosaic(image[..., 0], mosaic)
        return image

    def skip(self, picture: Picture) -> None:
        """Pass over a picture whose mask is known; a video's decoder sees it all the same."""
        if picture.kind == _VIDEO or picture.format.strip().lower() in VIDEO_CODECS:
            try:
                self._next_of_video(picture)
            except ServiceError:
                return

    def _next_of_video(self, picture: Picture) -> NDArray[np.uint8]:
        av = load("av")
        codec = VIDEO_CODECS.get(picture.format.strip().lower())
        if codec is None:
            raise UnsupportedImage(f"video in {picture.format!r} is not read; {', '.join(VIDEO_CODECS)} are")
        if self._decoder is None or codec != self._codec:
            self._codec, self._decoder = codec, av.CodecContext.create(codec, "r")
            self._decoder.thread_count = 1  # a frame for each packet, at once
            self._decoder.options = {"flags": "low_delay"}
        try:
            frames = self._decoder.decode(av.Packet(picture.packed))
        except av.FFmpegError as error:
            raise CorruptImage(f"a frame of the video cannot be decoded: {error.strerror}") from error
        if not frames:
            raise CorruptImage("a frame of the video cannot be decoded: those that it builds upon are not in the bag")
        return np.ascontiguousarray(frames[-1].to_ndarray(format="rgb24"))


def _mosaic_of(told: str) -> str | None:
    """Find the mosaic's order in a format such as ``bayer_rggb8; jpeg compressed``; None if colours were made before."""
    encoding, _, rest = told.partition(";")
    target = rest.partition("compressed")[2].strip().lower()
    encoding = encoding.strip().lower()
    return encoding if encoding.startswith("bayer_") and not target.startswith(("bgr", "rgb")) else None


def _head(found: Any) -> Head:
    if hasattr(found, "header"):
        return Head(int(found.header.stamp.sec), int(found.header.stamp.nanosec), str(found.header.frame_id))
    stamp = found.timestamp
    if hasattr(stamp, "seconds"):  # protobuf's
        return Head(int(stamp.seconds), int(stamp.nanos), str(found.frame_id))
    return Head(int(stamp.sec), int(getattr(stamp, "nanosec", getattr(stamp, "nsec", 0))), str(found.frame_id))


def _bytes(data: Any) -> NDArray[np.uint8]:
    if isinstance(data, str):  # JSON
        return np.frombuffer(base64.b64decode(data, validate=True), np.uint8)
    if isinstance(data, bytes):
        return np.frombuffer(data, np.uint8)
    return np.asarray(data, np.uint8).reshape(-1)


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
    package, _, kind = _base_name(channel.schema).partition("/")
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
