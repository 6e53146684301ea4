"""Bags through the command line, read back with the reference tools: rosbags and mcap-ros2-support."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from rosbags.highlevel import AnyReader
from rosbags.interfaces import QosDurability
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from service.batch.config import RunConfig
from service.batch.recordings import pictures
from service.batch.records import NAME as RECORD
from service.batch.records import Recipe
from service.batch.sources import Done
from service.batch.sources.bag import BAG_THINGS, BagSource
from service.encodings import understood, understood_together
from service.extras import needs
from service.pipeline.codecs.decoding import Limits
from service.pipeline.predictor import Predictor
from service.pipeline.repository import Repository
from tests.conftest import encode_image, make_image, make_labels, make_manifest, write_artifact
from tests.test_video import COMMAND, ROOT, run
from tests.waiting import wait_until

TYPES = get_typestore(Stores.ROS2_HUMBLE)
IMAGE, COMPRESSED, TEXT = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage", "std_msgs/msg/String"


def header(number: int) -> Any:
    """A stamp of its own for each message."""
    time = TYPES.types["builtin_interfaces/msg/Time"](sec=1_700_000_000, nanosec=number)
    return TYPES.types["std_msgs/msg/Header"](stamp=time, frame_id="camera_front")


def image(data: np.ndarray, encoding: str, width: int, number: int = 0, padding: int = 0, *, big: int = 0) -> Any:
    """An ``Image`` message from rows of bytes, each perhaps with some padding at its end."""
    rows = np.ascontiguousarray(data).view(np.uint8).reshape(len(data), -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    return TYPES.types[IMAGE](
        header=header(number),
        height=len(rows),
        width=width,
        encoding=encoding,
        is_bigendian=big,
        step=rows.shape[1],
        data=rows.reshape(-1),
    )


def make_bag(
    path: Path,
    plugin: StoragePlugin = StoragePlugin.MCAP,
    frames: int = 4,
    spoilt: int | None = None,
    size: tuple[int, int] = (96, 128),
    topic: str = "/raw",
) -> Path:
    """A rosbag2 folder: a raw camera, a compressed one, and a topic of text.

    Takes:
        spoilt: the number of a raw image in an encoding that is not read
        size: of the images, (height, width)
        topic: of the raw camera
    """
    with Writer(path, version=9, storage_plugin=plugin) as bag:
        raw = bag.add_connection(topic, IMAGE, typestore=TYPES)
        small = bag.add_connection("/small", COMPRESSED, typestore=TYPES)
        text = bag.add_connection("/text", TEXT, typestore=TYPES)
        for number in range(frames):
            message = image(make_image(*size), "nonsense" if number == spoilt else "rgb8", size[1], number, 5)
            bag.write(raw, 1000 + number, TYPES.serialize_cdr(message, IMAGE))
            data = np.frombuffer(encode_image(make_image(*size), "JPEG", quality=95), np.uint8)
            packed = TYPES.types[COMPRESSED](header=header(number), format="jpeg", data=data)
            bag.write(small, 1000 + number, TYPES.serialize_cdr(packed, COMPRESSED))
            bag.write(text, 1000 + number, TYPES.serialize_cdr(TYPES.types[TEXT](data=f"hello {number}"), TEXT))
    return path


@pytest.mark.parametrize("plugin", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_a_folder_of_rosbag2_becomes_one_of_masks(tmp_path: Path, artifact_dir: Path, plugin: StoragePlugin) -> None:
    """A mask for each image with the image's own header and time; the classes are latched; a second run does nothing."""
    bag = make_bag(tmp_path / "drive", plugin)
    outcome = run(artifact_dir, bag)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert outcome.stdout.startswith("8 of 8 segmented")
    with AnyReader([tmp_path / "drive.masks"]) as reader:
        topics = {connection.topic: connection for connection in reader.connections}
        assert set(topics) == {"/raw/mask", "/raw/label_info", "/small/mask", "/small/label_info"}
        for source in ("/raw", "/small"):
            found = list(reader.messages([topics[f"{source}/mask"]]))
            assert [time for _, time, _ in found] == [1000, 1001, 1002, 1003]
            masks = [reader.deserialize(raw, IMAGE) for _, _, raw in found]
            assert [mask.header.stamp.nanosec for mask in masks] == [0, 1, 2, 3]  # type: ignore[attr-defined]
            for mask in masks:
                got: Any = mask
                assert (got.encoding, got.header.frame_id, got.step) == ("mono8", "camera_front", 128)
                assert np.mean(got.data.reshape(got.height, got.width) == make_labels()) > 0.9
            info = topics[f"{source}/label_info"]
            ((_, _, raw),) = reader.messages([info])
            classes: Any = reader.deserialize(raw, info.msgtype)
            assert [(row.class_id, row.class_name) for row in classes.class_map] == [(0, "red"), (1, "green"), (2, "blue")]
            (qos,) = info.ext.offered_qos_profiles  # type: ignore[union-attr]
            assert qos.durability == QosDurability.TRANSIENT_LOCAL
    assert "0 of 0" in run(artifact_dir, bag).stdout


def test_an_mcap_file_becomes_one_that_the_reference_reader_reads(tmp_path: Path, artifact_dir: Path) -> None:
    """One topic by name, a file by name, everything else copied."""
    (source,) = make_bag(tmp_path / "bag").glob("*.mcap")
    target = tmp_path / "out" / "masks.mcap"
    assert run(artifact_dir, source, "--topic", "/raw", "--out", target, "--copy").returncode == 0
    found: dict[str, list[Any]] = {}
    with target.open("rb") as file:
        for _, channel, _, message in make_reader(file, decoder_factories=[DecoderFactory()]).iter_decoded_messages():
            found.setdefault(channel.topic, []).append(message)
    assert {topic: len(messages) for topic, messages in found.items()} == {
        "/raw": 4,
        "/small": 4,
        "/text": 4,
        "/raw/mask": 4,
        "/raw/label_info": 1,
    }
    assert [message.data for message in found["/text"]] == [f"hello {number}" for number in range(4)]
    mask = found["/raw/mask"][3]
    assert (mask.header.stamp.nanosec, mask.encoding) == (3, "mono8")
    assert np.mean(np.frombuffer(mask.data, np.uint8).reshape(96, 128) == make_labels()) > 0.9
    assert names(target.parent) == ["masks.mcap"]


def names(folder: Path) -> list[str]:
    """Everything in a folder, but the record of what was made of what."""
    return sorted(path.name for path in folder.iterdir() if path.name != RECORD)


def contents(path: Path) -> list[tuple[str, int, bytes]]:
    """Every message of a bag: topic, time and bytes."""
    with AnyReader([path]) as reader:
        return [(connection.topic, time_ns, bytes(raw)) for connection, time_ns, raw in reader.messages()]


def test_ctrl_c_and_then_the_same_again_makes_what_one_run_makes(tmp_path: Path, artifact_dir: Path) -> None:
    """Exit code 130 and a line, no bag yet; the next run computes the rest only, and the bag is that of one run.

    Message by message; and images that have no mask are told again.
    """
    bag = make_bag(tmp_path / "drive", frames=120, spoilt=1, size=(240, 320))
    whole, target = tmp_path / "whole", tmp_path / "drive.masks"
    assert run(artifact_dir, bag, "--out", whole, "--copy").returncode == 1
    environment = {**os.environ, "FCN_MODELS_DIR": str(artifact_dir)}
    command = [*COMMAND, str(bag), "--copy"]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        (journal,) = wait_until(
            lambda: [part for part in tmp_path.glob(".drive.masks.*.part") if part.read_bytes().count(b"\n") >= 4],
            "a journal of four lines",
            alive=lambda: process.poll() is None,
        )
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert re.fullmatch(r"interrupted after \d+ messages; .*the same command goes on from here\n", said)
    assert names(tmp_path) == [journal.name, "drive", "whole"]
    kept = journal.read_bytes().splitlines()
    assert json.loads(kept[2])["failure"].startswith("images in 'nonsense' are not read")
    with journal.open("ab") as lines:
        lines.write(b'{"frame": ')  # as a power cut would leave it
    again = run(artifact_dir, bag, "--copy")
    assert again.returncode == 1
    assert f"{239 - (len(kept) - 1)} of {239 - (len(kept) - 1)} segmented" in again.stdout
    assert "1 images have no mask; the first: images in 'nonsense'" in again.stderr
    assert contents(target) == contents(whole / "drive.masks")
    assert names(tmp_path) == ["drive", "drive.masks", "whole"]


def test_bags_of_one_name_never_share_a_target(tmp_path: Path, artifact_dir: Path) -> None:
    """The second is a failure; one file for several bags is refused before any work, and an input is never written over."""
    bags = [make_bag(tmp_path / name / "drive", frames=1) for name in ("cam1", "cam2")]
    outcome = run(artifact_dir, *bags, "--out", tmp_path / "out")
    assert (outcome.returncode, "2 of 3" in outcome.stdout) == (1, True)
    assert f"{bags[1]}: " in outcome.stderr
    assert "use another --out" in outcome.stderr
    outcome = run(artifact_dir, *bags, "--out", tmp_path / "x.mcap")
    assert outcome.returncode == 2
    assert "one bag alone" in outcome.stderr
    (made,) = bags[0].glob("*.mcap")
    before = made.read_bytes()
    for words in ((), ("--overwrite",)):
        outcome = run(artifact_dir, made, "--out", made, *words)
        assert outcome.returncode == 1
        assert "is an input" in outcome.stderr
    assert made.read_bytes() == before


def test_a_bag_that_was_recorded_again_is_done_again(tmp_path: Path, artifact_dir: Path) -> None:
    """Masks older than their bag are stale; masks that a pattern finds are left out."""
    (source,) = make_bag(tmp_path / "bag", frames=2).glob("*.mcap")
    source = source.rename(tmp_path / "drive.mcap")
    assert "4 of 4" in run(artifact_dir, source).stdout
    assert "1 were finished before" in run(artifact_dir, *tmp_path.glob("*.mcap")).stdout
    os.utime(source, (time.time() + 5, time.time() + 5))
    assert "4 of 4" in run(artifact_dir, tmp_path / "*.mcap").stdout
    folder = make_bag(tmp_path / "night", frames=1)
    assert "2 of 2" in run(artifact_dir, folder).stdout
    assert "1 were finished before" in run(artifact_dir, folder, tmp_path / "night.masks").stdout
    (made,) = folder.glob("*.mcap")
    os.utime(made, (time.time() + 5, time.time() + 5))
    assert "2 of 2" in run(artifact_dir, folder).stdout


def test_a_journal_of_another_run_is_of_no_use(tmp_path: Path, artifact_dir: Path) -> None:
    """Other classes or other topics: everything is computed, and nothing of the old journal is left."""
    bag = make_bag(tmp_path / "drive", frames=2)
    stale = tmp_path / f".drive.masks.{'0' * 16}.part"
    stale.write_text('{"frame":0,"topic":"/raw","time_ns":1000,"failure":"of another day"}\n')
    outcome = run(artifact_dir, bag)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert names(tmp_path) == ["drive", "drive.masks"]


def test_options_hold_for_the_masks_of_a_bag(tmp_path: Path) -> None:
    """Classes that were not asked for are 255; other ids are told by the topic of the classes, the confidence too."""
    classes = [
        entry.model_copy(update={"name": name})
        for entry, name in zip(make_manifest().classes, ("car", "road", "sky"), strict=True)
    ]
    (tmp_path / "models").mkdir()
    write_artifact(tmp_path / "models" / "street.onnx", make_manifest(classes=classes))
    bag = make_bag(tmp_path / "drive", frames=1)
    words = ["--ids", "autoware", "--classes", "car,road", "--min-confidence", "0.25", "--topic", "/raw"]
    assert run(tmp_path / "models", bag, *words).returncode == 0
    with AnyReader([tmp_path / "drive.masks"]) as reader:
        found: dict[str, Any] = {
            connection.topic: reader.deserialize(raw, connection.msgtype) for connection, _, raw in reader.messages()
        }
    mask = found["/raw/mask"].data.reshape(96, 128)
    wanted = np.array([7, 9, 255], np.uint8)[make_labels()]
    assert np.mean(mask == wanted) > 0.9
    info = found["/raw/label_info"]
    assert info.threshold == 0.25
    assert (7, "vehicle") in [(row.class_id, row.class_name) for row in info.class_map]
    refused = run(tmp_path / "models", bag, "--statistics", "--overwrite")
    assert (refused.returncode, "it is for format=rle" in refused.stderr) == (1, True)


def street_models(folder: Path) -> Path:
    """A folder with the model of colours, one of which is called car."""
    classes = [
        entry.model_copy(update={"name": name})
        for entry, name in zip(make_manifest().classes, ("car", "road", "sky"), strict=True)
    ]
    folder.mkdir()
    write_artifact(folder / "street.onnx", make_manifest(classes=classes))
    return folder


def bounds_of(mask: np.ndarray, value: int) -> list[tuple[float, ...]]:
    """Middle and size of each connected component, the largest first, by OpenCV."""
    _, _, statistics, _ = cv2.connectedComponentsWithStats((mask == value).astype(np.uint8), connectivity=8)
    rows = sorted(statistics[1:].tolist(), key=lambda row: -row[4])
    return [(x + width / 2, y + height / 2, width, height) for x, y, width, height, _ in rows]


def test_things_have_bounding_boxes_on_a_topic_of_their_own(tmp_path: Path) -> None:
    """With --instances each image has a Detection2DArray with its header: a bounding box a thing, its class and its score."""
    models, bag = street_models(tmp_path / "models"), make_bag(tmp_path / "drive", frames=2)
    outcome = run(models, bag, "--instances", "--topic", "/raw")
    assert (outcome.returncode, outcome.stderr) == (0, "")
    (source,) = (tmp_path / "drive.masks").glob("*.mcap")
    found: dict[str, list[Any]] = {}
    with source.open("rb") as file:  # the reference reader decodes by the definition in the file
        for _, channel, _, message in make_reader(file, decoder_factories=[DecoderFactory()]).iter_decoded_messages():
            found.setdefault(channel.topic, []).append(message)
    assert {topic: len(messages) for topic, messages in found.items()} == {
        "/raw/mask": 2,
        "/raw/label_info": 1,
        "/raw/detections": 2,
    }
    for mask, told in zip(found["/raw/mask"], found["/raw/detections"], strict=True):
        assert (told.header.stamp.nanosec, told.header.frame_id) == (mask.header.stamp.nanosec, "camera_front")
        labels = np.frombuffer(mask.data, np.uint8).reshape(mask.height, mask.width)
        bounds = [
            (one.bbox.center.position.x, one.bbox.center.position.y, one.bbox.size_x, one.bbox.size_y)
            for one in told.detections
        ]
        assert bounds == bounds_of(labels, 0)
        assert bounds
        for one in told.detections:
            (result,) = one.results
            assert (result.hypothesis.class_id, one.id, one.header) == ("0", "", told.header)
            assert 0.3 < result.hypothesis.score <= 1
    assert "0 of 0" in run(models, bag, "--instances", "--topic", "/raw").stdout
    assert "made with other options" in run(models, bag, "--instances", "--min-area", "5", "--topic", "/raw").stdout
    alone = run(models, bag, "--min-area", "5", "--topic", "/raw")
    assert (alone.returncode, "min_area is for" in alone.stderr) == (1, True)


def test_things_of_an_interrupted_run_are_kept(tmp_path: Path) -> None:
    """The journal has them beside the masks: the finished bag is what one run writes."""
    models, bag = street_models(tmp_path / "models"), make_bag(tmp_path / "drive", frames=3)
    assert run(models, bag, "--instances", "--out", tmp_path / "whole").returncode == 0
    with contextlib.closing(Predictor(Repository(models / "street.onnx"), Limits())) as predictor:
        engine = predictor.engine()
        table = engine.manifest.classes
        options = {
            **understood_together(("png", "overlay", "rle", "gray"), table),
            BAG_THINGS: understood(BAG_THINGS, table, instances=True),
        }
        (target,) = (tmp_path / "whole").glob("*.masks")
        recipe = Recipe("street@1", engine.sha256, "gray", {})
        source = BagSource(bag, tmp_path / "parts" / target.name, recipe, [], copy=False)
        (tmp_path / "parts").mkdir()
        source.open(RunConfig(engine, options, Limits()))
        for frame in islice(source.frames(), 4):
            image = frame.image
            source.write(Done(frame, predictor.segment(image, engine) if isinstance(image, np.ndarray) else None, None))
        source.close()
    (journal,) = (tmp_path / "parts").iterdir()
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    assert [len(line["things"]) > 0 for line in lines] == [True] * len(lines)
    outcome = run(models, bag, "--instances", "--out", tmp_path / "parts")
    assert (outcome.returncode, outcome.stdout.split(" segmented")[0]) == (0, f"{6 - len(lines)} of {6 - len(lines)}")
    assert len(lines) >= 2
    assert contents(tmp_path / "parts" / target.name) == contents(target)


def test_what_is_for_others_is_refused_beside_a_bag_and_what_is_for_bags_without_one(
    tmp_path: Path, artifact_dir: Path
) -> None:
    """An option that would do nothing is a mistake: exit code 2, and nothing is written."""
    bag = make_bag(tmp_path / "drive", frames=1)
    picture = tmp_path / "still.png"
    picture.write_bytes(encode_image(make_image()))
    for words, hint in (
        ([bag, "--write", "rle"], "--write is for images and videos"),
        ([bag, "--format", "npy"], "--format is for images"),
        ([picture, "--topic", "/raw"], "--topic and --copy are for bags"),
        ([picture, "--copy"], "--topic and --copy are for bags"),
    ):
        told = run(artifact_dir, *words)
        assert (told.returncode, hint in told.stderr) == (2, True)
    assert names(tmp_path) == ["drive", "still.png"]


def test_a_database_alone_is_a_bag(tmp_path: Path, artifact_dir: Path) -> None:
    """A ``.db3`` whose metadata.yaml was lost: its masks come beside it."""
    (source,) = make_bag(tmp_path / "drive", StoragePlugin.SQLITE3, frames=2).glob("*.db3")
    alone = source.replace(tmp_path / "alone.db3")
    outcome = run(artifact_dir, alone)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    topics = [topic for topic, _, _ in contents(tmp_path / "alone.masks.mcap")]
    assert sorted(topics) == ["/raw/label_info", "/raw/mask", "/raw/mask", "/small/label_info", "/small/mask", "/small/mask"]


def test_a_bag_without_an_image_becomes_one_without_a_mask(tmp_path: Path, artifact_dir: Path) -> None:
    """A camera that was announced and never sent is not a failure."""
    bag = make_bag(tmp_path / "drive", frames=0)
    outcome = run(artifact_dir, bag)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert contents(tmp_path / "drive.masks") == []
    assert names(tmp_path) == ["drive", "drive.masks"]


def test_without_rosbags_a_line_says_how_to_get_it(tmp_path: Path, artifact_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra's name, and exit code 2; nothing is written."""
    bag = make_bag(tmp_path / "drive", frames=1)
    pictures.types.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "rosbags"]:
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    told = run(artifact_dir, bag)
    assert (told.returncode, told.stderr) == (2, f"fcn-serve: {needs('bags need', 'bags')}\n")
    assert names(tmp_path) == ["drive"]


def test_a_file_that_is_not_a_bag_and_a_topic_that_is_not_there_are_told(tmp_path: Path, artifact_dir: Path) -> None:
    """With the topics that there are; nothing is left behind."""
    bag = make_bag(tmp_path / "drive", frames=1)
    outcome = run(artifact_dir, bag, "--topic", "/lidar")
    assert outcome.returncode == 1
    assert "no image topic '/lidar' in this bag; there are /raw, /small" in outcome.stderr
    (tmp_path / "letter.mcap").write_text("dear driver")
    outcome = run(artifact_dir, tmp_path / "letter.mcap")
    assert outcome.returncode == 1
    assert "letter.mcap: not a bag that can be read" in outcome.stderr
    assert names(tmp_path) == ["drive", "letter.mcap"]


def test_a_message_that_cannot_be_read_is_one_failure(tmp_path: Path, artifact_dir: Path) -> None:
    """A torn message, and one whose pixels share their colours with none: both are told, and the rest goes on."""
    whole = bytes(TYPES.serialize_cdr(image(make_image(), "rgb8", 128), IMAGE))
    odd = bytes(TYPES.serialize_cdr(image(make_image(96, 127)[..., :2].copy(), "yuv422", 127), IMAGE))
    for copy in ((), ("--copy",)):
        bag = tmp_path / f"drive{len(copy)}"
        with Writer(bag, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
            raw = writer.add_connection("/raw", IMAGE, typestore=TYPES)
            for number, data in enumerate((whole, whole[:40], odd, b"", whole)):
                writer.write(raw, 1000 + number, data)
        outcome = run(artifact_dir, bag, *copy)
        assert (outcome.returncode, outcome.stdout[:6]) == (1, "2 of 2")
        assert "3 images have no mask; the first: not a message that can be read: " in outcome.stderr
        masks = [time_ns for topic, time_ns, _ in contents(tmp_path / f"{bag.name}.masks") if topic == "/raw/mask"]
        assert masks == [1000, 1004]


def test_a_message_that_cannot_be_decompressed_is_one_failure(tmp_path: Path, artifact_dir: Path) -> None:
    """Messages that rosbag2 has compressed are read; a spoilt one is told, and the rest goes on."""
    for name, spoilt in (("drive", 2), ("night", 0)):
        bag = tmp_path / name
        writer = Writer(bag, version=8, storage_plugin=StoragePlugin.SQLITE3)
        writer.set_compression(CompressionMode.MESSAGE, CompressionFormat.ZSTD)
        with writer:
            raw = writer.add_connection("/raw", IMAGE, typestore=TYPES)
            for number in range(4):
                writer.write(raw, 1000 + number, TYPES.serialize_cdr(image(make_image(), "rgb8", 128), IMAGE))
        (database,) = bag.glob("*.db3")
        for data in ("00112233", "28b52ffd00112233"):
            with contextlib.closing(sqlite3.connect(database)) as rows:
                rows.execute(f"UPDATE messages SET data = x'{data}' WHERE timestamp = ?", (1000 + spoilt,))
                rows.commit()
            outcome = run(artifact_dir, bag, "--overwrite")
            assert (outcome.returncode, outcome.stdout[:6]) == (1, "3 of 3")
            assert "1 images have no mask; the first: not a message that can be read" in outcome.stderr
            masks = [time_ns for topic, time_ns, _ in contents(tmp_path / f"{name}.masks") if topic == "/raw/mask"]
            assert masks == [1000 + number for number in range(4) if number != spoilt]


def test_damaged_bytes_are_never_a_trace(tmp_path: Path, artifact_dir: Path) -> None:
    """Cut off, or overwritten in the middle: one line about the file."""
    (source,) = make_bag(tmp_path / "drive", frames=1).glob("*.mcap")
    whole = source.read_bytes()
    for number, cut in enumerate((8, 60, len(whole) // 2, len(whole) - 9)):
        path = tmp_path / f"{number}.mcap"
        path.write_bytes(whole[:cut])
        outcome = run(artifact_dir, path)
        assert (outcome.returncode, len(outcome.stderr.splitlines())) == (1, 1)
        path.write_bytes(whole[:cut] + b"\xff" * 16 + whole[cut + 16 :])
        assert run(artifact_dir, path).returncode in (0, 1)
