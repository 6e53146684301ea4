"""Bags of ROS 2 and ROS 1, and MCAP files: image topics in, mask topics out.

Of each image topic ``/camera/image_raw`` comes ``/camera/image_raw/mask``, ``sensor_msgs/Image`` in mono8 whose pixel is the
class id and whose header is the image's, and ``/camera/image_raw/label_info``, a latched ``vision_msgs/LabelInfo``. Where
instances are asked for, ``/camera/image_raw/detections`` has the bounding box of each thing, ``vision_msgs/Detection2DArray``.

A bag is written under another name and renamed when it is complete: its index stands at its end, so that an unfinished one
cannot be gone on with. An interrupted run leaves its journal: the next one takes the masks from it, writes the bag from its
beginning, and goes on with the network where the journal ends.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.batch.config import RunConfig
from service.batch.inputs import METADATA, Input
from service.batch.journal import Journal
from service.batch.recordings import Channel, Contents, Message, Recording, is_recording, plain_name
from service.batch.recordings.opening import open_recording
from service.batch.recordings.pictures import PictureReader, holds_pictures, reader_of
from service.batch.recordings.writer import MaskWriter
from service.batch.records import Finished, Recipe, options_of, size_of, state_of
from service.batch.run import Plan, reason
from service.batch.sources import Done, Ending, Frame
from service.batch.sources.video import replace_folder
from service.batch.targets import BAG, MASKS, is_result, unfinished
from service.encodings import FORMATS, MaskView, Options, rle, to_json
from service.encodings.detections import Detection, detections
from service.errors import BadParameter, CorruptImage, ServiceError, UnsupportedImage
from service.optional import load
from service.pipeline.codecs.messages import Head
from service.pipeline.manifest import check_8_bits

BAG_FORMAT = "gray"
"""The masks of a bag: one byte a pixel, and nothing that is said beside it."""
BAG_THINGS = "coco"
"""The format whose options the things of a bag have, where they are asked for."""
_OURS = ("mask", "label_info", "detections")
"""How the topics that are written end."""


DEPTH_FRAMES, DEPTH_MESSAGES = 30, 3000
"""Images of a topic, and messages of a bag, that are read beforehand to learn how many bits a sensor has."""


@dataclass(frozen=True, eq=False)
class BagFrame(Frame):
    """One message: a picture, or one that is only copied."""

    message: Message
    number: int = -1
    """Among the pictures; -1 if it is only copied."""
    head: Head | None = None
    known: NDArray[np.uint8] | None = None
    """The mask that an interrupted run has made of it."""
    things: tuple[Detection, ...] = ()
    """The things that an interrupted run has found in it."""
    new: bool = True
    """Whether the journal does not hold it yet."""

    @property
    def counts(self) -> bool:
        """Say whether it is a picture."""
        return self.number >= 0

    def about(self) -> dict[str, Any]:
        """Return what its line in the journal says beside the mask."""
        return {"frame": self.number, "topic": self.message.channel.topic, "time_ns": self.message.log_ns}


def is_mcap(path: Path) -> bool:
    """Say whether a file is called as MCAP files are."""
    return path.suffix.lower() == ".mcap"


def plan_bags(
    plan: Plan, inputs: Sequence[Input], out: Path | None, topics: Sequence[str], *, copy: bool
) -> Iterator[BagSource]:
    """Give those bags that have to be worked on.

    Takes:
        topics: image topics; all of them if there is none
        copy: whether every other message is copied, the images too
    """
    for entry in inputs:
        target = target_of(entry, out)
        things = plan.config.options.get(BAG_THINGS)
        asked = {} if things is None else {"things": options_of(things)}
        recipe = plan.recipe(BAG_FORMAT, topics=sorted(topics), copy=copy, **asked)
        if plan.wanted(entry.path, {target: recipe}):
            yield BagSource(entry.path, target, recipe, topics, copy=copy)


def target_of(entry: Input, out: Path | None) -> Path:
    """Return where the masks of a bag go: an MCAP file for a file, a rosbag2 folder for a folder, or the file ``out``."""
    if out is not None and is_mcap(out):
        return out
    return entry.folder / f"{entry.stem}{MASKS if entry.path.is_dir() else BAG}"


class BagSource:
    """One bag, and what is written of it."""

    unit = "messages"

    def __init__(self, path: Path, target: Path, recipe: Recipe, topics: Sequence[str], *, copy: bool) -> None:
        self.path = path
        self.notes: list[str] = []
        self._target, self._recipe, self._topics, self._copy = target, recipe, topics, copy
        self._until = contextlib.ExitStack()
        self._readers: dict[tuple[str, str, str], PictureReader] = {}
        """The readers of the chosen topics, one for each way in which messages are written."""
        self._left_out: set[str] = set()
        """Topics that are not copied: masks that are replaced."""
        self._files: list[Recording] = []
        self._contents: list[Contents] = []
        self._damage: list[str] = []
        self._unread: list[str] = []
        """Image topics that cannot be read, each with its reason."""
        self._things: Options | None = None
        """Of the things that are to be found; None if none are."""
        self._pictures = self._failed = 0
        self._worst = ""

    def open(self, config: RunConfig) -> int | None:
        """Open the bag's files, choose its topics, and begin the bag of masks."""
        self._config, target = config, self._target
        check_8_bits(config.engine.manifest, "a bag")
        self._opened()
        channels = [channel for contents in self._contents for channel in contents.channels]
        chosen = self._chosen(channels)
        self._learn_depths()
        self._state = state_of(self.path)
        options = config.options[BAG_FORMAT]
        self._things = config.options.get(BAG_THINGS)
        run: dict[str, Any] = {**config.journal(), "topics": sorted(chosen), **options.selection()}
        if self._things is not None:
            run["things"] = options_of(self._things)
        self._journal = self._until.enter_context(contextlib.closing(Journal(target, self.path, run, afresh=config.overwrite)))
        part = unfinished(target)
        _remove(part)
        self._until.callback(_remove, part)
        plain = all(channel.message_encoding == "cdr" for channel in channels) or not self._copy
        self._writer = self._until.enter_context(
            contextlib.closing(
                MaskWriter(
                    part,
                    folder=not is_mcap(target),
                    name=target.name,
                    rows=options.rows(config.engine.manifest.classes),
                    threshold=options.min_confidence,
                    profile="ros2" if plain else "",
                )
            )
        )
        for topic in chosen:
            self._writer.announce(topic, things=self._things is not None)
        return sum(
            contents.counts.get(channel.id, 0)
            for contents in self._contents
            for channel in contents.channels
            if channel.topic in chosen
        )

    def _opened(self) -> None:
        """Open every file of the bag. One that cannot be opened is damage, unless it is the only one."""
        paths = _files_of(self.path)
        if self.path.is_dir():
            missing = _missing_files(self.path)
            self._damage += [f"{name} is missing" for name in missing]
        for path in paths:
            try:
                file = self._until.enter_context(contextlib.closing(open_recording(path)))
                contents = file.contents()
            except (UnsupportedImage, CorruptImage, OSError) as error:
                if len(paths) == 1:
                    raise
                self._damage.append(f"{path.name}: {reason(path, error)}")
            else:
                self._files.append(file)
                self._contents.append(contents)
        if not self._files:
            raise UnsupportedImage("; ".join(["not a bag that can be read", *self._damage]))

    def _chosen(self, channels: Sequence[Channel]) -> list[str]:
        """Choose the topics, and make a reader for each.

        Raises:
            BadParameter: if a topic that was asked for is not there, or if there is none at all
        """
        known = sorted({channel.topic for channel in channels if holds_pictures(channel)})
        for topic in self._topics:
            if topic not in known:
                raise BadParameter(
                    f"no image topic {topic!r} in this bag; there are {', '.join(known) or 'none'}", parameter="topic"
                )
        of_masks = {f"{topic}/{end}" for topic in known for end in _OURS}
        chosen = list(self._topics) or [topic for topic in known if topic not in of_masks]
        if not chosen:
            told = sorted({f"{channel.schema} ({channel.schema_encoding})" for channel in channels if channel.schema})
            raise BadParameter(
                f"there is no image topic in this bag{'; it holds ' + ', '.join(told) if told else ''}", parameter="topic"
            )
        there = {channel.topic for channel in channels}
        self._left_out = {f"{topic}/{end}" for topic in chosen for end in _OURS} & there
        masks = sorted(topic for topic in self._left_out if topic.endswith("/mask"))
        if masks and self._copy:
            self.notes.append(f"{', '.join(masks)} was there already, and is replaced")
        elif masks and not self._topics:
            self.notes.append(f"{', '.join(masks)} is taken for masks of an earlier run, and is not segmented")
        for channel in channels:
            kind = _kind_of(channel)
            if channel.topic in chosen and holds_pictures(channel) and kind not in self._readers:
                try:
                    self._readers[kind] = reader_of(channel)
                except UnsupportedImage as error:
                    self._unread.append(error.message)
        if not self._readers:
            raise UnsupportedImage("; ".join(self._unread))
        readable = {topic for topic, _, _ in self._readers}
        return [topic for topic in chosen if topic in readable]

    def _learn_depths(self) -> None:
        """Read the first images of 16 bits beforehand: a dark beginning does not tell the depth of a sensor."""
        waiting = {kind: DEPTH_FRAMES for kind, reader in self._readers.items() if reader.is_raw}
        with contextlib.suppress(Exception), contextlib.closing(self._files[0].messages()) as messages:
            for message in islice(messages, DEPTH_MESSAGES):
                kind = _kind_of(message.channel)
                if kind in waiting:
                    with contextlib.suppress(ServiceError):
                        self._readers[kind].read(message)
                    waiting[kind] -= 1 if self._readers[kind].is_wide else DEPTH_FRAMES
                    if waiting[kind] <= 0:
                        del waiting[kind]
                if not waiting:
                    return

    def frames(self) -> Iterator[BagFrame]:
        """Give every message: pictures decoded, others if they are copied."""
        number = 0
        for file in self._files:
            told = f"{file.path.name}: " if len(self._files) > 1 else ""
            try:
                for message in file.messages():
                    channel = message.channel
                    if _kind_of(channel) in self._readers:
                        yield self._frame(message, number)
                        number += 1
                    elif self._copy and channel.topic not in self._left_out:
                        yield BagFrame(None, None, message)
            except Exception as error:  # noqa: BLE001 - of a library; the other files of the bag are read all the same
                self._damage.append(told + reason(file.path, error))
            self._damage += [told + why for why in dict.fromkeys(file.damage)]

    def _frame(self, message: Message, number: int) -> BagFrame:
        reader = self._readers[_kind_of(message.channel)]
        frame = BagFrame(None, None, message, number)
        known = self._journal.known(frame.about())
        try:
            picture = reader.read(message)
            if known is not None:
                reader.skip(picture)
                mask = None if "failure" in known else rle.decode(known)
                things = tuple(Detection(**thing) for thing in known.get("things", ()))
                return BagFrame(None, known.get("failure"), message, number, picture.head, mask, things, new=False)
            image = reader.decode(picture, self._config.limits)
        except ServiceError as error:
            return BagFrame(None, error.message, message, number, new=known is None)
        return BagFrame(image, None, message, number, picture.head)

    def write(self, done: Done[BagFrame]) -> Done[BagFrame]:
        """Write what came of one message."""
        frame = done.frame
        if self._copy:
            self._writer.copy(frame.message)
        if frame.number < 0:
            return done
        self._pictures += 1
        labels, things, about = frame.known, frame.things, to_json(frame.about())[:-1]
        if done.failure is not None:
            self._failed += 1
            self._worst = self._worst or done.failure
            if frame.new:
                self._journal.add(about + b',"failure":' + to_json(done.failure) + b"}")
        elif done.made is not None:
            made, options = done.made, self._config.options[BAG_FORMAT]
            view = MaskView.of(made, options).selected()
            labels = view.labels
            if self._things is not None:
                things = tuple(detections(MaskView.of(made, self._things).selected()))
                about += b',"things":' + to_json([thing.to_json() for thing in things])
            self._journal.add(about + b"," + FORMATS["rle"].encode(view)[1:])
        if labels is not None and frame.head is not None:
            topic, log_ns = frame.message.channel.topic, frame.message.log_ns
            self._writer.write(topic, frame.head, log_ns, labels)
            if self._things is not None:
                self._writer.write_detections(topic, frame.head, log_ns, things)
        return done

    def finish(self) -> Ending:
        """Complete the bag and give it its name."""
        if self._damage and not self._pictures:
            raise CorruptImage(f"no image of it can be read: {'; '.join(self._damage)}")
        self._writer.finish()
        part = unfinished(self._target)
        if is_mcap(self._target):
            part.replace(self._target)
        else:
            replace_folder(part, self._target)
        self._journal.finish(None)
        for (topic, _, _), reader in self._readers.items():
            if reader.bits < 16:
                self.notes.append(f"{topic} holds {reader.bits} bits in 16: scaled to show them")
        done = self._pictures - self._failed
        told = [f"{self._failed} images have no mask; the first: {self._worst}"] if self._failed else []
        told += self._unread
        told += [f"damaged: {done} images could be read, and are done: {why}" for why in self._damage]
        damage = "; ".join(told) or None
        finished = Finished(self._target, self.path, self._recipe, self._state, size_of(self._target), damage=damage)
        return Ending((finished,), damage)

    def close(self) -> None:
        """Close the files; a bag that is not whole is deleted."""
        self._until.close()


def _kind_of(channel: Channel) -> tuple[str, str, str]:
    """Return the topic of a channel, and how its messages are written."""
    return channel.topic, channel.schema, channel.message_encoding


def _files_of(path: Path) -> list[Path]:
    """Return the files of a bag in the order in which they were recorded: ``NAME_2`` before ``NAME_10``."""
    if not path.is_dir():
        return [path]

    def order(file: Path) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", file.name)]

    files = sorted(
        (file for file in path.iterdir() if is_recording(file) and not file.name.startswith(".") and not is_result(file)),
        key=order,
    )
    plain = {file.name for file in files}
    return [file for file in files if plain_name(file) == file.name or plain_name(file) not in plain]


def _missing_files(folder: Path) -> list[str]:
    """Return the files that the metadata name and the folder lacks."""
    try:
        with (folder / METADATA).open("rb") as file:
            told = load("ruamel.yaml").YAML(typ="safe").load(file)
        names = [Path(name).name for name in told["rosbag2_bagfile_information"]["relative_file_paths"]]
    except Exception:  # noqa: BLE001 - metadata that cannot be read name nothing; the recordings speak for themselves
        return []
    there = {name for file in folder.iterdir() for name in (file.name, plain_name(file))}
    return [name for name in names if name not in there and Path(name).stem not in there]


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
