"""``vision_msgs/Detection2DArray``: the things of an image as a message of ROS 2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from service.encodings.detections import Detection
from service.optional import load

DETECTIONS = "vision_msgs/msg/Detection2DArray"

_DEFINITIONS = {
    "Point2D": "float64 x\nfloat64 y\n",
    "Pose2D": "vision_msgs/Point2D position\nfloat64 theta\n",
    "BoundingBox2D": "vision_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y\n",
    "ObjectHypothesis": "string class_id\nfloat64 score\n",
    "ObjectHypothesisWithPose": "vision_msgs/ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose\n",
    "Detection2D": "std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\n"
    "vision_msgs/BoundingBox2D bbox\nstring id\n",
    "Detection2DArray": "std_msgs/Header header\nvision_msgs/Detection2D[] detections\n",
}
"""As vision_msgs 4 has them, of ROS 2 Humble and later."""


def register(types: Any) -> None:
    """Make a store of rosbags know the message; once more changes nothing."""
    if DETECTIONS not in types.fielddefs:
        parse = load("rosbags.typesys").get_types_from_msg
        found: dict[str, Any] = {}
        for name, text in _DEFINITIONS.items():
            found |= parse(text, f"vision_msgs/msg/{name}")
        types.register(found)


def detections_message(types: Any, header: Any, found: Sequence[Detection]) -> Any:
    """Make the message.

    Takes:
        types: a store that knows it
        header: of the image; each detection has the same
        found: the things of the image
    Gives:
        the message. A class is the text of its id, which ``label_info`` names; there is no pose and no identity over time
    """
    made = types.types
    pose = made["geometry_msgs/msg/PoseWithCovariance"](
        pose=made["geometry_msgs/msg/Pose"](
            position=made["geometry_msgs/msg/Point"](x=0.0, y=0.0, z=0.0),
            orientation=made["geometry_msgs/msg/Quaternion"](x=0.0, y=0.0, z=0.0, w=1.0),
        ),
        covariance=np.zeros(36),
    )

    def message(thing: Detection) -> Any:
        hypothesis = made["vision_msgs/msg/ObjectHypothesis"](class_id=str(thing.class_id), score=float(thing.score))
        middle = made["vision_msgs/msg/Point2D"](x=thing.x + thing.width / 2, y=thing.y + thing.height / 2)
        return made["vision_msgs/msg/Detection2D"](
            header=header,
            results=[made["vision_msgs/msg/ObjectHypothesisWithPose"](hypothesis=hypothesis, pose=pose)],
            bbox=made["vision_msgs/msg/BoundingBox2D"](
                center=made["vision_msgs/msg/Pose2D"](position=middle, theta=0.0),
                size_x=float(thing.width),
                size_y=float(thing.height),
            ),
            id="",
        )

    return made[DETECTIONS](header=header, detections=[message(thing) for thing in found])
