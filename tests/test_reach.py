"""The effective halo: measured on frames, written into the manifest, and used by tiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from models.reach import main, measure
from service.errors import BadParameter
from service.pipeline import onnx_file
from service.pipeline.engine import Engine
from service.pipeline.manifest import InputPolicy, read_manifest
from tests.conftest import encode_image, make_manifest, write_artifact
from tests.pyramids import make_pyramid


def noise(seed: int) -> NDArray[np.uint8]:
    """A picture of 200 x 232 pixels."""
    return np.random.default_rng(seed).integers(0, 256, (200, 232, 3), dtype=np.uint8)


def open_pyramid(file: Path, spare: int) -> tuple[Engine, int]:
    """Open a random network whose manifest claims a larger halo than it has.

    Gives:
        the engine, and its true halo
    """
    graph, halo = make_pyramid(3, 1)
    policy = InputPolicy(working_size=(64, 64), multiple=8)
    manifest = make_manifest(input=policy, stride=2, receptive_field=2 * halo, halo=halo + spare)
    return Engine.open(write_artifact(file, manifest, graph)), halo


def test_the_measured_halo_is_the_smallest_that_changes_few_labels(tmp_path: Path) -> None:
    """Where none may change, it is at most the true reach of the network; where all may, it is the smallest of all."""
    engine, halo = open_pyramid(tmp_path / "net.onnx", spare=64)
    images = [noise(0), noise(1)]
    strict = measure(engine, images, "noise", most=0.0, kept=64)
    assert strict.halo <= halo
    assert strict.disagreement == 0
    loose = measure(engine, images, "noise", most=1.0, kept=64)
    assert loose.halo < strict.halo
    assert 0 < loose.disagreement < 1


def test_the_command_writes_manifest_and_card_and_leaves_the_graph(tmp_path: Path) -> None:
    """Every bit of the graph stays, and the service finds the halo."""
    engine, _ = open_pyramid(tmp_path / "net.onnx", spare=8)
    folder = tmp_path / "drive" / "val" / "images"
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(encode_image(noise(3)))
    before = onnx.load(engine.path).graph.SerializeToString()
    assert main([str(engine.path), "--data", str(folder.parent), "--most", "0.01"]) == 0
    assert onnx.load(engine.path).graph.SerializeToString() == before
    found = read_manifest(onnx_file.outline(engine.path).metadata).effective
    assert found is not None
    assert (found.measured_on, found.frames) == ("drive-val", 1)
    assert found.disagreement <= 0.01
    assert f"| effective halo | {found.halo} pixels: " in engine.path.with_suffix(".md").read_text("utf-8")
    assert main([str(engine.path), "--data", str(tmp_path)]) == 2


def test_a_network_without_a_halo_has_no_effective_one(tmp_path: Path) -> None:
    """It is refused, and so is one of a single size."""
    engine = Engine.open(write_artifact(tmp_path / "net.onnx", make_manifest(receptive_field=None, halo=None)))
    with pytest.raises(BadParameter, match="has no tiles"):
        measure(engine, [noise(0)], "noise")
