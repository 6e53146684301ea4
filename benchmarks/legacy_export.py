"""The shipped weights as a straightforward service gets them: ``python benchmarks/legacy_export.py CHECKPOINT OUT.onnx``.

PyTorch's legacy exporter, N x 3 x H x W float32 in, normalised outside.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from models.nets.network import Network
from models.training import checkpoint


class Scores(torch.nn.Module):
    """A network without its heads of objects, which a mask does not need."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N x 3 x H x W to the scores alone."""
        return self.network.scores(x)


def main(source: str, target: str) -> None:
    """Load, take the normalisation out, export the scores."""
    network = checkpoint.network(checkpoint.load(Path(source)))
    network.mean = torch.zeros(1, 3, 1, 1)
    network.std = torch.ones(1, 3, 1, 1)
    free = {0: "batch", 2: "height", 3: "width"}
    torch.onnx.export(
        Scores(network),
        (torch.zeros(1, 3, 448, 608),),
        target,
        dynamo=False,
        input_names=["input"],
        output_names=["scores"],
        dynamic_axes={"input": free, "scores": free},
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
