"""What all frames of a run have in common: the model, the options of each format, the limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from service.encodings import Options
from service.pipeline.codecs.decoding import Limits
from service.pipeline.engine import Engine
from service.pipeline.tiling import Halo, Resolution


@dataclass(frozen=True, eq=False)
class RunConfig:
    """How the frames of a run are segmented and written. A worker of a cluster makes its own, with its own engine."""

    engine: Engine
    options: Mapping[str, Options]
    """By the name of each format that is written."""
    limits: Limits
    """On image files."""
    resolution: Resolution = "working"
    """At which the network sees the frames."""
    halo: Halo = "exact"
    """How much each tile sees of its surroundings, at the native resolution."""
    overwrite: bool = False
    """Whether finished results are done again, and journals of unfinished ones are deleted."""

    def journal(self) -> dict[str, str]:
        """Return what every line of a journal depends on beside the options of its format, for JSON."""
        return {"model": self.engine.sha256, **self.native()}

    def native(self) -> dict[str, str]:
        """Return what results depend on at the native resolution, for JSON; empty at the working one."""
        if self.resolution == "working":
            return {}
        return {"resolution": self.resolution} | ({"halo": self.halo} if self.halo != "exact" else {})
