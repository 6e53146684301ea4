"""What the messages of the package ``vision_msgs`` share. Where it is not installed, their types are brought along."""

from __future__ import annotations

import importlib
import os
from typing import Any

from service.live.ros2.type_support import INT32, NESTED, STRING, UINT32, Field

HEADER = {
    "std_msgs/msg/Header": (Field("stamp", NESTED, "builtin_interfaces/msg/Time"), Field("frame_id", STRING)),
    "builtin_interfaces/msg/Time": (Field("sec", INT32), Field("nanosec", UINT32)),
}
"""The header of a message, and what it refers to."""


def installed_type(name: str) -> Any:
    """Return the class of the installed package, or None."""
    try:
        return getattr(importlib.import_module("vision_msgs.msg"), name)
    except (ImportError, AttributeError):  # vision_msgs before version 4 has no LabelInfo
        return None


def why_not(topic: str, name: str) -> str | None:
    """Say why a topic of a type cannot be published, or return None: types that are brought along are for Fast DDS alone."""
    from rclpy.utilities import get_rmw_implementation_identifier  # noqa: PLC0415

    middleware = get_rmw_implementation_identifier()
    if middleware == "rmw_fastrtps_cpp" or installed_type(name) is not None:
        return None
    package = f"ros-{os.environ.get('ROS_DISTRO', 'DISTRO')}-vision-msgs"
    return f"no {topic} is sent: {middleware} needs the package {package}"
