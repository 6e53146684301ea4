"""The model card beside an artifact: its manifest, for people.

May import: ``service.pipeline.manifest`` and ``onnx_file``.
"""

from __future__ import annotations

from pathlib import Path

from service.pipeline import onnx_file
from service.pipeline.manifest import Manifest, SplitScores


def write_card(manifest: Manifest, artifact: Path, out: Path) -> None:
    """Write the card of an artifact as Markdown."""
    out.write_text(card(manifest, artifact), encoding="utf-8")


def card(manifest: Manifest, artifact: Path) -> str:
    """The card's text."""
    policy, training = manifest.input, manifest.training
    height, width = policy.working_size
    file = onnx_file.read(artifact)
    names = ", ".join(f"`{path.name}`" for path in (file.path, *file.data_files))
    lines = [f"# {manifest.name} {manifest.version}", ""]
    lines += [manifest.description, ""] if manifest.description else []
    lines += [
        "| | |",
        "|---|---|",
        f"| architecture | {manifest.architecture} |",
        f"| file | {names}, {file.size_bytes / 1e6:.1f} MB, sha256 `{file.sha256()}` |",
        f"| input | uint8 N x H x W x 3, RGB, `{policy.fit}` of {height} x {width}, sides multiples of {policy.multiple} |",
        f"| output | float32 N x {len(manifest.classes)} x H/{manifest.stride} x W/{manifest.stride} scores |",
        f"| receptive field, halo | {manifest.receptive_field}, {manifest.halo} pixels |",
        f"| precision | {manifest.precision} |",
        f"| trained on | {training.data}{f', {training.epochs} epochs' if training.epochs else ''} |",
        f"| licence of the data | {training.licence} |",
    ]
    if manifest.parity:
        parity = manifest.parity
        versions = ", ".join(f"{name} {version}" for name, version in parity.versions.items())
        shapes = ", ".join("x".join(map(str, shape)) for shape in parity.shapes)
        ties = (
            f"{parity.moved_switches} of {parity.switches} recorded maxima are others, by a tie each; "
            if parity.switches
            else ""
        )
        lines.append(
            f"| ONNX Runtime against PyTorch | {ties}scores differ by at most {parity.max_score_difference:.1e}, "
            f"winners agree on {parity.argmax_agreement:.4%} of the cells, over N x H x W = {shapes}; opset {parity.opset}; "
            f"{versions} |"
        )
    if training.notes:
        lines += ["", training.notes]
    if manifest.scores:
        lines += ["", "## Scores", "", *_score_table(manifest.scores)]
    lines += ["", "## Classes", "", "| id | name | colour (RGB) |", "|---|---|---|"]
    lines += [f"| {entry.id} | {entry.name} | {' '.join(map(str, entry.color))} |" for entry in manifest.classes]
    return "\n".join(lines) + "\n"


def _score_table(scores: dict[str, SplitScores]) -> list[str]:
    splits = list(scores)
    rows = [
        ("**mean IoU**", [f"**{scores[s].mean_iou:.3f}**" for s in splits]),
        ("pixel accuracy", [f"{scores[s].pixel_accuracy:.3f}" for s in splits]),
        ("mean class accuracy", [f"{scores[s].mean_accuracy:.3f}" for s in splits]),
        ("frequency-weighted IoU", [f"{scores[s].frequency_weighted_iou:.3f}" for s in splits]),
    ]
    names = list(dict.fromkeys(name for s in splits for name in scores[s].iou))
    for name in names:
        values = [scores[s].iou.get(name) for s in splits]
        rows.append((f"IoU {name}", ["-" if value is None else f"{value:.3f}" for value in values]))
    header = [f"| | {' | '.join(splits)} |", "|---" * (len(splits) + 1) + "|"]
    return header + [f"| {label} | {' | '.join(values)} |" for label, values in rows]
