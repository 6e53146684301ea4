"""Quality of service, in words."""

from __future__ import annotations

from typing import Any

from service.live.options import Qos


def profile(name: Qos) -> Any:
    """Return rclpy's profile of a name."""
    from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: PLC0415

    reliable = ReliabilityPolicy.RELIABLE if name == "reliable" else ReliabilityPolicy.BEST_EFFORT
    return QoSProfile(depth=5, reliability=reliable)


def latched() -> Any:
    """Return the profile of what a late subscriber still gets: reliable, transient-local, the last 1."""
    from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy  # noqa: PLC0415

    return QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def policy_of(event: Any) -> str:
    """Return the policy of an event of incompatible quality of service: ``reliability``, ``durability`` or another one."""
    from rclpy.qos import qos_policy_name_from_kind  # noqa: PLC0415

    return str(qos_policy_name_from_kind(event.last_policy_kind)).lower()
