"""Recordings drawn for tests: MCAP files of every kind, databases, bags of ROS 1, written by the reference libraries."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import av
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2
from mcap.writer import CompressionType, Writer
from rosbags.typesys import Stores, get_typestore

from tests.conftest import encode_image, make_image

TYPES = get_typestore(Stores.ROS2_HUMBLE)
NOETIC = get_typestore(Stores.ROS1_NOETIC)
IMAGE, COMPRESSED, TEXT = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage", "std_msgs/msg/String"
JPEG = encode_image(make_image(), "JPEG", quality=95)
STEP_NS = 10**8

FOXGLOVE_MESSAGES = {
    "CompressedImage": "builtin_interfaces/Time timestamp\nstring frame_id\nuint8[] data\nstring format\n",
    "CompressedVideo": "builtin_interfaces/Time timestamp\nstring frame_id\nuint8[] data\nstring format\n",
    "RawImage": (
        "builtin_interfaces/Time timestamp\nstring frame_id\nuint32 width\nuint32 height\n"
        "string encoding\nuint32 step\nuint8[] data\n"
    ),
}


def header(number: int, types: Any = TYPES) -> Any:
    """A stamp of its own for each message."""
    time = types.types["builtin_interfaces/msg/Time"](sec=1_700_000_000, nanosec=number)
    more = {"seq": number} if types is NOETIC else {}
    return types.types["std_msgs/msg/Header"](stamp=time, frame_id="camera_front", **more)


def compressed(number: int, data: bytes = JPEG, told: str = "jpeg") -> bytes:
    """A ``CompressedImage`` as CDR."""
    message = TYPES.types[COMPRESSED](header=header(number), format=told, data=np.frombuffer(data, np.uint8))
    return bytes(TYPES.serialize_cdr(message, COMPRESSED))


def raw(number: int, data: np.ndarray, encoding: str) -> bytes:
    """An ``Image`` as CDR, without padding."""
    rows = np.ascontiguousarray(data).view(np.uint8).reshape(len(data), -1)
    message = TYPES.types[IMAGE](
        header=header(number),
        height=data.shape[0],
        width=data.shape[1],
        encoding=encoding,
        is_bigendian=0,
        step=rows.shape[1],
        data=rows.reshape(-1),
    )
    return bytes(TYPES.serialize_cdr(message, IMAGE))


class Drawn:
    """An MCAP file that is being drawn."""

    def __init__(self, profile: str = "ros2", *, chunked: bool = True, compression: str = "ZSTD", chunk: int = 1 << 20) -> None:
        self._buffer = io.BytesIO()
        self.writer: Any = Writer(
            self._buffer, chunk_size=chunk, compression=CompressionType[compression], use_chunking=chunked
        )
        self.writer.start(profile=profile, library="drawn")
        self._now = 0

    def channel(
        self, topic: str, schema: str = COMPRESSED, how: str = "ros2msg", text: bytes | None = None, encoding: str = "cdr"
    ) -> int:
        """Add a channel; without a schema if its name is empty."""
        if text is None:
            text = TYPES.generate_msgdef(schema, ros_version=2)[0].encode() if schema in TYPES.fielddefs else b""
        number = self.writer.register_schema(schema, how, text) if schema else 0
        return int(self.writer.register_channel(topic, encoding, number))

    def add(self, channel: int, data: bytes) -> None:
        """Add a message, a tenth of a second after the one before."""
        self._now += STEP_NS
        self.writer.add_message(channel, self._now, data, self._now)

    def images(self, topic: str, count: int) -> None:
        """Add a channel of compressed images."""
        channel = self.channel(topic)
        for number in range(count):
            self.add(channel, compressed(number))

    def bytes(self) -> bytes:
        """The whole file."""
        self.writer.finish()
        return self._buffer.getvalue()

    def save(self, path: Path) -> Path:
        """Write the whole file."""
        path.write_bytes(self.bytes())
        return path


def foxglove_json(kind: str, number: int, **fields: Any) -> bytes:
    """A message of Foxglove's as JSON."""
    stamp = {"sec": 1_700_000_000, "nsec": number}
    plain = {name: base64.b64encode(value).decode() if isinstance(value, bytes) else value for name, value in fields.items()}
    return json.dumps({"timestamp": stamp, "frame_id": "fox", **plain}).encode()


class Protobuf:
    """A message type of Foxglove's, built from its public field numbers."""

    FIELDS: ClassVar = {
        "CompressedImage": {"timestamp": (1, "time"), "data": (2, "bytes"), "format": (3, "string"), "frame_id": (4, "string")},
        "CompressedVideo": {"timestamp": (1, "time"), "frame_id": (2, "string"), "data": (3, "bytes"), "format": (4, "string")},
        "RawImage": {
            "timestamp": (1, "time"),
            "width": (2, "fixed32"),
            "height": (3, "fixed32"),
            "encoding": (4, "string"),
            "step": (5, "fixed32"),
            "data": (6, "bytes"),
            "frame_id": (7, "string"),
        },
    }

    def __init__(self, kind: str) -> None:
        field = descriptor_pb2.FieldDescriptorProto
        types = {"bytes": field.TYPE_BYTES, "string": field.TYPE_STRING, "fixed32": field.TYPE_FIXED32}
        file = descriptor_pb2.FileDescriptorProto(
            name=f"foxglove/{kind}.proto",
            package="foxglove",
            syntax="proto3",
            dependency=["google/protobuf/timestamp.proto"],
        )
        message = file.message_type.add(name=kind)
        for name, (number, what) in self.FIELDS[kind].items():
            if what == "time":
                message.field.add(
                    name=name, number=number, type=field.TYPE_MESSAGE, type_name=".google.protobuf.Timestamp", label=1
                )
            else:
                message.field.add(name=name, number=number, type=types[what], label=1)
        stamp = descriptor_pb2.FileDescriptorProto()
        timestamp_pb2.DESCRIPTOR.CopyToProto(stamp)
        self.name = f"foxglove.{kind}"
        self.definition = descriptor_pb2.FileDescriptorSet(file=[stamp, file]).SerializeToString()
        pool = descriptor_pool.DescriptorPool()
        pool.Add(stamp)
        pool.Add(file)
        self._made = message_factory.GetMessageClass(pool.FindMessageTypeByName(self.name))

    def encode(self, number: int, **fields: Any) -> bytes:
        """A message."""
        message = self._made(frame_id="fox", **fields)
        stamp: Any = getattr(message, "timestamp")  # noqa: B009 - a field that is made above
        stamp.seconds, stamp.nanos = 1_700_000_000, number
        return bytes(message.SerializeToString())


def video_packets(frames: int, codec: str = "libx264") -> list[bytes]:
    """A video of the three stripes as Annex B, one packet a frame, without reordering."""
    context: Any = av.CodecContext.create(codec, "w")
    context.width, context.height, context.pix_fmt, context.framerate = 128, 96, "yuv420p", 10
    context.time_base = Fraction(1, 10)
    context.options = {
        "libx264": {"tune": "zerolatency", "preset": "ultrafast"},
        "libx265": {"preset": "ultrafast", "tune": "zerolatency", "x265-params": "bframes=0:log-level=none"},
        "libvpx-vp9": {"lag-in-frames": "0", "deadline": "realtime", "cpu-used": "8"},
        "libsvtav1": {"preset": "11", "svtav1-params": "pred-struct=1:lookahead=0"},
    }[codec]
    packets = []
    for number in range(frames):
        frame = av.VideoFrame.from_ndarray(make_image(), format="rgb24").reformat(format="yuv420p")
        frame.pts = number
        packets += [bytes(packet) for packet in context.encode(frame)]
    return packets + [bytes(packet) for packet in context.encode(None)]


def ros1_bag(path: Path, messages: Iterable[tuple[str, str, Any]], compression: str = "NONE") -> Path:
    """A bag of ROS 1.

    Takes:
        messages: topic, type and message
    """
    from rosbags.rosbag1 import Writer as Writer1  # noqa: PLC0415

    writer = Writer1(path)
    if compression != "NONE":
        writer.set_compression(Writer1.CompressionFormat[compression])
    with writer as bag:
        connections: dict[str, Any] = {}
        for number, (topic, kind, message) in enumerate(messages):
            if topic not in connections:
                connections[topic] = bag.add_connection(topic, kind, typestore=NOETIC)
            bag.write(connections[topic], (number + 1) * STEP_NS, NOETIC.serialize_ros1(message, kind))
    return path


def ros1_images(count: int) -> list[tuple[str, str, Any]]:
    """Messages of a compressed and a raw camera of ROS 1."""
    image = make_image()
    found = []
    for number in range(count):
        packed = NOETIC.types[COMPRESSED](header=header(number, NOETIC), format="jpeg", data=np.frombuffer(JPEG, np.uint8))
        plain = NOETIC.types[IMAGE](
            header=header(number, NOETIC),
            height=96,
            width=128,
            encoding="rgb8",
            is_bigendian=0,
            step=384,
            data=image.reshape(-1),
        )
        found += [("/small", COMPRESSED, packed), ("/raw", IMAGE, plain)]
    return found
