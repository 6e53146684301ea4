"""Bags of ROS 2 and MCAP files: image topics in, mask topics out.

Of each image topic ``/camera/image_raw`` comes ``/camera/image_raw/mask``, ``sensor_msgs/Image`` in mono8 whose pixel is the
class id and whose header is the image's, and ``/camera/image_raw/label_info``, a latched ``vision_msgs/LabelInfo``.

A bag is written under another name and renamed when it is complete: its index stands at its end, so that an unfinished one
cannot be gone on with. What an interrupted run leaves is its journal: the next one takes the masks from it, writes the bag from
its beginning, and goes on with the network where the journal ends.

May import: numpy, cv2, ``service.encodings``, ``service.errors``, ``service.pipeline``, ``service.batch.journal``,
``overlap`` and ``targets``; rosbags (the extra ``bags``) only where a bag is opened.
"""

from __future__ import annotations

import contextlib
import importlib
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from service.batch.journal import Journal
from service.batch.overlap import overlapped
from service.batch.targets import BAG, MASKS, Source, unfinished
from service.encodings import FORMATS, MaskView, Options, rle, to_json
from service.encodings.color import ColoredRow
from service.errors import BadParameter, BadSetting, CorruptImage, ServiceError, UnsupportedImage
from service.extras import needs
from service.pipeline.codecs import decoding
from service.pipeline.engine import Engine
from service.pipeline.predictor import Predictor

IMAGE, COMPRESSED, LABEL_INFO = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage", "vision_msgs/msg/LabelInfo"

LABEL_INFO_DEFINITION = """\
std_msgs/Header header
vision_msgs/VisionClass[] class_map
float32 threshold
"""
VISION_CLASS_DEFINITION = """\
uint16 class_id
string class_name
"""

CONVERSIONS: dict[str, tuple[np.dtype[Any], int, int | None]] = {
    "rgb8": (np.dtype(np.uint8), 3, None),
    "bgr8": (np.dtype(np.uint8), 3, cv2.COLOR_BGR2RGB),
    "rgba8": (np.dtype(np.uint8), 4, cv2.COLOR_RGBA2RGB),
    "bgra8": (np.dtype(np.uint8), 4, cv2.COLOR_BGRA2RGB),
    "8UC3": (np.dtype(np.uint8), 3, cv2.COLOR_BGR2RGB),
    "mono8": (np.dtype(np.uint8), 1, cv2.COLOR_GRAY2RGB),
    "8UC1": (np.dtype(np.uint8), 1, cv2.COLOR_GRAY2RGB),
    "mono16": (np.dtype(np.uint16), 1, cv2.COLOR_GRAY2RGB),
    "16UC1": (np.dtype(np.uint16), 1, cv2.COLOR_GRAY2RGB),
    # OpenCV names a mosaic by its second row's second and third pixel, ROS by its first row's first two.
    "bayer_rggb8": (np.dtype(np.uint8), 1, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr8": (np.dtype(np.uint8), 1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg8": (np.dtype(np.uint8), 1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg8": (np.dtype(np.uint8), 1, cv2.COLOR_BayerGB2RGB),
    "yuv422": (np.dtype(np.uint8), 2, cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": (np.dtype(np.uint8), 2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": (np.dtype(np.uint8), 2, cv2.COLOR_YUV2RGB_YUY2),
    "yuyv": (np.dtype(np.uint8), 2, cv2.COLOR_YUV2RGB_YUY2),
}
"""Encoding of a ``sensor_msgs/Image`` to its element, its channels, and how OpenCV makes RGB of it."""


class Segmented(NamedTuple):
    """An image of a bag, and what became of it."""

    failure: str | None
    """Why it has no mask."""
    line: bytes | None
    """For the journal; None if it is there already."""


class _Message(NamedTuple):
    connection: Any
    time_ns: int
    raw: bytes
    message: Any
    """None where it is only copied, or cannot be read."""
    unreadable: str | None
    """Why it cannot be read."""
    number: int
    """Among the images."""

    @property
    def is_image(self) -> bool:
        """Whether it is to have a mask."""
        return self.message is not None or self.unreadable is not None

    def about(self) -> dict[str, Any]:
        """What its line in the journal says beside the mask."""
        return {"frame": self.number, "topic": self.connection.topic, "time_ns": self.time_ns}


class _Result(NamedTuple):
    source: _Message
    labels: NDArray[np.uint8] | None
    """H x W uint8, as it is written."""
    failure: str | None
    line: bytes | None = None


def is_mcap(path: Path) -> bool:
    """Whether a file is one of MCAP, by its name."""
    return path.suffix.lower() == ".mcap"


def is_bag(path: Path) -> bool:
    """Whether this is an MCAP file, a database of rosbag2, or a folder of such."""
    return path.suffix.lower() in (".mcap", ".db3") or (path / "metadata.yaml").is_file()


def target_of(source: Source, out: Path | None) -> Path:
    """Where the masks of a bag go: an MCAP file for a file, a rosbag2 folder for a folder, or whatever ``out`` says."""
    if out is not None and is_mcap(out):
        return out
    return source.folder / f"{source.stem}{MASKS if source.path.is_dir() else BAG}"


def to_rgb(message: Any, limits: decoding.Limits) -> NDArray[np.uint8]:
    """The picture of a ``sensor_msgs`` message.

    Takes:
        message: an ``Image`` of one of :data:`CONVERSIONS`, or a ``CompressedImage`` of any format that the service reads
    Gives:
        H x W x 3 uint8 RGB; 16 bits are brought to 8 by their upper half
    Raises:
        UnsupportedImage, CorruptImage, and what ``decoding.decode`` raises
    """
    data = np.asarray(message.data, np.uint8)
    if message.__msgtype__ == COMPRESSED:
        return decoding.decode(data.tobytes(), limits)
    if message.encoding not in CONVERSIONS:
        raise UnsupportedImage(f"images in {message.encoding!r} are not read; {', '.join(CONVERSIONS)} are")
    element, channels, conversion = CONVERSIONS[message.encoding]
    if channels == 2 and message.width % 2:
        raise CorruptImage(
            f"no {message.encoding} is {message.width} pixels wide: two of them share their colour, so that widths are even"
        )
    row = message.width * channels * element.itemsize
    if not (message.height and message.width) or message.step < row or data.size < message.step * message.height:
        raise CorruptImage(f"{data.size} bytes are no {message.height} x {message.width} pixels of {message.encoding}")
    rows = np.ascontiguousarray(data[: message.step * message.height].reshape(message.height, message.step)[:, :row])
    pixels = rows.view(element.newbyteorder(">" if message.is_bigendian else "<")).reshape(
        message.height, message.width, channels
    )
    if element.itemsize == 2:
        pixels = (pixels >> 8).astype(np.uint8)
    return np.ascontiguousarray(pixels) if conversion is None else np.asarray(cv2.cvtColor(pixels, conversion), np.uint8)


def segment_bag(
    path: Path,
    target: Path,
    topics: Sequence[str],
    options: Options,
    predictor: Predictor,
    engine: Engine,
    expect: Callable[[int | None], None] = lambda _: None,
    *,
    copy: bool = False,
    anew: bool = False,
) -> Generator[Segmented, None, str | None]:
    """Segment the images of a bag, or go on with it. Left early, what is finished so far is kept for the next run.

    Takes:
        target: an ``.mcap`` file, or a folder
        topics: image topics; all of them if there is none
        options: which pixels keep their class, and whose ids they have
        expect: called with the number of images
        copy: whether every other message is copied, the images too
        anew: whether what an earlier run has left is thrown away
    Gives:
        each image when its mask is written; at the end how many have none and whether the bag breaks off, or None
    Raises:
        ServiceError, OSError: if nothing can be made of it
    """
    rosbags = _Rosbags()
    with contextlib.ExitStack() as until:
        reader = rosbags.opened(path, until)
        chosen = _chosen(reader, topics)
        expect(sum(connection.msgcount for connection in chosen))
        target.parent.mkdir(parents=True, exist_ok=True)
        ids = {connection.id for connection in chosen}
        run = {"model": engine.sha256, "topics": sorted({connection.topic for connection in chosen}), **options.selection()}
        journal = until.enter_context(contextlib.closing(Journal(target, path, run, anew=anew)))
        part = unfinished(target)
        shutil.rmtree(part, ignore_errors=True)
        until.callback(shutil.rmtree, part, ignore_errors=True)
        count, failures, worst = 0, 0, ""
        damage: list[str] = []
        writing = _Writer(rosbags, part, reader, chosen, engine, options, journal, copy=copy)
        with contextlib.closing(writing) as writer:

            def messages() -> Iterator[_Message]:
                number, stored = 0, reader.messages(connections=() if copy else chosen)
                while True:
                    try:
                        connection, time_ns, raw = next(stored)
                    except StopIteration:
                        return
                    except Exception as error:  # noqa: BLE001 - of rosbags, SQLite and the decompressors
                        damage.append(_said(error))
                        return
                    message = unreadable = None
                    if connection.id in ids:
                        try:
                            message = reader.deserialize(raw, connection.msgtype)
                        except Exception as error:  # noqa: BLE001 - whatever a parser stumbles over
                            unreadable = f"not a message that can be read: {_said(error)}"
                    yield _Message(connection, time_ns, raw, message, unreadable, number)
                    number += connection.id in ids

            def segment(source: _Message) -> _Result:
                if not source.is_image:
                    return _Result(source, None, None)
                known = journal.known(source.about())
                if known is not None and "failure" in known:
                    return _Result(source, None, known["failure"])
                if known is not None:
                    return _Result(source, rle.decode(known), None)
                about = to_json(source.about())[:-1]
                try:
                    if source.unreadable is not None:
                        raise CorruptImage(source.unreadable)
                    image = to_rgb(source.message, predictor.limits)
                    made = predictor.segment(image, engine.manifest.name)
                except ServiceError as error:
                    return _Result(source, None, error.message, about + b',"failure":' + to_json(error.message) + b"}")
                view = MaskView(made.labels, made.image, made.manifest, made.sha256, made.confidence, options).selected()
                return _Result(source, view.labels, None, about + b"," + FORMATS["rle"].encode(view)[1:])

            for done in overlapped(messages(), segment, writer.write):
                if done.source.is_image:
                    count += 1
                    if done.failure is not None:
                        failures, worst = failures + 1, worst or done.failure
                    yield Segmented(done.failure, done.line)
            if damage and not count:
                raise CorruptImage(f"no image of it can be read: {damage[0]}")
        if is_mcap(target):
            (made,) = part.glob("*.mcap")
            made.replace(target)
        else:
            shutil.rmtree(target, ignore_errors=True)
            part.replace(target)
        journal.finish(None)
    told = [f"{failures} images have no mask; the first: {worst}"] if failures else []
    told += [f"damaged: {count} images could be read, and are done: {why}" for why in damage]
    return "; ".join(told) or None


def _said(error: Exception) -> str:
    """What a parser of others says."""
    return str(error) or type(error).__name__


def _chosen(reader: Any, topics: Sequence[str]) -> list[Any]:
    images = [connection for connection in reader.connections if connection.msgtype in (IMAGE, COMPRESSED)]
    known = sorted({connection.topic for connection in images})
    for topic in topics:
        if topic not in known:
            raise BadParameter(
                f"no image topic {topic!r} in this bag; there are {', '.join(known) or 'none'}", parameter="topic"
            )
    chosen = [connection for connection in images if not topics or connection.topic in topics]
    if not chosen:
        raise BadParameter("there is no image topic in this bag", parameter="topic")
    return chosen


class _Writer:
    """Writes masks, and what is copied, into a new bag."""

    def __init__(
        self,
        rosbags: _Rosbags,
        path: Path,
        reader: Any,
        chosen: Sequence[Any],
        engine: Engine,
        options: Options,
        journal: Journal,
        *,
        copy: bool,
    ) -> None:
        self._types, self._journal = rosbags.types(), journal
        self._rows: Sequence[ColoredRow] = options.rows(engine.manifest.classes)
        self._threshold = options.min_confidence
        plugin = rosbags.module("rosbags.rosbag2").StoragePlugin.MCAP
        self._bag = rosbags.module("rosbags.rosbag2").Writer(path, version=9, storage_plugin=plugin)
        self._bag.open()
        add = self._bag.add_connection
        self._copies = {
            connection.id: add(
                connection.topic,
                connection.msgtype,
                typestore=reader.typestore,
                offered_qos_profiles=connection.ext.offered_qos_profiles,
            )
            for connection in (reader.connections if copy else ())
        }
        self._masks = {connection.id: add(f"{connection.topic}/mask", IMAGE, typestore=self._types) for connection in chosen}
        latched = [rosbags.latched()]
        self._infos = {
            connection.id: add(
                f"{connection.topic}/label_info", LABEL_INFO, typestore=self._types, offered_qos_profiles=latched
            )
            for connection in chosen
        }
        self._told: set[int] = set()

    def write(self, done: _Result) -> None:
        """Write what became of one message."""
        source = done.source
        if done.line is not None:
            self._journal.add(done.line)
        if source.connection.id in self._copies:
            self._bag.write(self._copies[source.connection.id], source.time_ns, source.raw)
        if done.labels is None:
            return
        number, types, header = source.connection.id, self._types, source.message.header
        if number not in self._told:
            self._told.add(number)
            kind = types.types["vision_msgs/msg/VisionClass"]
            classes = [kind(class_id=entry.id, class_name=entry.name) for entry in self._rows]
            info = types.types[LABEL_INFO](header=_header(types, header), class_map=classes, threshold=self._threshold)
            self._bag.write(self._infos[number], source.time_ns, types.serialize_cdr(info, LABEL_INFO))
        height, width = done.labels.shape
        mask = types.types[IMAGE](
            header=_header(types, header),
            height=height,
            width=width,
            encoding="mono8",
            is_bigendian=0,
            step=width,
            data=done.labels.reshape(-1),
        )
        self._bag.write(self._masks[number], source.time_ns, types.serialize_cdr(mask, IMAGE))

    def close(self) -> None:
        """Complete the bag."""
        self._bag.close()


def _header(types: Any, header: Any) -> Any:
    """The same header, in the types that we write with."""
    stamp = types.types["builtin_interfaces/msg/Time"](sec=header.stamp.sec, nanosec=header.stamp.nanosec)
    return types.types["std_msgs/msg/Header"](stamp=stamp, frame_id=header.frame_id)


class _Rosbags:
    """The package rosbags, loaded where a bag is worked on."""

    def module(self, name: str) -> Any:
        """One of its modules."""
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise BadSetting(needs("bags need", "bags")) from error

    def types(self) -> Any:
        """The messages of ROS 2, and the two of vision_msgs that are not among them."""
        typesys = self.module("rosbags.typesys")
        store = typesys.get_typestore(typesys.Stores.ROS2_HUMBLE)
        found = typesys.get_types_from_msg(VISION_CLASS_DEFINITION, "vision_msgs/msg/VisionClass")
        store.register(found | typesys.get_types_from_msg(LABEL_INFO_DEFINITION, LABEL_INFO))
        return store

    def opened(self, path: Path, until: contextlib.ExitStack) -> Any:
        """A reader of a bag; messages without a definition are taken for those of ROS 2 Humble."""
        reading, types = self.module("rosbags.highlevel.anyreader"), self.types()
        try:
            return until.enter_context(reading.AnyReader([path], default_typestore=types))
        except OSError:
            raise
        except Exception as error:  # its own errors, and whatever its parsers stumble over
            raise UnsupportedImage(f"not a bag that can be read: {_said(error)}") from error

    def latched(self) -> Any:
        """What a late subscriber still gets: reliable, transient local, the last one."""
        face = self.module("rosbags.interfaces")
        zero = face.QosTime(0, 0)
        return face.Qos(
            face.QosHistory.KEEP_LAST,
            1,
            face.QosReliability.RELIABLE,
            face.QosDurability.TRANSIENT_LOCAL,
            zero,
            zero,
            face.QosLiveliness.SYSTEM_DEFAULT,
            zero,
            avoid_ros_namespace_conventions=False,
        )
