"""The import rules of the house, executed: by reading every import statement, and by importing for real with the forbidden
packages blocked.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

WEB = {"fastapi", "starlette", "uvicorn", "httpx", "typer", "rich"}
"""Third-party packages of the rim."""

TRAINING = {"torch", "torchvision", "onnx", "onnxscript", "matplotlib", "safetensors"}
"""Third-party packages of the export side; none of them is in the serving lock."""

PIPELINE = {file.stem for file in (ROOT / "service" / "pipeline").glob("*.py")} - {"__init__"}
"""The pipeline's files by name."""

MAY_IMPORT: dict[str, set[str]] = {
    "service": set(),
    "service.__main__": {"service.cli"},
    "service.errors": set(),
    "service.log": set(),
    "service.settings": {"service.errors"},
    "service.opening": {"service.errors", "service.settings", "service.pipeline.engine", "service.pipeline.repository"},
    "service.server": {
        "service",
        "service.api.*",
        "service.errors",
        "service.log",
        "service.pipeline.repository",
        "service.settings",
    },
    "service.client": {"service.client.budget", "service.client.clients", "service.client.results"},
    "service.client.budget": {"service.errors"},
    "service.client.calls": {"service", "service.client.budget"},
    "service.client.clients": {
        "service.client.budget",
        "service.client.calls",
        "service.client.images",
        "service.client.replies",
        "service.client.results",
        "service.client.stream",
        "service.errors",
    },
    "service.client.images": {"service.encodings.*"},
    "service.client.replies": {
        "service.client.budget",
        "service.client.results",
        "service.encodings.*",
        "service.errors",
    },
    "service.client.results": {"service.errors"},
    "service.client.stream": {
        "service.client.budget",
        "service.client.calls",
        "service.client.images",
        "service.client.replies",
        "service.client.results",
        "service.errors",
    },
    "service.cli": {"service", "service.errors"},
    "service.cli.serve": {
        "service.errors",
        "service.opening",
        "service.pipeline.memory",
        "service.pipeline.repository",
        "service.server",
        "service.settings",
    },
    "service.cli.segment": {
        "service.cli",
        "service.cli.opened",
        "service.cli.progress",
        "service.encodings.*",
        "service.errors",
        "service.offline.*",
        "service.pipeline.*",
        "service.settings",
    },
    "service.cli.models": {"service.cli.opened", "service.cli.tables", "service.settings"},
    "service.cli.check": {
        "service.cli",
        "service.cli.opened",
        "service.cli.tables",
        "service.errors",
        "service.pipeline.*",
        "service.settings",
    },
    "service.cli.opened": {"service.opening", "service.pipeline.*", "service.settings"},
    "service.cli.progress": set(),
    "service.cli.tables": set(),
    "service.offline": set(),
    "service.offline.images": {"service.encodings.*", "service.errors", "service.offline.targets", "service.pipeline.*"},
    "service.offline.video": {
        "service.encodings.*",
        "service.errors",
        "service.offline.journal",
        "service.offline.overlap",
        "service.offline.targets",
        "service.pipeline.*",
    },
    "service.offline.bags": {
        "service.encodings.*",
        "service.errors",
        "service.offline.journal",
        "service.offline.overlap",
        "service.offline.targets",
        "service.pipeline.*",
    },
    "service.offline.journal": set(),
    "service.offline.overlap": set(),
    "service.offline.targets": {"service.encodings.*"},
}
"""What each file outside of the rooms ``api``, ``pipeline`` and ``encodings``, which have rules of their own, imports of ours;
``.*`` is the room and all that is in it."""

LEAVES = {"manifest", "compiled", "cpus", "memory", "onnx_file"}
"""Files of the pipeline that are no steps: what an artifact says of itself and its file, a compiled library, and the machine's
cores and memory."""


def module_name(path: Path) -> str:
    """``service/api/app.py`` -> ``service.api.app``; a package's ``__init__.py`` is the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(name: str) -> bool:
    """Whether a dotted name is a file or a package of ours."""
    base = ROOT.joinpath(*name.split("."))
    return base.with_suffix(".py").is_file() or (base / "__init__.py").is_file()


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports, wherever in the file; ``from a import b`` is ``a.b`` where that is a module."""
    package = module_name(path) if path.name == "__init__.py" else module_name(path).rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            found |= {f"{base}.{alias.name}" if is_module(f"{base}.{alias.name}") else base for alias in node.names}
    return found


def within(module: str, *packages: str) -> bool:
    """Whether a module is one of these packages or lies inside one."""
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def admits(row: str, module: str) -> bool:
    """Whether an entry of :data:`MAY_IMPORT` names a module."""
    return within(module, row.removesuffix(".*")) if row.endswith(".*") else module == row


def sources(folder: str) -> Iterator[Path]:
    """The Python files of a folder, however deep."""
    return (path for path in sorted((ROOT / folder).rglob("*.py")) if "__pycache__" not in path.parts)


def offences(folder: str, *, forbidden: set[str], except_for: tuple[str, ...] = ()) -> list[str]:
    """``file imports module`` for every import in a folder that it must not have."""
    return [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in sources(folder)
        if not within(module_name(path), *except_for)
        for module in sorted(imports_of(path))
        if within(module, *forbidden)
    ]


def test_the_reader_of_imports_misses_no_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules below would pass silently if the reader missed a form of import."""
    (tmp_path / "room" / "inner").mkdir(parents=True)
    for name in ("room/__init__.py", "room/inner/__init__.py", "room/near.py", "room/inner/far.py"):
        (tmp_path / name).touch()
    file = tmp_path / "room" / "inner" / "here.py"
    lines = (
        "import a.b as c",
        "from . import far",
        "from ..near import x",
        "def f():",
        "    from d import e",
        "    import torch",
    )
    file.write_text("\n".join(lines), "utf-8")
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert imports_of(file) == {"a.b", "room.inner.far", "room.near", "d", "torch"}


def test_the_service_knows_neither_torch_nor_the_models_package() -> None:
    """A server never needs what only training and exporting need."""
    assert offences("service", forbidden=TRAINING | {"models"}) == []


def test_each_file_outside_of_the_rooms_imports_what_its_row_says() -> None:
    """No file without a row, no import that is not in it, and nothing in it that is not imported."""
    files = [path for path in sources("service") if path.relative_to(ROOT).parts[1] not in ("api", "pipeline", "encodings")]
    assert {module_name(path) for path in files} == set(MAY_IMPORT)
    for path in files:
        ours = {module for module in imports_of(path) if within(module, "service")}
        allowed = MAY_IMPORT[module_name(path)]
        strangers = {module for module in ours if not any(admits(row, module) for row in allowed)}
        idle = {row for row in allowed if not any(admits(row, module) for module in ours)}
        assert (path.name, strangers, idle) == (path.name, set(), set())


def test_the_pipeline_the_encodings_and_the_work_on_files_know_nothing_of_the_rim() -> None:
    """Values in, arrays out: no HTTP, no settings, no command line below the rim."""
    rim = WEB | {"service.api", "service.cli", "service.client", "service.settings"}
    assert offences("service/pipeline", forbidden=rim | {"service.offline"}) == []
    assert offences("service/encodings", forbidden=rim | {"service.offline"}) == []
    assert offences("service/offline", forbidden=rim) == []


def test_only_the_command_line_speaks_to_a_terminal() -> None:
    """Typer and Rich are nobody else's business, and the work on files is the command line's."""
    assert (
        offences("service", forbidden={"typer", "rich", "service.offline"}, except_for=("service.cli", "service.offline")) == []
    )


def test_the_steps_of_the_pipeline_do_not_import_one_another() -> None:
    """Only the segmenter strings the steps together, and only the repository opens engines."""
    allowed = {"segmenter": PIPELINE, "repository": {"engine"}, "inspection": {"engine"}}
    offending = [
        f"{step} imports {other}"
        for step in sorted(PIPELINE)
        for module in sorted(imports_of(ROOT / "service" / "pipeline" / f"{step}.py"))
        if within(module, "service.pipeline")
        for other in [module.removeprefix("service.pipeline").strip(".").split(".")[0]]
        if other not in LEAVES | allowed.get(step, set())
    ]
    assert offending == []


def test_only_the_command_line_and_the_application_read_the_settings() -> None:
    """Everybody else is handed values, so that a test needs no environment."""
    assert (
        offences(
            "service",
            forbidden={"service.settings"},
            except_for=("service.cli", "service.opening", "service.server", "service.api.app"),
        )
        == []
    )
    assert offences("models", forbidden={"service.settings"}) == []


def test_only_the_command_line_starts_the_application() -> None:
    """The rim is a leaf of the tree: nothing imports it but the command that serves it."""
    assert offences("service", forbidden={"service.api"}, except_for=("service.api", "service.server")) == []


def test_the_errors_import_nothing_of_ours() -> None:
    """Everything may raise them, so they may need nothing."""
    imported = imports_of(ROOT / "service" / "errors.py")
    assert {module.split(".")[0] for module in imported} <= set(sys.stdlib_module_names)


def test_the_client_needs_the_errors_and_the_encodings_at_the_most() -> None:
    """A car's computer installs the client without the server's dependencies."""
    rooms = ("service.client", "service.errors", "service.encodings")
    ours = {module for path in sources("service/client") for module in imports_of(path) if within(module, "service")}
    assert {module for module in ours if not within(module, *rooms)} <= {"service"}


def test_models_imports_the_light_half_of_the_service_only() -> None:
    """Training and exporting share the service's arithmetic; nothing of models reaches the rim.

    Evaluation also imports what serves, because what it scores is what is served; adoption opens a graph from elsewhere with
    the engine that will serve it.
    """
    pipeline = ("manifest", "geometry", "decode", "labels", "onnx_file")
    light = ["service.errors", *(f"service.pipeline.{name}" for name in pipeline)]
    allowed = {
        "models.evaluate": ("service.client", "service.encodings", "service.pipeline"),
        "models.adopt": ("service.pipeline.engine", "service.pipeline.inspection"),
    }
    offending = [
        f"{module_name(path)} imports {module}"
        for path in sources("models")
        for module in sorted(imports_of(path) - {"service.pipeline"})  # the package itself: it only sets the environment
        if within(module, "service") and not within(module, *light, *allowed.get(module_name(path), ()))
    ]
    assert offending == []
    assert offences("models", forbidden={"fastapi", "starlette", "uvicorn"}) == []


BLOCKER = """
import importlib.abc, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names!r}:
            raise ModuleNotFoundError("blocked: " + name, name=name)

sys.meta_path.insert(0, Blocked())
{statement}
"""


def import_without(statement: str, names: set[str]) -> subprocess.CompletedProcess[str]:
    """Run a statement in a fresh interpreter in which the named top-level packages do not exist."""
    code = BLOCKER.format(names=names, statement=statement)
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


def third_party() -> set[str]:
    """The top-level packages that the service's files import, standard library and ours left out."""
    roots = {module.split(".")[0] for path in sources("service") for module in imports_of(path)}
    return roots - set(sys.stdlib_module_names) - {"service", "models"}


def test_blocking_an_import_really_blocks_it() -> None:
    """The tests below would pass silently if the blocker let things through."""
    assert "blocked: numpy" in import_without("import numpy", {"numpy"}).stderr


def test_every_module_of_the_service_imports_first_where_torch_and_models_do_not_exist() -> None:
    """Each room opens on a machine that has the serving set alone, whichever is entered first."""
    modules = sorted(module_name(path) for path in sources("service") if path.name != "__main__.py")
    forget = "for loaded in [name for name in sys.modules if name.split('.')[0] == 'service']: del sys.modules[loaded]"
    statement = "\n".join(f"import {module}\n{forget}" for module in modules)
    result = import_without(statement, TRAINING | {"models"})
    assert result.returncode == 0, result.stderr


def test_nothing_is_imported_before_the_models_open_but_what_opens_them() -> None:
    """The web's libraries and the image decoders come beside the opening, those of the other commands never: a start is
    as long as what comes first.
    """
    later = {"fastapi", "starlette", "uvicorn", "httpx", "rich", "cv2", "PIL", "simplejpeg", "av", "rosbags"}
    result = import_without("import service.cli, service.cli.serve", later | TRAINING | {"models"})
    assert result.returncode == 0, result.stderr
    listing = "import sys; print(*(name for name in sys.modules if name.startswith('service.')))"
    loaded = import_without(f"import service.cli.serve; {listing}", later).stdout.split()
    assert "service.cli.serve" in loaded
    assert [name for name in loaded if within(name, "service.encodings", "service.offline", "service.api")] == []


def test_the_client_imports_with_httpx_and_numpy_alone() -> None:
    """Nothing of the server's set is needed on the other end of the wire."""
    result = import_without("import service.client", (third_party() - {"httpx", "numpy"}) | TRAINING | {"models"})
    assert result.returncode == 0, result.stderr


def test_the_sample_is_drawn_without_torch() -> None:
    """``make run`` installs no torch, and still has a street to send."""
    result = import_without("import models.scenes", TRAINING)
    assert result.returncode == 0, result.stderr
