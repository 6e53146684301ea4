"""Graphs that unpool: a tie between two maxima is not a fault, a wrong switch is one."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from models.exporting import exporter
from models.exporting.artifact import write
from models.exporting.exporter import Evidence
from models.exporting.parity import Comparison, ParityError
from models.exporting.torch_parity import check_parity, compare
from models.exporting.tracing import Served, to_onnx
from models.nets.network import Network
from models.nets.switches import replay, with_switches
from models.nets.upsampling import MaxPool, MaxUnpool
from models.scenes import street_view
from service.pipeline.codecs.decoding import Limits
from service.pipeline.manifest import InputPolicy, read_manifest
from service.pipeline.predictor import Predictor
from service.pipeline.repository import Repository
from tests.conftest import make_manifest

POLICY = InputPolicy(working_size=(256, 320), multiple=4)
Batch = NDArray[np.uint8]


class Bounce(Network):
    """Adds up a pixel's red and green, pools twice, unpools twice."""

    stride = 1
    coarsest = 4
    multiple = 4

    def __init__(self) -> None:
        super().__init__()
        self.classes = 2
        self.sum = nn.Conv2d(3, 1, 1, bias=False)
        self.pool = MaxPool()
        self.unpool = MaxUnpool()
        self.score = nn.Conv2d(1, 2, 1)
        with torch.no_grad():
            self.sum.weight.copy_(torch.tensor([1.0, 1.0, 0.0]).view(1, 3, 1, 1) / 64)
            self.score.weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))
            self.score.bias.copy_(torch.tensor([0.0, 1.0]))  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        """N x 3 x H x W to N x 2 x H x W."""
        x, outer = self.pool(self.sum(x))
        x, inner = self.pool(x)
        return self.score(self.unpool(self.unpool(x, inner), outer))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network in ONNX."""
    file = tmp_path_factory.mktemp("bounce") / "bounce.onnx"
    classes = [{"id": k, "name": f"class {k}", "color": (k, k, k)} for k in range(2)]
    write(to_onnx(Bounce().eval(), POLICY), make_manifest(classes=classes, input=POLICY, stride=1), file)
    return file


def greener(graph: Path, out: Path, share: float) -> Path:
    """The same graph with green weighed heavier, by a share."""
    model = onnx.load(graph)
    (kernel,) = (tensor for tensor in model.graph.initializer if list(tensor.dims) == [1, 3, 1, 1])
    values = numpy_helper.to_array(kernel).copy()
    values[0, 1] *= 1 + share
    kernel.CopyFrom(numpy_helper.from_array(values, kernel.name))
    onnx.save(model, out)
    return out


def compared(file: Path, batch: Batch) -> Comparison:
    """A graph against the network."""
    session = ort.InferenceSession(with_switches(file), providers=["CPUExecutionProvider"])
    return compare(Bounce().eval(), session, batch)


def tying(cells: int) -> Batch:
    """1 x 256 x 320 x 3: one red pixel is the brightest in every 4 x 4; in the first ``cells`` of them a green one ties."""
    image = np.zeros((1, 256, 320, 3), np.uint8)
    image[:, ::4, ::4, 0] = 200
    rows, columns = (4 * places for places in np.divmod(np.arange(cells), 80))
    image[0, rows, columns + 1, 1] = 200
    return image


def test_two_equal_maxima_may_be_told_apart_otherwise(graph: Path, tmp_path: Path) -> None:
    """A rounding moves a whole value by a pixel: PyTorch given the same switch agrees to the last digits, and it is counted."""
    file, batch = greener(graph, tmp_path / "tie.onnx", 1e-6), tying(1)
    (found,) = ort.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, {"image": batch})
    with torch.no_grad():
        apart = np.abs(found - Served(Bounce())(torch.from_numpy(batch)).numpy())
    assert apart.max() > 3
    result = compared(file, batch)
    assert (result.switches, result.moved) == (128 * 160 + 64 * 80, 1)
    assert result.max_difference < 1e-4


def test_a_maximum_that_is_none_is_refused(graph: Path, tmp_path: Path) -> None:
    """A hundredth below the maximum is not rounding, even in a single cell."""
    with pytest.raises(
        ParityError, match=r"1 of 25600 recorded maxima are other pixels than PyTorch's.* at most 0\.01% may be"
    ):
        compared(greener(graph, tmp_path / "wrong.onnx", 0.02), np.minimum(tying(1), np.array([200, 198, 0], np.uint8)))


def test_more_ties_than_roundings_make_are_refused(graph: Path, tmp_path: Path) -> None:
    """A graph that always takes the other of two equal pixels is another network, not a rounding."""
    with pytest.raises(ParityError, match="30 of 25600 recorded maxima"):
        compared(greener(graph, tmp_path / "other.onnx", 1e-6), tying(30))


def test_wrong_weights_behind_right_switches_are_refused(graph: Path, tmp_path: Path) -> None:
    """Switches given to both sides hide nothing else."""
    with pytest.raises(ParityError, match="image 0, class 0, score cell 0, 0"):
        compared(greener(graph, tmp_path / "weights.onnx", 0.01), np.full((1, 256, 320, 3), 100, np.uint8))


def test_the_report_counts_every_switch_and_leaves_nothing_behind(graph: Path) -> None:
    """On all inputs; the graph with its switches laid open goes when it has been read."""
    parity = check_parity(Bounce().eval(), graph, POLICY)
    assert parity.switches == sum(n * h * w // 4 + n * h * w // 16 for n, h, w in parity.shapes)
    assert parity.moved_switches == 0
    assert 0 <= parity.max_score_difference < 1e-4
    assert [path.name for path in graph.parent.iterdir()] == [graph.name]


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_network_that_unpools_has_lower_precisions(
    precision: str, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In half precision its maxima are counted and replayed, as in float32; int8 makes too many equal, and is compared as it
    is, its maxima a part of what it loses.
    """
    monkeypatch.setattr(exporter, "to_onnx", lambda *_: onnx.load(graph))
    manifest = read_manifest({entry.key: entry.value for entry in onnx.load(graph).metadata_props})
    lower = manifest.model_copy(update={"precision": precision})
    frames = [street_view(256, 320, seed)[None] for seed in range(2)]
    parity = exporter.export(Bounce().eval(), lower, tmp_path / "lower.onnx", Evidence(frames)).parity
    assert parity is not None
    assert (parity.switches > 100_000) == (precision == "fp16")
    assert parity.argmax_agreement > 0.9
    image = street_view(256, 320, seed=7)
    with contextlib.closing(Predictor(Repository(tmp_path / "lower.onnx"), Limits())) as predictor:
        found = predictor.segment(image).labels
    with torch.no_grad():
        expected = Served(Bounce())(torch.from_numpy(image[None])).argmax(1)[0].numpy()
    assert np.mean(found == expected) > 0.9
    assert np.unique(expected).tolist() == [0, 1]


IMAGES = torch.arange(2 * 3 * 8 * 8, dtype=torch.float32).view(2, 3, 8, 8)


def own_switches() -> list[NDArray[Any]]:
    """Of the network, inner before outer."""
    _, outer = MaxPool()(Bounce().sum(IMAGES))
    pooled, _ = MaxPool()(Bounce().sum(IMAGES))
    _, inner = MaxPool()(pooled)
    return [places.flatten(2).numpy() for places in (inner, outer)]


def test_its_own_switches_change_nothing() -> None:
    """Replaying what the network does by itself gives its scores, no switch moved."""
    result = replay(Bounce(), IMAGES, own_switches())
    with torch.no_grad():
        np.testing.assert_array_equal(result.scores, Bounce()(IMAGES).numpy())
    assert (result.switches, result.moved, result.gap) == (2 * (4 + 16), 0, 0.0)


@pytest.mark.parametrize("shift", [2, 8 * 8])
def test_a_switch_into_another_cell_is_refused(shift: int) -> None:
    """Whatever the value there; beyond the plane too, where indices over the whole tensor lead."""
    inner, outer = own_switches()
    with pytest.raises(ValueError, match="a recorded maximum of the graph lies in another cell than its own"):
        replay(Bounce(), IMAGES, [inner, outer + shift])


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_graph_that_unpools_otherwise_is_refused(count: int) -> None:
    """Fewer or more switches than the network has."""
    with pytest.raises(ValueError, match=f"the graph unpools {count} times, the network"):
        replay(Bounce(), IMAGES, (own_switches() * 2)[:count])
