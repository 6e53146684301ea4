"""The node ``fcn_serve``, shared by the sources and sinks of a run."""

from __future__ import annotations

import logging
import threading
from typing import Any

from service.errors import BadSetting
from service.live.options import LiveOptions
from service.live.ros2.environment import ready

log = logging.getLogger(__name__)

NAME = "fcn_serve"
_CLOSING_S = 5.0


class Ros2Node:
    """The node, and the thread that calls its callbacks.

    Takes:
        options: of the run; read-only parameters of the node
    """

    def __init__(self, options: LiveOptions) -> None:
        rclpy = ready()
        from rclpy.executors import SingleThreadedExecutor  # noqa: PLC0415
        from rclpy.signals import SignalHandlerOptions  # noqa: PLC0415

        self._context = rclpy.Context()
        try:
            rclpy.init(args=[], context=self._context, signal_handler_options=SignalHandlerOptions.NO)
            self.node: Any = rclpy.create_node(NAME, context=self._context)
        except Exception as error:
            raise BadSetting(f"no node of ROS 2 can be made: {' '.join(str(error).split())[:300]}") from error
        self.node.get_logger().set_level(rclpy.logging.LoggingSeverity.FATAL)  # this project's own log says what matters
        self.lost: dict[str, int] = {}
        """Frames that were lost on their way, by the source's address."""
        self.late: dict[str, int] = {}
        """Frames that came late, by the source's address."""
        self._declare(options)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, name="fcn-ros2", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread and the node. What was published is sent before."""
        self._executor.shutdown(timeout_sec=_CLOSING_S)
        self._thread.join(_CLOSING_S)
        self.node.destroy_node()
        self._context.try_shutdown()

    def _declare(self, options: LiveOptions) -> None:
        from rclpy import node as of_rclpy  # noqa: PLC0415

        descriptor: Any = vars(of_rclpy)["ParameterDescriptor"]
        values = {
            "model": options.model or "",
            "classes": list(options.classes) or [""],
            "min_confidence": float(options.min_confidence),
            "ids": options.ids or "",
            "rate": float(options.rate_hz or 0.0),
            "server": options.server or "",
            "from_qos": options.from_qos,
            "to_qos": options.to_qos,
        }
        for name, value in values.items():
            self.node.declare_parameter(name, value, descriptor(read_only=True))

    def _spin(self) -> None:
        """Call the callbacks until the node is closed. A callback that fails costs its message, not the node."""
        from rclpy.executors import ExternalShutdownException, ShutdownException  # noqa: PLC0415

        while self._context.ok():
            try:
                self._executor.spin()
            except (ExternalShutdownException, ShutdownException):
                pass
            except Exception:
                log.exception("a callback of ROS 2 failed")
                continue
            return


_lock = threading.Lock()
_shared: Ros2Node | None = None
_users = 0


def join(options: LiveOptions) -> Ros2Node:
    """Return the node of this process, made at the first call; :func:`leave` it once."""
    global _shared, _users  # noqa: PLW0603 - DDS wants one node, however many sources and sinks there are
    with _lock:
        if _shared is None:
            _shared = Ros2Node(options)
        _users += 1
        return _shared


def leave() -> None:
    """Close the node when the last user leaves."""
    global _shared, _users  # noqa: PLW0603
    with _lock:
        _users -= 1
        if _users == 0 and _shared is not None:
            _shared.close()
            _shared = None
