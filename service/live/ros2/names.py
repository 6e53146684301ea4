"""Names of topics: that of an address, and those of each source's masks."""

from __future__ import annotations

import re
from collections.abc import Sequence

from service.errors import BadSetting

PREFIX = "ros2:"

_PICTURES = re.compile(r"image\w*|compressed")
"""Last parts of a topic that say what it holds, not which camera it is."""


def names_of(base: str, sources: Sequence[str]) -> dict[str, str]:
    """Return the name above the topics of each source.

    One source has ``base`` itself. Of several, ``ros2:/camera_front/image_raw/compressed`` has ``base/camera_front``; where two
    would be equal, all have their whole topic; sources that are not topics have ``base/camera_1``, by their place.

    Takes:
        base: such as ``/segmentation``
        sources: their addresses
    Gives:
        by the address
    """
    if len(sources) == 1:
        return {sources[0]: base}
    short = [_camera_of(source, number) for number, source in enumerate(sources, 1)]
    whole = [_whole(source, number) for number, source in enumerate(sources, 1)]
    chosen = short if len(set(short)) == len(short) else whole
    return {source: f"{base}/{name}" for source, name in zip(sources, chosen, strict=True)}


def _camera_of(source: str, number: int) -> str:
    parts = _whole(source, number).split("/")
    while len(parts) > 1 and _PICTURES.fullmatch(parts[-1]):
        parts.pop()
    return "/".join(parts)


def _whole(source: str, number: int) -> str:
    return source.removeprefix(PREFIX).strip("/") if source.startswith(PREFIX) else f"camera_{number}"


def topic_of(address: str) -> str:
    """Return the topic of an address, from its first slash on.

    Raises:
        BadSetting: if it is not the name of a topic
    """
    from rclpy.exceptions import InvalidTopicNameException  # noqa: PLC0415
    from rclpy.validate_full_topic_name import validate_full_topic_name  # noqa: PLC0415

    topic = "/" + address[len(PREFIX) :].lstrip("/").rstrip("/")
    try:
        validate_full_topic_name(topic)
    except InvalidTopicNameException as error:
        raise BadSetting(f"{address}: not the name of a topic, as ros2:/camera/image_raw is") from error
    return topic
