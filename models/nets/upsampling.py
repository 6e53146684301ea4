"""Five ways from a small map to a larger one, each written out, so that it can be read as well as used.

========================  ==========================================================  ========  =========================
way                       what a new cell holds                                       learned   used by
========================  ==========================================================  ========  =========================
:func:`nearest`           the value of the cell that it lies in                       no        -
:func:`bed_of_nails`      the value, in one corner of the cell; zero elsewhere        no        inside a transposed conv.
:class:`MaxUnpool`        the value, where the maximum was; zero elsewhere            no        DeconvNet
:func:`bilinear`          a mix of the four nearest values, by distance               no        the service, after scores
:func:`deconvolution`     a sum of kernels, one laid down for each value              yes       FCN-32s, 16s, 8s
========================  ==========================================================  ========  =========================

The last one is the transposed convolution. Its arithmetic follows Dumoulin and Visin, "A guide to convolution arithmetic for
deep learning", 2016, chapter 4; why its results can show a checkerboard, Odena, Dumoulin and Olah, "Deconvolution and
Checkerboard Artifacts", Distill 2016; why it starts as bilinear interpolation, Long, Shelhamer and Darrell 2015, section 3.3.

docs/upsampling.md has a picture of each. All maps are N x C x h x w float; a factor f makes them N x C x fh x fw. Volumes are
N x C x d x h x w: each function does along three sides what it does along two.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def nearest(x: Tensor, factor: int) -> Tensor:
    """Repeat every cell f x f times.

    Cheap, and it invents no value; edges become stairs, and a label map that is upsampled so is wrong along every border.
    """
    for side in range(2, x.ndim):
        x = x.repeat_interleave(factor, side)
    return x


def bed_of_nails(x: Tensor, factor: int) -> Tensor:
    """Put every value into the first corner of its f x f (x f) cells, the upper left, and zero into the others.

    On its own it is of little use. It is the first half of a transposed convolution: the kernel that follows fills the gaps.
    """
    sides = x.shape[2:]
    nails = x.new_zeros(*x.shape[:2], *(side * factor for side in sides))
    corners = [slice(None), slice(None), *[slice(None, None, factor)] * len(sides)]
    nails[tuple(corners)] = x
    return nails


class MaxPool(nn.Module):
    """2x2(x2) maximum pooling that also records where the maxima were (Noh, Hong and Han 2015, section 3.2.1: the switches)."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Halve a map.

        Takes:
            x: N x C x h x w, or N x C x d x h x w; all sides even
        Gives:
            N x C x h/2 x w/2: the maxima; with d/2 of volumes
            the same shape, int64: the place of each in its own plane or volume, in reading order; of equal values the first
        """
        pool = F.max_pool2d if x.ndim == 4 else F.max_pool3d
        return pool(x, 2, return_indices=True)


class MaxUnpool(nn.Module):
    """The way back: every value returns to the place that :class:`MaxPool` recorded, the rest is zero.

    Unlike every other way here it keeps where in the cell a thing was, so that borders stay sharp; the map is sparse, and the
    layers after it fill it.

    Each plane is scattered by itself. ONNX's MaxUnpool counts its indices over the whole tensor, PyTorch's count within one
    plane: a graph that passes the one to the other is right for the first plane of the first image alone. ScatterElements,
    which is what this becomes, has no such difference.
    """

    def forward(self, x: Tensor, switches: Tensor) -> Tensor:
        """Double a map.

        Takes:
            x: N x C x h x w, or N x C x d x h x w
            switches: the same shape, int64, from :class:`MaxPool`
        Gives:
            N x C x 2h x 2w; with 2d of volumes
        """
        n, c, *sides = x.shape
        plane = x.new_zeros(n, c, math.prod(sides) * 2 ** len(sides))
        return plane.scatter(2, switches.flatten(2), x.flatten(2)).view(n, c, *(2 * side for side in sides))


def bilinear(x: Tensor, factor: int) -> Tensor:
    """Mix the four nearest values by distance (of a volume the eight: trilinear), with half-pixel centres and clamped edges.

    Cell i of the small map covers new cells fi .. fi + f - 1, so its centre lies at f (i + 1/2) - 1/2 among them; a new cell
    beyond the outermost centres takes the edge's value: PyTorch's ``align_corners=False``, OpenCV's ``INTER_LINEAR``.
    """
    for side in range(2, x.ndim):
        x = _mix_along(x, factor, side)
    return x


def _mix_along(x: Tensor, factor: int, axis: int) -> Tensor:
    length = x.shape[axis]
    centres = torch.arange(length * factor, dtype=x.dtype, device=x.device)
    positions = ((centres + 0.5) / factor - 0.5).clamp(0, length - 1)
    before = positions.long()
    after = (before + 1).clamp(max=length - 1)
    share = (positions - before).view(-1, *[1] * (x.ndim - 1 - axis))
    return x.index_select(axis, before) * (1 - share) + x.index_select(axis, after) * share


def transposed_convolution(x: Tensor, weight: Tensor, stride: int, *, padding: int = 0, output_padding: int = 0) -> Tensor:
    """Lay the kernel down once for every value, scaled by it, ``stride`` cells apart, and add up where kernels overlap.

    The same said as a convolution (Dumoulin and Visin, relationship 13): put ``stride - 1`` zeros between the values, pad with
    k - 1 - padding zeros, and convolve with the kernel turned by 180 degrees at stride 1. That is how it is written here, to be
    read; ``torch.nn.ConvTranspose2d`` does it faster.

    Takes:
        x: N x C x h x w, or N x C x d x h x w
        weight: C x D x k x k, or C x D x k x k x k
        padding: cells to cut off the result on each side, up to k - 1
        output_padding: further cells at the bottom and right, fewer than ``stride``; it settles which of the sizes is meant
            that a convolution of this stride would have brought to the same h x w
    Gives:
        N x D x :func:`output_size` of h and w
    """
    kernel = weight.shape[-1]
    spread = bed_of_nails(x, stride)
    surplus = stride - 1  # zeros after the last value, where bed_of_nails leaves them and a kernel's reach does not
    border = kernel - 1 - padding
    end = border - surplus + output_padding
    sides = x.ndim - 2
    convolve = F.conv2d if sides == 2 else F.conv3d
    return convolve(F.pad(spread, (border, end) * sides), weight.flip(*range(2, x.ndim)).transpose(0, 1))


def output_size(size: int, kernel: int, stride: int, *, padding: int = 0, output_padding: int = 0) -> int:
    """Cells on a side after a transposed convolution: s (i - 1) + k - 2p + a (Dumoulin and Visin, relationship 14)."""
    return stride * (size - 1) + kernel - 2 * padding + output_padding


def contributions(kernel: int, stride: int) -> tuple[int, ...]:
    """How many values reach each new cell on a line, away from the borders, over one period of ``stride`` cells.

    New cell j is reached by value i where 0 <= j - stride * i < kernel. The counts are all equal exactly where ``stride``
    divides ``kernel``. Where they differ, so does the sum, and in two dimensions their product: even a constant map comes out
    as a checkerboard, whose pattern the network must unlearn. Kernel 3 at stride 2 gives (2, 1), hence cells of weight 4, 2, 2
    and 1; kernel 4 at stride 2, as in FCN, gives (2, 2). Equal counts allow an even result, which a kernel can still spoil.
    """
    return tuple(len(range(phase, kernel, stride)) for phase in range(stride))


def is_even(kernel: int, stride: int) -> bool:
    """Whether a transposed convolution reaches every new cell alike: the checkerboard condition, ``kernel % stride == 0``."""
    return kernel % stride == 0


def bilinear_kernel(size: int, dimensions: int = 2) -> Tensor:
    """The tent whose transposed convolution at stride (size + 1) // 2 is bilinear interpolation, or trilinear in 3 dimensions.

    Gives:
        size x size (x size) float32; its values at any one phase of the stride add up to 1
    """
    factor = (size + 1) // 2
    centre = factor - 1 if size % 2 else factor - 0.5
    tent = 1 - (torch.arange(size) - centre).abs() / factor
    kernel = tent
    for _ in range(1, dimensions):
        kernel = kernel[..., None] * tent
    return kernel


def deconvolution(channels: int, factor: int, dimensions: int = 2) -> nn.ConvTranspose2d | nn.ConvTranspose3d:
    """A learned upsampling that starts as the bilinear one (Long, Shelhamer and Darrell 2015, section 3.3).

    Kernel 2f at stride f: two values reach every new cell on a line, so there is no checkerboard. It has no bias, and at first
    no channel mixes with another. Without padding, f h + f cells come out on a side: f / 2 more on each than the map covers,
    where only the outermost values reach. The caller crops.
    """
    make = nn.ConvTranspose2d if dimensions == 2 else nn.ConvTranspose3d
    layer = make(channels, channels, 2 * factor, factor, bias=False)
    with torch.no_grad():
        identity = torch.eye(channels).reshape(channels, channels, *[1] * dimensions)
        layer.weight.copy_(identity * bilinear_kernel(2 * factor, dimensions))
    return layer
