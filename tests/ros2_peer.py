"""The other side of the tests of ROS 2: a process of its own with real rclpy, which does what lines of JSON on its input say.

``{"do": "advertise", "topic", "type", "reliable"}``, ``{"do": "send", "topic", ...}``, ``{"do": "retire", "topic"}``,
``{"do": "listen", "topic", "type", "reliable", "latched"}``. Each message that comes is a line of JSON on the output; its
bytes are base64.
"""

from __future__ import annotations

import array
import base64
import json
import sys
import threading
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseWithCovariance
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, Imu, LaserScan
from std_msgs.msg import Header

from service.live.ros2 import detections, label_info
from service.live.ros2.type_support import message_class

KINDS = {
    "raw": Image,
    "compressed": CompressedImage,
    "imu": Imu,
    "scan": LaserScan,
    "diagnostics": DiagnosticArray,
    "header": Header,
    "pose": PoseWithCovariance,
    "info": CameraInfo,
}


def profile(asked: dict[str, Any]) -> QoSProfile:
    """The quality of service that a line asks for."""
    reliable = ReliabilityPolicy.RELIABLE if asked.get("reliable") else ReliabilityPolicy.BEST_EFFORT
    durability = DurabilityPolicy.TRANSIENT_LOCAL if asked.get("latched") else DurabilityPolicy.VOLATILE
    return QoSProfile(depth=5, reliability=reliable, durability=durability)


def tell(topic: str, **values: Any) -> None:
    """Write a line."""
    sys.stdout.write(json.dumps({"topic": topic, **values}) + "\n")
    sys.stdout.flush()


def told(topic: str, message: Any) -> None:
    """Write a line about a message."""
    if isinstance(message, bytes):
        tell(topic, data=base64.b64encode(message).decode())
        return
    if isinstance(message, Header):
        tell(topic, stamp=[message.stamp.sec, message.stamp.nanosec], frame_id=message.frame_id)
        return
    if isinstance(message, PoseWithCovariance):
        tell(topic, position=message.pose.position.x, covariance=message.covariance.tolist())
        return
    head = {"stamp": [message.header.stamp.sec, message.header.stamp.nanosec], "frame_id": message.header.frame_id}
    if isinstance(message, DiagnosticArray):
        values = [
            {"name": each.name, "message": each.message, **{v.key: v.value for v in each.values}} for each in message.status
        ]
        tell(topic, **head, status=values)
        return
    if isinstance(message, LaserScan):
        names = ("angle_min", "angle_max", "angle_increment", "range_min", "range_max")
        tell(topic, **head, **{name: getattr(message, name) for name in names}, ranges=list(message.ranges))
        return
    more = {} if isinstance(message, CompressedImage) else {"size": [message.height, message.width], "step": message.step}
    form = message.format if isinstance(message, CompressedImage) else message.encoding
    tell(topic, **head, **more, format=form, data=base64.b64encode(bytes(message.data)).decode())


def filled(message: Any, asked: dict[str, Any]) -> Any:
    """Fill in what a line says."""
    message.header.stamp.sec, message.header.stamp.nanosec = asked["stamp"]
    message.header.frame_id = asked["frame_id"]
    if isinstance(message, CameraInfo):
        message.height, message.width = asked["size"]
        message.k, message.d = asked["k"], asked["d"]
        return message
    if isinstance(message, Image):
        message.height, message.width = asked["size"]
        message.encoding, message.step = asked["format"], asked["step"]
    else:
        message.format = asked["format"]
    message.data = array.array("B", base64.b64decode(asked["data"]))
    return message


def main() -> None:
    """Do what comes, until the input ends."""
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("peer")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    threading.Thread(target=executor.spin, daemon=True).start()
    own = {"label_info": message_class(label_info.TYPES), "detections": message_class(detections.TYPES)}
    publishers: dict[str, Any] = {}
    tell("ready")
    for line in sys.stdin:
        asked = json.loads(line)
        topic = asked["topic"]
        if asked["do"] == "advertise":
            publishers[topic] = node.create_publisher(KINDS[asked["type"]], topic, profile(asked))
        elif asked["do"] == "send":
            publishers[topic].publish(filled(publishers[topic].msg_type(), asked))
        elif asked["do"] == "retire":
            node.destroy_publisher(publishers.pop(topic))
        elif asked["type"] in own:
            kind = own[asked["type"]]
            node.create_subscription(kind, topic, lambda message, topic=topic: told(topic, message), profile(asked), raw=True)
        else:
            kind = KINDS[asked["type"]]
            node.create_subscription(kind, topic, lambda message, topic=topic: told(topic, message), profile(asked))


if __name__ == "__main__":
    main()
