"""Which variant of the default model answers a request that names no model: float32, or int8.

int8 answers where the processor has instructions for it and the artifact proves that it loses next to nothing. Without these
instructions it is right too (7-bit weights cannot overflow), but the gain is smaller.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from service.pipeline.engine import Engine

Precision = Literal["auto", "fp32", "int8"]

MOST_LOST = 0.3
"""Points of mean IoU that int8 may lose on any split of its card, if it is to answer unasked."""


@dataclass(frozen=True)
class Choice:
    """The model that answers where a request names none."""

    name: str
    reason: str
    """Why this variant, as a clause."""


def choose(engines: Mapping[str, Engine], default: str | None, precision: Precision, instructions: str | None) -> Choice | None:
    """Choose a variant.

    Takes:
        engines: all models that are served, by name
        default: the default model's name; None is the first by name
        precision: ``fp32`` and ``int8`` ask for a variant, ``auto`` lets processor and card decide
        instructions: the processor's instructions for int8; None if it has none
    Gives:
        None if the default model is not served
    """
    name = default or min(engines, default=None)
    if name is None or name not in engines:
        return None
    served = engines[name]
    if precision == "fp32":
        return _float32(engines, served)
    if served.manifest.precision != "fp32":
        return Choice(name, f"{served.manifest.precision}: it is the default model")
    variant = _int8_variant(engines, served)
    if variant is None:
        return Choice(name, "fp32: no int8 variant of it is served")
    lost = _lost(variant)
    if precision == "int8":
        return Choice(variant.manifest.name, f"int8: FCN_PRECISION asks for it; {_said(lost)}")
    if served.provider == "cuda":
        return Choice(name, "fp32: it runs on a GPU")
    if instructions is None:
        return Choice(name, "fp32: this processor has no VNNI, AMX or dot-product instructions, so int8 would gain less")
    if lost is None or lost > MOST_LOST:
        return Choice(name, f"fp32: of {variant.manifest.name}, {_said(lost)}; at most {MOST_LOST} may be lost")
    return Choice(variant.manifest.name, f"int8: this processor has {instructions}; {_said(lost)}")


def _float32(engines: Mapping[str, Engine], served: Engine) -> Choice:
    """The float32 form of a model, where that is served."""
    manifest = served.manifest
    if manifest.precision == "fp32":
        return Choice(manifest.name, "fp32: FCN_PRECISION asks for it")
    exact = engines.get(manifest.reduced.float32) if manifest.reduced else None
    if exact is None or not _same(served, exact):
        return Choice(manifest.name, f"{manifest.precision}: no float32 variant of it is served")
    return Choice(exact.manifest.name, "fp32: FCN_PRECISION asks for it")


def _int8_variant(engines: Mapping[str, Engine], exact: Engine) -> Engine | None:
    """The int8 form of a model that loses least."""
    found = [
        engine
        for _, engine in sorted(engines.items())
        if engine.manifest.precision == "int8"
        and engine.manifest.reduced is not None
        and engine.manifest.reduced.float32 == exact.manifest.name
        and _same(engine, exact)
    ]
    return min(found, key=lambda engine: float("inf") if (lost := _lost(engine)) is None else lost, default=None)


def _same(variant: Engine, exact: Engine) -> bool:
    """Whether two artifacts are one model: version but for its patch, task, input, outputs and classes."""
    mine, its = variant.manifest, exact.manifest
    classes = [(row.id, row.name) for row in mine.classes] == [(row.id, row.name) for row in its.classes]
    same = (mine.task, mine.input, mine.outputs) == (its.task, its.input, its.outputs)
    return classes and same and _without_patch(mine.version) == _without_patch(its.version)


def _without_patch(version: str) -> str:
    """The first two numbers of a version of three: the third one counts exports of the same weights."""
    numbers = re.fullmatch(r"(\d+\.\d+)\.\d+", version)
    return numbers[1] if numbers else version


def _lost(engine: Engine) -> float | None:
    """The most points of mean IoU that a variant loses on a split; None where that is unknown."""
    reduced = engine.manifest.reduced
    return max((loss.points for loss in reduced.losses.values()), default=None) if reduced else None


def _said(lost: float | None) -> str:
    if lost is None:
        return "its loss is unknown"
    return f"its card shows {max(lost, 0):.2f} points of mean IoU lost"
