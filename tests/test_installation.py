"""The wheel in environments that hold only what its metadata asks for; ``make wheel`` does the same from a package index."""

from __future__ import annotations

import email
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from service.settings import Settings
from tests.live import ROOT, live_server

SITE = Path("lib", f"python{sys.version_info.major}.{sys.version_info.minor}", "site-packages")


def required(wheel: Path, extra: str = "") -> set[str]:
    """The names of the distributions that a wheel asks for with an extra, and all that those ask for."""
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = email.message_from_bytes(archive.read(metadata)).get_all("Requires-Dist", [])
    pending = [(line, extra) for line in lines]
    seen: set[tuple[str, str]] = set()
    while pending:
        line, asked = pending.pop()
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": asked}):
            continue
        for inner in {"", *wanted.extras} - {known for name, known in seen if name == wanted.name}:
            seen.add((wanted.name, inner))
            pending += [(line, inner) for line in distribution(wanted.name).requires or []]
    return {name for name, _ in seen}


def link(name: str, site: Path) -> None:
    """Make the files of an installed distribution visible in another environment."""
    here = Path(sysconfig.get_path("purelib"))
    for root in {file.parts[0] for file in distribution(name).files or [] if file.parts[0] != ".."}:
        if not (site / root).exists() and (here / root).exists():
            (site / root).symlink_to(here / root)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this clone."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, capture_output=True, check=True, timeout=300)
    (made,) = folder.glob("*.whl")
    return made


def environment(folder: Path, wheel: Path, extra: str = "") -> Path:
    """The ``bin`` folder of an environment with the wheel and what it asks for."""
    venv.create(folder, with_pip=False, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--no-index", "--no-deps", str(wheel)], check=True, timeout=300)
    for name in sorted(required(wheel, extra)):
        link(name, folder / SITE)
    return folder / "bin"


@pytest.fixture(scope="module")
def base(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``pip install WHEEL``."""
    return environment(tmp_path_factory.mktemp("base"), wheel)


@pytest.fixture(scope="module")
def serve(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``pip install WHEEL[serve]``."""
    return environment(tmp_path_factory.mktemp("serve"), wheel, "serve")


def run(folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder without a setting of this environment."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "FCN_"))}
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=folder, env=clean, capture_output=True, text=True, check=False, timeout=300)


def test_the_base_installation_has_httpx_and_numpy_alone(base: Path, tmp_path: Path) -> None:
    """A client's environment gets no second OpenCV and no ONNX Runtime."""
    missing = "import importlib.util as u; print([n for n in ('cv2', 'onnxruntime', 'typer', 'fastapi') if u.find_spec(n)])"
    assert run(tmp_path, base / "python", "-c", missing).stdout == "[]\n"
    for module in ("service.client", "service.encodings"):
        done = run(tmp_path, base / "python", "-W", "error", "-c", f"import {module}; print({module}.__file__)")
        assert str(base.parent) in done.stdout, done.stderr


def test_the_base_installation_prints_help_and_its_version(base: Path, tmp_path: Path) -> None:
    """Without typer the command still says what it is and how to install the commands."""
    for words in ([], ["--help"]):
        told = run(tmp_path, base / "fcn-serve", *words)
        assert (told.returncode, told.stderr) == (0, "")
        assert "pip install '.[serve]'" in told.stdout
    told = run(tmp_path, base / "fcn-serve", "--version")
    assert (told.returncode, told.stdout.startswith("fcn-serve ")) == (0, True)


@pytest.mark.parametrize("words", [["serve"], ["segment", "street.jpg"], ["models"], ["check"], ["serve", "--help"], ["--bad"]])
def test_a_command_without_its_extra_names_the_extra(base: Path, tmp_path: Path, words: list[str]) -> None:
    """One line on the standard error, and exit code 2."""
    told = run(tmp_path, base / "fcn-serve", *words)
    assert (told.returncode, told.stdout, told.stderr.count("\n")) == (2, "", 1)
    assert "the extra 'serve': pip install '.[serve]'" in told.stderr


def test_the_client_of_the_base_installation_gets_masks(base: Path, tmp_path: Path) -> None:
    """Against a real server, with the labels at the image's size."""
    call = (
        "import sys\n"
        "from service.client import Client\n"
        "with Client(sys.argv[1]) as client:\n"
        "    mask = client.segment(sys.argv[2])\n"
        "print(mask.labels.shape, mask.labels.dtype)\n"
    )
    street = ROOT / "service" / "api" / "page" / "street-1.jpg"
    with live_server(Settings()) as url:
        done = run(tmp_path, base / "python", "-c", call, url, street)
    assert (done.stdout, done.stderr) == ("(405, 720) uint8\n", "")


def test_the_extra_serve_segments_an_image(serve: Path, tmp_path: Path) -> None:
    """With the models that the wheel carries."""
    shutil.copy(ROOT / "service" / "api" / "page" / "street-1.jpg", tmp_path / "street.jpg")
    done = run(tmp_path, serve / "fcn-serve", "segment", "street.jpg", "--out", "masks")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == [
        ".fcn-serve.jsonl",
        "street.mask.png",
        "street.overlay.png",
    ]
    (tmp_path / "drive.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    told = run(tmp_path, serve / "fcn-serve", "segment", "drive.mp4")
    assert (told.returncode, told.stderr.count("\n")) == (2, 1)
    assert "pip install '.[video]'" in told.stderr
