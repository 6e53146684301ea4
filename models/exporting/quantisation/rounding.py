"""Weights in few bits, rounded so that their errors cancel in what a layer gives.

Of one output channel, the weights ``w`` become ``s q`` with integers ``q``. With the covariance ``C`` of the numbers that they
are multiplied with, the error of the channel is ``d' C d`` for ``d = s q - w``: rounding each weight to the nearest integer is
not the best. One weight is rounded after the other, and its error is moved to those that are still free (Frantar et al., GPTQ,
ICLR 2023, section 3); then single integers are changed as long as that helps. The mean error is taken off the bias (Nagel et
al., ICCV 2019, section 4.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.exporting.quantisation.maps import Maps
from models.exporting.quantisation.statistics import Exact, Moments

SHARES = np.linspace(0.6, 1.0, 21)
"""Of the largest weight of a channel: the scales that are tried."""

DAMPING = 0.01
"""Added to the diagonal of the covariance, as a share of its mean: the samples are few."""

MOST_CHANGES = 60
"""Single changes of an output channel's integers after all are rounded."""


@dataclass(frozen=True)
class Rounded:
    """The weights of one convolution."""

    integers: NDArray[np.int8]
    """The shape of the kernel."""
    scales: NDArray[np.float32]
    """One an output channel: a weight is its integer times this."""
    bias: NDArray[np.float32]
    """Corrected for the mean error."""


def round_weights(maps: Maps, moments: dict[str, Moments], bits: int) -> dict[str, Rounded]:
    """Round the kernels of all convolutions that run in int8, by the name of their output.

    Takes:
        bits: of a weight, 8 at most
    """
    return {
        node.output[0]: _rounded(maps.kernel(node), maps.bias(node), moments[node.output[0]], 2 ** (bits - 1) - 1)
        for node in maps.convolutions
    }


def _rounded(kernel: NDArray[np.float32], bias: NDArray[np.float32], moments: Moments, largest: int) -> Rounded:
    groups = len(moments.mean)
    weights = kernel.astype(np.float64).reshape(groups, len(kernel) // groups, -1)  # G x O x K
    scales = _best_scales(weights, moments, largest)
    integers = _nearest(weights, scales, largest)
    if moments.covariance.ndim == 3:
        if groups == 1:
            integers = _one_by_one(weights[0], moments.covariance[0], scales[0], largest)[None]
        integers = _improved(weights, moments.covariance, scales, integers, largest)
    difference = integers * scales[..., None] - weights
    mean_error = np.einsum("gok,gk->go", difference, moments.mean).reshape(-1)
    corrected = (bias.astype(np.float64) - mean_error).astype(np.float32)
    return Rounded(integers.reshape(kernel.shape).astype(np.int8), scales.reshape(-1).astype(np.float32), corrected)


def _nearest(weights: Exact, scales: Exact, largest: int) -> Exact:
    return np.asarray(np.clip(np.rint(weights / scales[..., None]), -largest - 1, largest))


def _errors(difference: Exact, moments: Moments) -> Exact:
    """G x O: the error of each output channel."""
    if moments.covariance.ndim == 2:
        return np.asarray(np.einsum("gok,gk->go", difference * difference, moments.covariance))
    return np.asarray(np.einsum("gok,gok->go", difference @ moments.covariance, difference))


def _best_scales(weights: Exact, moments: Moments, largest: int) -> Exact:
    """G x O: of each output channel the scale whose nearest rounding has the least error."""
    highest = np.maximum(np.abs(weights).max(-1), 1e-8)
    best: Exact = highest / largest
    least: Exact = np.full(highest.shape, np.inf)
    for share in SHARES:
        scales = highest * share / largest
        errors = _errors(_nearest(weights, scales, largest) * scales[..., None] - weights, moments)
        best, least = np.where(errors < least, scales, best), np.minimum(errors, least)
    return best


def _one_by_one(weights: Exact, covariance: Exact, scales: Exact, largest: int) -> Exact:
    """O x K integers: the inputs of largest variance first, each error moved to those that follow."""
    hessian = covariance.copy()
    dead = np.diag(hessian) <= 1e-12
    hessian[dead, dead] = 1
    hessian[np.diag_indices_from(hessian)] += DAMPING * np.diag(hessian).mean()
    order = np.argsort(-np.diag(hessian))
    rest = weights[:, order].copy()
    upper = np.linalg.cholesky(np.linalg.inv(hessian[np.ix_(order, order)])).T
    integers = np.zeros_like(rest)
    for k in range(rest.shape[1]):
        integers[:, k] = np.clip(np.rint(rest[:, k] / scales), -largest - 1, largest)
        error = (rest[:, k] - integers[:, k] * scales) / upper[k, k]
        rest[:, k + 1 :] -= error[:, None] * upper[k, k + 1 :]
    return integers[:, np.argsort(order)]


def _improved(weights: Exact, covariance: Exact, scales: Exact, integers: Exact, largest: int) -> Exact:
    """G x O x K integers: of each output channel the one change by 1 that gains most, again and again."""
    found = integers.copy()
    steps = scales[..., None]
    slope = (found * steps - weights) @ covariance
    curve = np.broadcast_to(np.einsum("gkk->gk", covariance)[:, None], found.shape)
    group, channel = (index.reshape(-1) for index in np.indices(scales.shape))
    for _ in range(MOST_CHANGES):
        gains = []
        for change in (-1, 1):
            allowed = (found + change >= -largest - 1) & (found + change <= largest)
            gains.append(np.where(allowed, 2 * change * steps * slope + steps**2 * curve, np.inf))
        both = np.concatenate(gains, -1).reshape(len(group), -1)
        at = both.argmin(1)
        worth = both[np.arange(len(at)), at] < -1e-15
        if not worth.any():
            break
        g, o, k = group[worth], channel[worth], at[worth] % found.shape[-1]
        changes = np.where(at[worth] < found.shape[-1], -1, 1)
        found[g, o, k] += changes
        slope[g, o] += (changes * scales[g, o])[:, None] * covariance[g, k]
    return found
