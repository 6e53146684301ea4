"""Labels in the graph for GPUs, run by the CPU provider: bit for bit those of labels.c and of numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.exporting.label_graph import label_graph
from models.scenes import street_scene
from service.errors import InferenceFailed
from service.pipeline import device_labels
from service.pipeline.binding import Values
from service.pipeline.codecs.decoding import Limits
from service.pipeline.device_labels import LABEL_GRAPH, Labeller, Labels, OnDevice
from service.pipeline.engine import Engine, EngineOptions
from service.pipeline.predictor import Predictor
from service.pipeline.providers import GpuOptions
from service.pipeline.repository import Repository
from service.pipeline.tasks.semantic import Scores, label_map

SHIPPED = Path(__file__).resolve().parents[1] / "models/artifacts/fcn4s-lite0-streets-int8.onnx"


@pytest.fixture(scope="module")
def labeller() -> Labeller:
    """Labels on the CPU provider."""
    return Labeller()


def made(labeller: Labeller, scores: Scores, size: tuple[int, int], index: int = 0) -> Labels:
    """The graph's labels of one image of a batch."""
    return labeller.labels(ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(scores)), index, size)


def test_the_shipped_graph_is_what_the_exporter_writes() -> None:
    """The file is not edited by hand, and no other version of the exporter's text is shipped."""
    assert onnx.load(LABEL_GRAPH).SerializeToString(deterministic=True) == label_graph().SerializeToString(deterministic=True)


def test_the_graph_has_no_operator_that_cuda_lacks() -> None:
    """Neither Resize nor ArgMax, which ONNX Runtime ran on the processor for years, and nothing that asks for a shape."""
    operators = {node.op_type for node in onnx.load(LABEL_GRAPH).graph.node}
    assert not operators & {"Resize", "ArgMax", "Shape", "Size", "Loop", "If"}


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 24),
    st.tuples(st.integers(2, 12), st.integers(2, 12)),
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.integers(0, 2**32 - 1),
)
def test_labels_are_those_of_the_processor(
    labeller: Labeller, classes: int, cells: tuple[int, int], size: tuple[int, int], step: float, seed: int
) -> None:
    """Random scores, enlarged and reduced; rounded ones tie everywhere: of equals the lowest wins, as in labels.c."""
    scores = np.random.default_rng(seed).normal(size=(2, classes, *cells)).astype(np.float32)
    scores = np.round(scores / step).astype(np.float32) * np.float32(step) if step else scores
    for index in (0, 1):
        assert np.array_equal(made(labeller, scores, size, index), label_map(scores[index], size))


@pytest.mark.parametrize("size", [(180, 240), (90, 120), (31, 77)])
def test_labels_of_a_street_are_those_of_the_processor(labeller: Labeller, size: tuple[int, int]) -> None:
    """Scores of the shipped network, and the bands into which a large image is cut."""
    engine = Engine.open(SHIPPED)
    scores = engine.run(street_scene(96, 128, seed=3)[0][None])["scores"]
    expected = label_map(scores[0], size)
    assert len(np.unique(expected)) > 3
    assert np.array_equal(made(labeller, scores, size), expected)


def test_large_images_are_labelled_in_bands(labeller: Labeller, monkeypatch: pytest.MonkeyPatch) -> None:
    """The labels do not depend on where the bands begin."""
    scores = np.random.default_rng(5).normal(size=(1, 7, 9, 11)).astype(np.float32)
    monkeypatch.setattr(device_labels, "MOST_VALUES", 7 * 50 * 6)
    assert np.array_equal(made(labeller, scores, (64, 50)), label_map(scores[0], (64, 50)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(labeller: Labeller, value: float) -> None:
    """Of the image that has them, and not of the other one of the batch."""
    scores = np.zeros((2, 3, 4, 4), np.float32)
    scores[1, 2, 3, 1] = value
    assert not made(labeller, scores, (8, 8), 0).any()
    with pytest.raises(InferenceFailed, match="not finite"):
        made(labeller, scores, (8, 8), 1)


@pytest.mark.parametrize("cells", [(1, 5), (5, 1), (1, 1)])
def test_a_single_row_of_scores_is_labelled_by_the_processor(labeller: Labeller, cells: tuple[int, int]) -> None:
    """The graph needs cells of four scores; such images are tiny."""
    scores = np.random.default_rng(1).normal(size=(1, 4, *cells)).astype(np.float32)
    outputs = OnDevice(Values({"scores": ort.OrtValue.ortvalue_from_numpy(scores)}), 0, labeller)
    assert np.array_equal(outputs.labels((9, 9)), label_map(scores[0], (9, 9)))
    assert list(outputs) == ["scores"]
    assert np.array_equal(outputs["scores"], scores[0])


def test_a_single_row_of_scores_that_are_not_finite_is_refused(labeller: Labeller) -> None:
    """As larger ones are."""
    scores = np.zeros((1, 4, 1, 5), np.float32)
    scores[0, 2, 0, 3] = np.nan
    outputs = OnDevice(Values({"scores": ort.OrtValue.ortvalue_from_numpy(scores)}), 0, labeller)
    with pytest.raises(InferenceFailed, match="not finite"):
        outputs.labels((9, 9))


@pytest.mark.parametrize("graphs", [0, 2])
def test_a_predictor_gives_the_same_result_where_labels_stay_on_the_device(artifact: Path, graphs: int) -> None:
    """Labels, scores and confidence, one image and several of a batch, with outputs at fixed places and without."""
    image = np.ascontiguousarray(street_scene(96, 128, seed=2)[0])
    gpu = EngineOptions(on_device=True, gpu=GpuOptions(graphs=graphs))
    plain, there = (Predictor(Repository(artifact, options), Limits()) for options in (EngineOptions(), gpu))
    assert there.engine().labels_on_device
    assert not plain.engine().labels_on_device
    for _ in range(6):  # more than there are places
        expected, found = plain.segment(image), there.segment(image)
        assert np.array_equal(found.labels, expected.labels)
        assert np.array_equal(found.scores, expected.scores)
        assert np.array_equal(found.confidence(), expected.confidence())
    images = [image, image[:, ::-1], image[::-1]]
    batches = []
    for predictor in (plain, there):
        engine = predictor.engine()
        prepared = [predictor.prepare(one, engine.manifest) for one in images]
        found_of = predictor.run(engine, prepared)
        batches.append([predictor.finish(engine, *pair, 0.0).labels for pair in zip(prepared, found_of, strict=True)])
    assert np.array_equal(np.stack(batches[0]), np.stack(batches[1]))
    for predictor in (plain, there):
        predictor.close()
