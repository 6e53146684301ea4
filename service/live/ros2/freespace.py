"""``freespace``: where the ground ahead ends, as a ``sensor_msgs/LaserScan``.

The scan lies on the ground. Its frame has its origin below the camera, x ahead along the ground, y to the left, z up (REP 103):
the frame id of the image, whose z axis points ahead, would turn it upright. So it has a frame id of its own, for which the
robot publishes a static transform.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from service.encodings import MaskView, freespace
from service.encodings.driving import Driving, understood_driving
from service.encodings.ground import Scan
from service.errors import BadSetting
from service.live.complaints import Complaints
from service.live.options import LiveOptions
from service.live.ros2.camera_info import CameraInfo
from service.live.ros2.names import PREFIX, topic_of
from service.live.session import LiveSession

log = logging.getLogger(__name__)

TOPIC = "freespace"


class Ahead:
    """Free space ahead of one camera: its options, and its intrinsics.

    Options win. Without ``--fx`` the intrinsics come from the topic ``camera_info`` beside the image, once.

    Takes:
        node: rclpy's
        source: the camera's address
        options, session: of the run
        complaints: where faults of every frame go
    Raises:
        BadSetting: if the camera is not described, and has no ``camera_info``
        UnknownClass, BadParameter: as ``understood_driving``
    """

    def __init__(self, node: Any, source: str, options: LiveOptions, session: LiveSession, complaints: Complaints) -> None:
        self._options, self._classes, self._complaints = options.driving, list(session.classes), complaints
        self._info: CameraInfo | None = None
        self._driving: Driving | None = None
        if "camera_height" not in self._options:
            raise BadSetting("the topic freespace needs --camera-height, and --fx where no camera_info is published")
        if "fx" in self._options:
            self._driving = understood_driving(self._classes, **self._options)
            return
        if not source.startswith(PREFIX):
            raise BadSetting(f"the topic freespace needs --fx: {source} has no camera_info")
        understood_driving(self._classes, **self._options, fx=1.0)  # the rest is checked before a message comes
        self._info = CameraInfo(node, topic_of(source))

    def driving(self, size: tuple[int, int]) -> Driving | None:
        """Return the options for images of a size, (height, width); None while the camera is not known."""
        if self._driving is not None or self._info is None:
            return self._driving
        info = self._info
        if info.intrinsics is None:
            self._complaints.say(f"{info.topic}: no freespace yet, because {info.told}; --fx describes the camera instead")
            return None
        if info.size is not None and info.size != size:
            told = f"its matrix is for images of {info.size[1]} x {info.size[0]}, and these have {size[1]} x {size[0]}"
            self._complaints.say(f"{info.topic}: no freespace, because {told}; give --fx")
            return None
        self._driving = understood_driving(self._classes, **{**info.intrinsics, **self._options})
        mount = self._driving.mount
        if mount is not None:
            log.info("%s: freespace uses fx %g, fy %g, cx %g, cy %g", info.topic, mount.fx, mount.fy, mount.cx, mount.cy)
        return self._driving


def scan_of(view: MaskView, driving: Driving) -> Scan | None:
    """Return the scan of a mask; None without a camera.

    Raises:
        BadParameter: if the camera would see no ground
    """
    if driving.mount is None:
        return None
    height, width = view.labels.shape
    camera = driving.mount.camera((height, width))
    return freespace.find(view.labels, lambda rows, _: np.zeros(rows.shape, np.uint8), driving, camera).scan


def filled(message: Any, scan: Scan, frame_id: str) -> Any:
    """Fill a ``sensor_msgs/LaserScan``: beams counterclockwise from the right, metres, inf where free, NaN where unknown."""
    message.header.frame_id = frame_id
    message.angle_min, message.angle_max = scan.angle_min, scan.angle_max
    message.angle_increment = scan.angle_increment
    message.range_min, message.range_max = scan.range_min, scan.range_max
    message.ranges = scan.ranges.tolist()
    return message
