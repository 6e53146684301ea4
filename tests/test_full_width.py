"""The published networks at their full width, by the commands: exported, explained, served. Minutes each, so all are slow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from models import export
from models.nets.architectures import build
from models.scenes import street_scene
from service.client import Client, Timeouts
from service.settings import Settings
from tests.conftest import encode_image
from tests.live import live_server
from tests.networks import make_lively

ROOT = Path(__file__).resolve().parents[1]
PATIENT = Timeouts(read_s=110, total_s=120)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fcn8s-vgg16", "fcn-resnet50", "fcn-resnet101", "deconvnet-vgg16"])
def test_a_published_network_is_exported_explained_and_served(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A state dict in the published form becomes an artifact with proof, and a mask of the image's size comes back."""
    torch.manual_seed(0)
    torch.save(make_lively(build(name, 21, auxiliary=True)).state_dict(), tmp_path / "published.pth")
    out = tmp_path / "models" / f"{name}.onnx"
    words = ["--weights", str(tmp_path / "published.pth"), "--classes", "voc", "--name", name, "--out", str(out)]
    assert export.main([name, *words]) == 0
    assert "winners agree on 100.0000% of the cells" in capsys.readouterr().out
    (tmp_path / "published.pth").unlink()
    command = [sys.executable, "-m", "service", "check", str(out)]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=900).stdout
    assert "21: background, aeroplane" in told
    image = np.ascontiguousarray(street_scene(97, 131, seed=5)[0])
    with live_server(Settings(models_dir=out.parent, deadline_ms=110_000)) as url, Client(url, timeouts=PATIENT) as client:
        served = client.segment(encode_image(image))
    assert served.labels.shape == (97, 131)
    assert int(served.labels.max()) < 21
