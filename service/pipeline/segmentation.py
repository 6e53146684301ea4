"""The result of one image, and the time of each step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from service.pipeline.codecs.georeference import Georeference
from service.pipeline.codecs.grey import Conversion
from service.pipeline.manifest import Manifest
from service.pipeline.tasks import semantic
from service.pipeline.tasks.panoptic import Instances
from service.pipeline.tasks.registry import task_of
from service.pipeline.volume import Grid

Image = NDArray[np.uint8]
Labels = NDArray[np.uint8]
Outputs = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Timing:
    """Seconds of each step of one image; together all the time that passed."""

    decode_s: float = 0.0
    """Bytes to an upright image at the network's size."""
    queue_s: float = 0.0
    """Every wait, for a worker or for a thread."""
    infer_s: float = 0.0
    """The network, for the whole batch."""
    labels_s: float = 0.0
    """Outputs to labels at the image's size."""
    encode_s: float = 0.0
    """Labels to the reply's bytes."""

    def stages(self) -> dict[str, float]:
        """Seconds by stage name, in order: ``decode``, ``queue``, ``infer``, ``labels``, ``encode``."""
        return {
            "decode": self.decode_s,
            "queue": self.queue_s,
            "infer": self.infer_s,
            "labels": self.labels_s,
            "encode": self.encode_s,
        }

    @property
    def total_s(self) -> float:
        """The sum of all steps."""
        return self.decode_s + self.queue_s + self.infer_s + self.labels_s + self.encode_s


@dataclass(frozen=True, eq=False)
class ScanResult:
    """The parts of a result that only a scan has."""

    grid: Grid
    """Where the voxels lie."""
    preview: Labels
    """X x Y x Z uint8: the normalised scan."""
    certainty: Labels
    """X x Y x Z uint8: the probability of each voxel's label, 255 is certainty."""


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The result of one image or scan."""

    image: Image
    """H x W x 3 uint8 RGB: the decoded image, upright, as people see it; without pixels for a scan."""
    labels: Labels
    """H x W uint8: the class id of every pixel; X x Y x Z for a scan, in its own order."""
    outputs: Outputs
    """The network's outputs by name, each at its own stride: ``scores`` is K x h x w float32."""
    manifest: Manifest
    sha256: str
    """The hash of the artifact's file."""
    provider: str
    """Where the network ran: ``cpu`` or ``cuda``."""
    timing: Timing
    geo: Georeference | None = None
    """Where the image lies on the earth, if its file is a GeoTIFF."""
    scan: ScanResult | None = None
    """None for an image."""
    converted: tuple[Conversion, ...] = ()
    """What was changed of an image that is another than its network takes: it has colours, say, and the network takes grey."""

    @property
    def scores(self) -> NDArray[np.float32]:
        """K x h x w float32: the network's scores at its stride."""
        return self.outputs["scores"]

    def confidence(self) -> Labels:
        """Return the winner's calibrated probability, computed once: of the labels' shape, uint8, 255 is certainty."""
        return self._confidence if self.scan is None else self.scan.certainty

    def confidence_at(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Labels:
        """Return :meth:`confidence` at some pixels of an image, without computing all of it.

        Takes:
            rows, columns: N each
        Gives:
            N uint8; within 1 of the map's
        """
        if self.has_confidence:
            return self.confidence()[rows, columns]
        height, width = self.labels.shape
        return semantic.confidence_at(self.scores, (height, width), rows, columns, self.temperature)

    @property
    def temperature(self) -> float:
        """The manifest's temperature; 1 where the model is not calibrated."""
        return self.manifest.temperature

    @property
    def has_confidence(self) -> bool:
        """Whether :meth:`confidence` is at hand: computed before, or a scan's, which comes with its labels."""
        return self.scan is not None or "_confidence" in vars(self)

    @property
    def has_instances(self) -> bool:
        """Whether the model tells objects apart, and the run was asked for them."""
        return "centers" in self.outputs

    def instances(self) -> Instances:
        """Return the learned objects, computed at the first call. Only where :attr:`has_instances`."""
        return self._instances

    @cached_property
    def _confidence(self) -> Labels:
        return task_of(self.manifest).confidence(self.outputs, self.labels, self.temperature)

    @cached_property
    def _instances(self) -> Instances:
        found = task_of(self.manifest).instances(self.outputs, self.labels, self.manifest)
        if found is None:
            raise ValueError(f"{self.manifest.name} was not asked for instances, or has none")
        return found
