"""The predictor: one image from bytes to labels on the caller's own thread, and batches."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.errors import CorruptImage, InferenceFailed, UnknownModel
from service.pipeline.codecs.decoding import Limits
from service.pipeline.manifest import ClassEntry
from service.pipeline.predictor import Predictor
from service.pipeline.repository import Repository
from tests.conftest import BLUE, GREEN, RED, encode_image, make_graph, make_image, make_manifest, write_artifact


@pytest.fixture
def predictor(artifact_dir: Path) -> Iterator[Predictor]:
    """A predictor of the colour network."""
    predictor = Predictor(Repository(artifact_dir), Limits())
    yield predictor
    predictor.close()


def test_a_batch_gives_each_image_the_result_that_it_has_alone(predictor: Predictor) -> None:
    """Images of one network size run together; each is finished at its own size."""
    sources: list[Any] = [make_image(96, 128), encode_image(make_image(96, 128)), make_image(192, 256)[:, ::-1].copy()]
    engine = predictor.engine()
    prepared = [predictor.prepare(source, engine.manifest) for source in sources]
    for source, one, inferred in zip(sources, prepared, predictor.run(engine, prepared), strict=True):
        assert inferred.batch == 3
        result, alone = predictor.finish(engine, one, inferred, time.monotonic()), predictor.segment(source)
        assert np.array_equal(result.labels, alone.labels)
        np.testing.assert_allclose(result.scores, alone.scores, atol=1e-5)


def test_a_bad_image_fails_with_its_own_error(predictor: Predictor, png: bytes) -> None:
    """So does an unknown model."""
    with pytest.raises(CorruptImage):
        predictor.segment(png[:-40])
    with pytest.raises(UnknownModel):
        predictor.segment(png, "third")


def test_it_starts_no_threads_of_its_own(artifact_dir: Path, png: bytes) -> None:
    """A ROS node or a Ray actor gets no queue and no pool along with it."""
    before = set(threading.enumerate())
    predictor = Predictor(Repository(artifact_dir), Limits())
    predictor.segment(png)
    assert set(threading.enumerate()) == before
    predictor.close()


def test_it_needs_no_settings_and_no_web(artifact_dir: Path) -> None:
    """Importing it imports neither the settings nor a web framework."""
    import subprocess  # noqa: PLC0415

    code = "import sys, service.pipeline.predictor; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"fastapi", "starlette", "uvicorn", "typer", "pydantic_settings", "torch"} & set(loaded)


def make_panoptic() -> onnx.ModelProto:
    """The colour network with two further heads: a heatmap that is high on white pixels, and offsets of zero."""
    model = make_graph()
    graph = model.graph
    for name, planes in (("centers", 1), ("offsets", 2)):
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", planes, "h", "w"]))
    graph.initializer.append(numpy_helper.from_array(np.full((1, 3, 1, 1), 1 / 765, np.float32), "mean"))
    graph.initializer.append(numpy_helper.from_array(np.zeros((2, 3, 1, 1), np.float32), "nothing"))
    graph.node.append(helper.make_node("Conv", ["cells", "mean"], ["centers"]))
    graph.node.append(helper.make_node("Conv", ["cells", "nothing"], ["offsets"]))
    return model


@pytest.fixture
def panoptic(tmp_path: Path) -> Iterator[Predictor]:
    """A predictor of a panoptic network whose blue things are counted."""
    classes = (
        ClassEntry(id=0, name="red", color=RED),
        ClassEntry(id=1, name="green", color=GREEN),
        ClassEntry(id=2, name="blue", color=BLUE, countable=True),
    )
    outputs = [{"name": name, "kind": name, "stride": 8} for name in ("scores", "centers", "offsets")]
    write_artifact(tmp_path / "a.onnx", make_manifest(task="panoptic", classes=classes, outputs=outputs), make_panoptic())
    predictor = Predictor(Repository(tmp_path), Limits())
    yield predictor
    predictor.close()


def two_things() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Two blue squares on red, the left one brighter."""
    image = np.zeros((96, 128, 3), np.uint8)
    image[..., 0] = 60
    image[24:48, 16:40] = (120, 120, 255)
    image[24:48, 80:104] = (60, 60, 200)
    return image


def test_a_panoptic_model_tells_things_apart_where_instances_are_asked_for(panoptic: Predictor) -> None:
    """Each blue square is an object; red is stuff; without the request the further heads are not even computed."""
    found = panoptic.segment(two_things(), instances=True)
    assert found.has_instances
    objects = found.instances()
    assert set(np.unique(objects.ids[28:44, 20:36])) == {1}
    assert set(np.unique(objects.ids[28:44, 84:100])) == {2}
    assert (objects.ids[:, :8] == 0).all()
    assert [row.class_id for row in objects.rows] == [2, 2]
    assert objects.rows[0].score > objects.rows[1].score
    plain = panoptic.segment(two_things())
    assert not plain.has_instances
    with pytest.raises(ValueError, match="not asked for instances"):
        plain.instances()
    assert list(plain.outputs) == ["scores"]
    assert np.array_equal(plain.labels, found.labels)


def test_a_semantic_model_has_no_learned_objects(predictor: Predictor, png: bytes) -> None:
    """Asking for instances changes nothing: they are connected components then."""
    assert not predictor.segment(png, instances=True).has_instances


def test_outputs_that_are_not_finite_are_a_failed_inference(tmp_path: Path, png: bytes) -> None:
    """The error names the output."""
    write_artifact(tmp_path / "a.onnx", graph=make_graph(np.full((3, 3), np.nan, np.float32)))
    predictor = Predictor(Repository(tmp_path), Limits())
    with pytest.raises(InferenceFailed, match="scores are not finite"):
        predictor.segment(png)
    predictor.close()
