"""The family: every name builds, does what its row of the table says, and is the same network in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnxruntime as ort
import pytest
import torch

from models.architectures import ARCHITECTURES, build
from models.export import to_onnx
from models.network import Network
from models.receptive_field import influences, measure_reach
from tests.networks import make_images, make_lively

NAMES = list(ARCHITECTURES)
CLASSES = 4


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Narrow layers are many small steps: on a busy machine a second thread makes them wait, not faster."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
        "deconvnet-vgg16",
    ]
    assert all(architecture.name == name and architecture.papers for name, architecture in ARCHITECTURES.items())


@pytest.mark.parametrize("name", NAMES)
def test_the_table_says_what_the_network_is(name: str) -> None:
    """Stride, coarsest stride and sizes are the network's own; its working size is one that it takes."""
    architecture = ARCHITECTURES[name]
    with torch.device("meta"):
        net = make_net(name)
        height, width = (-(-side // architecture.multiple) * architecture.multiple for side in architecture.working_size)
        scores = net(torch.zeros(2, 3, height, width))
    assert (net.stride, net.coarsest, net.multiple) == (architecture.stride, architecture.coarsest, architecture.multiple)
    assert (net.smallest, net.classes) == (architecture.smallest, CLASSES)
    assert scores.shape == (2, CLASSES, height // net.stride, width // net.stride)
    assert min(height, width) >= architecture.smallest
    assert architecture.multiple % architecture.stride == 0


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    """A slip of the pen costs one look."""
    with pytest.raises(ValueError, match=r"no architecture 'fcn8s-vgg19'; there are: fcn32s-vgg16, .*deconvnet-vgg16"):
        build("fcn8s-vgg19", 3)


def test_the_light_networks_come_in_sizes_not_in_widths() -> None:
    """What can't be had is said, not ignored."""
    with pytest.raises(ValueError, match="fcn8s-lite1 has one width; choose a size instead: lite0, lite1, lite2"):
        build("fcn8s-lite1", 3, width=0.5)


TRACED = [name for name in NAMES if "lite" not in name or name == "fcn8s-lite0"]
"""The light networks' graphs differ in numbers alone, and tests/test_export.py is about them."""
ALWAYS = {"fcn8s-vgg16-atonce", "deconvnet-vgg16"}
"""Those with all that is special in a graph: skips, crops and scales, switches. Tracing takes fifteen seconds each."""


@pytest.mark.parametrize("name", [name if name in ALWAYS else pytest.param(name, marks=pytest.mark.slow) for name in TRACED])
def test_onnx_runtime_and_pytorch_agree(name: str) -> None:
    """On batches, on odd shapes and on the smallest: one graph, traced once, for all of them."""
    net = make_lively(make_net(name))
    model = to_onnx(net, net.multiple)
    assert {node.op_type for node in model.graph.node}.isdisjoint({"Pad", "Identity", "MaxUnpool", "BatchNormalization", "If"})
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    least = -(-net.smallest // net.multiple) * net.multiple
    shapes = [(1, least, least), (3, least, least + 2 * net.multiple), (2, least + 5 * net.multiple, least + net.multiple)]
    if name.endswith(("vgg16", "atonce")) and net.smallest == 1:
        shapes += [(1, 1, 1), (2, 37, 61)]  # padded by a hundred and cropped: any size goes
    for n, height, width in shapes:
        images = make_images(n, height, width)
        with torch.no_grad():
            expected = net(images).numpy()
        (found,) = session.run(None, {"image": images.permute(0, 2, 3, 1).to(torch.uint8).numpy()})
        assert found.shape == (n, CLASSES, height // net.stride, width // net.stride)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
        assert expected.std() > 1e-3


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
    """VGG16's fc7 sees 404 pixels; every upsampling reads a neighbour more."""
    reach = measure_reach(make_net(name))
    assert (reach.receptive_field, reach.halo, reach.stride) == (receptive_field, halo, ARCHITECTURES[name].stride)


@pytest.mark.parametrize("name", ["fcn8s-vgg16", "fcn-resnet50", "deconvnet-vgg16"])
def test_a_pixel_changes_nothing_beyond_the_halo(name: str) -> None:
    """By changing one, and looking."""
    net = make_lively(make_net(name))
    halo = measure_reach(net).halo
    height = max(64, net.smallest)
    image, pixel = make_images(1, height, 1024), 517
    changed = influences(net, image, (height // 2, pixel)).any(0)
    columns = torch.nonzero(changed).flatten() * net.stride
    assert pixel - halo <= int(columns.min())
    assert int(columns.max()) <= pixel + halo
    assert int(columns.max() - columns.min()) > 32
