"""The options of ``fcn-serve live``, as the command line gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from service.pipeline.codecs.limits import Limits

Qos = Literal["sensor-data", "reliable"]
"""Quality of service of topics: ``sensor-data`` is best effort, volatile, the last 5; ``reliable`` is reliable otherwise."""
QOS: tuple[Qos, ...] = get_args(Qos)


@dataclass(frozen=True)
class LiveOptions:
    """What sources, sinks and the network are asked for."""

    limits: Limits
    """On bytes, pixels and sides of a frame."""
    model: str | None = None
    """The model's name; None is the default."""
    classes: tuple[str, ...] = ()
    """Names or ids of the classes to keep; all if empty."""
    min_confidence: float = 0.0
    """0..1: pixels with a lower confidence become 255."""
    ids: str | None = None
    """The table of class ids in the masks; None is the model's own."""
    rate_hz: float | None = None
    """The most masks a second of each source; None is without a limit."""
    server: str | None = None
    """The URL of a running service; None is a network in this process."""
    from_qos: Qos = "sensor-data"
    """Of the subscriptions of topics."""
    to_qos: Qos = "sensor-data"
    """Of the topics that are published."""
    things: bool = True
    """Whether objects are wanted, of models that have learned them. Where no sink shows them, they are not computed."""
    driving: Mapping[str, Any] = field(default_factory=dict)
    """The options of free space, as ``understood_driving`` takes them; empty publishes none."""
    ground_frame: str = "base_footprint"
    """The frame id of the scan of free space: below the camera, x ahead, y to the left."""
