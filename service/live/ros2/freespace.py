"""``freespace``: where the ground ahead ends, as a ``sensor_msgs/LaserScan``.

The scan lies on the ground. Its frame has its origin below the camera, x ahead along the ground, y to the left, z up (REP 103):
the frame id of the image, whose z axis points ahead, would turn it upright. So it has a frame id of its own, for which the
robot publishes a static transform.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from service.encodings import MaskView, freespace
from service.encodings.driving import Driving, understood_driving
from service.encodings.ground import Scan
from service.errors import BadSetting
from service.live.options import LiveOptions
from service.live.session import LiveSession

TOPIC = "freespace"


def driving_of(options: LiveOptions, session: LiveSession) -> Driving:
    """Understand the options of free space for the classes of a run.

    Raises:
        BadSetting: if the camera is not described
        UnknownClass, BadParameter: as ``understood_driving``
    """
    found = understood_driving(list(session.classes), **options.driving)
    if found.mount is None:
        raise BadSetting("the topic freespace needs the camera: --fx and --camera-height")
    return found


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
