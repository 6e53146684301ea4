"""The fully convolutional network: figure 3 of the paper by hand, any size, and nothing global."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from models.nets.fcn import FCN, FCNConfig, upsample_onto

PAPER = FCNConfig(classes=5)
SHIPPED = FCNConfig(classes=5, width=16, stride=4, context=3, smooth=True)
REFINED = FCNConfig(classes=3, width=8, refine=2)
EVERY_KIND = pytest.mark.parametrize("config", [PAPER, SHIPPED, REFINED], ids=["paper", "shipped", "refined"])


def make_net(config: FCNConfig) -> FCN:
    """A network with random weights and statistics of its normalisations that are not the identity."""
    torch.manual_seed(0)
    net = FCN(config)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return net.eval()


def street(height: int, width: int, *, batch: int = 1) -> Tensor:
    """N x 3 x H x W float, 0..255."""
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(height * 1000 + width)) * 255


def twice(coarse: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """A C x h x w map, twice as large, by the definition of bilinear sampling at pixel centres; cut to height x width."""
    _, h, w = coarse.shape

    def weights(n: int, count: int) -> NDArray[np.float64]:
        matrix = np.zeros((count, n))
        for pixel in range(count):
            position = min(max((pixel + 0.5) / 2 - 0.5, 0), n - 1)
            low = min(int(position), n - 1)
            matrix[pixel, low] += 1 - (position - low)
            matrix[pixel, min(low + 1, n - 1)] += position - low
        return matrix

    return np.asarray(np.einsum("yi,cij,xj->cyx", weights(h, height), coarse, weights(w, width)))


@pytest.mark.parametrize(("height", "width"), [(64, 96), (75, 101)])
def test_without_width_the_network_is_figure_three_of_the_paper(height: int, width: int) -> None:
    """1x1 scores of the stride 8, 16 and 32 features; the coarser upsampled 2x and added to the finer: computed by hand."""
    net, image = make_net(PAPER), street(height, width)
    with torch.no_grad():
        found = net(image)[0].numpy()
        features = [feature[0].numpy() for feature in net.encoder((image - 127) / 128)][1:]
    scored = []
    for feature, layer in zip(features, net.lateral, strict=True):
        assert isinstance(layer, nn.Conv2d)
        assert layer.bias is not None
        kernel, bias = layer.weight.detach().numpy()[:, :, 0, 0], layer.bias.detach().numpy()
        scored.append(np.einsum("kc,cyx->kyx", kernel, feature) + bias[:, None, None])
    pool3, pool4, conv7 = scored
    fused = pool4 + twice(conv7, *pool4.shape[1:])
    expected = pool3 + twice(fused, *pool3.shape[1:])
    assert found.shape == (5, math.ceil(height / 8), math.ceil(width / 8))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@EVERY_KIND
@pytest.mark.parametrize(("height", "width"), [(1, 1), (8, 8), (33, 65), (63, 100)])
def test_any_size_gives_a_score_for_every_cell(config: FCNConfig, height: int, width: int) -> None:
    """Odd sizes and a single pixel too: ceil(H / stride) x ceil(W / stride) finite scores of every class."""
    with torch.no_grad():
        scores = make_net(config)(street(height, width, batch=2))
    assert scores.shape == (2, config.classes, math.ceil(height / config.stride), math.ceil(width / config.stride))
    assert torch.isfinite(scores).all()


@EVERY_KIND
def test_the_scores_of_an_image_do_not_depend_on_its_batch(config: FCNConfig) -> None:
    """While predicting, nothing is shared between the images of a batch."""
    net, images = make_net(config), street(40, 56, batch=3)
    with torch.no_grad():
        together = net(images)
        alone = torch.cat([net(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@EVERY_KIND
def test_an_image_shifted_by_the_coarsest_stride_has_its_scores_shifted(config: FCNConfig) -> None:
    """Fully convolutional: away from the borders, moving the image moves the scores and does nothing else."""
    net, image = make_net(config).double(), street(32, 2048).double()
    with torch.no_grad():
        shifted = net(torch.roll(image, 32, 3))
        expected = torch.roll(net(image), 32 // config.stride, 3)
    middle = slice(896 // config.stride, 1152 // config.stride)
    torch.testing.assert_close(shifted[..., middle], expected[..., middle], rtol=0, atol=1e-12)
    assert expected[..., middle].std(3).min() > 0


@given(height=st.integers(1, 9), width=st.integers(1, 9))
def test_a_coarse_cell_covers_two_fine_ones_whatever_the_size(height: int, width: int) -> None:
    """Upsampling is bilinear at pixel centres, and a surplus row or column is cut at the end, never shifting the rest."""
    rng = np.random.default_rng(height * 10 + width)
    coarse = rng.normal(size=(2, math.ceil(height / 2), math.ceil(width / 2)))
    fine = rng.normal(size=(2, height, width))
    found = upsample_onto(torch.from_numpy(coarse)[None], torch.from_numpy(fine)[None])[0].numpy()
    np.testing.assert_allclose(found, fine + twice(coarse, height, width), atol=1e-12)


def test_a_slope_stays_where_it_is_when_it_is_upsampled() -> None:
    """The mean of each pair of cells of a ramp, upsampled, is the ramp again: no shift by half a cell."""
    ramp = torch.arange(20.0)[None, None, None].expand(1, 1, 20, 20)
    raised = upsample_onto(avg_pool2d(ramp, 2), torch.zeros_like(ramp))
    torch.testing.assert_close(raised[..., 1:-1], ramp[..., 1:-1])


def test_the_normalisation_is_in_the_network() -> None:
    """It takes pixels of 0..255: grey 127 is the encoder's zero."""
    net = make_net(PAPER)
    with torch.no_grad():
        features = net.encoder(torch.zeros(1, 3, 32, 32))
        expected = net.lateral[2](features[3])
        for layer in list(net.lateral)[:2]:
            for parameter in layer.parameters():
                parameter.zero_()
        found = net(torch.full((1, 3, 32, 32), 127.0))
    torch.testing.assert_close(found, expected.expand_as(found))


def test_a_network_without_the_paper_s_strides_is_refused() -> None:
    """The message says which strides there are."""
    with pytest.raises(ValueError, match=r"stride must be one of \(4, 8\), not 16"):
        FCN(FCNConfig(stride=16))


def test_a_configuration_names_its_architecture_and_survives_a_checkpoint() -> None:
    """The name is the family's; the fields travel as plain types and come back equal."""
    assert PAPER.name == "fcn8s-lite0"
    assert FCNConfig(encoder="lite2", stride=4).name == "fcn4s-lite2"
    assert FCNConfig(**SHIPPED.to_dict()) == SHIPPED
    assert all(isinstance(value, int | str | bool) for value in SHIPPED.to_dict().values())
