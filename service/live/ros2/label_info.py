"""``vision_msgs/LabelInfo``: the class table beside the masks. The type is brought along where no package has it."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from typing import Any

from service.encodings.palettes import ColoredRow
from service.live.ros2.cdr import Cdr
from service.live.ros2.qos import latched
from service.live.ros2.type_support import (
    FLOAT,
    INT32,
    NESTED,
    NESTED_SEQUENCE,
    STRING,
    UINT16,
    UINT32,
    Field,
    message_class,
)

TYPES = {
    "vision_msgs/msg/LabelInfo": (
        Field("header", NESTED, "std_msgs/msg/Header"),
        Field("class_map", NESTED_SEQUENCE, "vision_msgs/msg/VisionClass"),
        Field("threshold", FLOAT),
    ),
    "vision_msgs/msg/VisionClass": (Field("class_id", UINT16), Field("class_name", STRING)),
    "std_msgs/msg/Header": (Field("stamp", NESTED, "builtin_interfaces/msg/Time"), Field("frame_id", STRING)),
    "builtin_interfaces/msg/Time": (Field("sec", INT32), Field("nanosec", UINT32)),
}
"""LabelInfo and what it refers to, as vision_msgs 4 defines them."""

_BROUGHT_ALONG: list[type] = []
"""The class, made once a process."""


class LabelInfoPublisher:
    """Publishes the class table, latched: a late subscriber gets it too.

    Takes:
        node: rclpy's
        topic: its name
    """

    def __init__(self, node: Any, topic: str) -> None:
        self._node = node
        self._own = installed_type()
        self._publisher = node.create_publisher(self._own or _brought_along(), topic, latched())

    def publish(self, rows: Sequence[ColoredRow], threshold: float) -> None:
        """Publish a table.

        Takes:
            rows: of the ids that the masks have
            threshold: 0..1; pixels with a lower confidence are unlabelled
        """
        stamp = self._node.get_clock().now().to_msg()
        table = [(row.id, row.name) for row in rows]
        if self._own is None:
            self._publisher.publish(serialised(stamp.sec, stamp.nanosec, table, threshold))
            return
        one = importlib.import_module("vision_msgs.msg").VisionClass
        message = self._own(threshold=threshold)
        message.header.stamp = stamp
        message.class_map = [one(class_id=number, class_name=name) for number, name in table]
        self._publisher.publish(message)


def installed_type(name: str = "LabelInfo") -> Any:
    """Return the class of the installed package ``vision_msgs``, or None."""
    try:
        return getattr(importlib.import_module("vision_msgs.msg"), name)
    except (ImportError, AttributeError):  # vision_msgs before version 4 has no LabelInfo
        return None


def why_not(topic: str = "label_info", name: str = "LabelInfo") -> str | None:
    """Say why a type cannot be published, or return None: those that are brought along are for Fast DDS alone."""
    from rclpy.utilities import get_rmw_implementation_identifier  # noqa: PLC0415

    middleware = get_rmw_implementation_identifier()
    if middleware == "rmw_fastrtps_cpp" or installed_type(name) is not None:
        return None
    package = f"ros-{os.environ.get('ROS_DISTRO', 'DISTRO')}-vision-msgs"
    return f"no {topic} is sent: {middleware} needs the package {package}"


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


def _brought_along() -> type:
    if not _BROUGHT_ALONG:
        _BROUGHT_ALONG.append(message_class(TYPES))
    return _BROUGHT_ALONG[0]
