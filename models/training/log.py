"""``log.csv`` and ``curves.png`` of a training run."""

from __future__ import annotations

import csv
from pathlib import Path


def write_log(folder: Path, history: list[dict[str, float]]) -> None:
    """Write ``log.csv`` and ``curves.png`` of the epochs so far."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = list(dict.fromkeys(key for row in history for key in row))
    with (folder / "log.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(history)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    left.plot([row["epoch"] for row in history], [row["loss"] for row in history])
    left.set(title="training loss", xlabel="epoch")
    scored = [row for row in history if "mean_iou" in row]
    for key in [key for key in columns if key.startswith(("mean_iou", "pixel_accuracy"))]:
        right.plot([row["epoch"] for row in scored], [row.get(key, float("nan")) for row in scored], label=key)
    right.set(title="validation", xlabel="epoch")
    right.grid(alpha=0.3)
    if right.lines:  # none before the first validation
        right.legend()
    figure.savefig(folder / "curves.png", dpi=100)
    plt.close(figure)
