"""Where frames come from, and where their masks go: images, videos, bags.

A kind of source is a class that has what :class:`Source` names. The runner (``service.batch.run``) knows nothing else of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.batch.config import RunConfig
from service.batch.records import Finished
from service.pipeline.codecs.rows import PictureFile
from service.pipeline.large import LargeSegmentation
from service.pipeline.segmentation import Segmentation


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a source; each kind of source adds what it needs for writing."""

    image: NDArray[np.uint8] | bytes | PictureFile | None
    """H x W x 3 uint8 RGB, the file of a scan or of a picture for a network of grey, or a picture that is read by rows; None if
    the network has nothing to do: the mask is known, the frame failed, or it is only copied."""
    failure: str | None
    """Why the frame cannot be segmented."""

    @property
    def file(self) -> Path | None:
        """The file that a failure belongs to, where the source has many; None if the source itself counts its failures."""
        return None

    @property
    def counts(self) -> bool:
        """Say whether it counts among the frames of its source; a message that is only copied does not."""
        return True


F = TypeVar("F", bound=Frame)


@dataclass(frozen=True, eq=False)
class Done(Generic[F]):
    """A frame, and what came of it."""

    frame: F
    made: Segmentation | None
    """None if the network did not run or failed."""
    failure: str | None
    finished: tuple[Finished, ...] = ()
    """The results that are complete with this frame; to be recorded."""
    large: LargeSegmentation | None = None
    """What came of a picture that is read by rows, in the place of ``made``."""


@dataclass(frozen=True)
class Ending:
    """What came of a source as a whole."""

    finished: tuple[Finished, ...] = ()
    """The results that are complete now; to be recorded."""
    damage: str | None = None
    """What was wrong with the source."""


class Source(Protocol[F]):
    """One file, or many that are written alike.

    Plain data until it is opened: a cluster sends it to the worker that opens it.
    """

    path: Path
    """The file or folder that a failure of the whole source belongs to."""
    unit: str
    """What its frames are called: ``images``, ``frames`` or ``messages``."""
    notes: list[str]
    """Sentences for the person who started the run, complete when the source is finished."""

    def open(self, config: RunConfig) -> int | None:
        """Open the source and what is written of it.

        Takes:
            config: of the run
        Gives:
            the number of frames, as far as known
        Raises:
            anything: the source then fails as a whole
        """
        ...

    def frames(self) -> Iterator[F]:
        """Give every frame that can be read, in order. Advanced on a thread of its own."""
        ...

    def write(self, done: Done[F]) -> Done[F]:
        """Write what came of a frame. Called in order, on another thread.

        Gives:
            the same, with the results that are finished; with its failure where the frame has a file of its own and a result
            cannot be written
        """
        ...

    def finish(self) -> Ending:
        """Give the results their names, when every frame is written."""
        ...

    def close(self) -> None:
        """Close everything; what an unfinished source leaves is gone on with by the next run."""
        ...
