"""One inference of the Open Inference Protocol, for every transport: what is asked for becomes the parts of its outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from service.api import schemas
from service.api.record import RequestRecord
from service.api.services import Services
from service.api.v2 import schemas as wire
from service.api.v2 import tensors
from service.errors import BadParameter
from service.pipeline.codecs import decoding
from service.pipeline.engine import Engine
from service.pipeline.segmentation import Segmentation
from service.serving.deadline import Deadline


@dataclass(frozen=True)
class Inference:
    """One parsed request."""

    services: Services
    record: RequestRecord
    engine: Engine
    order: tensors.Order
    name: str | None
    """The model's name as the caller knows it; None where none was said."""

    @property
    def model(self) -> tuple[str, str]:
        """Name and version of the model that answers, as the caller knows it."""
        return self.name or self.engine.manifest.name, self.engine.manifest.version

    async def parts(self, deadline: Deadline) -> list[list[tensors.Part]]:
        """Segment the images.

        Gives:
            of each image, the parts of its outputs
        Raises:
            ServiceError: as ``DataPlane.segment``
            BadParameter: if the request names another model, or its images cannot share a tensor
        """
        plane, order = self.services.plane, self.order
        _check_model(order, self.model)
        headers = await plane.probe_all(order.images)
        _check_sizes(order, headers)
        answers = await plane.segment(
            order.images, self._encode, self.engine, deadline=deadline, priority=order.priority, headers=headers
        )
        for answer in answers:
            self.record.add(answer.size, answer.timing, answer.converted)
        return [answer.value for answer in answers]

    def _encode(self, result: Segmentation) -> list[tensors.Part]:
        """Return the outputs of one image; called on a thread of the data plane."""
        return tensors.make_parts(result, self.order.outputs)


def limit_s(default_s: float, *limits_ms: float | None) -> float:
    """Return the shortest of the limits that a request names; the default if it names none.

    Takes:
        default_s: seconds
        limits_ms: milliseconds; the last is the parameter ``timeout``
    Raises:
        BadParameter: if one is longer than any request may wait
    """
    if any(limit_ms is not None and limit_ms > schemas.MAX_DEADLINE_MS for limit_ms in limits_ms):
        reason = f"timeout: at most {1000 * schemas.MAX_DEADLINE_MS} microseconds"
        raise BadParameter(reason, parameter="timeout")
    return min((limit_ms / 1000 for limit_ms in limits_ms if limit_ms is not None), default=default_s)


def _check_model(order: tensors.Order, served: tuple[str, str]) -> None:
    """Refuse a body that names another model than the address does."""
    for parameter, said, meant in zip(("model_name", "model_version"), order.model, served, strict=True):
        is_alias = parameter == "model_version" and said == wire.VERSION_ALIAS
        if said not in (None, meant) and not is_alias:
            raise BadParameter(f"{parameter}: {str(said)[:64]!r} is not {meant!r}, which was asked", parameter=parameter)


def _check_sizes(order: tensors.Order, headers: Sequence[decoding.Header]) -> None:
    """Refuse images that cannot share a tensor, before anything is decoded. EXIF may yet swap the two sides of an image."""
    sizes = {tuple(sorted((header.height, header.width))) for header in headers}
    names = [wanted.name for wanted in order.outputs if tensors.OUTPUTS[wanted.name].dimensions]
    if len(sizes) > 1 and names:
        found = dict.fromkeys(f"{header.height}x{header.width}" for header in headers)
        raise tensors.different_sizes(names[0], ", ".join(found))
