"""``vision_msgs/LabelInfo``: the class table beside the masks. The type is brought along where no package has it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from service.encodings.palettes import ColoredRow
from service.live.ros2.cdr import Cdr
from service.live.ros2.qos import latched
from service.live.ros2.type_support import FLOAT, NESTED, NESTED_SEQUENCE, STRING, UINT16, Field, message_class
from service.live.ros2.vision_msgs import HEADER, installed_type

TOPIC, NAME = "label_info", "LabelInfo"

TYPES = {
    f"vision_msgs/msg/{NAME}": (
        Field("header", NESTED, "std_msgs/msg/Header"),
        Field("class_map", NESTED_SEQUENCE, "vision_msgs/msg/VisionClass"),
        Field("threshold", FLOAT),
    ),
    "vision_msgs/msg/VisionClass": (Field("class_id", UINT16), Field("class_name", STRING)),
    **HEADER,
}
"""LabelInfo and what it refers to, as vision_msgs 4 defines them."""


class LabelInfoPublisher:
    """Publishes the class table, latched: a late subscriber gets it too.

    Takes:
        node: rclpy's
        topic: its name
    """

    def __init__(self, node: Any, topic: str) -> None:
        self._node = node
        self._publisher = node.create_publisher(message_type(), topic, latched())

    def publish(self, rows: Sequence[ColoredRow], threshold: float) -> None:
        """Publish a table.

        Takes:
            rows: of the ids that the masks have
            threshold: 0..1; pixels with a lower confidence are unlabelled
        """
        stamp = self._node.get_clock().now().to_msg()
        table = [(row.id, row.name) for row in rows]
        self._publisher.publish(serialised(stamp.sec, stamp.nanosec, table, threshold))


@functools.cache
def message_type() -> Any:
    """Return the class of the installed package, or the one that is brought along. Both publish serialised messages."""
    return installed_type(NAME) or message_class(TYPES)


def serialised(sec: int, nanosec: int, table: Sequence[tuple[int, str]], threshold: float) -> bytes:
    """Serialise a LabelInfo.

    Takes:
        sec, nanosec: its stamp
        table: id and name of each class
        threshold: 0..1
    """
    cdr = Cdr()
    cdr.number("i", sec)
    cdr.number("I", nanosec)
    cdr.text("")
    cdr.number("I", len(table))
    for number, name in table:
        cdr.number("H", number)
        cdr.text(name)
    cdr.number("f", threshold)
    return cdr.message()
