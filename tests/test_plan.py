"""How an image is fitted to the network."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.pipeline.manifest import InputPolicy
from service.pipeline.plan import MAX_ELONGATION, fit_size, least_size, resize_image
from tests.conftest import make_image

side = st.integers(1, 20_000)
policies = st.builds(
    InputPolicy,
    working_size=st.tuples(st.integers(8, 1024), st.integers(8, 1024)),
    fit=st.sampled_from(["area", "stretch", "native"]),
    multiple=st.sampled_from([1, 8, 32]),
)


@given(side, side, policies)
def test_both_sides_are_positive_multiples(height: int, width: int, policy: InputPolicy) -> None:
    """The network never meets a size that it cannot halve."""
    h, w = fit_size(height, width, policy)
    assert h > 0
    assert w > 0
    assert h % policy.multiple == w % policy.multiple == 0


@given(side, side)
def test_area_keeps_the_work_bounded(height: int, width: int) -> None:
    """An image of any shape costs about what a frame of the working size costs."""
    h, w = fit_size(height, width, InputPolicy(working_size=(360, 480), multiple=8))
    assert 0.9 <= h * w / (360 * 480) <= 1.1
    assert max(h / w, w / h) <= MAX_ELONGATION * 1.1


@given(side, side, policies)
def test_no_image_costs_less_than_the_least(height: int, width: int, policy: InputPolicy) -> None:
    """A request that is rejected before its image is known would be rejected with any image."""
    h, w = least_size(policy)
    assert h * w <= math.prod(fit_size(height, width, policy))
    assert h % policy.multiple == w % policy.multiple == 0


def test_the_least_is_nearly_what_every_image_costs() -> None:
    """Otherwise hardly a request could be rejected before its image arrives."""
    assert math.prod(least_size(InputPolicy(working_size=(360, 480), multiple=8))) >= 0.95 * 360 * 480
    assert least_size(InputPolicy(working_size=(360, 480), fit="stretch")) == (360, 480)
    assert least_size(InputPolicy(working_size=(360, 480), fit="native", multiple=32)) == (32, 32)


@pytest.mark.parametrize(
    ("fit", "size"), [("area", (312, 552)), ("stretch", (360, 480)), ("native", (720, 1280))], ids=["area", "stretch", "native"]
)
def test_each_way_to_fit_720p(fit: str, size: tuple[int, int]) -> None:
    """The three policies, on the frame that most cameras send."""
    policy = InputPolicy.model_validate({"working_size": (360, 480), "fit": fit, "multiple": 8})
    assert fit_size(720, 1280, policy) == size


def test_a_frame_of_the_working_size_is_not_touched() -> None:
    """Evaluation and serving fit an image alike."""
    image = make_image(360, 480)
    size = fit_size(360, 480, InputPolicy(working_size=(360, 480)))
    assert resize_image(image, size) is image


@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 70), st.integers(1, 70))
def test_resizing_gives_the_size_and_keeps_a_flat_colour(height: int, width: int, h: int, w: int) -> None:
    """No border, no drift, at any ratio in either direction."""
    image = np.full((height, width, 3), (10, 200, 77), np.uint8)
    resized = resize_image(image, (h, w))
    assert resized.shape == (h, w, 3)
    assert np.abs(resized.astype(int) - image[0, 0]).max() <= 1


@pytest.mark.parametrize("factor", [1.5, 2, 3, 4, 5.3])
def test_an_edge_stays_where_it_is(factor: float) -> None:
    """A step at 0.5 of the width is at 0.5 of it after resizing: nothing is shifted."""
    width = round(160 * factor)
    image = np.zeros((90, width - width % 2, 3), np.uint8)
    image[:, image.shape[1] // 2 :] = 255
    resized = resize_image(image, (40, 160)).astype(float) / 255
    assert resized[20, :, 0].sum() == pytest.approx(80, abs=0.02)
