"""Every command and snippet of the README and the docs runs, or a rule says why it cannot run here; every link leads somewhere.

Nothing of a page is written here: blocks are collected, commands are run one by one against a real server with the shipped
models, and those that need what a test has not are told by what they name.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from service import cli
from service.settings import Settings
from tests.live import ROOT, live_server
from tests.phantoms import nifti_bytes, phantom_map
from tests.test_bags import make_bag
from tests.test_video import make_video

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])

ELSEWHERE = {"docs/formats.md": "test_documentation.py", "docs/triton-clients.md": "test_triton_clients.py"}
"""Pages whose snippets build on one another: their own tests run them in order."""

NOT_HERE = {
    r"\b(docker|compose-lint|hadolint|check-jsonschema)\b": "needs Docker, or judges what it runs",
    r"\b(kubectl|helm|kustomize)\b": "needs a cluster",
    r"cuda|nvidia": "needs a GPU",
    r"\bpip install\b|-m pip\b|-m venv\b|^git clone": "installs from the network",
    r"https://segment\.example": "needs a public name: tests/test_proxy.py has one of its own",
    r"^(apt-get|g\+\+|\./segment) ": "needs a compiler and libraries: tests/test_examples.py compiles the example",
    r"^make\b": "a target of the Makefile: tests/test_packaging.py and CI run those",
    r"\bmodels\.(train|train_heads|train_biases|average|calibrate|reach|export|evaluate|adopt|scenes|heads)\b": (
        "needs data, weights or minutes: tests of models/ run it"
    ),
    r"\b(theirs\.onnx|FCN_MODELS_DIR=artifacts)\b": "needs a file that only the reader has",
    r"--unix-socket": "needs a service at that socket: tests/test_listening.py has one",
    r"\blive --from\b": "needs a camera, or plays a file at its own pace: tests/test_live_cameras.py has both",
    r"--cluster\b|\bcluster serve\b": "starts Ray, or joins it: tests/test_cluster.py does",
    r"\bfcn-serve captures\b": "needs captures: tests/test_captures.py has some",
    r"(?<![\w-])serve\b": "serves until Ctrl-C: tests/live.py starts it so",
    r"^(ros2|source /opt/ros)\b": "needs a ROS installation",
    r"\blive --from": "runs until Ctrl-C: tests/test_ros2.py runs it so",
    r"\bbenchmarks/|\bfuzz\b|\bpytest\b|\bmutmut\b|\bsoak\b": "measures or tests for minutes",
}
"""Which commands are not run, by what they name, and why."""


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    page: str
    line: int
    language: str
    text: str

    def commands(self) -> list[str]:
        """The commands of a shell block, continued lines joined, comments left out; one with a here-document is whole."""
        if "<<" in self.text:
            return [self.text]
        joined = re.sub(r"\\\n\s*", "", self.text)
        lines = (re.sub(r"(^|\s+)#.*$", "", line).strip() for line in joined.splitlines())
        return [line.removeprefix("$ ") for line in lines if line]


def blocks() -> list[Block]:
    """All of them."""
    found = []
    for path in PAGES:
        text = path.read_text("utf-8")
        for match in re.finditer(r"^( *)```([^\n]*)\n(.*?)^\1```", text, re.MULTILINE | re.DOTALL):
            page = path.relative_to(ROOT).as_posix()
            found.append(Block(page, text[: match.start()].count("\n") + 1, match[2].strip(), textwrap.dedent(match[3])))
    return found


def reason(command: str) -> str | None:
    """Why a command is not run here."""
    return next((why for pattern, why in NOT_HERE.items() if re.search(pattern, command, re.IGNORECASE)), None)


def of(language: str) -> list[Block]:
    """Those of a language that are run here."""
    return [block for block in blocks() if block.language == language and block.page not in ELSEWHERE]


def name_of(block: Block) -> str:
    """Where it stands."""
    return f"{block.page}:{block.line}"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server with the shipped models."""
    with live_server(Settings()) as address:
        yield address


@pytest.fixture(scope="module")
def default_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped model alone: each command opens all that there are."""
    models = tmp_path_factory.mktemp("models")
    (models / "default.onnx").symlink_to(ROOT / "models" / "artifacts" / "fcn4s-lite0-streets.onnx")
    return models


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The files that the pages speak of; recordings only where the block does."""
    street = (ROOT / "service" / "api" / "page" / "street-1.jpg").read_bytes()
    for name in ("street.jpg", "out/street.jpg", "photos/street.jpg", "image.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(street)
    text = request.getfixturevalue("block").text
    if "drive.mp4" in text:
        make_video(tmp_path / "drive.mp4", 2)
    if "drive.mcap" in text:
        (made,) = make_bag(tmp_path / "bag", frames=1, topic="/camera/image_raw").glob("*.mcap")
        made.rename(tmp_path / "drive.mcap")
    if "scan.nii.gz" in text:
        (tmp_path / "scan.nii.gz").write_bytes(nifti_bytes(phantom_map(20).astype(np.float32)))
    if "my_rosbag2_folder" in text:
        make_bag(tmp_path / "my_rosbag2_folder", frames=1)
    return tmp_path


@pytest.mark.parametrize("block", of("bash"), ids=name_of)
def test_every_command_runs(block: Block, url: str, folder: Path, default_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each that can, in order, in one folder; what is a plain call of our own command, in this process, which is quicker."""
    monkeypatch.chdir(folder)
    python = f"{sys.executable} -m service"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = [command for command in block.commands() if reason(command) is None]
    if not run:
        pytest.skip("; ".join(sorted({reason(command) or "" for command in block.commands()})))
    for command in run:
        words = shlex.split(command)
        if words[0].removeprefix(".venv/bin/") == "fcn-serve" and not {"|", ">", "&&"} & set(words):
            monkeypatch.setenv("FCN_MODELS_DIR", str(default_model))
            monkeypatch.setattr(sys, "argv", ["fcn-serve", *words[1:]])
            with pytest.raises(SystemExit) as end:
                cli.main()
            assert end.value.code == 0, command
            continue
        line = command.replace("http://127.0.0.1:8000", url).replace("http://localhost:8000", url)
        line = re.sub(r"(?<![\w/.-])(\.venv/bin/)?fcn-serve(?= )", python, line)
        line = re.sub(r"(?<![\w/.-])(\.venv/bin/)?python3?(?= )", sys.executable, line)
        line = re.sub(r"\bdocs/", f"{ROOT}/docs/", line)
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", line],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        assert '"type":"urn:' not in done.stdout, command
        for made in re.findall(r"-o (\S+)", command):
            assert not (folder / made).read_bytes().startswith(b'{"type"'), command


@pytest.mark.parametrize("block", of("python"), ids=name_of)
def test_every_snippet_runs(
    block: Block, url: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A snippet runs in a folder with a street, and prints what its comments say; ``camera()`` gives the street three times."""
    monkeypatch.chdir(folder)
    names = {"camera": lambda: iter(["street.jpg"] * 3)}
    text = block.text.replace("http://127.0.0.1:8000", url).replace("localhost:8000", url.removeprefix("http://"))
    exec(compile(text, name_of(block), "exec"), names)
    promised = re.findall(r"# prints: (.+)$", block.text, re.MULTILINE)
    assert not promised or capsys.readouterr().out.splitlines() == promised


def test_every_language_of_a_block_is_known() -> None:
    """``sh`` or ``shell`` would not be collected, nor would a block without a language."""
    known = {"bash", "dockerfile", "python", "py", "json", "yaml", "text", "cpp"}
    assert {name_of(block): block.language for block in blocks() if block.language not in known} == {}


def test_what_is_run_elsewhere_is_run_there() -> None:
    """The test reads the page."""
    for page, test in ELSEWHERE.items():
        assert Path(page).name in (ROOT / "tests" / test).read_text("utf-8")


def test_the_rules_leave_commands_to_run() -> None:
    """A rule that is too wide would keep every command from being run."""
    commands = [command for block in blocks() if block.language == "bash" for command in block.commands()]
    assert len([command for command in commands if reason(command) is None]) >= 8


@pytest.mark.parametrize("block", [block for block in blocks() if block.language == "bash"], ids=name_of)
def test_what_is_not_run_is_spelt_right(block: Block) -> None:
    """Targets of make, modules and their options exist, even where a command takes hours."""
    targets = re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    for command in block.commands():
        if match := re.match(r"make ([a-z-]+)", command):
            assert match[1] in targets, command
        if match := re.search(r"-m models\.(\w+)(.*)", command, re.DOTALL):
            base = ROOT / "models" / match[1]
            source = (base / "__main__.py" if base.is_dir() else base.with_suffix(".py")).read_text("utf-8")
            assert [flag for flag in re.findall(r"--[a-z][a-z0-9-]*", match[2]) if f'"{flag}"' not in source] == [], command


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as forges make them."""
    text = re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return {
        re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)).strip().lower().replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }


@pytest.mark.parametrize(
    "path", sorted({*PAGES, *ROOT.glob("*.md"), *ROOT.glob("[bdfm]*/**/*.md")}), ids=lambda path: path.name
)
def test_every_link_leads_somewhere(path: Path) -> None:
    """To a file that is there, and to a heading that it has."""
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        there = (path.parent / name).resolve() if name else path
        if not there.exists() or (anchor and there.suffix == ".md" and anchor not in anchors(there)):
            broken.append(target)
    assert broken == []


def test_every_page_is_in_the_index() -> None:
    """docs/README.md and the site's navigation lead to each."""
    index = (ROOT / "docs" / "README.md").read_text("utf-8")
    listed = {target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", index)}
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages - listed == set()
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8")
    assert [page for page in sorted(pages) if f": {page}\n" not in navigation] == []


@dataclass(frozen=True)
class Selection:
    """A call of pytest that a page names."""

    page: str
    files: list[str]
    keywords: list[str]


def selections() -> list[Selection]:
    """The calls of pytest in all pages."""
    found = []
    for path in [*PAGES, *(ROOT / "benchmarks").rglob("*.md"), ROOT / "CONTRIBUTING.md"]:
        for call in re.findall(r"`(?:python -m )?pytest ([^`]+)`", path.read_text("utf-8")):
            words = shlex.split(call)
            files = [word for word in words if word.endswith(".py")]
            keyword = words[words.index("-k") + 1] if "-k" in words else ""
            found.append(Selection(path.name, files, [word for word in keyword.split(" or ") if word]))
    return found


@pytest.mark.parametrize(
    "selection", selections(), ids=lambda one: f"{one.page} {' '.join(one.files)} {' '.join(one.keywords)}"
)
def test_a_page_names_tests_that_exist(selection: Selection) -> None:
    """Each file of a ``pytest`` call exists, and each word of its ``-k`` selects a test in one of them."""
    texts = [(ROOT / name).read_text("utf-8") for name in selection.files]
    names = [name for text in texts for name in re.findall(r"def (test_\w+)", text)]
    assert names
    assert [word for word in selection.keywords if not any(word in name for name in names)] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_names_test_files_and_functions_that_exist(path: Path) -> None:
    """Each ``tests/test_X.py`` and each ``test_Y`` of a page is there."""
    text = path.read_text("utf-8")
    known = "".join(file.read_text("utf-8") for file in (ROOT / "tests").glob("*.py"))
    assert [name for name in re.findall(r"tests/\w+\.py", text) if not (ROOT / name).is_file()] == []
    assert [name for name in re.findall(r"`(test_\w+)`", text) if f"def {name}(" not in known] == []
