"""The model card: the manifest, for people."""

from __future__ import annotations

import hashlib
from pathlib import Path

from models.exporting.card import card, write_card
from service.pipeline.manifest import Manifest, ObjectScores, Parity, SplitScores, Training
from tests.conftest import make_manifest


def make_scored() -> Manifest:
    """A manifest with everything in it."""
    val = SplitScores(
        pixel_accuracy=0.91234,
        mean_accuracy=0.8,
        mean_iou=0.71239,
        frequency_weighted_iou=0.85,
        iou={"red": 0.9, "green": None, "blue": 0.5},
        frames=3,
    )
    test = val.model_copy(update={"mean_iou": 0.5, "iou": {"red": 0.4}})
    parity = Parity(
        max_score_difference=3.1e-5,
        mean_score_difference=2e-6,
        argmax_agreement=1.0,
        shapes=((1, 96, 128), (2, 8, 8)),
        opset=20,
        versions={"torch": "9.9"},
    )
    training = Training(data="three colours", licence="CC0", epochs=12, notes="Trained with care.")
    return make_manifest(description="Tells colours.", scores={"val": val, "test": test}, parity=parity, training=training)


def test_the_card_says_what_the_manifest_says(artifact: Path) -> None:
    """What it is, what goes in and out, where it comes from, how well it does, which id means what."""
    text = card(make_scored(), artifact)
    for expected in (
        "# colours 1.0.0",
        "Tells colours.",
        "uint8 N x H x W x 3, RGB, `area` of 96 x 128, sides multiples of 8",
        "float32 N x 3 x H/8 x W/8 scores",
        "| receptive field, halo | 8, 8 pixels |",
        "three colours, 12 epochs",
        "CC0",
        "at most 3.1e-05",
        "1x96x128, 2x8x8; opset 20; torch 9.9",
        "Trained with care.",
        "| | val | test |",
        "| **mean IoU** | **0.712** | **0.500** |",
        "| IoU red | 0.900 | 0.400 |",
        "| IoU green | - | - |",
        "| IoU blue | 0.500 | - |",
        "| 2 | blue | 0 0 255 |",
    ):
        assert expected in text


def test_objects_are_scored_where_they_were_counted(artifact: Path) -> None:
    """PQ over all classes, and PQ and F1 of those whose objects are told apart."""
    manifest = make_scored()
    objects = {
        "red": ObjectScores(pq=0.8, sq=0.8, rq=1.0),
        "blue": ObjectScores(pq=0.45, sq=0.75, rq=0.6, ap=0.4, ap50=0.5),
    }
    counted = manifest.scores["val"].model_copy(update={"objects": objects})
    text = card(manifest.model_copy(update={"scores": {**manifest.scores, "val": counted}}), artifact)
    for expected in (
        "| **PQ, all classes** | **0.625** | - |",
        "| PQ blue | 0.450 | - |",
        "| F1 at IoU 0.5, blue | 0.600 |",
    ):
        assert expected in text
    assert "PQ red" not in text
    assert "PQ" not in card(manifest, artifact)


def test_the_card_names_the_file_by_its_contents(artifact: Path) -> None:
    """A file's hash tells whether the card is its."""
    assert hashlib.sha256(artifact.read_bytes()).hexdigest() in card(make_scored(), artifact)


def test_every_table_is_one_that_markdown_draws(artifact: Path, tmp_path: Path) -> None:
    """Each row of a table has as many cells as its header, whatever is missing."""
    for manifest in (make_scored(), make_manifest()):
        write_card(manifest, artifact, tmp_path / "card.md")
        for block in (tmp_path / "card.md").read_text("utf-8").split("\n\n"):
            widths = {line.count("|") for line in block.splitlines() if line.startswith("|")}
            assert len(widths) <= 1, block


def test_what_was_not_measured_is_not_on_the_card(artifact: Path) -> None:
    """No scores, no heading of scores; no parity report, no claim of parity."""
    text = card(make_manifest(), artifact)
    assert "Scores" not in text
    assert "PyTorch" not in text
    assert "epochs" not in text
