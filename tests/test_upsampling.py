"""The five ways of upsampling, each against PyTorch, and the arithmetic that their docstrings promise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from models.nets.upsampling import (
    MaxPool,
    MaxUnpool,
    bed_of_nails,
    bilinear,
    bilinear_kernel,
    contributions,
    deconvolution,
    is_even,
    nearest,
    output_size,
    transposed_convolution,
)

ROOT = Path(__file__).resolve().parent.parent
FACTORS = [1, 2, 3, 8]
KERNELS_AND_STRIDES = [(1, 1), (3, 1), (2, 2), (3, 2), (4, 2), (5, 2), (5, 3), (6, 3), (16, 8), (1, 3)]


def make_map(n: int = 2, channels: int = 3, height: int = 5, width: int = 7) -> Tensor:
    """A random map of an odd shape."""
    return torch.randn(n, channels, height, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("factor", FACTORS)
def test_nearest_is_pytorchs(factor: int) -> None:
    """Every cell is repeated, on both sides."""
    x = make_map()
    assert torch.equal(nearest(x, factor), functional.interpolate(x, scale_factor=factor, mode="nearest"))


@pytest.mark.parametrize("factor", FACTORS)
def test_bilinear_is_pytorchs_without_aligned_corners(factor: int) -> None:
    """Half-pixel centres and clamped edges, for maps of one cell too."""
    for x in (make_map(), make_map(height=1, width=1)):
        expected = functional.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
        torch.testing.assert_close(bilinear(x, factor), expected)


def test_bilinear_invents_no_value() -> None:
    """A mix lies between the values that are mixed."""
    x = make_map()
    raised = bilinear(x, 4)
    assert x.min() <= raised.min()
    assert raised.max() <= x.max()


@pytest.mark.parametrize("factor", FACTORS)
def test_bed_of_nails_is_a_transposed_convolution_with_a_nail_for_a_kernel(factor: int) -> None:
    """The value stands in the upper left of its cell, everything else is zero."""
    x = make_map()
    nail = torch.zeros(3, 1, factor, factor, dtype=x.dtype)
    nail[:, :, 0, 0] = 1
    assert torch.equal(bed_of_nails(x, factor), functional.conv_transpose2d(x, nail, stride=factor, groups=3))


def test_max_unpooling_is_pytorchs() -> None:
    """Pooling records the same places, unpooling fills the same places, for every plane of every image."""
    x = make_map(n=3, channels=4, height=8, width=6)
    pooled, switches = MaxPool()(x)
    expected, places = functional.max_pool2d(x, 2, return_indices=True)
    assert torch.equal(pooled, expected)
    assert torch.equal(switches, places)
    assert torch.equal(MaxUnpool()(pooled + 1, switches), functional.max_unpool2d(pooled + 1, places, [2, 2]))


def test_of_equal_values_the_first_is_the_maximum() -> None:
    """After a ReLU whole cells are zero: a rewriting as ``x == max`` would fill all four places."""
    pooled, switches = MaxPool()(torch.zeros(1, 1, 2, 4))
    assert switches.tolist() == [[[[0, 2]]]]
    assert MaxUnpool()(pooled + 5, switches).tolist() == [[[[5, 0, 5, 0], [0, 0, 0, 0]]]]


def test_unpooling_keeps_borders_where_they_were() -> None:
    """Pooled and unpooled, every maximum is back in its place."""
    x = make_map(height=6, width=8)
    raised = MaxUnpool()(*MaxPool()(x))
    assert torch.equal(raised[raised != 0], x[raised != 0])
    assert int((raised != 0).sum()) == x.numel() // 4


@pytest.mark.parametrize(("kernel", "stride"), KERNELS_AND_STRIDES)
def test_the_transposed_convolution_is_pytorchs(kernel: int, stride: int) -> None:
    """Zeros between the values, then an ordinary convolution with the turned kernel: the same sums."""
    x = make_map()
    weight = torch.randn(3, 2, kernel, kernel, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    for padding in range(min(kernel, 3)):
        for extra in range(stride):
            found = transposed_convolution(x, weight, stride, padding=padding, output_padding=extra)
            expected = functional.conv_transpose2d(x, weight, stride=stride, padding=padding, output_padding=extra)
            torch.testing.assert_close(found, expected)


def test_a_transposed_convolution_is_the_convolutions_gradient() -> None:
    """Hence its name: as a matrix it is the convolution's, transposed."""
    x = make_map().requires_grad_()
    weight = torch.randn(2, 3, 3, 3, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    y = functional.conv2d(x, weight, stride=2)
    (gradient,) = torch.autograd.grad(y, x, torch.ones_like(y))
    torch.testing.assert_close(transposed_convolution(torch.ones_like(y), weight, 2), gradient)


@pytest.mark.parametrize(("kernel", "stride"), KERNELS_AND_STRIDES)
def test_the_output_size_is_the_formulas(kernel: int, stride: int) -> None:
    """s (i - 1) + k - 2p + a, on both sides."""
    weight = torch.ones(1, 1, kernel, kernel)
    for height, width in ((1, 1), (4, 7)):
        for padding in range(min(kernel // 2, 2) if min(height, width) > 1 else 1):
            for extra in range(stride):
                y = functional.conv_transpose2d(
                    torch.ones(1, 1, height, width), weight, stride=stride, padding=padding, output_padding=extra
                )
                sizes = [output_size(side, kernel, stride, padding=padding, output_padding=extra) for side in (height, width)]
                assert list(y.shape[2:]) == sizes


def test_output_padding_tells_apart_what_a_convolution_makes_equal() -> None:
    """Of the sizes that a stride-2 convolution brings to 4, each is the way back for one output padding."""
    sizes = [size for size in range(20) if size >= 3 and (size - 3) // 2 + 1 == 4]
    assert sizes == [output_size(4, 3, 2, output_padding=extra) for extra in (0, 1)]


@pytest.mark.parametrize(("kernel", "stride"), KERNELS_AND_STRIDES)
def test_contributions_count_what_reaches_a_cell(kernel: int, stride: int) -> None:
    """A kernel of ones over a map of ones counts by itself; the pattern is even exactly where the stride divides the kernel."""
    line = functional.conv_transpose1d(torch.ones(1, 1, 20), torch.ones(1, 1, kernel), stride=stride)[0, 0]
    start = 10 * stride  # far from both ends
    assert contributions(kernel, stride) == tuple(int(count) for count in line[start : start + stride])
    assert is_even(kernel, stride) == (len(set(contributions(kernel, stride))) == 1)


def test_an_uneven_kernel_draws_a_checkerboard_and_an_even_one_does_not() -> None:
    """A constant map, kernel 3 at stride 2: weights 4, 2, 2, 1 by turns. Kernel 4 at stride 2: constant."""
    flat = torch.ones(1, 1, 8, 8)
    checkered = transposed_convolution(flat, torch.ones(1, 1, 3, 3), 2)[0, 0, 4:8, 4:8]
    assert checkered.tolist() == [[4, 2, 4, 2], [2, 1, 2, 1], [4, 2, 4, 2], [2, 1, 2, 1]]
    assert transposed_convolution(flat, torch.ones(1, 1, 4, 4), 2)[0, 0, 4:8, 4:8].tolist() == [[4] * 4] * 4


@pytest.mark.parametrize("size", [3, 4, 5, 16, 64])
def test_the_bilinear_kernel_is_a_tent_of_unit_weight(size: int) -> None:
    """Symmetric, and its values at any phase of the stride add up to one, so that a constant map stays as it is."""
    kernel = bilinear_kernel(size)
    factor = (size + 1) // 2
    assert torch.equal(kernel, kernel.flip(0, 1))
    assert torch.equal(kernel, kernel.T)
    for row in range(factor):
        for column in range(factor):
            assert float(kernel[row::factor, column::factor].sum()) == pytest.approx(1)


@pytest.mark.parametrize("factor", [2, 8, 16, 32])
def test_a_new_deconvolution_interpolates_bilinearly(factor: int) -> None:
    """Away from the border, where kernels find values on both sides, its result is the bilinear one, class by class."""
    x = make_map(height=4, width=5).float()
    layer = deconvolution(3, factor)
    with torch.no_grad():
        raised: Tensor = layer(x)
    assert raised.shape[2:] == (output_size(4, 2 * factor, factor), output_size(5, 2 * factor, factor))
    half = factor // 2
    inside = raised[:, :, half:-half, half:-half]
    expected = bilinear(x, factor)
    torch.testing.assert_close(inside[:, :, half:-half, half:-half], expected[:, :, half:-half, half:-half])
    assert layer.bias is None


VOLUME = torch.randn(2, 3, 3, 4, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
"""N x C x d x h x w, no two sides alike."""


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_volumes_are_upsampled_along_three_sides(factor: int) -> None:
    """PyTorch's nearest, trilinear, and transposed convolution with a nail for a kernel."""
    assert torch.equal(nearest(VOLUME, factor), functional.interpolate(VOLUME, scale_factor=factor, mode="nearest"))
    trilinear = functional.interpolate(VOLUME, scale_factor=factor, mode="trilinear", align_corners=False)
    torch.testing.assert_close(bilinear(VOLUME, factor), trilinear)
    nail = torch.zeros(3, 1, factor, factor, factor, dtype=VOLUME.dtype)
    nail[:, :, 0, 0, 0] = 1
    assert torch.equal(bed_of_nails(VOLUME, factor), functional.conv_transpose3d(VOLUME, nail, stride=factor, groups=3))


def test_max_unpooling_of_volumes_is_pytorchs() -> None:
    """Every maximum of 2 x 2 x 2 voxels returns to its place."""
    x = torch.randn(2, 3, 4, 6, 8, generator=torch.Generator().manual_seed(3))
    pooled, switches = MaxPool()(x)
    expected, indices = functional.max_pool3d(x, 2, return_indices=True)
    assert torch.equal(pooled, expected)
    assert torch.equal(switches, indices)
    assert torch.equal(MaxUnpool()(pooled, switches), functional.max_unpool3d(expected, indices, [2, 2, 2]))


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (2, 2), (3, 2), (4, 2), (5, 3)])
def test_the_transposed_convolution_of_volumes_is_pytorchs(kernel: int, stride: int) -> None:
    """For every padding, and with a bigger end where the stride allows it."""
    weight = torch.randn(3, 2, kernel, kernel, kernel, generator=torch.Generator().manual_seed(4), dtype=VOLUME.dtype)
    for padding in range(kernel):
        more = stride - 1
        if output_size(3, kernel, stride, padding=padding, output_padding=more) < 1:
            continue
        found = transposed_convolution(VOLUME, weight, stride, padding=padding, output_padding=more)
        expected = functional.conv_transpose3d(VOLUME, weight, stride=stride, padding=padding, output_padding=more)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("factor", [2, 4])
def test_a_new_deconvolution_of_volumes_interpolates_trilinearly(factor: int) -> None:
    """As in two dimensions, away from the border."""
    x = VOLUME.float()
    with torch.no_grad():
        raised: Tensor = deconvolution(3, factor, dimensions=3)(x)
    half = factor // 2
    inside = (slice(None), slice(None), *[slice(half, -half)] * 3)
    torch.testing.assert_close(raised[inside][inside], bilinear(x, factor)[inside])


def test_the_pictures_in_the_documents_are_what_the_code_draws(tmp_path: Path) -> None:
    """Drawn again they are the same, except for a shade where another version of Pillow draws a letter otherwise."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "docs" / "pictures" / "upsampling.py"), str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, env=environment, timeout=120)
    drawn = sorted(path.name for path in tmp_path.iterdir())
    assert drawn == sorted(path.name for path in (ROOT / "docs" / "images").glob("upsampling-*.png"))
    text = (ROOT / "docs" / "upsampling.md").read_text("utf-8")
    for name in drawn:
        new, old = (
            np.asarray(Image.open(folder / name).convert("RGB"), int) for folder in (tmp_path, ROOT / "docs" / "images")
        )
        assert new.shape == old.shape
        assert np.abs(new - old).mean() < 2
        assert f"images/{name}" in text
