"""``vision_msgs/Detection2DArray``: the bounding box of each thing beside the mask, of models that have learned objects.

The type is brought along where no package has it. The fields are those of bags: ``service/batch/recordings/detections.py``.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from service.encodings.detections import Detection
from service.live.frame import LiveFrame
from service.live.ros2.cdr import Cdr
from service.live.ros2.type_support import DOUBLE, DOUBLE_ARRAY, NESTED, NESTED_SEQUENCE, STRING, Field, message_class
from service.live.ros2.vision_msgs import HEADER, installed_type

TOPIC, NAME = "detections", "Detection2DArray"
COVARIANCE = 36
"""Numbers of a ``geometry_msgs/PoseWithCovariance``: 6 x 6."""

TYPES = {
    f"vision_msgs/msg/{NAME}": (
        Field("header", NESTED, "std_msgs/msg/Header"),
        Field("detections", NESTED_SEQUENCE, "vision_msgs/msg/Detection2D"),
    ),
    "vision_msgs/msg/Detection2D": (
        Field("header", NESTED, "std_msgs/msg/Header"),
        Field("results", NESTED_SEQUENCE, "vision_msgs/msg/ObjectHypothesisWithPose"),
        Field("bbox", NESTED, "vision_msgs/msg/BoundingBox2D"),
        Field("id", STRING),
    ),
    "vision_msgs/msg/ObjectHypothesisWithPose": (
        Field("hypothesis", NESTED, "vision_msgs/msg/ObjectHypothesis"),
        Field("pose", NESTED, "geometry_msgs/msg/PoseWithCovariance"),
    ),
    "vision_msgs/msg/ObjectHypothesis": (Field("class_id", STRING), Field("score", DOUBLE)),
    "vision_msgs/msg/BoundingBox2D": (
        Field("center", NESTED, "vision_msgs/msg/Pose2D"),
        Field("size_x", DOUBLE),
        Field("size_y", DOUBLE),
    ),
    "vision_msgs/msg/Pose2D": (Field("position", NESTED, "vision_msgs/msg/Point2D"), Field("theta", DOUBLE)),
    "vision_msgs/msg/Point2D": (Field("x", DOUBLE), Field("y", DOUBLE)),
    "geometry_msgs/msg/PoseWithCovariance": (
        Field("pose", NESTED, "geometry_msgs/msg/Pose"),
        Field("covariance", DOUBLE_ARRAY, capacity=COVARIANCE),
    ),
    "geometry_msgs/msg/Pose": (
        Field("position", NESTED, "geometry_msgs/msg/Point"),
        Field("orientation", NESTED, "geometry_msgs/msg/Quaternion"),
    ),
    "geometry_msgs/msg/Point": tuple(Field(name, DOUBLE) for name in "xyz"),
    "geometry_msgs/msg/Quaternion": tuple(Field(name, DOUBLE) for name in "xyzw"),
    **HEADER,
}
"""Detection2DArray and what it refers to, as vision_msgs 4 defines them."""


@functools.cache
def message_type() -> Any:
    """Return the class of the installed package, or the one that is brought along. Both publish serialised messages."""
    return installed_type(NAME) or message_class(TYPES)


def serialised(frame: LiveFrame, found: Sequence[Detection]) -> bytes:
    """Serialise the message of a frame: its stamp and frame id, no pose, no identity over time.

    Takes:
        found: its things; a class is the text of its id, which ``label_info`` names
    """
    cdr = Cdr()
    _header(cdr, frame)
    cdr.number("I", len(found))
    for thing in found:
        _header(cdr, frame)
        cdr.number("I", 1)
        cdr.text(str(thing.class_id))
        cdr.number("d", thing.score)
        for value in (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, *[0.0] * COVARIANCE):  # position, orientation, covariance
            cdr.number("d", value)
        for value in (thing.x + thing.width / 2, thing.y + thing.height / 2, 0.0, thing.width, thing.height):
            cdr.number("d", value)
        cdr.text("")
    return cdr.message()


def _header(cdr: Cdr, frame: LiveFrame) -> None:
    seconds, nanoseconds = divmod(frame.stamp_ns, 1_000_000_000)
    cdr.number("i", seconds)
    cdr.number("I", nanoseconds)
    cdr.text(frame.frame_id)
