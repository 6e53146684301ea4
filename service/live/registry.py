"""Addresses to sources and sinks. A kind's file is imported only when its address is named.

To add a kind: write its file, add its line here, and write its test.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.errors import BadSetting
from service.live.options import LiveOptions
from service.live.sinks import LiveSink
from service.live.sources import LiveSource
from service.live.sources.addresses import without_password


@dataclass(frozen=True)
class Kind:
    """One kind of source or sink."""

    example: str
    """An address, for the help and for errors."""
    matches: Callable[[str], bool]
    """Whether an address is of this kind; the first kind in the table that says so gets it."""
    module: str
    """The file that has ``open_source`` or ``open_sink``."""
    shows_things: bool = False
    """Whether a sink of this kind shows objects."""


def _begins(*prefixes: str) -> Callable[[str], bool]:
    return lambda address: address.lower().startswith(prefixes)


VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp")
"""What the name of a video ends with; a file of any other name is tried as one if it is there."""


def _is_video(address: str) -> bool:
    return "://" not in address and (address.lower().endswith(VIDEOS) or Path(address).is_file())


SOURCES: tuple[Kind, ...] = (
    Kind("ros2:/camera/image_raw", _begins("ros2:"), "service.live.sources.ros2"),
    Kind("FOLDER", lambda address: bool(address) and Path(address).is_dir(), "service.live.sources.folder"),
    Kind("rtsp://HOST/PATH", _begins("rtsp://", "rtsps://"), "service.live.sources.rtsp"),
    Kind("http://HOST/PATH", _begins("http://", "https://"), "service.live.sources.http"),
    Kind("/dev/video0", _begins("/dev/"), "service.live.sources.device"),
    Kind("drive.mp4", _is_video, "service.live.sources.file"),
)
"""Every kind of source."""

SINKS: tuple[Kind, ...] = (
    Kind("foxglove://HOST:PORT", _begins("foxglove://"), "service.live.sinks.foxglove"),
    Kind("out.mcap", lambda address: "://" not in address and address.lower().endswith(".mcap"), "service.live.sinks.mcap"),
    Kind("ros2:/segmentation", _begins("ros2:"), "service.live.sinks.ros2", shows_things=True),
    Kind("-", lambda address: address == "-", "service.live.sinks.lines"),
)
"""Every kind of sink."""


def open_source(address: str, options: LiveOptions) -> LiveSource:
    """Make the source of an address; nothing is opened yet.

    Raises:
        BadSetting: if the address is of no kind, or the kind's package is missing
    """
    source: LiveSource = _module_of(_kind_of(address, SOURCES, "--from")).open_source(address, options)
    return source


def open_sink(address: str, options: LiveOptions) -> LiveSink:
    """Make the sink of an address; nothing is opened yet.

    Raises:
        BadSetting: if the address is of no kind, or the kind's package is missing
    """
    sink: LiveSink = _module_of(_kind_of(address, SINKS, "--to")).open_sink(address, options)
    return sink


def shows_things(address: str) -> bool:
    """Whether the sink of an address shows objects.

    Raises:
        BadSetting: if the address is of no kind
    """
    return _kind_of(address, SINKS, "--to").shows_things


def examples(kinds: Sequence[Kind]) -> str:
    """Return one address of each kind, for a sentence."""
    return ", ".join(kind.example for kind in kinds)


def _module_of(kind: Kind) -> Any:
    return importlib.import_module(kind.module)


def _kind_of(address: str, kinds: Sequence[Kind], option: str) -> Kind:
    for kind in kinds:
        if kind.matches(address):
            return kind
    raise BadSetting(
        f"{option} {without_password(address)}: not an address that is known, or not there; these are: {examples(kinds)}"
    )
