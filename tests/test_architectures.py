"""The family: every name builds, does what its row of the table says, and is the same network in ONNX Runtime."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch.nn.functional import interpolate

from models.exporting import artifact
from models.exporting.artifact import write
from models.exporting.receptive_field import Reach, influences, measure_reach
from models.exporting.tracing import OPSET, to_onnx
from models.nets import deconvnet, resnet
from models.nets.architectures import ARCHITECTURES, build
from models.nets.network import Network
from models.nets.upsampling import MaxUnpool
from models.scenes import street_scene
from service.pipeline.codecs.decoding import Limits
from service.pipeline.engine import Engine
from service.pipeline.plan import fit_size, resize_image
from service.pipeline.predictor import Predictor
from service.pipeline.repository import Repository
from tests.conftest import make_manifest
from tests.networks import make_images, make_lively

NAMES = list(ARCHITECTURES)
CLASSES = 4

pytestmark = pytest.mark.usefixtures("one_thread")


def make_net(name: str, width: float = 1 / 32) -> Network:
    """A network of the family, narrow where it can be, with random weights."""
    torch.manual_seed(0)
    return build(name, CLASSES, width=1 if "lite" in name else width)


def test_the_family_is_complete() -> None:
    """The names that users, checkpoints and documents know."""
    assert list(ARCHITECTURES) == [
        *("fcn32s-vgg16", "fcn16s-vgg16", "fcn8s-vgg16", "fcn8s-vgg16-atonce"),
        *("fcn-resnet50", "fcn-resnet101"),
        *("fcn8s-lite0", "fcn8s-lite1", "fcn8s-lite2"),
        *("fcn4s-lite0", "fcn4s-lite1", "fcn4s-lite2"),
        *("fcn4s-lite0-panoptic", "fcn4s-lite1-panoptic", "fcn4s-lite2-panoptic"),
        *("deconvnet-vgg16", "fcn1s-grey"),
    ]
    assert all(architecture.name == name and architecture.papers for name, architecture in ARCHITECTURES.items())


@pytest.mark.parametrize("name", NAMES)
def test_the_table_says_what_the_network_is(name: str) -> None:
    """Stride, coarsest stride and sizes are the network's own; its working size is one that it takes."""
    architecture = ARCHITECTURES[name]
    with torch.device("meta"):
        net = make_net(name)
        height, width = (-(-side // architecture.multiple) * architecture.multiple for side in architecture.working_size)
        scores = net.scores(torch.zeros(2, net.channels, height, width))
    assert (net.stride, net.coarsest, net.multiple) == (architecture.stride, architecture.coarsest, architecture.multiple)
    assert (net.smallest, net.classes) == (architecture.smallest, CLASSES)
    assert scores.shape == (2, CLASSES, height // net.stride, width // net.stride)
    assert min(height, width) >= architecture.smallest
    assert architecture.multiple % architecture.stride == 0


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    """A mistyped name is answered with the names there are."""
    with pytest.raises(ValueError, match=r"no architecture 'fcn8s-vgg19'; there are: fcn32s-vgg16, .*deconvnet-vgg16"):
        build("fcn8s-vgg19", 3)


def test_the_light_networks_come_in_sizes_not_in_widths() -> None:
    """What can't be had is said, not ignored."""
    with pytest.raises(ValueError, match="fcn8s-lite1 has one width; choose a size instead: lite0, lite1, lite2"):
        build("fcn8s-lite1", 3, width=0.5)


def check_clean(model: onnx.ModelProto) -> None:
    """Nothing costs and does nothing: no padding, no identity, no normalisation left, no branch that leads nowhere."""
    graph = model.graph
    wasteful = {"Pad", "Identity", "Dropout", "BatchNormalization", "If", "Constant", "MaxUnpool"}
    operators = [node.op_type for node in graph.node]
    assert not wasteful & set(operators)
    assert operators.count("Cast") == 1  # from bytes to floats
    read = [name for node in graph.node for name in node.input] + [value.name for value in graph.output]
    assert all(set(node.output) & set(read) for node in graph.node)
    assert {tensor.name for tensor in graph.initializer} <= set(read)
    assert not graph.value_info
    assert not model.functions
    assert not model.metadata_props
    assert all(not node.doc_string and not node.metadata_props for node in graph.node)
    assert [(entry.domain, entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")] == [("", OPSET)]
    assert {node.domain for node in graph.node} == {""}


def check_scores(net: Network, engine: Engine) -> None:
    """The same scores from PyTorch and the service's engine: alone and in batches, the smallest, odd multiples, no square."""
    least, m = -(-net.smallest // net.multiple) * net.multiple, net.multiple
    for n, height, width in [(1, least, least), (3, least, least + 2 * m), (2, least + 5 * m, least + m)]:
        images = make_images(n, height, width)
        with torch.no_grad():
            expected = net.scores(images).numpy()
        found = engine.run(images.permute(0, 2, 3, 1).to(torch.uint8).numpy())["scores"]
        assert found.shape == (n, CLASSES, height // net.stride, width // net.stride)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
        assert expected.std() > 1e-3


def check_masks(net: Network, predictor: Predictor) -> None:
    """The mask of PyTorch, by textbook steps, and of the service's pipeline: images of odd size to labels of that size."""
    policy = predictor.repository.get().manifest.input
    for height, width in [(97, 131), (61, 37)]:
        image = street_scene(height, width, seed=5)[0]
        found = predictor.segment(image).labels
        fitted = resize_image(image, fit_size(height, width, policy))
        with torch.no_grad():
            scores = net.scores(torch.from_numpy(fitted).permute(2, 0, 1)[None].float())
            pixels = interpolate(scores, size=(height, width), mode="bilinear", align_corners=False)[0]
        best = pixels.topk(2, 0)
        clear = (best.values[0] - best.values[1] > 2e-3).numpy()
        assert found.shape == (height, width)
        assert clear.mean() > 0.5
        agreement = (found == best.indices[0].numpy())[clear].mean()
        # Where two pixels of a pooling cell are equal but for a rounding, either may be the maximum, and its switch decides
        # where the value returns to: 2 of 12704 pixels here.
        assert agreement > 0.999 if any(isinstance(module, MaxUnpool) for module in net.modules()) else agreement == 1


ALWAYS = ("fcn8s-vgg16-atonce", "fcn-resnet50 shallow", "deconvnet-vgg16 shallow")
"""Those with all that is special in a graph: skips, crops and scales; dilation; switches. Tracing takes its time for every
layer, so that of layers that are repeated these have two, and the others, which have less of the same, are marked slow;
tests/test_export.py is about a light one."""

OF_COLOURS = [name for name in NAMES if not ARCHITECTURES[name].policy().takes_grey]
"""tests/test_grey_training.py exports the network of one channel."""
ELSE = [pytest.param(name, marks=pytest.mark.slow) for name in OF_COLOURS if name not in ALWAYS]


@pytest.mark.parametrize("which", [*ALWAYS, *ELSE])
def test_pytorch_onnx_runtime_and_the_service_agree(which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores and masks, on odd sizes and batches, from one clean graph that was traced once; with its weights beside it too."""
    name, _, shallow = which.partition(" ")
    if shallow:
        monkeypatch.setitem(resnet.BLOCKS, 50, (2, 2, 2, 2))
        monkeypatch.setattr(deconvnet, "BLOCKS", ((2, 64), (1, 128), (1, 256), (1, 512), (2, 512)))
    net = make_lively(make_net(name))
    model = to_onnx(net, ARCHITECTURES[name].policy())
    check_clean(model)
    size = (net.smallest, net.smallest) if net.smallest > 1 else (64, 88)
    manifest = make_manifest(
        name=name,
        classes=[{"id": k, "name": f"class {k}", "color": (k, k, k)} for k in range(CLASSES)],
        input=ARCHITECTURES[name].policy(size),
        stride=net.stride,
    )
    write(model, manifest, tmp_path / "one" / "file.onnx")
    monkeypatch.setattr(artifact, "SELF_CONTAINED_BYTES", 0)
    write(model, manifest, tmp_path / "two" / "file.onnx")
    assert (tmp_path / "two" / "file.onnx.data").stat().st_size > 0.5 * (tmp_path / "one" / "file.onnx").stat().st_size
    for folder in ("one", "two"):
        predictor = Predictor(Repository(tmp_path / folder), Limits())
        if folder == "one":
            check_scores(net, predictor.repository.get())
        check_masks(net, predictor)
        predictor.close()


@cache
def reach_of(name: str) -> Reach:
    """How far a network of the family sees; its width makes no difference."""
    return measure_reach(make_net(name))


@pytest.mark.parametrize(
    ("name", "receptive_field", "halo"),
    [
        ("fcn32s-vgg16", 404 + 32, 256),
        ("fcn8s-vgg16", 404 + 32 + 16 + 8 + 8, 256),
        ("fcn-resnet50", 443, 232),
        ("fcn-resnet101", 987, 504),
        ("deconvnet-vgg16", 788, 416),
    ],
)
def test_every_network_sees_as_far_as_its_layers_let_it(name: str, receptive_field: int, halo: int) -> None:
    """VGG16's fc7 sees 404 pixels; every upsampling reads an adjacent value more."""
    reach = reach_of(name)
    assert (reach.receptive_field, reach.halo, reach.strides) == (receptive_field, halo, (ARCHITECTURES[name].stride,))


@pytest.mark.parametrize("name", ["fcn8s-vgg16", "fcn-resnet50", "deconvnet-vgg16"])
def test_a_pixel_changes_nothing_beyond_the_halo(name: str) -> None:
    """Shown by changing one input pixel."""
    net, halo = make_lively(make_net(name)), reach_of(name).halo
    height = max(64, net.smallest)
    image, pixel = make_images(1, height, 1024), 517
    changed = influences(net, image, (height // 2, pixel)).any(0)
    columns = torch.nonzero(changed).flatten() * net.stride
    assert pixel - halo <= int(columns.min())
    assert int(columns.max()) <= pixel + halo
    assert int(columns.max() - columns.min()) > 32
