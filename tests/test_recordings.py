"""Recordings as robots leave them: of other profiles, cut off, unindexed, compressed, with messages of any kind."""

from __future__ import annotations

import re
import shutil
import sqlite3
import struct
from collections import Counter
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import zstandard
from google.protobuf import descriptor_pb2
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import StoragePlugin

from service.batch.recordings.pictures import types
from service.batch.records import NAME as RECORD
from service.errors import ServiceError
from service.pipeline.codecs.limits import Limits
from service.pipeline.codecs.messages import MessageDecoder
from tests.conftest import encode_image, make_image, make_labels
from tests.drawn_bags import (
    COMPRESSED,
    FOXGLOVE_MESSAGES,
    IMAGE,
    JPEG,
    NOETIC,
    TYPES,
    Drawn,
    Protobuf,
    compressed,
    foxglove_json,
    header,
    raw,
    ros1_bag,
    ros1_images,
    video_packets,
)
from tests.test_bags import make_bag
from tests.test_raw import mosaic_of
from tests.test_video import run


def masks_of(path: Path) -> dict[str, list[np.ndarray]]:
    """The masks of a file, by their topic, read by the reference library."""
    found: dict[str, list[np.ndarray]] = {}
    with path.open("rb") as file:
        for schema, channel, _, message in make_reader(file, decoder_factories=[DecoderFactory()]).iter_decoded_messages(
            topics=[topic for topic in topics_of(path) if topic.endswith("/mask")]
        ):
            assert schema is not None
            mask = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width)
            found.setdefault(channel.topic, []).append(mask)
    return found


def topics_of(path: Path) -> Counter[str]:
    """How many messages each topic of a file has."""
    with path.open("rb") as file:
        return Counter(channel.topic for _, channel, _ in make_reader(file).iter_messages())


def messages_of(path: Path, topic: str) -> list[bytes]:
    """The bytes of a topic's messages."""
    with path.open("rb") as file:
        return [message.data for _, _, message in make_reader(file).iter_messages(topics=[topic])]


def right(mask: np.ndarray) -> bool:
    """Whether a mask is that of the three stripes."""
    return bool(np.mean(mask == make_labels()) > 0.9)


# MCAP ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["ros2", "", "ros1", "something"])
@pytest.mark.parametrize("compression", ["NONE", "LZ4", "ZSTD"])
def test_a_file_of_any_profile_and_compression_is_read(
    tmp_path: Path, artifact_dir: Path, profile: str, compression: str
) -> None:
    """What a file says of itself at its beginning does not matter; its channels do."""
    drawn = Drawn(profile, compression=compression)
    drawn.images("/cam", 2)
    bag = drawn.save(tmp_path / "drive.mcap")
    outcome = run(artifact_dir, bag)
    assert (outcome.returncode, outcome.stderr, outcome.stdout[:6]) == (0, "", "2 of 2")
    (masks,) = masks_of(tmp_path / "drive.masks.mcap").values()
    assert all(right(mask) for mask in masks)


def test_two_channels_of_a_topic_become_one_topic_of_masks(tmp_path: Path, artifact_dir: Path) -> None:
    """As two publishers, or a recorder that was started again, leave them; also of two types."""
    drawn = Drawn()
    for channel in (drawn.channel("/cam"), drawn.channel("/cam"), drawn.channel("/cam", text=b"uint8 another\n")):
        drawn.add(channel, compressed(1))
    drawn.add(drawn.channel("/cam", IMAGE), raw(2, make_image(), "rgb8"))
    outcome = run(artifact_dir, drawn.save(tmp_path / "drive.mcap"), "--copy")
    assert (outcome.returncode, outcome.stderr, outcome.stdout[:6]) == (0, "", "4 of 4")
    assert topics_of(tmp_path / "drive.masks.mcap") == {"/cam": 4, "/cam/mask": 4, "/cam/label_info": 1}


def test_messages_of_other_kinds_beside_the_images_are_copied_byte_for_byte(tmp_path: Path, artifact_dir: Path) -> None:
    """Unknown types, service events, other encodings, damaged definitions, no schema at all."""
    drawn = Drawn()
    drawn.images("/cam", 2)
    others = {
        "/own": ("my_msgs/msg/Own", "ros2msg", b"", "cdr"),
        "/odd": ("my_msgs/msg/Odd", "ros2msg", b"this is not a definition {{", "cdr"),
        "/add/_service_event": ("example_interfaces/srv/AddTwoInts_Event", "ros2msg", b"int64 a\n---\nint64 b\n", "cdr"),
        "/pb": ("some.Message", "protobuf", b"\x01\x02", "protobuf"),
        "/log": ("", "", b"", "json"),
        "/idl": ("my_msgs/msg/Idl", "ros2idl", b"module my {", "cdr"),
    }
    for number, (topic, (schema, how, text, encoding)) in enumerate(others.items()):
        drawn.add(drawn.channel(topic, schema, how, text, encoding), bytes([number]) * (number + 5))
    outcome = run(artifact_dir, drawn.save(tmp_path / "drive.mcap"), "--copy")
    assert (outcome.returncode, outcome.stderr, outcome.stdout[:6]) == (0, "", "2 of 2")
    made = tmp_path / "drive.masks.mcap"
    for number, topic in enumerate(others):
        assert messages_of(made, topic) == [bytes([number]) * (number + 5)]
    with made.open("rb") as file:
        summary = make_reader(file).get_summary()
    assert summary is not None
    kept = {channel.topic: summary.schemas.get(channel.schema_id) for channel in summary.channels.values()}
    assert kept["/log"] is None
    odd = kept["/odd"]
    assert odd is not None
    assert (odd.name, odd.encoding, odd.data) == ("my_msgs/msg/Odd", "ros2msg", b"this is not a definition {{")
    assert topics_of(made)["/cam/mask"] == 2


def test_masks_that_are_there_already_are_replaced_and_told(tmp_path: Path, artifact_dir: Path) -> None:
    """A bag of masks and images is not segmented twice over; one topic by name still is."""
    drawn = Drawn()
    drawn.images("/cam", 2)
    old = drawn.channel("/cam/mask", IMAGE)
    drawn.add(old, raw(0, np.zeros((96, 128), np.uint8), "mono8"))
    bag = drawn.save(tmp_path / "drive.mcap")
    outcome = run(artifact_dir, bag, "--copy")
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert "/cam/mask was there already, and is replaced" in outcome.stdout
    assert all(right(mask) for mask in masks_of(tmp_path / "drive.masks.mcap")["/cam/mask"])
    outcome = run(artifact_dir, bag, "--out", tmp_path / "plain")
    assert "/cam/mask is taken for masks of an earlier run" in outcome.stdout
    assert "2 of 2" in outcome.stdout
    outcome = run(artifact_dir, bag, "--topic", "/cam/mask", "--copy", "--out", tmp_path / "named")
    assert "1 of 1" in outcome.stdout
    assert topics_of(tmp_path / "named" / "drive.masks.mcap")["/cam/mask"] == 1


@pytest.mark.parametrize("compression", ["NONE", "LZ4", "ZSTD"])
@pytest.mark.parametrize("chunked", [True, False])
def test_a_file_that_is_cut_off_is_done_as_far_as_it_goes(
    tmp_path: Path, artifact_dir: Path, compression: str, chunked: bool
) -> None:
    """Wherever it is cut, whole messages have their masks; a line says damaged, and the exit code is 1."""
    drawn = Drawn(compression=compression, chunked=chunked, chunk=3 * len(compressed(0)))
    drawn.images("/cam", 9)
    whole = drawn.bytes()
    for number, share in enumerate((0.5, 0.75, 0.97)):
        bag = tmp_path / f"{number}.mcap"
        bag.write_bytes(whole[: int(len(whole) * share)])
        outcome = run(artifact_dir, bag)
        assert (outcome.returncode, len(outcome.stderr.splitlines())) == (1, 1)
        assert "damaged" in outcome.stderr
        masks = masks_of(tmp_path / f"{number}.masks.mcap")["/cam/mask"]
        assert all(right(mask) for mask in masks)
        least = int(9 * share) - (1 if compression == "NONE" or not chunked else 3)
        assert least <= len(masks) <= 9


def test_a_file_without_its_footer_loses_nothing(tmp_path: Path, artifact_dir: Path) -> None:
    """A recorder that was killed: every message is there, the index is not."""
    drawn = Drawn()
    drawn.images("/cam", 4)
    whole = drawn.bytes()
    for cut in (1, 8, 9, 20, 60):
        bag = tmp_path / f"{cut}.mcap"
        bag.write_bytes(whole[:-cut])
        outcome = run(artifact_dir, bag)
        assert (outcome.returncode, outcome.stdout[:6]) == (1, "4 of 4")
        assert "damaged: 4 images could be read, and are done: the file is cut off" in outcome.stderr


def test_a_damaged_part_in_the_middle_is_passed_over(tmp_path: Path, artifact_dir: Path) -> None:
    """The chunks behind it are read, and a line tells of it; so is a checksum that does not fit."""
    drawn = Drawn(chunk=100)
    drawn.images("/cam", 5)
    whole = bytearray(drawn.bytes())
    starts = [at for at in range(len(whole)) if whole[at : at + 4] == b"\x28\xb5\x2f\xfd"]
    whole[starts[2] : starts[2] + 40] = bytes(40)
    (tmp_path / "drive.mcap").write_bytes(whole)
    outcome = run(artifact_dir, tmp_path / "drive.mcap")
    assert (outcome.returncode, outcome.stdout[:6]) == (1, "4 of 4")
    assert "damaged: 4 images could be read, and are done: a part of the file cannot be decompressed" in outcome.stderr
    drawn = Drawn(compression="NONE")
    channel = drawn.channel("/cam", IMAGE)
    drawn.add(channel, raw(1, make_image(), "rgb8"))
    spoilt = bytearray(drawn.bytes())
    spoilt[len(spoilt) // 3] ^= 255
    (tmp_path / "night.mcap").write_bytes(spoilt)
    outcome = run(artifact_dir, tmp_path / "night.mcap")
    assert (outcome.returncode, outcome.stdout[:6]) == (1, "1 of 1")
    assert "a checksum is not that of its data" in outcome.stderr


def test_messages_of_a_channel_that_is_not_described_are_told(tmp_path: Path, artifact_dir: Path) -> None:
    """They cannot be read; the others are done."""
    drawn = Drawn(compression="NONE", chunked=False)
    drawn.images("/cam", 2)
    whole = drawn.bytes()
    body = struct.pack("<HIQQ", 77, 0, 1, 1) + b"stray"
    stray = struct.pack("<BQ", 5, len(body)) + body
    end = whole.index(struct.pack("<BQ", 0x0F, 4))
    (tmp_path / "drive.mcap").write_bytes(whole[:end] + stray + whole[end:])
    outcome = run(artifact_dir, tmp_path / "drive.mcap")
    assert (outcome.returncode, outcome.stdout[:6]) == (1, "2 of 2")
    assert "1 messages belong to a channel that the file does not describe" in outcome.stderr


# Foxglove --------------------------------------------------------------------------------------------------------------------


def encoded(kind: str, how: str, number: int, fields: dict[str, Any]) -> bytes:
    """A message of Foxglove's, in one of the encodings."""
    if how == "json":
        return foxglove_json(kind, number, **fields)
    if how == "protobuf":
        return Protobuf(kind).encode(number, **fields)
    store, name = types(), f"foxglove_msgs/msg/{kind}"
    if name not in store.fielddefs:
        from rosbags.typesys import get_types_from_msg  # noqa: PLC0415

        store = __import__("rosbags.typesys", fromlist=["get_typestore"])
        store = store.get_typestore(store.Stores.ROS2_HUMBLE)
        store.register(get_types_from_msg(FOXGLOVE_MESSAGES[kind], name))
    stamp = store.types["builtin_interfaces/msg/Time"](sec=1_700_000_000, nanosec=number)
    plain = {key: np.frombuffer(value, np.uint8) if isinstance(value, bytes) else value for key, value in fields.items()}
    message = store.types[name](timestamp=stamp, frame_id="fox", **plain)
    return bytes(store.serialize_cdr(message, name) if how == "cdr" else store.serialize_ros1(message, name))


@pytest.mark.parametrize("how", ["json", "protobuf", "cdr", "ros1"])
@pytest.mark.parametrize("kind", ["CompressedImage", "RawImage", "CompressedVideo"])
def test_foxglove_s_images_are_segmented_in_every_encoding(tmp_path: Path, artifact_dir: Path, kind: str, how: str) -> None:
    """Beside those of ROS; each mask has the stamp and the frame of its image."""
    drawn = Drawn("")
    drawn.images("/ros", 1)
    definitions = {
        "json": (f"foxglove.{kind}", "jsonschema", b'{"type": "object"}'),
        "protobuf": (f"foxglove.{kind}", "protobuf", Protobuf(kind).definition),
        "cdr": (f"foxglove_msgs/msg/{kind}", "ros2msg", FOXGLOVE_MESSAGES[kind].encode()),
        "ros1": (
            f"foxglove_msgs/{kind}",
            "ros1msg",
            FOXGLOVE_MESSAGES[kind].replace("builtin_interfaces/Time", "time").encode(),
        ),
    }
    channel = drawn.channel("/fox", *definitions[how], encoding=how)
    packets = video_packets(3) if kind == "CompressedVideo" else [JPEG] * 3
    for number, packet in enumerate(packets):
        fields: dict[str, Any] = {"data": packet, "format": "h264" if kind == "CompressedVideo" else "jpeg"}
        if kind == "RawImage":
            fields = {"data": make_image().tobytes(), "width": 128, "height": 96, "encoding": "rgb8", "step": 384}
        drawn.add(channel, encoded(kind, how, number, fields))
    bag = drawn.save(tmp_path / "drive.mcap")
    outcome = run(artifact_dir, bag)
    assert (outcome.returncode, outcome.stderr, outcome.stdout[:6]) == (0, "", "4 of 4")
    made = tmp_path / "drive.masks.mcap"
    assert [len(masks) for _, masks in sorted(masks_of(made).items())] == [3, 1]
    assert all(right(mask) for masks in masks_of(made).values() for mask in masks)
    with AnyReader([made]) as reader:
        heads = [
            reader.deserialize(data, connection.msgtype).header  # type: ignore[attr-defined]
            for connection, _, data in reader.messages()
            if connection.topic == "/fox/mask"
        ]
    assert [(head.stamp.nanosec, head.frame_id) for head in heads] == [(0, "fox"), (1, "fox"), (2, "fox")]


@pytest.mark.parametrize(
    ("codec", "told"), [("libx264", "h264"), ("libx265", "h265"), ("libvpx-vp9", "vp9"), ("libsvtav1", "av1")]
)
def test_every_codec_of_foxglove_s_video_is_read(
    tmp_path: Path, artifact_dir: Path, codec: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One mask a message, at once."""
    monkeypatch.setenv("SVT_LOG", "0")  # the encoder writes to the terminal otherwise
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    drawn = Drawn()
    kind = Protobuf("CompressedVideo")
    channel = drawn.channel("/fox", kind.name, "protobuf", kind.definition, "protobuf")
    for number, packet in enumerate(video_packets(4, codec)):
        drawn.add(channel, kind.encode(number, data=packet, format=told))
    outcome = run(artifact_dir, drawn.save(tmp_path / "drive.mcap"))
    assert (outcome.returncode, outcome.stderr, outcome.stdout[:6]) == (0, "", "4 of 4")
    assert all(right(mask) for mask in masks_of(tmp_path / "drive.masks.mcap")["/fox/mask"])


def test_a_video_that_begins_without_its_key_frame_is_told(tmp_path: Path, artifact_dir: Path) -> None:
    """Frames that nothing can be built upon have no mask; those after the next key frame have one."""
    drawn = Drawn()
    kind = Protobuf("CompressedVideo")
    channel = drawn.channel("/fox", kind.name, "protobuf", kind.definition, "protobuf")
    for number, packet in enumerate([*video_packets(4)[2:], *video_packets(2)]):
        drawn.add(channel, kind.encode(number, data=packet, format="h264"))
    drawn.add(channel, kind.encode(9, data=b"", format="theora"))
    outcome = run(artifact_dir, drawn.save(tmp_path / "drive.mcap"))
    assert outcome.returncode == 1
    assert "images have no mask; the first: a frame of the video cannot be decoded" in outcome.stderr
    assert len(masks_of(tmp_path / "drive.masks.mcap")["/fox/mask"]) == 2


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_a_video_with_b_frames_is_refused(codec: str) -> None:
    """Its decoder gives the frame of another message: a mask would have a wrong stamp."""
    encoder: Any = av.CodecContext.create(codec, "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 128, 96, "yuv420p", Fraction(1, 10)
    encoder.options = {"bf": "2", "preset": "ultrafast", "x265-params": "bframes=2:b-adapt=0:log-level=none"}
    encoder.options |= {"x264-params": "bframes=2:b-adapt=0"}
    packets = []
    for number in range(12):
        frame = av.VideoFrame.from_ndarray(np.full((96, 128, 3), 20 * number, np.uint8), "rgb24").reformat(format="yuv420p")
        frame.pts = number
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    assert [packet.pts for packet in packets] != sorted(packet.pts for packet in packets)
    decoder, told = MessageDecoder("foxglove.CompressedVideo"), set()
    for packet in packets:
        stamp = SimpleNamespace(sec=0, nsec=0)
        message = SimpleNamespace(timestamp=stamp, frame_id="", data=bytes(packet), format=codec.replace("libx", "h"))
        try:
            image = decoder.decode(decoder.picture(message), Limits())
        except ServiceError as error:
            told.add(error.message)
        else:
            assert abs(float(image.mean()) - 20 * packet.pts) < 8
    assert "the video's frames are not sent in the order in which they are shown; encode it without B-frames" in told


@pytest.mark.parametrize("order", ["reversed", "alone"])
def test_definitions_in_any_order_are_read(tmp_path: Path, artifact_dir: Path, order: str) -> None:
    """A set of protobuf files whose first depends on the second, and one that leaves out Google's own."""
    kind = Protobuf("CompressedImage")
    stamp, own = descriptor_pb2.FileDescriptorSet.FromString(kind.definition).file
    definition = descriptor_pb2.FileDescriptorSet(file=[own, stamp] if order == "reversed" else [own]).SerializeToString()
    drawn = Drawn()
    drawn.add(drawn.channel("/fox", kind.name, "protobuf", definition, "protobuf"), kind.encode(1, data=JPEG, format="jpeg"))
    outcome = run(artifact_dir, drawn.save(tmp_path / "drive.mcap"))
    assert (outcome.returncode, outcome.stderr, outcome.stdout[:6]) == (0, "", "1 of 1")


def test_messages_of_ros_1_in_an_mcap_file_are_read(tmp_path: Path, artifact_dir: Path) -> None:
    """As converters of bags write them, and as our own copies are."""
    drawn = Drawn("ros1")
    for topic, kind, message in ros1_images(2):
        name = kind.replace("/msg/", "/")
        text = NOETIC.generate_msgdef(kind, ros_version=1)[0].encode()
        channel = drawn.channel(topic, name, "ros1msg", text, "ros1")
        drawn.add(channel, bytes(NOETIC.serialize_ros1(message, kind)))
    outcome = run(artifact_dir, drawn.save(tmp_path / "drive.mcap"), "--copy")
    assert (outcome.returncode, outcome.stderr, outcome.stdout[:6]) == (0, "", "4 of 4")
    outcome = run(artifact_dir, tmp_path / "drive.masks.mcap", "--out", tmp_path / "again")
    assert (outcome.returncode, outcome.stdout[:6]) == (0, "4 of 4")
    assert all(right(mask) for masks in masks_of(tmp_path / "again" / "drive.masks.masks.mcap").values() for mask in masks)


@pytest.mark.parametrize("cut", [0.3, 0.6, 0.9])
def test_a_split_database_with_a_broken_part_keeps_the_others(tmp_path: Path, artifact_dir: Path, cut: float) -> None:
    """The whole file's masks, a line that says damaged, exit code 1."""
    bag = make_bag(tmp_path / "drive", StoragePlugin.SQLITE3, frames=6)
    (first,) = bag.glob("*.db3")
    first.rename(bag / "drive_0.db3")
    content = (bag / "drive_0.db3").read_bytes()
    (bag / "drive_1.db3").write_bytes(content[: int(len(content) * cut)])
    (bag / "metadata.yaml").write_text("rosbag2_bagfile_information:\n  relative_file_paths: [drive_0.db3, drive_1.db3]\n")
    outcome = run(artifact_dir, bag)
    assert (outcome.returncode, len(outcome.stderr.splitlines())) == (1, 1)
    assert re.search("damaged: .* drive_1.db3: ", outcome.stderr)
    with AnyReader([tmp_path / "drive.masks"]) as reader:
        assert sum(connection.msgcount for connection in reader.connections if connection.topic.endswith("/mask")) >= 12


def test_a_topic_that_cannot_be_read_is_named_with_its_encoding(tmp_path: Path, artifact_dir: Path) -> None:
    """A damaged definition or an encoding of another world: the other topics are done, and a line names this one."""
    drawn = Drawn()
    drawn.images("/cam", 1)
    drawn.add(drawn.channel("/pb", "foxglove.CompressedImage", "protobuf", b"\x00\x01 damaged", "protobuf"), b"")
    drawn.add(drawn.channel("/fb", "foxglove.CompressedImage", "flatbuffer", b"x", "flatbuffer"), b"")
    outcome = run(artifact_dir, drawn.save(tmp_path / "drive.mcap"))
    assert (outcome.returncode, outcome.stdout[:6]) == (1, "1 of 1")
    assert "/pb: the definition of foxglove.CompressedImage (protobuf) cannot be read" in outcome.stderr
    assert "/fb: foxglove.CompressedImage in flatbuffer is not read; cdr, ros1, protobuf, json are" in outcome.stderr
    alone = Drawn()
    alone.add(alone.channel("/scan", "foxglove.LaserScan", "jsonschema", b"{}", "json"), b"{}")
    outcome = run(artifact_dir, alone.save(tmp_path / "scan.mcap"))
    assert outcome.returncode == 1
    assert "there is no image topic in this bag; it holds foxglove.LaserScan (jsonschema)" in outcome.stderr


# what images say of themselves -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("told", ["bayer_rggb8; jpeg compressed", "bayer_rggb8; png compressed ", "bayer_rggb8;png compressed"])
def test_a_mosaic_that_was_compressed_is_demosaiced(tmp_path: Path, artifact_dir: Path, told: str) -> None:
    """And one whose colours were made before is left as it is."""
    mosaic = mosaic_of(make_image(), "rggb")
    packed = encode_image(mosaic, "PNG") if "png" in told else encode_image(mosaic, "JPEG", quality=98)
    drawn = Drawn()
    for topic, data, how in (("/mosaic", packed, told), ("/colours", JPEG, f"{told.strip()} bgr8")):
        drawn.add(drawn.channel(topic), compressed(0, data, how))
    gray = encode_image(np.full((96, 128, 3), 90, np.uint8), "JPEG")
    drawn.add(drawn.channel("/gray"), compressed(0, gray, "mono8; jpeg compressed"))
    assert run(artifact_dir, drawn.save(tmp_path / "drive.mcap")).returncode == 0
    masks = masks_of(tmp_path / "drive.masks.mcap")
    assert right(masks["/mosaic/mask"][0])
    assert right(masks["/colours/mask"][0])
    assert len(masks) == 3


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_a_sensor_of_fewer_bits_is_scaled_and_told(tmp_path: Path, artifact_dir: Path, bits: int) -> None:
    """The mask is that of the picture in 8 bits; the depth of a topic only grows."""
    mosaic = mosaic_of(make_image(), "rggb").astype(np.uint16)
    mosaic[0, 0] = 255
    drawn = Drawn()
    wide, narrow = drawn.channel("/wide", IMAGE), drawn.channel("/narrow", IMAGE)
    for number in range(2):
        scale = (1 << bits) - 1
        drawn.add(
            wide, raw(number, (mosaic.astype(np.uint32) * scale // 255 // (1 + number)).astype(np.uint16), "bayer_rggb16")
        )
        drawn.add(narrow, raw(number, (mosaic // (1 + number)).astype(np.uint8), "bayer_rggb8"))
    outcome = run(artifact_dir, drawn.save(tmp_path / "drive.mcap"))
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert (f"/wide holds {bits} bits in 16: scaled" in outcome.stdout) == (bits < 16)
    masks = masks_of(tmp_path / "drive.masks.mcap")
    for ours, wanted in zip(masks["/wide/mask"], masks["/narrow/mask"], strict=True):
        assert np.mean(ours == wanted) > 0.98
        assert right(ours)


def test_a_dark_beginning_does_not_tell_the_depth(tmp_path: Path, artifact_dir: Path) -> None:
    """A lens cap before the drive: the first images are as dark as they are, not noise as bright as day."""
    drawn = Drawn()
    wide, narrow = drawn.channel("/wide", IMAGE), drawn.channel("/narrow", IMAGE)
    for number in range(4):
        eight = mosaic_of(make_image() // (4 if number < 3 else 1), "rggb")
        drawn.add(wide, raw(number, (eight.astype(np.uint32) * 1023 // 255).astype(np.uint16), "bayer_rggb16"))
        drawn.add(narrow, raw(number, eight, "bayer_rggb8"))
    outcome = run(artifact_dir, drawn.save(tmp_path / "drive.mcap"), "--min-confidence", "0.45")
    assert "/wide holds 10 bits in 16: scaled" in outcome.stdout
    masks = masks_of(tmp_path / "drive.masks.mcap")
    for ours, wanted in zip(masks["/wide/mask"], masks["/narrow/mask"], strict=True):
        assert np.mean(ours == wanted) > 0.97
    assert [bool(np.all(mask == 255)) for mask in masks["/wide/mask"]] == [True, True, True, False]


# SQLite ----------------------------------------------------------------------------------------------------------------------


def test_messages_beside_a_database_that_was_not_closed_are_read(tmp_path: Path, artifact_dir: Path) -> None:
    """A killed recorder's ``-wal``; the files are left as they were, byte for byte."""
    (source,) = make_bag(tmp_path / "whole", StoragePlugin.SQLITE3, frames=3).glob("*.db3")
    live = tmp_path / "live.db3"
    shutil.copyfile(source, live)
    connection = sqlite3.connect(live)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA wal_autocheckpoint=0")
    connection.execute("INSERT INTO messages (topic_id, timestamp, data) SELECT topic_id, timestamp + 9, data FROM messages")
    connection.commit()
    killed = tmp_path / "killed"
    killed.mkdir()
    for end in ("", "-wal"):
        shutil.copyfile(f"{live}{end}", killed / f"drive.db3{end}")
    connection.close()
    before = {path.name: path.read_bytes() for path in killed.iterdir()}
    assert len(before) == 2
    outcome = run(artifact_dir, killed / "drive.db3", "--out", tmp_path / "out")
    assert (outcome.returncode, outcome.stderr, outcome.stdout[:8]) == (0, "", "12 of 12")
    assert {path.name: path.read_bytes() for path in killed.iterdir()} == before


def test_a_database_without_definitions_is_copied_too(tmp_path: Path, artifact_dir: Path) -> None:
    """As Humble and older write them: types are names, and unknown ones stay so."""
    (source,) = make_bag(tmp_path / "whole", StoragePlugin.SQLITE3, frames=2).glob("*.db3")
    old = source.replace(tmp_path / "old.db3")
    rows = sqlite3.connect(old)
    rows.executescript(
        """
        DROP TABLE message_definitions; DROP TABLE schema; DROP TABLE metadata;
        CREATE TABLE plain(id INTEGER PRIMARY KEY, name TEXT, type TEXT, serialization_format TEXT);
        INSERT INTO plain SELECT id, name, type, serialization_format FROM topics;
        DROP TABLE topics; ALTER TABLE plain RENAME TO topics;
        INSERT INTO topics VALUES(9, '/own', 'my_msgs/msg/Own', 'cdr');
        INSERT INTO messages (topic_id, timestamp, data) VALUES(9, 5, x'0001000042');
        INSERT INTO messages (topic_id, timestamp, data) VALUES(77, 6, x'00');
        """
    )
    rows.commit()
    rows.close()
    outcome = run(artifact_dir, old, "--copy")
    assert (outcome.returncode, outcome.stdout[:6]) == (1, "4 of 4")
    assert "1 messages belong to a topic that the file does not describe" in outcome.stderr
    assert messages_of(tmp_path / "old.masks.mcap", "/own") == [b"\x00\x01\x00\x00\x42"]


def test_a_damaged_database_is_done_as_far_as_it_goes(tmp_path: Path, artifact_dir: Path) -> None:
    """A page that is overwritten: a line, exit code 1, and the masks of what lies before."""
    (source,) = make_bag(tmp_path / "whole", StoragePlugin.SQLITE3, frames=30).glob("*.db3")
    content = bytearray(source.read_bytes())
    half = len(content) // 2 // 4096 * 4096
    content[half : half + 4 * 4096] = b"\xff" * (4 * 4096)
    (tmp_path / "drive.db3").write_bytes(content)
    outcome = run(artifact_dir, tmp_path / "drive.db3")
    assert (outcome.returncode, "Traceback" in outcome.stderr) == (1, False)
    assert "damaged" in outcome.stderr or "have no mask" in outcome.stderr
    assert masks_of(tmp_path / "drive.masks.mcap")


# ROS 1 -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["NONE", "BZ2", "LZ4"])
def test_a_bag_of_ros_1_is_read(tmp_path: Path, artifact_dir: Path, compression: str) -> None:
    """Images, raw and compressed, with their stamps; --copy keeps the messages as they are."""
    bag = ros1_bag(tmp_path / "drive.bag", ros1_images(3), compression)
    outcome = run(artifact_dir, bag, "--copy")
    assert (outcome.returncode, outcome.stderr, outcome.stdout[:6]) == (0, "", "6 of 6")
    made = tmp_path / "drive.masks.mcap"
    assert topics_of(made) == {"/raw": 3, "/small": 3, **{f"/{name}/mask": 3 for name in ("raw", "small")}} | {
        f"/{name}/label_info": 1 for name in ("raw", "small")
    }
    kept = NOETIC.deserialize_ros1(messages_of(made, "/raw")[1], IMAGE)
    assert np.array_equal(kept.data.reshape(96, 128, 3), make_image())  # type: ignore[attr-defined]
    assert all(right(mask) for masks in masks_of(made).values() for mask in masks)


def test_a_bag_of_ros_1_that_was_cut_off_is_done_as_far_as_it_goes(tmp_path: Path, artifact_dir: Path) -> None:
    """Without its index every message is read; cut in the middle, those before."""
    whole = ros1_bag(tmp_path / "whole.bag", ros1_images(4)).read_bytes()
    for name, share, least in (("index", 0.995, 8), ("half", 0.5, 3)):
        bag = tmp_path / f"{name}.bag"
        bag.write_bytes(whole[: int(len(whole) * share)])
        outcome = run(artifact_dir, bag)
        assert outcome.returncode == 1
        assert "and are done: the file is cut off" in outcome.stderr
        assert least <= sum(len(masks) for masks in masks_of(tmp_path / f"{name}.masks.mcap").values()) <= 8
    (tmp_path / "letter.bag").write_text("dear driver")
    assert "not a bag that can be read" in run(artifact_dir, tmp_path / "letter.bag").stderr


# compressed, split, collected ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".zst", ".zstd"])
def test_compressed_files_are_read(tmp_path: Path, artifact_dir: Path, suffix: str) -> None:
    """Of every kind, by name; a cut one as far as it goes."""
    (database,) = make_bag(tmp_path / "whole", StoragePlugin.SQLITE3, frames=2).glob("*.db3")
    drawn = Drawn(compression="NONE")
    drawn.images("/cam", 4)
    sources = {
        "a.mcap": drawn.bytes(),
        "b.db3": database.read_bytes(),
        "c.bag": ros1_bag(tmp_path / "c.bag", ros1_images(2)).read_bytes(),
    }
    folder = tmp_path / "in"
    folder.mkdir()
    for name, content in sources.items():
        (folder / f"{name}{suffix}").write_bytes(zstandard.compress(content))
    outcome = run(artifact_dir, folder)
    assert (outcome.returncode, outcome.stderr, outcome.stdout[:8]) == (0, "", "12 of 12")
    made = sorted(path.name for path in folder.iterdir() if path.name != RECORD and not path.name.endswith(suffix))
    assert made == ["a.masks.mcap", "b.masks.mcap", "c.masks.mcap"]
    cut = tmp_path / f"cut.mcap{suffix}"
    cut.write_bytes(zstandard.compress(sources["a.mcap"])[:-200])
    outcome = run(artifact_dir, cut)
    assert (outcome.returncode, "Traceback" in outcome.stderr) == (1, False)


def test_a_broken_file_among_several_does_not_lose_the_others(tmp_path: Path, artifact_dir: Path) -> None:
    """A folder of rosbag2: whole files are done in their order, the broken and the missing one are named."""
    bag = tmp_path / "drive"
    bag.mkdir()
    names = [f"drive_{number}.mcap" for number in (0, 1, 2, 10, 11)]
    listed = "".join(f"  - {name}\n" for name in names)
    (bag / "metadata.yaml").write_text(f"rosbag2_bagfile_information:\n  relative_file_paths:\n{listed}")
    for number, name in enumerate(names[:4]):
        drawn = Drawn()
        channel = drawn.channel("/cam")
        drawn.add(channel, compressed(number))
        drawn.save(bag / name)
    (bag / names[1]).write_bytes(b"nothing of a bag")
    outcome = run(artifact_dir, bag)
    assert (outcome.returncode, outcome.stdout[:6]) == (1, "3 of 3")
    assert "drive_11.mcap is missing" in outcome.stderr
    assert "drive_1.mcap: not a bag that can be read" in outcome.stderr
    with AnyReader([tmp_path / "drive.masks"]) as reader:
        stamps = [
            reader.deserialize(data, connection.msgtype).header.stamp.nanosec  # type: ignore[attr-defined]
            for connection, _, data in reader.messages()
            if connection.topic == "/cam/mask"
        ]
    assert stamps == [0, 2, 3]


def test_folders_of_bags_and_folders_without_metadata_are_searched(tmp_path: Path, artifact_dir: Path) -> None:
    """Each bag has results of its own."""
    drives = tmp_path / "drives"
    drives.mkdir()
    make_bag(drives / "whole", frames=1)
    make_bag(drives / "lost", frames=1)
    (drives / "lost" / "metadata.yaml").unlink()
    ros1_bag(drives / "old.bag", ros1_images(1))
    outcome = run(artifact_dir, drives, "--out", tmp_path / "out")
    assert (outcome.returncode, outcome.stderr, outcome.stdout[:6]) == (0, "", "6 of 6")
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.mcap"))
    assert found == ["lost/lost.masks.mcap", "old.masks.mcap", "whole.masks/whole.masks_0.mcap"]


def test_a_written_folder_is_a_bag_for_the_reference_reader_and_for_us(tmp_path: Path, artifact_dir: Path) -> None:
    """Metadata as rosbag2 has them: counts, times, types, hashes."""
    bag = make_bag(tmp_path / "drive", frames=3)
    assert run(artifact_dir, bag, "--copy").returncode == 0
    with AnyReader([tmp_path / "drive.masks"]) as reader:
        counts = {connection.topic: connection.msgcount for connection in reader.connections}
        assert (reader.start_time, reader.duration) == (1000, 3)
        digests = {connection.topic: connection.digest for connection in reader.connections}
    assert counts == {
        **dict.fromkeys(("/raw", "/small", "/text", "/raw/mask", "/small/mask"), 3),
        **dict.fromkeys(("/raw/label_info", "/small/label_info"), 1),
    }
    assert digests["/raw/mask"] == TYPES.hash_rihs01(IMAGE)
    outcome = run(artifact_dir, tmp_path / "drive.masks", "--topic", "/small", "--out", tmp_path / "again")
    assert (outcome.returncode, outcome.stdout[:6]) == (0, "3 of 3")


def test_a_stamp_of_ros_1_is_kept(tmp_path: Path, artifact_dir: Path) -> None:
    """Seconds, nanoseconds and the frame's name."""
    message = NOETIC.types[COMPRESSED](header=header(7, NOETIC), format="jpeg", data=np.frombuffer(JPEG, np.uint8))
    assert run(artifact_dir, ros1_bag(tmp_path / "a.bag", [("/cam", COMPRESSED, message)])).returncode == 0
    with AnyReader([tmp_path / "a.masks.mcap"]) as reader:
        (head,) = [
            reader.deserialize(data, connection.msgtype).header  # type: ignore[attr-defined]
            for connection, _, data in reader.messages()
            if connection.topic == "/cam/mask"
        ]
    assert (head.stamp.sec, head.stamp.nanosec, head.frame_id) == (1_700_000_000, 7, "camera_front")
