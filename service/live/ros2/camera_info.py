"""The intrinsics of a camera from ``sensor_msgs/CameraInfo``, which its driver publishes beside the image."""

from __future__ import annotations

import logging
from typing import Any

from service.live.ros2.qos import profile

log = logging.getLogger(__name__)

NAME = "camera_info"
TRANSPORTS = ("compressed", "compressedDepth", "ffmpeg", "theora", "zstd")
"""The last parts of the topics that image_transport makes of an image topic."""


class CameraInfo:
    """Reads the first message that has a calibration.

    Takes:
        node: rclpy's
        image_topic: of the camera
    """

    def __init__(self, node: Any, image_topic: str) -> None:
        from sensor_msgs.msg import CameraInfo as Message  # noqa: PLC0415

        self.topic = topic_beside(image_topic)
        self.intrinsics: dict[str, float] | None = None
        """``fx``, ``fy``, ``cx``, ``cy`` in pixels; None until they have come."""
        self.size: tuple[int, int] | None = None
        """(height, width) of the images that they are for; None where the message does not say."""
        self.told = "no message has come"
        """Why there are none yet."""
        self._node, self._rectified = node, "rect" in _name_and_base(image_topic)[0]
        self._subscription = node.create_subscription(Message, self.topic, self._receive, profile("sensor-data"))

    def _receive(self, message: Any) -> None:
        """Take the matrix K, or of a rectified image its columns of P; on the node's thread."""
        if self.intrinsics is not None:
            return
        # P is 3 x 4, K 3 x 3, both by rows; a camera that is not calibrated has zeros.
        matrix, columns = (message.p, 4) if self._rectified else (message.k, 3)
        fx, fy, cx, cy = (float(matrix[at]) for at in (0, columns + 1, 2, columns + 2))
        if not (fx > 0 and fy > 0):
            self.told = "the camera is not calibrated: its focal length is 0"
            return
        if not self._rectified and any(message.d):
            told = "the lens distorts the image, and freespace takes it as rectified; name the rectified topic"
            log.warning("%s: %s", self.topic, told)
        self.size = (message.height, message.width) if message.height and message.width else None
        self.intrinsics = {"fx": fx, "fy": fy, "cx": cx, "cy": cy}
        self._node.destroy_subscription(self._subscription)


def topic_beside(image_topic: str) -> str:
    """Return the topic of the camera's info: the sibling of the raw image's topic, as image_transport has it."""
    return f"{_name_and_base(image_topic)[1]}/{NAME}"


def _name_and_base(image_topic: str) -> tuple[str, str]:
    """Return the name of an image, such as ``image_rect``, and what is above it."""
    base, _, name = image_topic.rpartition("/")
    if name in TRANSPORTS:
        base, _, name = base.rpartition("/")
    return name, base
