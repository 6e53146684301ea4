"""Options that several commands take; they have the names of the query of ``POST /segment``."""

from __future__ import annotations

from typing import Annotated

import typer

from service.encodings.tables import TABLES

Classes = Annotated[
    list[str] | None,
    typer.Option(help="Classes to keep, by the model's names or ids, repeated or separated by commas; others become 255."),
]
MinConfidence = Annotated[
    float, typer.Option(min=0, max=1, help="Pixels with a lower confidence become 255.", show_default=False)
]
Ids = Annotated[
    str | None,
    typer.Option(
        help=f"The table of class ids in the masks: {', '.join(TABLES)}; the model's own if left out.",
        autocompletion=lambda incomplete: [each for each in TABLES if each.startswith(incomplete)],
    ),
]
Drivable = Annotated[
    list[str] | None,
    typer.Option(help="Free space: drivable classes, names or ids of the masks' table; road if left out."),
]
EgoRows = Annotated[
    int | None, typer.Option(min=0, max=16384, help="Free space: rows at the bottom that show the vehicle itself.")
]
Fx = Annotated[float | None, typer.Option(help="Free space: focal length in pixels; with --camera-height.")]
Fy = Annotated[float | None, typer.Option(help="Free space: vertical focal length; --fx if left out.")]
Cx = Annotated[float | None, typer.Option(help="Free space: column of the optical axis; the middle if left out.")]
Cy = Annotated[float | None, typer.Option(help="Free space: row of the optical axis; the middle if left out.")]
CameraHeight = Annotated[float | None, typer.Option(help="Free space: metres of the camera above the ground.")]
CameraPitch = Annotated[float | None, typer.Option(help="Free space: radians, positive when the camera tilts down.")]
RangeMax = Annotated[float | None, typer.Option(help="Free space: metres beyond which ground counts as free; 100 if left out.")]
Beams = Annotated[int | None, typer.Option(min=1, max=8192, help="Free space: beams of the scan; one a column if left out.")]
