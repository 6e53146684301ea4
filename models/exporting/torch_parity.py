"""An artifact beside the PyTorch network that it was traced from, over several shapes and batch sizes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from models.exporting import parity
from models.exporting.parity import TOLERANCES, Comparison, ParityError, Tolerance
from models.exporting.tracing import OPSET, Served
from models.nets.network import Network
from models.nets.switches import Replayed, replay, unpools, with_switches
from models.scenes import street_view
from service.pipeline.manifest import INPUT, InputPolicy, Parity
from service.pipeline.plan import fit_size

Batch = NDArray[np.generic]


def compare(net: Network, session: ort.InferenceSession, batch: Batch, tolerance: Tolerance = TOLERANCES["fp32"]) -> Comparison:
    """Run both on one batch.

    Takes:
        session: of the graph, with its switches as further outputs if the network unpools
        batch: as the graph takes it
    Raises:
        ParityError: if a score differs beyond the tolerance, too many winners beyond ties, or a recorded maximum is wrong
    """
    names = [value.name for value in session.get_outputs() if value.name not in net.outputs]
    answers = session.run([*net.outputs, *names], {INPUT: batch})
    found, switches = answers[: len(net.outputs)], answers[len(net.outputs) :]
    shape = batch.shape[:-1]
    place = f"input {' x '.join(map(str, shape))}"
    if len(net.outputs) > 1:
        with torch.no_grad():
            expected = [output.numpy() for output in Served(net)(torch.from_numpy(batch))]
        judged = [
            parity.judge(ours, theirs, shape, tolerance, winners=name == "scores")
            for name, ours, theirs in zip(net.outputs, found, expected, strict=True)
        ]
        return replace(judged[0], max_difference=max(each.max_difference for each in judged))
    try:
        replayed = replay(Served(net), torch.from_numpy(batch), switches if math.isfinite(tolerance.gap) else None)
    except ValueError as error:
        raise ParityError(f"{place}: {error}") from error
    _check_switches(replayed, tolerance, place)
    judged_scores = parity.judge(found[0], replayed.scores, shape, tolerance)
    return replace(judged_scores, switches=replayed.switches, moved=replayed.moved)


def _check_switches(replayed: Replayed, tolerance: Tolerance, place: str) -> None:
    if replayed.gap > tolerance.gap or replayed.moved > tolerance.moved * replayed.switches:
        raise ParityError(
            f"{place}: {replayed.moved} of {replayed.switches} recorded maxima are other pixels than PyTorch's, by up to "
            f"{replayed.gap:.1e} of the largest value below these; at most {tolerance.moved:.2%} may be, by {tolerance.gap:.1e}"
        )


def parity_inputs(policy: InputPolicy, *, smallest: int = 1, noise: bool = True) -> list[Batch]:
    """The inputs that are compared: the working size alone and as a batch, sizes next to it, other shapes, the smallest.

    Pictures are streets and noise; all other inputs are smooth fields and noise.

    Takes:
        smallest: the shortest side that the network takes
        noise: whether all but the first image of a batch are noise; a quantised network is only calibrated for scenes
    """
    m = policy.multiple
    least = -(-smallest // m) * m
    if policy.dimensions == 3:
        sides = [max(least, side // m * m) for side in policy.sides]
        shapes = [(1, *sides), (2, *(max(least, side // 2 // m * m) for side in sides)), (3, m, 2 * m, m)]
    else:
        h, w = fit_size(*policy.working_size, policy)
        shapes = [
            (1, h, w),
            (3, h, w),
            (1, h - m, w + m),
            (2, h // 2 // m * m + m, w // 3 // m * m + m),
            (1, 5 * m, 23 * m),
            (4, m, m),
        ]
    rng = np.random.default_rng(0)
    batches = []
    for n, *sides in shapes:
        longer = [max(side, least) for side in sides]
        batch = _noise(rng, (n, *longer, policy.channels), policy)
        for index in range(1 if noise else n):
            batch[index] = _scene(longer, n + index, policy)
        batches.append(batch)
    return batches


def _noise(rng: np.random.Generator, shape: tuple[int, ...], policy: InputPolicy) -> Batch:
    if policy.dtype == "float32":
        return rng.random(shape, np.float32)
    return rng.integers(0, np.iinfo(policy.dtype).max, shape, policy.dtype, endpoint=True)


def _scene(sides: list[int], seed: int, policy: InputPolicy) -> Batch:
    """A street for colour pictures; waves along each side, at another phase in each channel, for anything else."""
    if policy.color_order == "rgb" and policy.dtype == "uint8":
        return street_view(sides[0], sides[1], seed=seed)
    grid = np.meshgrid(*(np.linspace(0, 6, side) for side in sides), indexing="ij")
    waves = np.stack([sum(np.sin(axis + seed + channel) for axis in grid) for channel in range(policy.channels)], -1)
    scaled = (waves / len(sides) + 1) / 2
    largest = 1 if policy.dtype == "float32" else np.iinfo(policy.dtype).max
    return np.asarray(scaled * largest, policy.dtype)


def check_parity(net: Network, file: Path, policy: InputPolicy, tolerance: Tolerance = TOLERANCES["fp32"]) -> Parity:
    """Compare an ONNX file with its network, and report.

    Raises:
        ParityError: at the first input on which it disagrees with PyTorch
    """
    probe = with_switches(file) if unpools(net) and math.isfinite(tolerance.gap) else file
    try:
        session = ort.InferenceSession(probe, providers=["CPUExecutionProvider"])
    finally:
        if probe != file:
            probe.unlink()
    noise = tolerance.agreement == 1
    inputs = parity_inputs(policy, smallest=net.smallest, noise=noise)
    results = [compare(net, session, batch, tolerance) for batch in inputs]
    return parity.report(results, OPSET, tolerance, torch=torch.__version__)
