"""A worker of Ray Data: one process with a model of its own, which opens files, segments them and writes the results.

It reads and writes files itself, on storage that all machines share. To the driver it returns what is finished, as rows for the
records, and what failed. It neither writes a record nor holds a lock.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service import __version__, process
from service.batch.config import RunConfig
from service.batch.records import Finished
from service.batch.run import Report, work_on
from service.batch.sources import Source
from service.compose import open_predictor
from service.encodings import Options
from service.errors import BadArtifact, BadSetting, ServiceError
from service.pipeline.tiling import Halo, Resolution
from service.settings import Settings


@dataclass(frozen=True)
class Assignment:
    """What every worker of a run is started with."""

    folder: Path | None
    """In which relative paths of files begin; None if there are none."""
    settings: Settings
    artifact: Path
    sha256: str
    options: Mapping[str, Options]
    resolution: Resolution
    halo: Halo
    overwrite: bool


@dataclass
class Outcome:
    """What came of one part of the work."""

    report: Report = field(default_factory=Report)
    finished: list[Finished] = field(default_factory=list)
    refusal: str | None = None
    """Why this worker cannot work at all."""

    def record(self, finished: Finished) -> None:
        """Keep a finished result for the driver, which records it."""
        self.finished.append(finished)


class _Silent:
    """No progress: the driver counts what comes back."""

    def begin(self, source: str, total: int | None) -> None:
        pass

    def part(self, done: int, total: int) -> None:
        pass

    def advance(self) -> None:
        pass


class Worker:
    """One process of the cluster. Ray Data makes one for each share of processors, or each GPU.

    Takes:
        version: of the distribution, on the driver's machine
        assignment: pickled
    """

    def __init__(self, version: str, assignment: bytes) -> None:
        process.configure_process()
        self._refusal: str | None = None
        try:
            if version != __version__:  # before reading what another version has pickled
                raise BadSetting(f"it has fcn-serve {__version__}, and the command is of {version}")
            self._open(pickle.loads(assignment))  # noqa: S301 - from the driver of this cluster
        except (ServiceError, OSError) as error:
            self._refusal = getattr(error, "message", None) or str(error)

    def _open(self, assignment: Assignment) -> None:
        if assignment.folder is not None:
            os.chdir(assignment.folder)
        self._predictor = open_predictor(assignment.settings, assignment.artifact)
        repository = self._predictor.repository
        if reason := next(iter(repository.broken.values()), None):
            raise BadArtifact(reason)
        engine = repository.get()
        if engine.sha256 != assignment.sha256:
            raise BadArtifact(f"{assignment.artifact} is another file there")
        limits = self._predictor.limits
        told = assignment
        self._config = RunConfig(engine, told.options, limits, told.resolution, told.halo, told.overwrite)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Work on one part.

        Takes:
            row: ``rank`` of the part, and ``source``, pickled
        Gives:
            ``rank``, and ``outcome``, pickled
        """
        outcome = Outcome(refusal=self._refusal)
        if self._refusal is None:
            source: Source[Any] = pickle.loads(row["source"])  # noqa: S301 - from the driver of this cluster
            work_on(source, self._predictor, self._config, outcome, _Silent())
        return {"rank": row["rank"], "outcome": pickle.dumps(outcome)}
