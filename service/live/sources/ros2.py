"""A topic of ROS 2: ``ros2:/camera/image_raw``, raw or compressed, found by the type of its publishers.

The newest message wins. Only the one that is used is converted. Frames of a video (``CompressedImage`` in h264) are all
decoded, because later ones need those before them.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from service.errors import BadSetting, ServiceError
from service.live.complaints import Complaints
from service.live.frame import LiveFrame
from service.live.newest import Newest
from service.live.options import LiveOptions
from service.live.ros2 import node as shared
from service.live.ros2.environment import ready, remedy
from service.live.ros2.names import topic_of
from service.live.ros2.qos import policy_of, profile
from service.pipeline.codecs.messages import MessageDecoder, Picture

log = logging.getLogger(__name__)

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
DISCOVER_S = 0.25
"""Seconds between two searches for the publishers of the topic."""
ABSENT_S, MUTE_S = 2.0, 5.0
"""So long without a publisher, or with one and without a frame, and the log says so."""
LATE_NS = 200_000_000
"""A frame whose way took this much longer than the fastest one of the last frames is late."""
_DELAYS = 200


class Ros2Topic:
    """One topic with the pictures of a camera.

    Takes:
        address: ``ros2:`` and the topic
        options: of the run
    Raises:
        BadSetting: if rclpy cannot be loaded, or this is not a topic's name
    """

    def __init__(self, address: str, options: LiveOptions) -> None:
        ready()
        self.address, self.topic, self._options = address, topic_of(address), options
        self._node: Any = None
        self._came: Callable[[], None] = lambda: None
        self._newest: Newest[tuple[Any, Picture | None, float]] = Newest()
        self._complaints = Complaints(log)
        self._subscription: Any = None
        self._timer: Any = None
        self._schema = ""
        self._decoder: MessageDecoder | None = None
        self._wrong: BadSetting | None = None
        self._is_here, self._told = False, False
        self._since_s = 0.0
        """When the publishers came or went, or the last frame came."""
        self._sequences: dict[str, int] = {}
        self._lost = self._late = 0
        self._delays_ns: deque[int] = deque(maxlen=_DELAYS)

    def open(self, came: Callable[[], None]) -> None:
        """Join the node and search for the topic's publishers, again and again."""
        self._came = came
        self._node = shared.join(self._options)
        self._since_s = time.monotonic()
        self._timer = self._node.node.create_timer(DISCOVER_S, self._discover)

    def take(self) -> LiveFrame | None:
        """Return the newest message as a frame: an image file stays one, raw pixels become RGB."""
        if self._wrong is not None:
            raise self._wrong
        item = self._newest.take()
        if item is None or self._decoder is None:
            return None
        message, picture, came_s = item
        if picture is None:
            picture = self._decoder.picture(message)
        image = picture.packed if picture.is_whole_file else self._decoder.decode(picture, self._options.limits)
        stamp_ns = picture.head.seconds * 1_000_000_000 + picture.head.nanoseconds
        return LiveFrame(image, stamp_ns, picture.head.frame_id, self.address, came_s)

    @property
    def ended(self) -> bool:
        """Never: a publisher that is gone may come back."""
        return False

    @property
    def received(self) -> int:
        """Messages that came."""
        return self._newest.received

    @property
    def dropped(self) -> int:
        """Messages that a newer one superseded, and those that were lost on their way."""
        return self._newest.superseded + self._lost

    def close(self) -> None:
        """Leave the node."""
        if self._node is not None:
            self._timer.cancel()
            self._node = None
            shared.leave()

    # On the node's thread ----------------------------------------------------------------------------------------------------

    def _discover(self) -> None:
        """Find the publishers; subscribe by their type, again if it changed."""
        if self._node is None:
            return
        now = time.monotonic()
        types = {info.topic_type for info in self._node.node.get_publishers_info_by_topic(self.topic)}
        if bool(types) != self._is_here:
            self._is_here, self._since_s = bool(types), now
            if types and self._told:
                log.warning("%s: a publisher is there", self.topic)
            self._told = False
        if not types:
            self._wait(
                now, ABSENT_S, "no publisher; waiting for one (same ROS_DOMAIN_ID? `ros2 topic list` shows what is there)"
            )
            return
        fitting = sorted(types & {IMAGE, COMPRESSED})
        if not fitting:
            told = f"{self.topic} is of type {', '.join(sorted(types))}; {IMAGE} and {COMPRESSED} can be segmented"
            self._wrong = BadSetting(f"--from {self.address}: {told}")
            self._came()
        elif self._schema not in types:
            self._subscribe(fitting[0])
        else:
            self._wait(now, MUTE_S, f"a publisher is there, and no frame comes: is the camera running? {remedy()}")

    def _wait(self, now: float, seconds: float, sentence: str) -> None:
        if not self._told and now - self._since_s > seconds:
            self._told = True
            log.warning("%s: %s", self.topic, sentence)

    def _subscribe(self, schema: str) -> None:
        from rclpy.event_handler import SubscriptionEventCallbacks  # noqa: PLC0415
        from sensor_msgs.msg import CompressedImage, Image  # noqa: PLC0415

        node = self._node.node
        if self._subscription is not None:
            node.destroy_subscription(self._subscription)
        self._schema, self._decoder = schema, MessageDecoder(schema)
        self._subscription = node.create_subscription(
            Image if schema == IMAGE else CompressedImage,
            self.topic,
            self._receive,
            profile(self._options.from_qos),
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=self._mismatch),
        )
        log.info("%s: subscribed as %s", self.topic, schema)

    def _mismatch(self, event: Any) -> None:
        wanted = self._options.from_qos
        self._complaints.say(
            f"{self.topic}: nothing comes from a publisher whose {policy_of(event)} does not fit --from-qos {wanted}; "
            f"{'leave it out' if wanted == 'reliable' else 'change that of the publisher'}"
        )

    def _receive(self, message: Any, about: Any) -> None:
        came_s = time.monotonic()
        if self._told:
            log.warning("%s: frames come", self.topic)
            self._told = False
        self._since_s = came_s
        lost = self._lost
        self._count(about)
        if self._lost > lost and self._schema == COMPRESSED:
            # A video's decoder would go on with pictures that lack the lost ones. A new one waits for the next key frame.
            self._decoder = MessageDecoder(self._schema)
        picture = None
        if self._decoder is not None and self._schema == COMPRESSED:
            try:
                picture = self._decoder.video_frame(message)
            except ServiceError as error:
                self._complaints.say(f"{self.topic}: {error.message}")
                return
        self._newest.put((message, picture, came_s))
        self._came()

    def _count(self, about: Any) -> None:
        """Count frames that were lost between the publisher and here, by its sequence numbers, and those that come late."""
        publisher, number = str(about.get("publisher_gid")), about.get("publication_sequence_number")
        if number is not None:
            before = self._sequences.get(publisher)
            if before is not None and number > before + 1:
                self._lost += number - before - 1
                self._node.lost[self.address] = self._lost
                self._complaints.say(f"{self.topic}: frames are lost between their publisher and here: {remedy()}")
            self._sequences[publisher] = number
        delay_ns = about.get("received_timestamp", 0) - about.get("source_timestamp", 0)
        self._delays_ns.append(delay_ns)
        if delay_ns - min(self._delays_ns) > LATE_NS:
            self._late += 1
            self._node.late[self.address] = self._late
            usual_ms = (statistics.median(self._delays_ns) - min(self._delays_ns)) / 1e6
            self._complaints.say(
                f"{self.topic}: frames come late, by more than {LATE_NS / 1e6:.0f} ms (usually {usual_ms:.0f} ms): "
                "the link or this machine is too slow for them; publish CompressedImage, or fewer frames"
            )


def open_source(address: str, options: LiveOptions) -> Ros2Topic:
    """Make the source of a topic."""
    return Ros2Topic(address, options)
