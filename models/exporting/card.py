"""The model card beside an artifact: its manifest, for people."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path

from service.pipeline import onnx_file
from service.pipeline.manifest import Calibration, Effective, InputPolicy, Manifest, Output, Parity, Reduced, SplitScores


def write_card(manifest: Manifest, artifact: Path, out: Path) -> None:
    """Write the card of an artifact as Markdown."""
    out.write_text(card(manifest, artifact), encoding="utf-8")


def card(manifest: Manifest, artifact: Path) -> str:
    """The card's text."""
    training = manifest.training
    file = onnx_file.read(artifact)
    names = ", ".join(f"`{path.name}`" for path in (file.path, *file.data_files))
    lines = [f"# {manifest.name} {manifest.version}", ""]
    lines += [manifest.description, ""] if manifest.description else []
    lines += [
        "| | |",
        "|---|---|",
        f"| architecture | {manifest.architecture} |",
        f"| task | {manifest.task} |",
        f"| file | {names}, {file.size_bytes / 1e6:.1f} MB, sha256 `{file.sha256()}` |",
        f"| input | {_input(manifest.input)} |",
        *(f"| output | {_output(manifest, output)} |" for output in manifest.outputs),
        f"| receptive field, halo | {manifest.receptive_field}, {manifest.halo} pixels |",
        *([f"| effective halo | {_effective(manifest.effective)} |"] if manifest.effective else []),
        f"| precision | {manifest.precision} |",
        f"| trained on | {training.data}{f', {training.epochs} epochs' if training.epochs else ''} |",
        f"| licence of the data | {training.licence} |",
    ]
    if manifest.calibration:
        found = manifest.calibration
        lines.append(
            f"| calibration | temperature {found.temperature:.3f}, fitted on {found.fitted_on}; expected calibration error "
            f"{found.ece_before:.3f} before, {found.ece_after:.3f} after, on its frames that did not fit it |"
        )
    if manifest.parity:
        lines.append(f"| ONNX Runtime against PyTorch | {_parity(manifest.parity)} |")
    if training.notes:
        lines += ["", training.notes]
    if manifest.scores:
        lines += ["", "## Scores", "", *_score_table(manifest.scores)]
    if manifest.reduced:
        lines += ["", f"## Cost of {manifest.precision}", "", *_losses(manifest.reduced)]
    if manifest.calibration and manifest.calibration.reliability_after:
        lines += ["", "## Reliability", "", *_reliability(manifest.calibration)]
    lines += ["", "## Classes", "", "| id | name | colour (RGB) | countable |", "|---|---|---|---|"]
    lines += [
        f"| {entry.id} | {entry.name} | {' '.join(map(str, entry.color))} | {'yes' if entry.countable else 'no'} |"
        for entry in manifest.classes
    ]
    return "\n".join(lines) + "\n"


def _input(policy: InputPolicy) -> str:
    axes = "H x W" if policy.dimensions == 2 else "D x H x W"
    order = ", RGB" if policy.color_order else ""
    size = " x ".join(map(str, policy.sides))
    text = (
        f"{policy.dtype} N x {axes} x {policy.channels}{order}, `{policy.fit}` of {size}, sides multiples of {policy.multiple}"
    )
    if policy.intensity:
        scaled = policy.intensity
        text += f"; percentiles {scaled.lower:g} and {scaled.upper:g} of the {scaled.scope} become 0 and 1"
    if policy.orientation:
        text += f"; axes {policy.orientation}"
    if policy.spacing_mm:
        text += f"; voxels of {' x '.join(f'{side:g}' for side in policy.spacing_mm)} mm"
    step = f", every {policy.slice_step} of a plane" if policy.slice_step > 1 else ""
    return text + (f"; slices: {', '.join(policy.planes)}{step}" if policy.planes else "")


def _output(manifest: Manifest, output: Output) -> str:
    axes = ("H", "W") if manifest.input.dimensions == 2 else ("D", "H", "W")
    cells = " x ".join(f"{axis}/{output.stride}" for axis in axes)
    return f"`{output.name}`: float32 N x {manifest.planes(output)} x {cells} {output.kind}"


def _effective(found: Effective) -> str:
    return (
        f"{found.halo} pixels: {found.disagreement:.3%} of the labels differ from exact ones, on {found.frames} frames of "
        f"{found.measured_on} in tiles that keep {found.kept} pixels"
    )


def _parity(parity: Parity) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in parity.versions.items())
    shapes = ", ".join("x".join(map(str, shape)) for shape in parity.shapes)
    ties = (
        f"{parity.moved_switches} of {parity.switches} recorded maxima are others, by a tie each; " if parity.switches else ""
    )
    return (
        f"{ties}scores differ by at most {parity.max_score_difference:.1e}, winners agree on {parity.argmax_agreement:.4%} of "
        f"the cells, over N x H x W = {shapes}; opset {parity.opset}; {versions}"
    )


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
    for name in dict.fromkeys(name for s in splits for name in scores[s].dice):
        values = [scores[s].dice.get(name) for s in splits]
        rows.append((f"Dice {name}", ["-" if value is None else f"{value:.3f}" for value in values]))
    return _table(splits, [*rows, *_object_rows(scores)])


def _object_rows(scores: dict[str, SplitScores]) -> list[tuple[str, list[str]]]:
    """Panoptic quality: its mean over all classes; and of each class of things, with RQ, which is their F1."""
    known = [split.objects for split in scores.values()]
    if not any(known):
        return []
    means = ["-" if not found else f"**{sum(one.pq for one in found.values()) / len(found):.3f}**" for found in known]
    rows = [("**PQ, all classes**", means)]
    things = [name for found in known for name, one in found.items() if one.ap is not None]
    for name in dict.fromkeys(things):
        values = [found.get(name) for found in known]
        rows.append((f"PQ {name}", ["-" if one is None else f"{one.pq:.3f}" for one in values]))
        rows.append((f"F1 at IoU 0.5, {name}", ["-" if one is None else f"{one.rq:.3f}" for one in values]))
    return rows


def _losses(reduced: Reduced) -> list[str]:
    """The loss against float32, split by split and class by class."""
    lines = [f"Against `{reduced.float32}`, the same weights in float32."]
    if reduced.frames:
        lines.append(f"Calibrated on {reduced.frames} frames of {reduced.calibrated_on}.")
    if not reduced.losses:
        return [*lines, "The loss was not measured."]
    splits = list(reduced.losses)
    found = [reduced.losses[split] for split in splits]
    rows = [
        ("**points of mean IoU lost**", [f"**{loss.points:+.2f}**" for loss in found]),
        ("pixels changed", [f"{loss.changed:.2%}" for loss in found]),
        ("frames", [str(loss.frames) for loss in found]),
    ]
    rows += [
        (f"points lost, {name}", [f"{loss.iou[name]:+.2f}" if name in loss.iou else "-" for loss in found])
        for name in dict.fromkeys(name for loss in found for name in loss.iou)
    ]
    return [*lines, "", *_table(splits, rows)]


def _reliability(found: Calibration) -> list[str]:
    """The reliability diagrams: of pixels with about one probability, the share that is right."""
    lines = [
        "Pixels by the probability of their class, at temperature 1 and as served, on frames that did not fit the temperature.",
        "",
        "| share of pixels | probability | right | share of pixels, as served | probability | right |",
        "|---|---|---|---|---|---|",
    ]
    for pair in zip_longest(found.reliability_before, found.reliability_after):
        cells = ["  |  | " if one is None else f"{one.share:.2%} | {one.probability:.3f} | {one.right:.3f}" for one in pair]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _table(columns: list[str], rows: list[tuple[str, list[str]]]) -> list[str]:
    header = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    return header + [f"| {label} | {' | '.join(values)} |" for label, values in rows]
