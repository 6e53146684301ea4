"""V-Net and the slice network: the paper's sizes, exact receptive fields, and the same network in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.exporting.exporter import export
from models.exporting.receptive_field import measure_reach
from models.nets.architectures import FOR_SCANS, build
from models.nets.slices import SliceFCN
from models.nets.vnet import CONVOLUTIONS, LIGHT, PAPER, Residual, VNet, VNetConfig
from service.pipeline.codecs import nifti
from service.pipeline.codecs.limits import Limits
from service.pipeline.engine import Engine
from service.pipeline.predictor import Predictor
from service.pipeline.repository import Repository
from service.pipeline.tasks.volume import segment
from tests.conftest import make_manifest
from tests.networks import make_lively
from tests.phantoms import nifti_bytes, phantom_map

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_paper_has_these_layers() -> None:
    """Figure 2: one, two, three, three, three convolutions of 5 x 5 x 5; 16 to 256 features; 32 at the end."""
    with torch.device("meta"):
        net = VNet(2)
    left = [stage for stage in net.left if isinstance(stage, Residual)]
    assert tuple(len(stage.convolutions) for stage in left) == CONVOLUTIONS == (1, 2, 3, 3, 3)
    assert [layer.num_parameters for stage in left for layer in stage.activations][:: len(left)][0] == 16
    deepest = next(module for module in left[4].modules() if isinstance(module, torch.nn.Conv3d))
    assert (deepest.kernel_size, deepest.out_channels) == ((5, 5, 5), 256)
    assert net.score.in_channels == 32
    assert {module.kernel_size for module in net.down.modules() if isinstance(module, torch.nn.Conv3d)} == {(2, 2, 2)}


@pytest.mark.parametrize("level", range(5))
def test_the_receptive_fields_are_those_of_table_1(level: int) -> None:
    """The left path's stages see 5, 22, 72, 172 and 372 voxels."""
    field, step = 1, 1
    for count in CONVOLUTIONS[:level]:
        field += 4 * step * count
        field, step = field + step, 2 * step
    field += 4 * step * CONVOLUTIONS[level]
    assert field == (5, 22, 72, 172, 372)[level]


@pytest.mark.parametrize("config", [LIGHT, VNetConfig("small", depth=1, kernel=5, convolutions=(1, 1))])
def test_no_voxel_beyond_the_halo_changes_a_score(config: VNetConfig) -> None:
    """The measured reach holds in three dimensions: shown by changing one voxel."""
    net = make_lively(VNet(2, config=config, width=1 / 8))
    reach = measure_reach(net)
    assert reach.strides == (1,)
    side = -(-(2 * reach.halo + 24) // net.multiple) * net.multiple
    volume = torch.rand(1, 1, net.multiple, net.multiple, side)
    changed = volume.clone()
    at = side // 2 - 3
    changed[0, 0, 1, 1, at] += 5
    with torch.no_grad():
        differs = (net(changed) != net(volume)).any(1)[0].any(0).any(0)
    where = torch.nonzero(differs).flatten()
    assert at - reach.halo <= int(where.min())
    assert int(where.max()) <= at + reach.halo


def test_a_depth_needs_its_stages() -> None:
    """A configuration that contradicts itself is refused."""
    with pytest.raises(ValueError, match="depth 2 has 3 stages, not 2"):
        VNet(2, config=VNetConfig("odd", depth=2, convolutions=(1, 2)))


@pytest.mark.parametrize("name", list(FOR_SCANS))
def test_the_table_says_what_a_network_for_scans_is(name: str) -> None:
    """Stride, coarsest stride, channels and dimensions are the network's own."""
    row = FOR_SCANS[name]
    net = build(name, 3, width=1 / 8)
    policy = row.policy()
    assert (net.stride, net.coarsest, net.multiple) == (row.stride, row.coarsest, row.multiple)
    assert (net.channels, net.dimensions) == (policy.channels, policy.dimensions)
    assert policy.takes_scans
    sides = (row.multiple,) * net.dimensions
    with torch.no_grad():
        assert net.eval()(torch.zeros(1, net.channels, *sides)).shape == (1, 3, *sides)


def test_a_slice_network_keeps_the_size_of_its_slices() -> None:
    """Scores at every pixel, for sides that are multiples of 16 and no square."""
    net = SliceFCN(4, width=1 / 4).eval()
    with torch.no_grad():
        assert net(torch.rand(2, 3, 48, 80)).shape == (2, 4, 48, 80)


@pytest.mark.parametrize("name", ["vnet-light", "fcn1s-slices"])
def test_pytorch_and_the_service_give_one_label_volume(name: str, tmp_path: Path) -> None:
    """Exported with its parity checked, at any sides and batch; through the service the labels are PyTorch's."""
    torch.manual_seed(0)
    net = make_lively(build(name, 3, width=1 / 8))
    classes = [{"id": k, "name": f"class {k}", "color": (k, k, k)} for k in range(3)]
    policy = FOR_SCANS[name].policy()
    manifest = make_manifest(name=name, classes=classes, input=policy, stride=1, halo=measure_reach(net).halo)
    written = export(net, manifest, tmp_path / f"{name}.onnx")
    assert written.parity is not None
    assert written.parity.argmax_agreement == 1
    engine = Engine.open(tmp_path / f"{name}.onnx")
    sides = (24, 16, 8)[: net.dimensions] if net.dimensions == 3 else (48, 32)
    batch = torch.rand(2, *sides, policy.channels)
    with torch.no_grad():
        expected = net(batch.movedim(-1, 1)).numpy()
    np.testing.assert_allclose(engine.run(batch.numpy())["scores"], expected, atol=1e-3, rtol=1e-3)
    engine.close()
    predictor = Predictor(Repository(tmp_path), Limits())
    scan = nifti_bytes(phantom_map(24).astype(np.int16), np.diag([-1.0, 1, 1, 1]))
    found = predictor.segment(scan).labels
    predictor.close()

    def run(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            return np.asarray(net(torch.from_numpy(batch).movedim(-1, 1)).numpy())

    expected_labels = segment(nifti.read(scan, Limits()), manifest, run, max_voxels=10**6).labels
    assert found.shape == phantom_map(24).shape
    assert np.mean(found == expected_labels) > 0.999  # but for ties


def test_the_paper_config_is_the_default() -> None:
    """A V-Net without further words is the paper's."""
    assert VNetConfig() == PAPER
