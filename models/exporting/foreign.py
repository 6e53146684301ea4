"""A network from elsewhere: its ONNX file, the normalisation that it wants, and its own answers.

It takes float pixels or voxels that its users normalise, channels first or last. It gives scores, probabilities or labels, with
the classes first or last, or without that axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from service.errors import BadArtifact
from service.pipeline.engine import load
from service.pipeline.inspection import inspect, network_input, network_outputs

OLDEST_OPSET = 9
"""Which brought the youngest of the operators that are put around a network, OneHot."""

Images = NDArray[Any]
Order = Literal["rgb", "bgr"]
Place = Literal["first", "last"]
"""Of the classes in an answer: behind the batch, or at the end."""


class AdoptionError(Exception):
    """A network that cannot be adopted; the message says why, and what to do."""


@dataclass(frozen=True)
class Normalisation:
    """The normalisation that a network wants: (pixel / scale - mean) / std, then its own order of channels."""

    mean: tuple[float, ...]
    """Of each channel: of red, green and blue, whatever the order in which the network takes them."""
    std: tuple[float, ...]
    scale: float | None = None
    """None: 255 for pictures, 1 for volumes."""
    order: Order = "rgb"

    def __post_init__(self) -> None:
        """Refuse an evident mistake.

        Raises:
            AdoptionError: if the mean lies outside the scaled pixels, or a divisor is not positive
        """
        if self.divisor <= 0 or min(self.std) <= 0:
            raise AdoptionError("--scale and --std must be greater than 0")
        brightest = 255 / self.divisor
        if len(self.mean) == 3 and not all(0 <= mean <= brightest for mean in self.mean):
            remedy = "; with a mean of 0..255, say --scale 1" if brightest < max(self.mean) <= 255 else ""
            given = ",".join(f"{mean:g}" for mean in self.mean)
            raise AdoptionError(f"--mean {given}: pixels divided by {self.divisor:g} lie in 0..{brightest:g}{remedy}")

    @property
    def divisor(self) -> float:
        """What pixels are divided by first; where no scale is told, that of pictures."""
        return 255.0 if self.scale is None else self.scale

    def __call__(self, batch: Images) -> NDArray[np.float32]:
        """Normalise in the textbook's words: the oracle for the operators that do so in the graph.

        Takes:
            batch: N x sides x channels; colours are RGB
        Gives:
            the same shape, float32, in the network's order of channels
        """
        mean, std = (np.array(values, np.float32) for values in (self.mean, self.std))
        pixels = (batch.astype(np.float32) / np.float32(self.divisor) - mean) / std
        return np.ascontiguousarray(pixels[..., ::-1] if self.order == "bgr" else pixels)


class Foreign:
    """A network from elsewhere.

    Takes:
        path: its ONNX file
        normalisation: the one that it wants; a single number stands for all channels
        output: the name of the output to adopt; needed where more than one is possible
    Raises:
        BadArtifact: if the file cannot be opened
        AdoptionError: if it is not a segmentation network that can be adopted
    """

    def __init__(self, path: Path, normalisation: Normalisation, output: str | None = None) -> None:
        self.path = path
        found = inspect(path)
        self.file = found.file
        if found.manifest is not None:
            raise AdoptionError(f"{path.name}: is an artifact already, {found.manifest.name}@{found.manifest.version}")
        if found.file.opset < OLDEST_OPSET:
            raise AdoptionError(f"{path.name}: needs opset {OLDEST_OPSET} or later, has {found.file.opset}; convert it first")
        try:
            self.input = network_input(found.inputs)
            candidates = network_outputs(found.outputs, self.input)
        except BadArtifact as error:
            raise AdoptionError(f"{path.name}: {error.message}") from error
        chosen = [port for port in candidates if output in (None, port.name)]
        if len(chosen) != 1:
            raise AdoptionError(f"{path.name}: say with --output which it is: {'; '.join(map(str, candidates))}")
        self.output = chosen[0]
        batch = self.input.shape[0]
        if isinstance(batch, int) and batch != 1:
            raise AdoptionError(f"{path.name}: takes batches of exactly {batch} images; export it with a free batch, or with 1")
        self.dimensions = len(self.input.shape) - 2
        self.channel_axis = self.input.channel_axis
        """Of the input: 1, or the last."""
        channels = self.input.shape[self.channel_axis]
        self.channels = channels if isinstance(channels, int) else max(len(normalisation.mean), len(normalisation.std))
        if self.dimensions == 3 and self.channels != 1:
            raise AdoptionError(
                f"{path.name}: takes volumes of {self.channels} channels, and a scan has one: export it with one channel"
            )
        self.normalisation = self._for_channels(normalisation)
        self.class_axis: int | None = None
        """Of the answer: 1, the last, or None where it has no such axis. Known once :meth:`settle` has seen an answer."""
        self._session = load(path)

    def _for_channels(self, given: Normalisation) -> Normalisation:
        """Repeat single numbers for every channel."""
        spread = [values * self.channels if len(values) == 1 else values for values in (given.mean, given.std)]
        if any(len(values) != self.channels for values in spread):
            raise AdoptionError(
                f"{self.path.name}: has {self.channels} channels; --mean and --std need as many numbers, or one"
            )
        if given.order == "bgr" and self.channels != 3:
            raise AdoptionError(f"{self.path.name}: has {self.channels} channels, so --order has no meaning; leave it out")
        scale = 1.0 if given.scale is None and self.dimensions == 3 else given.scale
        return Normalisation(spread[0], spread[1], scale, given.order)

    @property
    def sides(self) -> tuple[int | str, ...]:
        """The sides of its input: numbers where they are fixed."""
        return tuple(side for at, side in enumerate(self.input.shape) if at not in (0, self.channel_axis))

    def ask(self, batch: Images) -> NDArray[Any]:
        """Return its own answer, as it gives it.

        Takes:
            batch: N x sides x channels
        Raises:
            AdoptionError: if it does not run
        """
        pixels = np.moveaxis(self.normalisation(batch), -1, self.channel_axis).astype(self.input.dtype)
        try:
            (answer,) = self._session.run([self.output.name], {self.input.name: np.ascontiguousarray(pixels)})
        except Exception as error:  # ONNX Runtime's errors have no class in common
            size = " x ".join(map(str, pixels.shape))
            raise AdoptionError(f"{self.path.name}: does not run on {size}: {' '.join(str(error).split())}") from error
        return np.asarray(answer)

    def settle(self, sides: tuple[int, ...], answer: NDArray[Any], classes: int, told: Place | None = None) -> int:
        """Find the axis of the classes in an answer.

        Takes:
            sides: of the input that was asked
            classes: as many as the class table has; decides where two axes are possible
            told: where the classes are, if that is known
        Gives:
            the stride: input pixels a cell
        Raises:
            AdoptionError: if no axis leaves cells with one whole number of pixels each, or both do and nothing decides
        """
        rank = answer.ndim
        axes: list[int | None] = [None] if rank == self.dimensions + 1 else [1, rank - 1]
        if self.output.is_integer and rank == self.dimensions + 2:
            axes = [axis for axis in axes if axis is not None and answer.shape[axis] == 1]
        strides = {axis: _stride(sides, tuple(np.delete(answer.shape, [0] if axis is None else [0, axis]))) for axis in axes}
        possible = [axis for axis, stride in strides.items() if stride]
        if not possible:
            cells = " x ".join(str(side) for side in np.delete(answer.shape, [0] if None in axes else [0, 1]))
            size = " x ".join(map(str, sides))
            raise AdoptionError(f"{self.path.name}: gives {cells} for {size} pixels: no whole number of pixels a score")
        wanted = {"first": 1, "last": rank - 1, None: -1}[told]
        fitting = [axis for axis in possible if axis is not None and answer.shape[axis] == classes]
        if wanted in possible:
            self.class_axis = wanted
        elif len(fitting) > 1:
            shape = " x ".join(map(str, answer.shape))
            raise AdoptionError(f"{self.path.name}: gives {shape}, with the classes first or last: say which with --class-axis")
        else:
            self.class_axis = (fitting or possible)[0]
        return strides[self.class_axis] or 1

    def run(self, batch: Images) -> NDArray[Any]:
        """Return its answer with the classes behind the batch; after :meth:`settle`.

        Takes:
            batch: N x sides x channels
        Gives:
            N x K x cells float32 scores, or N x cells integer labels
        Raises:
            AdoptionError: if it does not run
        """
        answer = self.ask(batch)
        if self.output.is_integer:
            return answer if self.class_axis is None else answer.take(0, axis=self.class_axis)
        planes = answer[:, None] if self.class_axis is None else np.moveaxis(answer, self.class_axis, 1)
        return np.asarray(planes, np.float32)


def _stride(sides: tuple[int, ...], cells: tuple[int, ...]) -> int | None:
    """Return the whole number of pixels of a cell, the same on all sides; None if there is none."""
    if len(sides) != len(cells) or not all(cells):
        return None
    stride = sides[0] // cells[0]
    return stride if stride and tuple(cell * stride for cell in cells) == sides else None
