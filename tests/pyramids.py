"""Random fully convolutional networks with a known halo, and tiles smaller than any budget in whole megabytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from service.pipeline.engine import Engine
from service.pipeline.manifest import InputPolicy
from service.pipeline.tiling import Tiling
from tests.conftest import make_manifest, write_artifact


def make_pyramid(levels: int, seed: int, *, objects: bool = False) -> tuple[onnx.ModelProto, int]:
    """Make a random fully convolutional network: ``levels`` strided convolutions down, bilinear steps and skips up to stride 2.

    Sides need not be multiples of the coarsest stride: raised maps are cropped to the skip, as the family's networks do.

    Takes:
        objects: whether it has the outputs of a panoptic network, too
    Gives:
        the graph, and its halo in pixels: a multiple of the coarsest stride
    """
    random = np.random.default_rng(seed)
    weights: list[onnx.TensorProto] = []
    nodes = [
        helper.make_node("Cast", ["image"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["real"], ["map0"], perm=[0, 3, 1, 2]),
    ]

    def convolve(source: str, target: str, inside: int, out: int, stride: int = 1) -> None:
        kernel = random.normal(0, 1 / np.sqrt(9 * inside), (out, inside, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"{target}_w"))
        raw = f"{target}_raw"
        nodes.append(helper.make_node("Conv", [source, f"{target}_w"], [raw], strides=[stride] * 2, pads=[1] * 4))
        nodes.append(helper.make_node("LeakyRelu", [raw], [target], alpha=0.3))

    reach, jump = 0, 1
    for level in range(1, levels + 1):
        convolve(f"map{level - 1}", f"map{level}", 3 if level == 1 else 4, 4, stride=2)
        reach, jump = reach + jump, 2 * jump
    coarsest, current = jump, f"map{levels}"
    weights += [
        numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "twice"),
        numpy_helper.from_array(np.array([0, 0], np.int64), "zeros"),
        numpy_helper.from_array(np.array([2, 3], np.int64), "sides"),
    ]
    for level in range(levels - 1, 0, -1):
        reach, jump = reach + 2 * jump, jump // 2  # the bilinear step reads the next cell
        skip, raised, cropped = f"map{level}", f"raised{level}", f"cropped{level}"
        nodes += [
            helper.make_node("Resize", [current, "", "twice"], [raised], mode="linear"),
            helper.make_node("Shape", [skip], [f"shape{level}"], start=2, end=4),
            helper.make_node("Slice", [raised, "zeros", f"shape{level}", "sides"], [cropped]),
            helper.make_node("Add", [cropped, skip], [f"sum{level}"]),
        ]
        convolve(f"sum{level}", f"up{level}", 4, 4)
        reach, current = reach + jump, f"up{level}"
    kernel = random.normal(0, 1, (3, 4, 1, 1)).astype(np.float32)
    weights.append(numpy_helper.from_array(kernel, "last"))
    nodes.append(helper.make_node("Conv", [current, "last"], ["scores"]))
    outputs = {"scores": 3}
    if objects:
        weights.append(numpy_helper.from_array(random.normal(0, 0.05, (1, 4, 1, 1)).astype(np.float32), "peaks"))
        weights.append(numpy_helper.from_array(random.normal(0, 0.1, (2, 4, 1, 1)).astype(np.float32), "pointing"))
        nodes.append(helper.make_node("Conv", [current, "peaks"], ["heights"]))
        nodes.append(helper.make_node("Sigmoid", ["heights"], ["centers"]))
        nodes.append(helper.make_node("Conv", [current, "pointing"], ["offsets"]))
        outputs |= {"centers": 1, "offsets": 2}
    graph = helper.make_graph(
        nodes,
        "pyramid",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", planes, "h", "w"]) for name, planes in outputs.items()],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model, -(-(reach + 2) // coarsest) * coarsest


def open_pyramids(folder: Path) -> list[Engine]:
    """Open random networks of one to four levels."""
    engines = []
    for seed, levels in enumerate([1, 2, 3, 4, 3]):
        graph, halo = make_pyramid(levels, seed)
        policy = InputPolicy(working_size=(64, 64), multiple=2)
        manifest = make_manifest(name=f"pyramid{seed}", input=policy, stride=2, receptive_field=2 * halo, halo=halo)
        engines.append(Engine.open(write_artifact(folder / f"{seed}.onnx", manifest, graph)))
    return engines


class SmallTiles(Tiling):
    """Tiles of a given side, smaller than any memory budget in whole megabytes allows.

    Takes:
        side: of a tile in pixels, halo included
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        object.__setattr__(self, "side", side)

    @property
    def pixels(self) -> int:
        """The square of the side."""
        return int(vars(self)["side"]) ** 2

    def for_rows(self) -> Tiling:
        """Return the same tiles: equal tiles give equal scores."""
        return self
