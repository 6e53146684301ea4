"""The import rules, executed: by reading every import statement, and by importing for real with the forbidden packages
blocked. And the rule on waits in tests.
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

LAYERS: dict[str, set[str]] = {
    "errors": set(),
    "extras": set(),
    "log": set(),
    "process": {"errors"},
    "settings": {"errors"},
    "optional": {"errors", "extras"},
    "pipeline": {"errors", "extras", "optional", "process"},
    "encodings": {"errors", "extras"},
    "client": {"errors", "encodings"},
    "serving": {"errors", "process", "pipeline"},
    "captures": {"errors", "pipeline", "encodings"},
    "batch": {"errors", "extras", "optional", "pipeline", "encodings"},
    "live": {"errors", "extras", "optional", "pipeline", "encodings", "client", "serving"},
    "compose": {"errors", "settings", "process", "pipeline", "captures", "serving"},
    "api": {"errors", "log", "settings", "pipeline", "encodings", "serving", "compose"},
    "server": {"errors", "log", "settings", "process", "pipeline", "api"},
    "cluster": {
        "errors",
        "extras",
        "log",
        "settings",
        "process",
        "pipeline",
        "encodings",
        "serving",
        "compose",
        "batch",
        "api",
    },
    "worker": {"api", "compose", "pipeline", "server", "settings"},
    "workers": {"api", "errors", "log", "pipeline", "process", "settings", "worker"},
    "cli": {
        "extras",
        "worker",
        "workers",
        "errors",
        "log",
        "settings",
        "process",
        "pipeline",
        "encodings",
        "client",
        "serving",
        "compose",
        "captures",
        "batch",
        "live",
        "server",
        "cluster",
    },
    "__main__": {"cli", "extras"},
}
"""What each file or package directly below ``service`` may import of the others. ``service`` itself is open."""


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
    (tmp_path / "layer" / "inner").mkdir(parents=True)
    for name in ("layer/__init__.py", "layer/inner/__init__.py", "layer/near.py", "layer/inner/far.py"):
        (tmp_path / name).touch()
    file = tmp_path / "layer" / "inner" / "here.py"
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
    assert imports_of(file) == {"a.b", "layer.inner.far", "layer.near", "d", "torch"}


def test_the_service_knows_neither_torch_nor_the_models_package() -> None:
    """A server never needs what only training and exporting need."""
    assert offences("service", forbidden=TRAINING | {"models"}) == []


def test_each_layer_imports_only_what_its_row_names() -> None:
    """Every file and package below ``service`` has a row in LAYERS, and imports nothing that the row does not name."""
    found = {path.stem for path in (ROOT / "service").iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert found - {"__init__"} == set(LAYERS)
    strangers = []
    for path in sources("service"):
        layer = path.relative_to(ROOT / "service").parts[0].removesuffix(".py")
        for module in sorted(imports_of(path)):
            if within(module, "service") and module != "service":
                other = module.split(".")[1]
                if layer not in (other, "__init__") and other not in LAYERS[layer]:
                    strangers.append(f"{path.relative_to(ROOT)} imports {module}")
    assert strangers == []


def test_only_the_api_and_the_server_import_the_web_frameworks() -> None:
    """Values in, arrays out: no HTTP below the rim."""
    rim = WEB - {"typer", "rich"}
    outside = ("service.api", "service.server", "service.workers", "service.client", "service.cli")
    assert offences("service", forbidden=rim, except_for=outside) == []


def test_only_the_command_line_speaks_to_a_terminal() -> None:
    """Only the command line imports typer and rich; only it, ``batch`` and the workers of a cluster work on files."""
    assert offences("service", forbidden={"typer", "rich"}, except_for=("service.cli",)) == []
    on_files = ("service.cli", "service.batch", "service.cluster")
    assert offences("service", forbidden={"service.batch"}, except_for=on_files) == []


def test_models_imports_the_light_half_of_the_service_only() -> None:
    """Training and exporting share the service's arithmetic; nothing of models reaches the web or the command line."""
    assert offences("models", forbidden={"fastapi", "starlette", "uvicorn"}) == []
    allowed = (
        "service",
        "service.errors",
        "service.process",
        "service.pipeline",
        "service.encodings",
        "service.client",
        "service.serving",
    )
    offending = [
        f"{module_name(path)} imports {module}"
        for path in sources("models")
        for module in sorted(imports_of(path))
        if within(module, "service") and module != "service" and not within(module, *allowed[1:])
    ]
    assert offending == []


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
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)


def third_party() -> set[str]:
    """The top-level packages that the service's files import, standard library and ours left out."""
    roots = {module.split(".")[0] for path in sources("service") for module in imports_of(path)}
    return roots - set(sys.stdlib_module_names) - {"service", "models"}


def test_blocking_an_import_really_blocks_it() -> None:
    """The tests below would pass silently if the blocker let things through."""
    assert "blocked: numpy" in import_without("import numpy", {"numpy"}).stderr


@pytest.mark.slow  # `make check` runs it
def test_every_module_of_the_service_imports_first_where_torch_and_models_do_not_exist() -> None:
    """Each module imports first on a machine that has the serving set alone."""
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
    assert [name for name in loaded if within(name, "service.encodings", "service.batch", "service.api")] == []


def test_the_client_imports_with_httpx_and_numpy_alone() -> None:
    """Nothing of the server's set is needed on the other end of the wire."""
    result = import_without("import service.client", (third_party() - {"httpx", "numpy"}) | TRAINING | {"models"})
    assert result.returncode == 0, result.stderr


WITH_NUMPY_ALONE = """
import numpy as np
from service import encodings

class Row:
    def __init__(self, id, name):
        self.id, self.name, self.color = id, name, (id, 2 * id, 3 * id)

class Model:
    name, version, classes = "m", "1", (Row(0, "road"), Row(1, "car"))

labels = np.array([[0, 1, 1], [1, 0, 255]], np.uint8)
view = encodings.MaskView(labels, np.zeros((2, 3, 3), np.uint8), Model(), "0" * 64, lambda: labels)
for name in encodings.PICTURE_FORMATS:
    form = encodings.FORMATS[name]
    try:
        body = encodings.encode(name, view).body
        if form.decode or form.decode_sized:
            assert (encodings.decode(name, body, (2, 3)) == labels).all(), name
    except ModuleNotFoundError as error:
        assert "pip install" in str(error), name
        print(name)
for name, query in (("coco", {"instances": True}), ("polygons", {"tolerance": 1.0}), ("overlay", {"legend": True})):
    try:
        encodings.encode(name, encodings.MaskView(*list(vars(view).values())[:5], encodings.Options(**query)))
    except ModuleNotFoundError as error:
        assert "pip install '.[serve]'" in str(error), error
    else:
        raise AssertionError(name)
"""


def test_formats_are_written_and_read_with_numpy_alone() -> None:
    """The base installation encodes and decodes; what needs OpenCV or Pillow names the extra that brings it."""
    result = import_without(WITH_NUMPY_ALONE, (third_party() - {"numpy"}) | TRAINING | {"models"})
    assert result.returncode == 0, result.stderr
    assert set(result.stdout.split()) <= {"panoptic", "instance-ids"}


def test_the_sample_is_drawn_without_torch() -> None:
    """``make run`` installs no torch, and still has a street to send."""
    result = import_without("import models.scenes", TRAINING)
    assert result.returncode == 0, result.stderr


def sleeping_loops(code: str) -> list[int]:
    """Return the lines of loops that do nothing but sleep."""
    loops = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.While)]
    return [loop.lineno for loop in loops if all("sleep(" in ast.unparse(each) for each in loop.body)]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("while not done():\n    time.sleep(0.1)", True),
        ("while not done():\n    await asyncio.sleep(0)", True),
        ("while not done():\n    send()\n    time.sleep(0.1)", False),
        ("wait_until(done)", False),
    ],
)
def test_the_reader_of_waits_knows_one(code: str, expected: bool) -> None:
    """A loop that works between its pauses may be there."""
    assert bool(sleeping_loops(code)) is expected


def test_waits_of_tests_have_a_deadline() -> None:
    """A test that waits for a condition uses ``tests/waiting.py``."""
    found = [f"{path.name}:{line}" for path in sources("tests") for line in sleeping_loops(path.read_text("utf-8"))]
    assert found == []
