"""Messages that hold pictures, as ROS 2, ROS 1 and Foxglove define them. Bags and live topics use the same code.

The fields come as attributes: rosbags, rclpy, protobuf and JSON all give them like that.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import CorruptImage, ServiceError, UnsupportedImage
from service.optional import load
from service.pipeline.codecs import decoding, depth, raw
from service.pipeline.codecs.raw import RawImage

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
    decoded: NDArray[np.uint8] | None = None
    """H x W x 3 uint8 RGB, where it had to be decoded with the pictures before it."""

    @property
    def is_video(self) -> bool:
        """Whether it is a frame of a video, which needs those before it."""
        return self.kind == _VIDEO or self.format.strip().lower() in VIDEO_CODECS

    @property
    def is_whole_file(self) -> bool:
        """Whether :attr:`packed` is an image file that any decoder of files reads as it is meant."""
        return self.kind == _PACKED and not (self.is_video or _is_depth(self.format) or _mosaic_of(self.format))


def base_name(schema: str) -> str:
    """Return the short name of a type.

    ``sensor_msgs/msg/Image`` -> ``sensor_msgs/Image``, ``foxglove.RawImage`` -> ``foxglove_msgs/RawImage``.
    """
    if schema.startswith("foxglove."):
        return f"foxglove_msgs/{schema.removeprefix('foxglove.')}"
    return schema.replace("/msg/", "/").replace("::msg::", "/")


def kind_of(schema: str) -> str | None:
    """Return what the messages of a type hold: plain pixels, image files or a video; None for a type without pictures."""
    return _KINDS.get(base_name(schema))


class MessageDecoder:
    """Decodes the messages of one topic, in order: later frames of a video need those before them.

    Takes:
        schema: the name of the topic's type
    Raises:
        UnsupportedImage: if the type is not one of pictures
    """

    def __init__(self, schema: str) -> None:
        kind = kind_of(schema)
        if kind is None:
            raise UnsupportedImage(f"{schema} holds no pictures; {', '.join(_KINDS)} do")
        self._kind = kind
        self._decoder: Any = None
        self._codec = ""
        self._number = 0
        """Of the packet that the video's decoder got last."""
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

    def picture(self, found: Any) -> Picture:
        """Take a message apart.

        Takes:
            found: its fields as attributes, whichever library parsed it
        Raises:
            CorruptImage: if it lacks a field of its type, or one makes no sense
        """
        try:
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
        if picture.decoded is not None:
            return picture.decoded
        if picture.is_video:
            return self._next_of_video(picture)
        if _is_depth(picture.format):
            raise UnsupportedImage("a depth image (compressedDepth) has no colours to segment")
        image = decoding.decode(picture.packed, limits)
        mosaic = _mosaic_of(picture.format)
        if mosaic and np.array_equal(image[..., 0], image[..., 1]) and np.array_equal(image[..., 0], image[..., 2]):
            return raw.demosaic(image[..., 0], mosaic)
        return image

    def video_frame(self, found: Any) -> Picture | None:
        """Decode a message at once if it is a frame of a video, so that those after it can be decoded; None if it is not one.

        Raises:
            as :meth:`picture` and :meth:`decode`
        """
        picture = self.picture(found) if str(found.format).strip().lower() in VIDEO_CODECS else None
        return None if picture is None else replace(picture, decoded=self._next_of_video(picture))

    def skip(self, picture: Picture) -> None:
        """Pass over a picture whose mask is known; a video's decoder sees it all the same."""
        if picture.is_video:
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
        self._number += 1
        packet = av.Packet(picture.packed)
        packet.pts = packet.dts = self._number
        try:
            frames = self._decoder.decode(packet)
        except av.FFmpegError as error:
            raise CorruptImage(f"a frame of the video cannot be decoded: {error.strerror}") from error
        if not frames:
            raise CorruptImage("a frame of the video cannot be decoded: those that it builds upon are missing")
        if frames[-1].pts != self._number:  # that of another message: the mask would get a wrong stamp
            raise UnsupportedImage(
                "the video's frames are not sent in the order in which they are shown; encode it without B-frames"
            )
        return np.ascontiguousarray(frames[-1].to_ndarray(format="rgb24"))


def _is_depth(told: str) -> bool:
    return "compresseddepth" in told.lower()


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
