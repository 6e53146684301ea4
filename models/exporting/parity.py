"""The judge of parity: whether an artifact gives the scores of the network that it was made from.

Both ways to an artifact ask it: the export, which compares with PyTorch, and the adoption, which compares with the graph that
it wraps. Where scores differ beyond a rounding, or another class wins without a tie, no artifact is written.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from service.pipeline.manifest import Parity

SCORE_TOLERANCE = 1e-3
"""Largest difference of a score in float32, where no score is beyond :data:`USUAL_SCORE`."""
USUAL_SCORE = 10.0
"""Roundings grow with the scores: where the largest score is beyond this, so many times more may differ. ResNet-101 with random
weights and scores of 55 was 1.2e-3 apart, 2e-5 of a score."""

TELLING = 5
"""Cells that may differ in an input that is judged alone: in one of 192 cells, a single one is already more than 0.5 %."""


class ParityError(Exception):
    """An artifact that disagrees with its origin; the message names the input, the score and the difference."""


@dataclass(frozen=True)
class Tolerance:
    """The differences that are allowed."""

    score: float
    """Largest difference of a score, as :data:`SCORE_TOLERANCE`."""
    mean: float
    """Largest mean difference of an input's scores: a wrong kernel shifts all of them, roundings do not."""
    agreement: float
    """Least share of score cells whose winner agrees, float32's ties left out: of all inputs together, and of each that has
    enough cells to tell (:data:`TELLING`)."""
    gap: float = 0.0
    """Where the network unpools: the most by which a recorded maximum may be below PyTorch's, as a share of its map's largest
    value. Where it is infinite, PyTorch keeps its own maxima, and their cost is a part of the difference of scores."""
    moved: float = 0.0
    """The largest share of the recorded maxima that may be other pixels than PyTorch's."""


TOLERANCES = {
    "fp32": Tolerance(SCORE_TOLERANCE, SCORE_TOLERANCE / 5, 1.0, gap=1e-4, moved=1e-4),
    "fp16": Tolerance(0.5, 0.05, 0.995, gap=2e-2, moved=2e-2),
    "int8": Tolerance(math.inf, math.inf, 0.8, gap=math.inf, moved=1.0),
}
"""By precision. Half precision keeps 11 bits through sixty layers: of the shipped network's scores, up to 18, it moves the
worst of 370,000 by 0.46, one in a thousand by 0.31, the mean by 0.026, and 99.93 % of the winners stay. The cost of int8 is
measured on labelled frames (``loss``); below eight cells in ten the quantisation itself went wrong."""


@dataclass(frozen=True)
class Comparison:
    """The artifact against its origin on one input."""

    shape: tuple[int, ...]
    """N and sides of the input."""
    max_difference: float
    mean_difference: float
    cells: int
    agreeing: int
    """Cells whose winner agrees, or whose two best scores are closer than twice the float32 tolerance: a tie."""
    margin: float = 0.0
    """The largest distance of the two best scores of all other cells, in the origin."""
    switches: int = 0
    """Maxima that unpooling recorded."""
    moved: int = 0
    """Recorded maxima at another pixel than PyTorch's, a tie each; the scores are compared with the graph's on both sides."""

    @property
    def name(self) -> str:
        """The input in words."""
        return f"input {' x '.join(map(str, self.shape))}"


def judge(
    found: NDArray[np.float32],
    expected: NDArray[np.float32],
    shape: tuple[int, ...],
    tolerance: Tolerance,
    *,
    origin: str = "PyTorch",
    winners: bool = True,
) -> Comparison:
    """Compare one output on one input.

    Takes:
        found, expected: N x planes x cells float32, of the artifact and of its origin
        shape: N and sides of the input
        origin: its name, for the error
        winners: whether the planes are classes of which one wins
    Raises:
        ParityError: if a value differs beyond the tolerance, or too many winners differ beyond ties
    """
    result = Comparison(shape, 0.0, 0.0, 0, 0)
    if found.shape != expected.shape:
        raise ParityError(f"{result.name}: scores of {found.shape}, {origin} gives {expected.shape}")
    if not (np.isfinite(found).all() and np.isfinite(expected).all()):
        raise ParityError(f"{result.name}: scores that are not finite")
    difference = np.abs(found - expected)
    scale = max(1.0, float(np.abs(expected).max()) / USUAL_SCORE)
    allowed = tolerance.score * scale
    if difference.max() > allowed:
        at = tuple(int(index) for index in np.unravel_index(int(difference.argmax()), difference.shape))
        cell = ", ".join(map(str, at[2:]))
        raise ParityError(
            f"{result.name}, image {at[0]}, class {at[1]}, score cell {cell}: {found[at]:.6f}, {origin} gives "
            f"{expected[at]:.6f}; at most {allowed:.2g} apart is allowed"
        )
    if difference.mean() > tolerance.mean * scale:
        raise ParityError(
            f"{result.name}: scores are {difference.mean():.2g} apart on the average; at most {tolerance.mean * scale:.2g} "
            "is allowed"
        )
    result = replace(result, max_difference=float(difference.max()), mean_difference=float(difference.mean()))
    if not winners:
        return result
    ranked = np.sort(expected, axis=1)
    margins = ranked[:, -1] - ranked[:, -2] if ranked.shape[1] > 1 else np.zeros_like(ranked[:, 0])
    agrees = (found.argmax(1) == expected.argmax(1)) | (margins <= 2 * scale * SCORE_TOLERANCE)
    margin = float(margins[~agrees].max(initial=0))
    result = replace(result, cells=agrees.size, agreeing=int(agrees.sum()), margin=margin)
    if not agrees.all() and agrees.size * (1 - tolerance.agreement) >= (TELLING if tolerance.agreement < 1 else 0):
        image, *cell_ = (int(index[0]) for index in np.nonzero(~agrees))
        place = f"{result.name}, first in image {image}, cell {', '.join(map(str, cell_))}"
        check_agreement([result], tolerance, place, origin=origin)
    return result


def check_agreement(results: Sequence[Comparison], tolerance: Tolerance, where: str, *, origin: str = "PyTorch") -> None:
    """Check the share of winners that agree.

    Raises:
        ParityError: if it is too small, naming ``where``
    """
    cells = sum(result.cells for result in results)
    wrong = cells - sum(result.agreeing for result in results)
    if wrong > cells * (1 - tolerance.agreement):
        margin = max(result.margin for result in results)
        raise ParityError(
            f"{where}: another class wins in {wrong} of {cells} score cells, where {origin}'s two best scores are up to "
            f"{margin:.2g} apart; {tolerance.agreement:.1%} must agree"
        )


def report(
    results: Sequence[Comparison], opset: int, tolerance: Tolerance, *, origin: str = "PyTorch", **versions: str
) -> Parity:
    """Sum all inputs up.

    Takes:
        versions: of further packages than onnx and onnxruntime
    Raises:
        ParityError: if too many winners of all inputs together differ
    """
    check_agreement(results, tolerance, f"over all {len(results)} inputs", origin=origin)
    return Parity(
        max_score_difference=max(result.max_difference for result in results),
        mean_score_difference=float(np.mean([result.mean_difference for result in results])),
        argmax_agreement=sum(result.agreeing for result in results) / sum(result.cells for result in results),
        switches=sum(result.switches for result in results),
        moved_switches=sum(result.moved for result in results),
        shapes=tuple(result.shape for result in results),
        opset=opset,
        versions={**versions, "onnx": onnx.__version__, "onnxruntime": ort.__version__},
    )


def describe(parity: Parity) -> str:
    """Say a report in two or three lines."""
    shapes = ", ".join("x".join(map(str, shape)) for shape in parity.shapes)
    ties = f"{parity.moved_switches} of {parity.switches} recorded maxima tie up to a rounding and are other pixels\n"
    return (
        f"{ties if parity.switches else ''}scores differ by at most {parity.max_score_difference:.1e} "
        f"(mean {parity.mean_score_difference:.1e}),\nwinners agree on {parity.argmax_agreement:.4%} of the cells, "
        f"over N x H x W = {shapes}; opset {parity.opset}"
    )
