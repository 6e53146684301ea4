"""A ROS 2 node: subscribes ``image``, publishes ``mask`` (mono8, pixel = class id) with the stamp and frame of each image.

The newest image wins; those that came while the service was busy are passed over. Run it where ROS 2 is sourced:
``python ros2_bridge.py --ros-args -p url:=http://127.0.0.1:8000 -r image:=/camera/image_raw``
"""

import threading

import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image

from service.client import Client


class Bridge(Node):
    """One image in work; the next is the newest that has come meanwhile."""

    def __init__(self):
        super().__init__("fcn_bridge")
        self.client = Client(self.declare_parameter("url", "http://127.0.0.1:8000").value)
        self.newest, self.came = None, threading.Condition()
        self.masks = self.create_publisher(Image, "mask", qos_profile_sensor_data)
        self.create_subscription(Image, "image", self.take, qos_profile_sensor_data)
        threading.Thread(target=self.work, daemon=True).start()

    def take(self, image):
        with self.came:
            self.newest = image
            self.came.notify()

    def work(self):
        while True:
            with self.came:
                self.came.wait_for(lambda: self.newest is not None)
                image, self.newest = self.newest, None
            try:
                self.masks.publish(self.mask_of(image))
            except Exception as error:  # the next image may fare better
                self.get_logger().error(f"no mask: {error}")

    def mask_of(self, image):
        if image.encoding not in ("rgb8", "bgr8"):
            raise ValueError(f"encoding {image.encoding}; convert it to rgb8 or bgr8, as image_proc does")
        rows = np.frombuffer(image.data, np.uint8).reshape(image.height, image.step)[:, : 3 * image.width]
        pixels = rows.reshape(image.height, image.width, 3)[..., :: 1 if image.encoding == "rgb8" else -1]
        labels = self.client.segment(np.ascontiguousarray(pixels)).labels
        mask = Image(height=image.height, width=image.width, encoding="mono8", step=image.width, data=labels.tobytes())
        mask.header = image.header
        return mask


def main():
    rclpy.init()
    rclpy.spin(Bridge())


if __name__ == "__main__":
    main()
