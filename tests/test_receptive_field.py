"""How far a network sees, measured by derivatives, against what happens when a pixel is really changed."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from models.exporting.receptive_field import Reach, influences, measure_reach
from models.nets.fcn import FCN, FCNConfig
from models.nets.network import Network
from models.nets.upsampling import MaxPool, MaxUnpool

COARSEST = 32
PAPER = FCNConfig(classes=2)
WIDE = FCNConfig(classes=2, width=8, stride=4, context=2, smooth=True)
EVERY_KIND = pytest.mark.parametrize("config", [PAPER, WIDE], ids=["paper", "wide"])


def make_net(config: FCNConfig) -> FCN:
    """A network with random weights."""
    torch.manual_seed(0)
    return FCN(config).eval()


def make_far_sighted(net: FCN) -> FCN:
    """The same layers with kernels that pass on what lies far to the left and right in row 0 as well as they can.

    Along the middle row every weight is positive and equal, elsewhere zero: no sum cancels, and what a chain of twenty
    kernels leaves of the farthest pixel is still far above the least float32, and a million times float64's last digit.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            rows, columns = module.kernel_size
            nn.init.zeros_(module.weight)
            with torch.no_grad():
                module.weight[:, :, rows // 2] = 1 / (module.weight.shape[1] * columns)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return net


def seen_from(net: FCN, length: int) -> dict[int, set[int]]:
    """For each score cell of one cell of the coarsest map, the pixels of its row that change it, relative to its own first.

    A shift by the coarsest stride shifts everything, so the pixels of one such stride stand for all. Each is lit alone in an
    image of the encoder's mean, which is zero all through the network: any score but zero has seen it, however faint.
    """
    dark = net.mean.expand(1, 3, COARSEST, length)
    middle = length // 2 // COARSEST * COARSEST
    cells = COARSEST // net.config.stride
    seen: dict[int, set[int]] = {cell: set() for cell in range(cells)}
    with torch.no_grad():
        assert not net(dark).any()
        for pixel in range(middle, middle + COARSEST):
            lit = dark.clone()
            lit[..., pixel] += 1
            for cell in torch.nonzero(net(lit).flatten(0, 2).any(0)).flatten().tolist():
                seen[cell % cells].add(pixel - cell * net.config.stride)
    return seen


def test_the_receptive_field_is_what_pixels_really_change() -> None:
    """Exactly: the widest span of pixels that change one score, and the halo that its farther end needs."""
    net = make_net(WIDE)
    found = measure_reach(net)
    seen = seen_from(make_far_sighted(net), 1536)
    stride = WIDE.stride
    assert found.receptive_field == max(max(pixels) - min(pixels) + 1 for pixels in seen.values())
    reach = max(max(-min(pixels), max(pixels) - (stride - 1)) for pixels in seen.values())
    assert found.halo == -(-(reach + stride) // COARSEST) * COARSEST


@EVERY_KIND
def test_a_far_pixel_changes_no_score(config: FCNConfig) -> None:
    """There is no global operation: what a pixel changes lies within the halo, and most of that it does change."""
    net = make_net(config)
    halo = measure_reach(net).halo
    image = torch.rand(1, 3, COARSEST, 2048, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 255
    pixel = 1031
    # In float64, so that the faintest influence shows.
    columns = torch.nonzero(influences(net.double(), image, (16, pixel)).any(0)).flatten() * config.stride
    assert pixel - halo <= int(columns.min())
    assert int(columns.max()) <= pixel + halo
    assert int(columns.max() - columns.min()) > halo


@EVERY_KIND
def test_a_tile_with_its_halo_has_the_labels_of_the_whole_image(config: FCNConfig) -> None:
    """What the halo is for: upsampled to pixels, the inside of the tile is the same as of the whole; with less it is not."""
    net = make_net(config)
    halo = measure_reach(net).halo
    make_far_sighted(net).double()
    image = 127 + torch.rand(1, 3, COARSEST, 2 * halo + 1024, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    first, last = halo + 448, halo + 576

    def pixels(start: int, stop: int) -> Tensor:
        """Scores of the pixels first..last, computed from a part of the image alone."""
        with torch.no_grad():
            scores = interpolate(net(image[..., start:stop]), scale_factor=config.stride, mode="bilinear")
        return scores[..., first - start : last - start]

    whole = pixels(0, image.shape[3])
    assert (pixels(first - halo, last + halo) - whole).abs().max() < 1e-13
    assert (pixels(first - halo // 2 // COARSEST * COARSEST, last + halo) - whole).abs().max() > 1e-9


def test_a_context_layer_widens_the_view() -> None:
    """Dilated layers see farther, at the same stride."""
    near, far = measure_reach(make_net(FCNConfig(width=8))), measure_reach(make_net(FCNConfig(width=8, context=3)))
    assert far.receptive_field > near.receptive_field + 64
    assert far.halo > near.halo


class Global(FCN):
    """A network that reads the whole image, as image-level pooling does."""

    def forward(self, x: Tensor) -> Tensor:
        """Scores and their mean over the image."""
        scores = super().forward(x)
        return scores + scores.mean((2, 3), keepdim=True)


def test_a_global_operation_is_found_out() -> None:
    """It cannot be tiled, and is not exported with a receptive field that it does not have."""
    with pytest.raises(ValueError, match="larger than 4096 pixels: is there a global operation"):
        measure_reach(Global(PAPER))


def test_measuring_leaves_the_network_as_it_is() -> None:
    """The linear copy is a copy."""
    net = make_net(PAPER)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert isinstance(measure_reach(net), Reach)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert any(parameter.requires_grad for parameter in net.parameters())


class PooledVolumes(Network):
    """A network of volumes with each kind of layer that changes the reach: pooling, unpooling, strides down and up, a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.classes, self.stride, self.coarsest, self.multiple, self.smallest = 2, 2, 8, 8, 8
        self.channels, self.dimensions = 1, 3
        self.enter = nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), nn.BatchNorm3d(2), nn.ReLU(), nn.MaxPool3d(2))
        self.pool, self.unpool = MaxPool(), MaxUnpool()
        self.down, self.up = nn.Conv3d(2, 2, 2, 2), nn.ConvTranspose3d(2, 2, 4, 2, 1)
        self.middle = nn.Conv3d(2, 2, 3, padding=2, dilation=2)
        self.leave = nn.Conv3d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """N x 1 x D x H x W to N x 2 x D/2 x H/2 x W/2."""
        fine = self.enter(x)
        pooled, switches = self.pool(fine)
        coarse = self.up(self.middle(self.down(pooled)))
        return self.leave(torch.cat([fine, self.unpool(coarse, switches)], 1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_reach_in_volumes_is_what_voxels_really_change(axis: int) -> None:
    """Along each side: every voxel of one period is made the brightest by far, with positive weights that nothing cancels."""
    net = PooledVolumes().eval().double()
    found = measure_reach(net)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(0.5)
    length, middle = 96, 48
    sides = [8, 8, 8]
    sides[axis] = length
    volume = torch.rand(1, 1, *sides, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    seen: dict[int, set[int]] = {cell: set() for cell in range(4)}
    with torch.no_grad():
        for voxel in range(middle, middle + 8):
            # Each place across the line is tried: an unpooled value goes to one of the eight voxels of its cell.
            for place in itertools.product(range(2), repeat=2):
                lit = volume.clone()
                across = [*place]
                across.insert(axis, voxel)
                lit[(0, 0, *across)] += 1e6
                changed = (net(lit) != net(volume))[0].any(0).movedim(axis, 0).flatten(1).any(1)
                for cell in torch.nonzero(changed).flatten().tolist():
                    seen[cell % 4].add(voxel - cell * 2)
    assert found.strides == (2,)
    assert found.receptive_field == max(max(voxels) - min(voxels) + 1 for voxels in seen.values())
    reach = max(max(-min(voxels), max(voxels) - 1) for voxels in seen.values())
    assert found.halo == -(-(reach + 2) // 8) * 8
