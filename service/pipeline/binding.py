"""Runs of a session through IO binding: inputs and outputs where they are, copied only where a caller reads them.

The same code runs on every provider. On the CPU nothing is copied, and a run takes the time of ``session.run``.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from service.pipeline.manifest import INPUT
from service.pipeline.providers import GRAPH_ID, NO_GRAPH

PLACES = 4
"""Recorded runs of one shape whose outputs may be in use at the same time."""

Device = Literal["cpu", "cuda"]
Scores = NDArray[np.float32]


@dataclass(eq=False)
class Values:
    """The outputs of one run, where the network left them."""

    on_device: Mapping[str, ort.OrtValue]
    copied: dict[str, Scores] = field(default_factory=dict)

    def host(self, name: str) -> Scores:
        """Return an output in the processor's memory, copied at the first call: N x planes x h x w float32."""
        if name not in self.copied:
            self.copied[name] = np.asarray(self.on_device[name].numpy(), np.float32)
        return self.copied[name]


def run_bound(
    session: ort.InferenceSession, inputs: Mapping[str, NDArray[Any] | ort.OrtValue], names: Sequence[str], device: Device
) -> Values:
    """Run a network through IO binding.

    Takes:
        inputs: by name: arrays in the processor's memory, and outputs of other runs where they are
        names: of the wanted outputs
        device: where its outputs stay
    """
    binding = session.io_binding()
    for name, value in inputs.items():
        if isinstance(value, ort.OrtValue):
            binding.bind_ortvalue_input(name, value)
        else:
            binding.bind_cpu_input(name, value)
    for name in names:
        binding.bind_output(name, device)
    session.run_with_iobinding(binding, _without_graph())
    return Values(dict(zip(names, binding.get_outputs(), strict=True)))


def _without_graph() -> ort.RunOptions:
    """Run options that record no CUDA graph; without graphs they change nothing."""
    options = ort.RunOptions()
    options.add_run_config_entry(GRAPH_ID, NO_GRAPH)
    return options


class RecordedRuns:
    """Runs of a few shapes with inputs and outputs at fixed addresses, as CUDA graphs need them.

    The first run of a place records its kernels; later ones replay them. A place is used again when its last outputs are
    gone. Shapes beyond the limit, and runs beyond :data:`PLACES` at a time, are not recorded.

    CUDA graphs are kept by thread, so all runs are on one thread.

    Takes:
        most: shapes that are recorded, 1 or more
    """

    def __init__(self, session: ort.InferenceSession, device: Device, most: int) -> None:
        self._session, self._device, self._most = session, device, most
        self._free: dict[tuple[object, ...], list[_Place]] = {}
        self._made = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="fcn-graphs")

    def run(self, batch: NDArray[Any], outputs: Mapping[str, tuple[int, ...]]) -> Values:
        """Run the network.

        Takes:
            outputs: the shape of each wanted output, by name
        """
        return self._thread.submit(self._run, batch, outputs).result()

    def _run(self, batch: NDArray[Any], outputs: Mapping[str, tuple[int, ...]]) -> Values:
        key = (batch.shape, *outputs)
        place = self._place(key, batch, outputs)
        if place is None:
            return run_bound(self._session, {INPUT: batch}, list(outputs), self._device)
        place.input.update_inplace(batch)
        self._session.run_with_iobinding(place.binding, place.options)
        found = Values(place.outputs)
        weakref.finalize(found, self._give_back, key, place).atexit = False
        return found

    def _place(self, key: tuple[object, ...], batch: NDArray[Any], outputs: Mapping[str, tuple[int, ...]]) -> _Place | None:
        if key not in self._free:
            if len(self._free) == self._most:
                return None
            self._free[key] = []
            self._made += PLACES
            numbers = range(self._made - PLACES + 1, self._made + 1)  # 0 is ONNX Runtime's own
            self._free[key] = [_Place.make(self._session, self._device, k, batch, outputs) for k in numbers]
        free = self._free[key]
        return free.pop() if free else None

    def _give_back(self, key: tuple[object, ...], place: _Place) -> None:
        # A finalizer: garbage collection calls it in any thread, at any time, so a lock could be held by that same thread.
        # Appending to a list is atomic, and only the thread of the runs takes places from it.
        self._free[key].append(place)


@dataclass(frozen=True, eq=False)
class _Place:
    """Memory of one recorded run."""

    input: ort.OrtValue
    outputs: Mapping[str, ort.OrtValue]
    binding: ort.IOBinding
    options: ort.RunOptions

    @classmethod
    def make(
        cls,
        session: ort.InferenceSession,
        device: Device,
        number: int,
        batch: NDArray[Any],
        outputs: Mapping[str, tuple[int, ...]],
    ) -> _Place:
        source = ort.OrtValue.ortvalue_from_numpy(np.array(batch), device)
        made = {
            name: ort.OrtValue.ortvalue_from_shape_and_type(list(shape), np.float32, device) for name, shape in outputs.items()
        }
        binding = session.io_binding()
        binding.bind_ortvalue_input(INPUT, source)
        for name, value in made.items():
            binding.bind_ortvalue_output(name, value)
        options = ort.RunOptions()
        options.add_run_config_entry(GRAPH_ID, str(number))
        return cls(source, made, binding, options)
