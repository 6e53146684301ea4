"""Topics of ROS 2 as Nav2's semantic layer and Autoware expect them: ``ros2:/segmentation``.

====================== ============================ ===========================================================
``mask``               ``sensor_msgs/Image``, mono8 the class id of each pixel; with ``--ids autoware`` its runs
``confidence``         ``sensor_msgs/Image``, mono8 the winner's probability, 255 is certainty
``label_info``         ``vision_msgs/LabelInfo``    the class table: reliable, transient-local, before the first mask
``overlay/compressed`` ``CompressedImage``, JPEG    the image under its mask
``detections``         ``Detection2DArray``         the bounding box of each thing; only of models that have learned objects
``freespace``          ``sensor_msgs/LaserScan``    where the ground ahead ends; only with the camera's options
``/diagnostics``       ``DiagnosticArray``          once a second
====================== ============================ ===========================================================

Stamp and frame id are those of the frame. ``confidence``, ``detections`` and ``overlay/compressed`` are made
only while something subscribes.
With several sources each has its own names: ``/segmentation/camera_front/mask``.
"""

from __future__ import annotations

import array
import logging
from typing import Any

import simplejpeg

from service.encodings import autoware, overlay
from service.errors import CorruptImage
from service.live.complaints import Complaints
from service.live.counters import Snapshot
from service.live.frame import LiveFrame
from service.live.options import LiveOptions
from service.live.ros2 import detections, freespace, label_info
from service.live.ros2 import node as shared
from service.live.ros2.environment import ready
from service.live.ros2.names import names_of, topic_of
from service.live.ros2.qos import policy_of, profile
from service.live.ros2.vision_msgs import why_not
from service.live.session import LiveResult, LiveSession

log = logging.getLogger(__name__)

DIAGNOSTICS_S = 1.0
STALE_MS = 2000.0
"""A newest mask that is older makes the diagnostics warn."""
JPEG_QUALITY = 85


class _Camera:
    """The publishers of one source."""

    def __init__(
        self,
        node: Any,
        base: str,
        options: LiveOptions,
        complaints: Complaints,
        ahead: freespace.Ahead | None,
        *,
        labels: bool,
        things: bool,
    ) -> None:
        from rclpy.event_handler import PublisherEventCallbacks  # noqa: PLC0415
        from sensor_msgs.msg import CompressedImage, Image, LaserScan  # noqa: PLC0415

        def publisher(kind: Any, name: str) -> Any:
            topic = f"{base}/{name}"

            def mismatch(event: Any) -> None:
                offered = options.to_qos
                remedy = "let it subscribe best effort, or give --to-qos reliable"
                complaints.say(
                    f"{topic}: a subscriber gets nothing, because its {policy_of(event)} does not fit --to-qos {offered}: "
                    f"{remedy if offered == 'sensor-data' else 'change that of the subscriber'}"
                )

            events = PublisherEventCallbacks(incompatible_qos=mismatch)
            return node.create_publisher(kind, topic, profile(options.to_qos), event_callbacks=events)

        self.labels = label_info.LabelInfoPublisher(node, f"{base}/{label_info.TOPIC}") if labels else None
        self.mask = publisher(Image, "mask")
        self.confidence = publisher(Image, "confidence")
        self.overlay = publisher(CompressedImage, "overlay/compressed")
        self.ahead = ahead
        self.freespace = None if ahead is None else publisher(LaserScan, freespace.TOPIC)
        self.detections = publisher(detections.message_type(), detections.TOPIC) if things else None


class Segmentation:
    """The topics below one name.

    Takes:
        address: ``ros2:`` and the name
        options: of the run
    Raises:
        BadSetting: if rclpy cannot be loaded, or this is not a topic's name
    """

    def __init__(self, address: str, options: LiveOptions) -> None:
        ready()
        self.address, self._base, self._options = address, topic_of(address), options
        self._node: Any = None
        self._timer: Any = None
        self._diagnostics: Any = None
        self._session: LiveSession | None = None
        self._cameras: dict[str, _Camera] = {}

    def start(self, session: LiveSession) -> None:
        """Announce the classes, then the topics of the masks."""
        from diagnostic_msgs.msg import DiagnosticArray  # noqa: PLC0415

        self._session = session
        self._node = shared.join(self._options)
        node, complaints = self._node.node, Complaints(log)
        labels = self._can_send(label_info.TOPIC, label_info.NAME)
        things = session.has_things and self._can_send(detections.TOPIC, detections.NAME)
        for source, base in names_of(self._base, session.sources).items():
            ahead = freespace.Ahead(node, source, self._options, session, complaints) if self._options.driving else None
            camera = _Camera(node, base, self._options, complaints, ahead, labels=labels, things=things)
            self._cameras[source] = camera
            if camera.labels is not None:
                camera.labels.publish(session.classes, self._options.min_confidence)
        self._diagnostics = node.create_publisher(DiagnosticArray, "/diagnostics", 1)
        self._timer = node.create_timer(DIAGNOSTICS_S, self._diagnose)

    def _can_send(self, topic: str, name: str) -> bool:
        """Return whether a topic of ``vision_msgs`` can be published; log why not."""
        missing = why_not(topic, name)
        if missing is not None:
            log.warning("%s: %s", self.address, missing)
        return missing is None

    def send(self, frame: LiveFrame, result: LiveResult) -> None:
        """Publish the mask of a frame, and what is subscribed beside it."""
        camera, view = self._cameras[frame.source], result.view
        height, width = view.labels.shape
        data = autoware.encode(view.labels) if self._options.ids == "autoware" else view.labels.tobytes()
        camera.mask.publish(_mono8(frame, height, width, data))
        if camera.confidence.get_subscription_count():
            camera.confidence.publish(_mono8(frame, height, width, view.confidence().tobytes()))
        if camera.freespace is not None and camera.ahead is not None and camera.freespace.get_subscription_count():
            driving = camera.ahead.driving((height, width))
            scan = None if driving is None else freespace.scan_of(view, driving)
            if scan is not None:
                message = _stamped(camera.freespace.msg_type(), frame)
                camera.freespace.publish(freespace.filled(message, scan, self._options.ground_frame))
        if camera.detections is not None and result.things is not None and camera.detections.get_subscription_count():
            camera.detections.publish(detections.serialised(frame, result.things()))
        if camera.overlay.get_subscription_count():
            from sensor_msgs.msg import CompressedImage  # noqa: PLC0415

            drawn = overlay.draw(view.image, view.labels, view.classes)
            message = _stamped(CompressedImage(format="jpeg"), frame)
            message.data = array.array("B", simplejpeg.encode_jpeg(drawn, quality=JPEG_QUALITY, colorspace="RGB"))
            camera.overlay.publish(message)

    def close(self) -> None:
        """Leave the node."""
        if self._node is not None:
            if self._timer is not None:
                self._timer.cancel()
            self._node = None
            shared.leave()

    def _diagnose(self) -> None:
        """Publish the counters; on the node's thread."""
        from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue  # noqa: PLC0415

        node, session = self._node, self._session
        if node is None or session is None:
            return
        message = DiagnosticArray()
        message.header.stamp = node.node.get_clock().now().to_msg()
        for source, counters in session.counters.items():
            now = counters.snapshot()
            level, told = _state(now)
            values = {
                "frames a second": f"{now.rate_hz:.1f}",
                "age of newest mask (ms)": "" if now.age_ms is None else f"{now.age_ms:.0f}",
                "latency, median (ms)": "" if now.latency_ms is None else f"{now.latency_ms:.1f}",
                "latency, 99th percentile (ms)": "" if now.latency_p99_ms is None else f"{now.latency_p99_ms:.1f}",
                "received": str(now.received),
                "masks": str(now.masks),
                "dropped": str(now.dropped),
                "lost on the way": str(node.lost.get(source, 0)),
                "late": str(node.late.get(source, 0)),
                "failed": str(now.failed),
            }
            message.status.append(
                DiagnosticStatus(
                    level=level,
                    name=f"{shared.NAME}: {source}",
                    message=told,
                    hardware_id=f"{session.model.name}@{session.model.version}",
                    values=[KeyValue(key=key, value=value) for key, value in values.items()],
                )
            )
        self._diagnostics.publish(message)


def _state(now: Snapshot) -> tuple[bytes, str]:
    """Return the level and the sentence of a source's diagnostics."""
    from diagnostic_msgs.msg import DiagnosticStatus  # noqa: PLC0415

    if now.age_ms is None:
        return DiagnosticStatus.WARN, "no mask yet"
    if now.age_ms > STALE_MS:
        return DiagnosticStatus.STALE, f"no new mask for {now.age_ms / 1000:.0f} s"
    return DiagnosticStatus.OK, f"{now.rate_hz:.1f} masks a second"


def _mono8(frame: LiveFrame, height: int, width: int, data: bytes) -> Any:
    """Make an image message of one byte a pixel; Autoware's runs have its fields too."""
    from sensor_msgs.msg import Image  # noqa: PLC0415

    message = _stamped(Image(height=height, width=width, encoding="mono8", step=width), frame)
    message.data = array.array("B", data)
    return message


def _stamped(message: Any, frame: LiveFrame) -> Any:
    """Give a message the stamp and the frame id of a frame.

    Raises:
        CorruptImage: if the stamp does not fit into 32 bits of seconds
    """
    seconds, nanoseconds = divmod(frame.stamp_ns, 1_000_000_000)
    if not -(2**31) <= seconds < 2**31:
        raise CorruptImage(f"{frame.source}: the stamp {frame.stamp_ns} ns does not fit into a message of ROS 2")
    message.header.stamp.sec, message.header.stamp.nanosec = seconds, nanoseconds
    message.header.frame_id = frame.frame_id
    return message


def open_sink(address: str, options: LiveOptions) -> Segmentation:
    """Make the sink of a name."""
    return Segmentation(address, options)
