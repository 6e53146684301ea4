"""The examples do what they say, against a real server."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from service.client import Client
from service.settings import Settings
from tests.conftest import encode_image, make_image
from tests.live import ROOT, live_server

EXAMPLES = ROOT / "docs" / "examples"

CPP_LIBRARIES = [Path("/usr/include/httplib.h"), Path("/usr/include/opencv4/opencv2/imgcodecs.hpp")]


@pytest.fixture(scope="module")
def url(artifact_dir: Path) -> Iterator[str]:
    """A server with the colour network."""
    with live_server(Settings(models_dir=artifact_dir)) as address:
        yield address


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A file."""
    path = tmp_path / "street.png"
    path.write_bytes(encode_image(make_image()))
    return path


def run(*command: str | Path) -> str:
    """What a command prints, in the folder of its last argument but for a URL."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_listed_and_tested() -> None:
    """None is forgotten on the page, nor here."""
    page, tests = ((path).read_text("utf-8") for path in (EXAMPLES / "README.md", Path(__file__)))
    for path in EXAMPLES.iterdir():
        if path.suffix in {".py", ".sh", ".cpp"}:
            assert f"]({path.name})" in page
            assert f'"{path.name}"' in tests


def test_curl(url: str, image: Path) -> None:
    """Three files."""
    done = subprocess.run(
        ["bash", EXAMPLES / "curl.sh", image, url], cwd=image.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (image.parent / "mask.png").read_bytes().startswith(b"\x89PNG")
    assert (image.parent / "overlay.png").stat().st_size > 100
    assert json.loads((image.parent / "mask.json").read_text("utf-8"))["size"] == [96, 128]


def test_cpp(url: str, image: Path, tmp_path: Path) -> None:
    """The program, compiled by its own first lines, counts the pixels of each class that the client sees."""
    source = EXAMPLES / "segment.cpp"
    if not all(map(shutil.which, ("g++", "pkg-config"))) or not all(map(Path.exists, CPP_LIBRARIES)):
        pytest.skip("apt-get install g++ pkg-config libcpp-httplib-dev libopencv-imgcodecs-dev")
    (line,) = re.findall(r"^//   (g\+\+ .+)$", source.read_text("utf-8"), re.MULTILINE)
    subprocess.run(line.replace("segment.cpp", str(source)), shell=True, cwd=tmp_path, check=True, timeout=300)
    with Client(url) as client:
        labels = client.segment(image).labels
    counts = " ".join(f"{value}:{count}" for value, count in zip(*np.unique(labels, return_counts=True), strict=True))
    assert run(tmp_path / "segment", url, image, image).splitlines() == [
        f"{image} 128 x 96 frame {number} {counts}" for number in range(2)
    ]


def test_the_client(url: str, image: Path) -> None:
    """Shares of what is in the image."""
    assert "(96, 128) {'red': 0.3" in run(sys.executable, EXAMPLES / "client.py", url, image)


def test_tritonclient(url: str, image: Path) -> None:
    """Ids of what is in the image."""
    printed = run(sys.executable, EXAMPLES / "triton.py", url.removeprefix("http://"), "colours", image)
    assert printed.endswith("(1, 96, 128) [0, 1, 2]\n")
