"""Labels that are made of scores where the network left them.

The graph in ``tasks/labels.onnx`` (``models/exporting/label_graph.py`` writes it) upsamples the scores and takes the winners,
on the provider of the network: on a GPU the processor is left to decoding and encoding. The labels are copied back; the
scores only where a caller needs them. On the CPU provider everything here works alike, which is how it is tested.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from service.errors import InferenceFailed
from service.pipeline.binding import Device, Scores, Values
from service.pipeline.providers import CPU, STRICT, Provider
from service.pipeline.tasks.semantic import axis, label_map

LABEL_GRAPH = Path(__file__).with_name("tasks") / "labels.onnx"
MOST_VALUES = 1 << 24
"""Float64 values that the graph holds in one tensor: larger images are labelled in bands of rows."""
FATAL = 4
"""ONNX Runtime's log severity: its errors also come as exceptions."""

NOT_FINITE = "the network's scores are not finite numbers; its weights or this image break it"

Labels = NDArray[np.uint8]


class Labeller:
    """Makes labels of scores where these are. Thread-safe.

    Takes:
        providers: the session's; empty is the CPU. No operator may run anywhere else
    """

    def __init__(self, providers: Sequence[Provider] = ()) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = FATAL
        options.intra_op_num_threads = 1
        if providers:
            options.add_session_config_entry(STRICT, "1")
        chosen: list[Provider | str] = [*providers] or [CPU]
        self._session = ort.InferenceSession(LABEL_GRAPH, options, providers=chosen, enable_fallback=0)
        self._device: Device = "cuda" if providers else "cpu"

    def labels(self, scores: ort.OrtValue, index: int, size: tuple[int, int]) -> Labels:
        """Label one image of a batch.

        Takes:
            scores: N x K x h x w float32, h and w at least 2
            index: of the image
            size: (height, width) of the image
        Gives:
            H x W uint8, as ``tasks.semantic.label_map``, bit for bit
        Raises:
            InferenceFailed: if a score is not a finite number
        """
        _, classes, h, w = scores.shape()
        rows, columns = axis(h, size[0]), axis(w, size[1])
        labels = np.empty(size, np.uint8)
        step = max(1, MOST_VALUES // (classes * max(size[1], w)))
        for start in range(0, size[0], step):
            band = slice(start, start + step)
            binding = self._session.io_binding()
            binding.bind_ortvalue_input("scores", scores)
            for name, value in (
                ("index", np.array(index, np.int64)),
                ("ids", np.arange(classes, dtype=np.int32).reshape(-1, 1, 1)),
                ("row_cell", rows.cell[band].astype(np.int64)),
                ("row_fraction", np.ascontiguousarray(rows.fraction[band, None])),
                ("column_cell", columns.cell.astype(np.int64)),
                ("column_fraction", columns.fraction),
            ):
                binding.bind_cpu_input(name, value)
            for name in ("labels", "finite"):
                binding.bind_output(name, "cpu")
            self._session.run_with_iobinding(binding)
            found, finite = (value.numpy() for value in binding.get_outputs())
            if not finite:
                raise InferenceFailed(NOT_FINITE)
            labels[band] = found
        return labels


class OnDevice(Mapping[str, Scores]):
    """The outputs of one image of a batch, by name. Reading one copies it into the processor's memory.

    Takes:
        values: of the whole batch
        index: of the image
    """

    def __init__(self, values: Values, index: int, labeller: Labeller) -> None:
        self._values, self._index, self._labeller = values, index, labeller

    def __getitem__(self, name: str) -> Scores:
        return np.asarray(self._values.host(name)[self._index])

    def __iter__(self) -> Iterator[str]:
        return iter(self._values.on_device)

    def __len__(self) -> int:
        return len(self._values.on_device)

    def labels(self, size: tuple[int, int]) -> Labels:
        """Return the class of every pixel.

        Takes:
            size: (height, width) of the image
        Gives:
            H x W uint8, as ``tasks.semantic.label_map``
        Raises:
            InferenceFailed: if a score is not a finite number
        """
        scores = self._values.on_device["scores"]
        if min(scores.shape()[2:]) < 2:  # the graph needs cells of four scores
            if not np.isfinite(self["scores"]).all():
                raise InferenceFailed(NOT_FINITE)
            return label_map(self["scores"], size)
        return self._labeller.labels(scores, self._index, size)
