"""What segments the frames: a network in this process, or a running service by its URL."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from service.encodings import MaskView, Options, understood
from service.encodings.detections import detections
from service.encodings.palettes import ColoredRow
from service.encodings.view import ModelFacts
from service.errors import BadSetting, InferenceFailed, UnknownModel
from service.live.frame import LiveFrame
from service.live.options import LiveOptions
from service.live.session import LiveResult
from service.pipeline.codecs import decoding
from service.pipeline.manifest import check_8_bits
from service.pipeline.predictor import Predictor

if TYPE_CHECKING:
    from service.client import Client, ServedModel

MASK = "png"
"""The format whose options a live mask has."""


class Segmenter(Protocol):
    """One model, and what is asked of its masks."""

    model: ModelFacts
    sha256: str
    options: Options
    """Of every mask: classes, thresholds, ids."""
    has_things: bool
    """Whether results have things."""

    def segment(self, frame: LiveFrame) -> LiveResult:
        """Segment one frame.

        Raises:
            ServiceError: if this frame has no mask; the next one may have
        """
        ...

    @property
    def classes(self) -> list[ColoredRow]:
        """The class table of the ids that are written."""
        ...


class OwnNetwork:
    """A network in this process.

    Takes:
        predictor: the open models; the caller closes them
        asked: the model and the options
    Raises:
        UnknownModel, UnknownClass, BadParameter: if they do not fit the models
        BadSetting: if the model is for scans
    """

    def __init__(self, predictor: Predictor, asked: LiveOptions) -> None:
        self._predictor, self._engine = predictor, predictor.engine(asked.model)
        manifest = self._engine.manifest
        if manifest.input.takes_scans:
            raise BadSetting(f"{manifest.name} takes scans, not the pictures of a camera; name another --model")
        check_8_bits(manifest, "a camera")
        self.model: ModelFacts = manifest
        self.sha256 = self._engine.sha256
        self.options = _understood(manifest, asked)
        self.has_things = manifest.learns_instances and asked.things
        self._things = replace(self.options, instances=True)

    @property
    def classes(self) -> list[ColoredRow]:
        """The class table of the ids that are written."""
        return list(self.options.rows(self.model.classes))

    def segment(self, frame: LiveFrame) -> LiveResult:
        """Segment one frame on this thread."""
        made = self._predictor.segment(frame.image, self._engine, instances=self.has_things)
        timing = {stage: seconds * 1000 for stage, seconds in made.timing.stages().items() if stage != "encode"}
        things = (lambda: detections(MaskView.of(made, self._things).selected())) if self.has_things else None
        return LiveResult(MaskView.of(made, self.options).selected(), timing, things)


class RunningService:
    """A service that runs elsewhere. It is waited for with each frame: one in flight, the newest next.

    The confidence of a mask is a second request for the same frame, made only when a sink asks for it. There are no things.

    Takes:
        client: of the service; the caller closes it
        asked: the model and the options
    Raises:
        ConnectionFailed, NotReady, Unauthorized: if the service does not answer
        UnknownModel, UnknownClass, BadParameter: if the options do not fit its models
        BadSetting: in :meth:`segment`, if the service has loaded a model with other classes since
    """

    has_things = False

    def __init__(self, client: Client, asked: LiveOptions) -> None:
        self._client, self._limits, self._min_confidence = client, asked.limits, asked.min_confidence
        served = _served(client, asked.model)
        self.model: ModelFacts = served
        self.sha256 = ""
        self._checked = ""
        """The SHA-256 of the model whose classes were compared last."""
        options = _understood(served, asked)
        self.options = replace(options, min_confidence=0.0)  # the service drops uncertain pixels: it has the scores

    @property
    def classes(self) -> list[ColoredRow]:
        """The class table of the ids that are written."""
        return list(self.options.rows(self.model.classes))

    def segment(self, frame: LiveFrame) -> LiveResult:
        """Segment one frame by a request."""
        image = decoding.decode(frame.image, self._limits, decoding.probe(frame.image, self._limits))
        least = self._min_confidence or None
        mask = self._client.segment(frame.image, self.model.name, min_confidence=least)
        if mask.model.sha256 != self._checked:
            self._check_classes()
            self._checked = mask.model.sha256
        if mask.labels.shape != image.shape[:2]:
            raise InferenceFailed(f"the service's mask has {mask.labels.shape[::-1]} pixels, the frame {image.shape[1::-1]}")

        def confidence() -> NDArray[np.uint8]:
            grey = self._client.segment_as(frame.image, "confidence", model=self.model.name).body
            return np.ascontiguousarray(decoding.decode(grey, self._limits, decoding.probe(grey, self._limits))[..., 0])

        view = MaskView(mask.labels, image, self.model, mask.model.sha256, confidence, self.options)
        return LiveResult(view.selected(), mask.timing)

    def _check_classes(self) -> None:
        """Check that the ids of masks still mean what the sinks were told at the start."""
        name = self.model.name
        if _served(self._client, name).classes != self.model.classes:
            raise BadSetting(f"--server: {name} has other classes now; start the run again")


def _understood(model: ModelFacts, asked: LiveOptions) -> Options:
    return understood(MASK, model.classes, classes=asked.classes, min_confidence=asked.min_confidence, ids=asked.ids)


def _served(client: Client, name: str | None) -> ServedModel:
    catalogue = client.models()
    wanted = catalogue.default if name is None else name
    found = next((model for model in catalogue.models if model.name == wanted), None)
    if found is None:
        allowed = [model.name for model in catalogue.models]
        raise UnknownModel(f"the service has no model {wanted!r}; it has {', '.join(allowed)}", allowed=allowed)
    return found
