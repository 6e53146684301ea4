"""Masks as a recording: one MCAP file, or a folder of rosbag2 with one.

Messages that are copied keep their bytes, their definition and their encoding, whatever they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.batch.recordings import Message
from service.batch.recordings.detections import DETECTIONS, detections_message, register
from service.batch.recordings.pictures import IMAGE, LABEL_INFO, types
from service.encodings.color import ColoredRow
from service.encodings.detections import Detection
from service.optional import load
from service.pipeline.codecs.messages import Head

LATCHED = [
    {
        "history": "keep_last",
        "depth": 1,
        "reliability": "reliable",
        "durability": "transient_local",
        "deadline": {"sec": 0, "nsec": 0},
        "lifespan": {"sec": 0, "nsec": 0},
        "liveliness": "system_default",
        "liveliness_lease_duration": {"sec": 0, "nsec": 0},
        "avoid_ros_namespace_conventions": False,
    }
]
"""The offered quality of service of a topic whose last message a late subscriber still gets."""
_QOS = "offered_qos_profiles"


class MaskWriter:
    """Writes masks, class tables and copies.

    Takes:
        path: of the file, or of the folder
        folder: whether a folder of rosbag2 is written
        name: of the finished folder; its file is called after it
        rows: class table of the ids that are written
        threshold: confidence below which pixels are 255
        profile: of MCAP; ``ros2`` if all messages are CDR
    """

    def __init__(
        self, path: Path, *, folder: bool, name: str, rows: Sequence[ColoredRow], threshold: float, profile: str
    ) -> None:
        self._folder, self._rows, self._threshold = folder, rows, threshold
        self._path = path
        if folder:
            path.mkdir()
        self._file_name = f"{name}_0.mcap" if folder else path.name
        self._output = (path / self._file_name if folder else path).open("wb")
        try:
            writing = load("mcap.writer")
            self._bag = writing.Writer(self._output, compression=writing.CompressionType.ZSTD)
            self._bag.start(profile=profile, library="fcn-serve")
            self._types = types()
            register(self._types)
        except BaseException:
            self._output.close()
            raise
        self._schemas: dict[tuple[str, str, bytes], int] = {}
        self._channels: dict[tuple[Any, ...], int] = {}
        self._topics: dict[int, dict[str, Any]] = {}
        self._counts: Counter[int] = Counter()
        self._sequences: Counter[int] = Counter()
        self._first_ns = self._last_ns = 0
        self._told: set[str] = set()

    def copy(self, message: Message) -> None:
        """Write a message as it is."""
        source = message.channel
        number = self._channel(
            source.topic, source.message_encoding, source.schema, source.schema_encoding, source.definition, source.metadata
        )
        self._add(number, message.log_ns, message.publish_ns, message.data)

    def announce(self, topic: str, *, things: bool = False) -> None:
        """Add the topics of an image topic's masks and classes, which are there even without a message.

        Takes:
            things: whether there is a topic of detections too
        """
        self._of_ours(f"{topic}/mask", IMAGE)
        if things:
            self._of_ours(f"{topic}/detections", DETECTIONS)
        self._of_ours(f"{topic}/label_info", LABEL_INFO, latched=True)

    def write(self, topic: str, head: Head, log_ns: int, labels: NDArray[np.uint8]) -> None:
        """Write a mask, and before the first of a topic its classes.

        Takes:
            topic: of the image
            head: of the image
            labels: H x W uint8
        """
        made, header = self._types.types, self._header(head)
        if topic not in self._told:
            self._told.add(topic)
            kind = made["vision_msgs/msg/VisionClass"]
            classes = [kind(class_id=row.id, class_name=row.name) for row in self._rows]
            info = made[LABEL_INFO](header=header, class_map=classes, threshold=self._threshold)
            number = self._of_ours(f"{topic}/label_info", LABEL_INFO, latched=True)
            self._add(number, log_ns, log_ns, bytes(self._types.serialize_cdr(info, LABEL_INFO)))
        height, width = labels.shape
        mask = made[IMAGE](
            header=header,
            height=height,
            width=width,
            encoding="mono8",
            is_bigendian=0,
            step=width,
            data=np.ascontiguousarray(labels).reshape(-1),
        )
        self._add(self._of_ours(f"{topic}/mask", IMAGE), log_ns, log_ns, bytes(self._types.serialize_cdr(mask, IMAGE)))

    def write_detections(self, topic: str, head: Head, log_ns: int, found: Sequence[Detection]) -> None:
        """Write the things of an image.

        Takes:
            topic, head: of the image
            found: none of them is a message too
        """
        message = detections_message(self._types, self._header(head), found)
        number = self._of_ours(f"{topic}/detections", DETECTIONS)
        self._add(number, log_ns, log_ns, bytes(self._types.serialize_cdr(message, DETECTIONS)))

    def finish(self) -> None:
        """Write the index, and the metadata of a folder."""
        self._bag.finish()
        self._output.flush()
        self._output.close()
        if self._folder:
            yaml = load("ruamel.yaml").YAML(typ="safe")
            yaml.default_flow_style = False
            with (self._path / "metadata.yaml").open("w", encoding="utf-8") as file:
                yaml.dump(self._metadata(), file)

    def close(self) -> None:
        """Close the file, whatever state it is in."""
        self._output.close()

    def _header(self, head: Head) -> Any:
        stamp = self._types.types["builtin_interfaces/msg/Time"](sec=head.seconds, nanosec=head.nanoseconds)
        return self._types.types["std_msgs/msg/Header"](stamp=stamp, frame_id=head.frame_id)

    def _of_ours(self, topic: str, kind: str, *, latched: bool = False) -> int:
        text, _ = self._types.generate_msgdef(kind, ros_version=2)
        qos = ""
        if latched:
            lines = [
                f"{'- ' if at == 0 else '  '}{name}: {_flow(value)}" for at, (name, value) in enumerate(LATCHED[0].items())
            ]
            qos = "\n".join(lines)
        metadata = {_QOS: qos, "topic_type_hash": self._types.hash_rihs01(kind)}
        return self._channel(topic, "cdr", kind, "ros2msg", text.encode(), metadata)

    def _channel(self, topic: str, encoding: str, schema: str, schema_encoding: str, definition: bytes, metadata: Any) -> int:
        """Return the id of a channel, registered when it is first used."""
        key = (topic, encoding, schema, schema_encoding, definition, tuple(sorted(metadata.items())))
        if key in self._channels:
            return self._channels[key]
        defined = (schema, schema_encoding, definition)
        if not schema:
            self._schemas[defined] = 0  # MCAP's sign for none
        elif defined not in self._schemas:
            self._schemas[defined] = self._bag.register_schema(schema, schema_encoding, definition)
        number: int = self._bag.register_channel(topic, encoding, self._schemas[defined], dict(metadata))
        self._channels[key] = number
        self._topics[number] = {
            "name": topic,
            "type": schema,
            "serialization_format": encoding,
            _QOS: LATCHED if schema == LABEL_INFO and topic.endswith("/label_info") else [],
            "type_description_hash": metadata.get("topic_type_hash", ""),
        }
        return number

    def _add(self, number: int, log_ns: int, publish_ns: int, data: bytes) -> None:
        first = not self._counts
        self._first_ns = log_ns if first else min(self._first_ns, log_ns)
        self._last_ns = max(self._last_ns, log_ns)
        self._counts[number] += 1
        self._bag.add_message(number, log_ns, data, publish_ns, self._counts[number])

    def _metadata(self) -> dict[str, Any]:
        count = sum(self._counts.values())
        # rosbag2 writes the largest time for a bag without messages.
        begin = {"nanoseconds_since_epoch": self._first_ns if count else 2**63 - 1}
        duration = {"nanoseconds": self._last_ns - self._first_ns if count else 0}
        return {
            "rosbag2_bagfile_information": {
                "version": 9,
                "storage_identifier": "mcap",
                "relative_file_paths": [self._file_name],
                "duration": duration,
                "starting_time": begin,
                "message_count": count,
                "topics_with_message_count": [
                    {"topic_metadata": topic, "message_count": self._counts[number]} for number, topic in self._topics.items()
                ],
                "compression_format": "",
                "compression_mode": "",
                "files": [{"path": self._file_name, "starting_time": begin, "duration": duration, "message_count": count}],
                "custom_data": None,
                "ros_distro": "humble",
            }
        }


def _flow(value: Any) -> str:
    """Write a value as YAML, on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_flow(inner)}" for name, inner in value.items()) + "}"
    return str(value).lower() if isinstance(value, bool) else str(value)
