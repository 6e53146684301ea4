"""The options of ``format=freespace``: which classes are drivable, and the camera, understood and checked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from service.encodings import selection
from service.encodings.ground import Camera, Sampling, sampling_of
from service.encodings.runs import ClassRow
from service.errors import BadParameter

DRIVABLE = "road"
"""The class that is drivable where a caller names none."""
TAKES = frozenset(("drivable", "ego_rows", "fx", "fy", "cx", "cy", "camera_height", "camera_pitch", "range_max", "beams"))
"""The options of these formats."""
DEFAULT_RANGE_M = 100.0
MAX_PITCH = 1.5
"""Radians; nearly straight down."""


@dataclass(frozen=True)
class Mount:
    """A camera as a caller describes it; what is None follows from the image."""

    fx: float
    fy: float | None
    cx: float | None
    cy: float | None
    height: float
    pitch: float

    def camera(self, size: tuple[int, int]) -> Camera:
        """Return the camera for an image: fy is fx, and the optical axis is in the middle, where they are not given.

        Takes:
            size: (height, width)
        """
        height, width = size
        return Camera(
            self.fx,
            self.fx if self.fy is None else self.fy,
            (width - 1) / 2 if self.cx is None else self.cx,
            (height - 1) / 2 if self.cy is None else self.cy,
            self.height,
            self.pitch,
        )


@dataclass(frozen=True)
class Driving:
    """What is drivable, and how the rest is measured."""

    drivable: frozenset[int] = frozenset()
    """Class ids, of the table that the reply uses."""
    ego_rows: int = 0
    """Rows at the bottom of the image that show the vehicle itself; they are left out."""
    mount: Mount | None = None
    """None: rows only, no distances."""
    range_max: float = DEFAULT_RANGE_M
    """Metres."""
    beams: int = 0
    """Of the scan; 0 is one a column."""

    def check_rows(self, height: int) -> None:
        """Check that an image has rows beside those of the vehicle.

        Raises:
            BadParameter: if it has not
        """
        if self.ego_rows >= height:
            reason = f"ego_rows is {self.ego_rows}, and the image has {height} rows"
            raise BadParameter(reason, parameter="ego_rows")

    def facts(self) -> dict[str, Any]:
        """Return the options for JSON: equal ones give equal results of one label map."""
        return {**asdict(self), "drivable": sorted(self.drivable)}

    def sampling(self, camera: Camera, size: tuple[int, int]) -> Sampling:
        """Return how the columns of an image become beams.

        Raises:
            BadParameter: if the camera would see no ground
        """
        return sampling_of(camera, size, beams=self.beams, range_max=self.range_max, ego_rows=self.ego_rows)


def understood_driving(
    written: Sequence[ClassRow],
    *,
    drivable: Iterable[str] = (),
    ego_rows: int | None = None,
    fx: float | None = None,
    fy: float | None = None,
    cx: float | None = None,
    cy: float | None = None,
    camera_height: float | None = None,
    camera_pitch: float | None = None,
    range_max: float | None = None,
    beams: int | None = None,
) -> Driving:
    """Understand a caller's query.

    Takes:
        written: the class table that the reply uses
        the others: as the query of ``POST /segment`` has them
    Raises:
        UnknownClass: if the table has no such class
        BadParameter: if the table has no ``road`` and no class is named; if a part of the camera is missing, or makes no sense
    """
    words = list(drivable)
    if not words and all(row.name != DRIVABLE for row in written):
        known = [row.name for row in written]
        reason = f"there is no class {DRIVABLE!r}: name the drivable ones with drivable=; there are {', '.join(known)}"
        raise BadParameter(reason, parameter="drivable", allowed=known)
    return Driving(
        selection.class_ids(words or [DRIVABLE], written, "drivable"),
        ego_rows or 0,
        _mount(fx, fy, cx, cy, camera_height, camera_pitch, beams=beams, range_max=range_max),
        DEFAULT_RANGE_M if range_max is None else range_max,
        beams or 0,
    )


def _mount(
    fx: float | None,
    fy: float | None,
    cx: float | None,
    cy: float | None,
    height: float | None,
    pitch: float | None,
    **of_scan: float | None,
) -> Mount | None:
    given = {"fx": fx, "fy": fy, "cx": cx, "cy": cy, "camera_height": height, "camera_pitch": pitch}
    for name, value in (given | of_scan).items():
        if value is not None and not math.isfinite(value):
            raise BadParameter(f"{name} must be a finite number, not {value}", parameter=name)
    if fx is None or height is None:
        if named := [name for name, value in (given | of_scan).items() if value is not None]:
            missing = "fx" if fx is None else "camera_height"
            raise BadParameter(f"{', '.join(named)}: distances need {missing} too", parameter=missing)
        return None
    for name, value in {"fx": fx, "fy": fy, "camera_height": height, "range_max": of_scan["range_max"]}.items():
        if value is not None and value <= 0:
            raise BadParameter(f"{name} must be more than 0, not {value:g}", parameter=name)
    if pitch is not None and abs(pitch) > MAX_PITCH:
        reason = f"camera_pitch is in radians, {-MAX_PITCH} to {MAX_PITCH}, not {pitch:g}"
        raise BadParameter(reason, parameter="camera_pitch")
    return Mount(fx, fy, cx, cy, height, pitch or 0.0)
