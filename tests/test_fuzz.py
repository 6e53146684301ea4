"""What ``make fuzz`` is made of holds for its own seeds, for hypothesis' changes of them, and for a little traffic."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz import traffic
from fuzz.targets import TARGETS
from fuzz.traffic import WORDS, mutated

LENGTHS = [2**62] * 4 + [6]
RLE_THAT_WRAPS = f'{{"size": [2, 3], "order": "row-major", "labels": [0, 1, 0, 1, 2], "lengths": {LENGTHS}}}'.encode()
"""Its lengths add up to six: modulo 2 ** 64."""


@pytest.mark.parametrize("name", TARGETS)
def test_every_parser_survives_good_bytes_and_changed_ones(name: str) -> None:
    """A parser raises its own errors only; ``make fuzz`` searches longer."""
    seeds = TARGETS[name].seeds()
    for seed in seeds:
        TARGETS[name].run(seed)

    @settings(max_examples=100)
    @given(st.sampled_from(seeds), st.randoms(use_true_random=False))
    def survives(seed: bytes, chance: random.Random) -> None:
        TARGETS[name].run(mutated(seed, chance, WORDS))

    survives()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("probe", b"II+\0\x08\0\0\0" + b"\xff" * 8),
        ("npy", b"\x93NUMPY\1\0\x0c\0{'shape': (2\n"),
        ("coco", b'{"size": [2, 3], "classes": [{"id": 0}]}'),
        ("coco", b'{"size": [2, 3], "classes": [{"id": 0, "segmentation": {"counts": "\xc3\xa9"}}]}'),
        ("coco", b'{"size": [2, 3], "classes": [{"id": 999, "segmentation": {"counts": "6"}}]}'),
        ("rle", RLE_THAT_WRAPS),
    ],
    ids=["probe", "npy", "coco without a mask", "coco of no text", "coco of no class", "rle whose sum wraps around"],
)
def test_what_once_broke_a_parser_does_not_again(name: str, data: bytes) -> None:
    """Found by ``make fuzz``."""
    TARGETS[name].run(data)


def test_mutated_images_and_requests_get_answers_that_the_document_describes(tmp_path: Path) -> None:
    """A thousand of the hundred thousand of ``make fuzz``: no 5xx, no exception in the log, no hang, and ready after it."""
    assert traffic.run(1000, seed=1, out=tmp_path) == []
