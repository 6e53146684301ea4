"""Makefile, lock files, Dockerfile and compose file say the same thing, and what they promise."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

import service
from service.extras import EXTRAS, extra_of
from service.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "deploy" / "locks"

INSTALLED_AS = {
    "foxglove": "foxglove-sdk",
    **{name: f"ros-kilted-{name.replace('_', '-')}" for name in EXTRAS["ros2"]},
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "google": "protobuf",
    "grpc": "grpcio",
    "grpc_health": "grpcio-health-checking",
    "opentelemetry": "opentelemetry-api",
    "ruamel": "ruamel-yaml",
}
"""Import name to distribution name, where they differ in more than underscores."""

FOR_UVICORN = {"uvloop"}
"""Dependencies that no file of ours imports: uvicorn takes them where it finds them."""


def read(name: str) -> str:
    """A file of the repository."""
    return (ROOT / name).read_text("utf-8")


def project() -> dict[str, Any]:
    """The parsed ``pyproject.toml``."""
    return tomllib.loads(read("pyproject.toml"))


def pins(lock: str) -> dict[str, str]:
    """Name to pinned version (with its marker, if any) of a lock file; a name may be pinned once a marker."""
    found: dict[str, str] = {}
    for name, pin in re.findall(r"^([a-z0-9][a-z0-9._-]*)==([^\\\n#]+)", (LOCKS / lock).read_text("utf-8"), re.MULTILINE):
        found[name] = f"{found[name]} | {pin.strip()}" if name in found else pin.strip()
    return found


def compose() -> dict[str, Any]:
    """The parsed compose file, merge keys resolved."""
    document: dict[str, Any] = yaml.safe_load(read("docker-compose.yml"))
    return document


def instructions(stage: int) -> list[tuple[str, str]]:
    """``(instruction, rest)`` of one stage of the Dockerfile, continued lines joined, comments left out."""
    lines = "\n".join(line for line in read("Dockerfile").splitlines() if not line.startswith("#"))
    joined = re.sub(r"\\\n", " ", lines)
    rows = [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in joined.splitlines() if line.strip()]
    starts = [number for number, (word, _) in enumerate(rows) if word == "FROM"]
    return rows[starts[stage] : starts[stage + 1] if stage + 1 < len(starts) else None]


def only(word: str, stage: int = 1) -> str:
    """The rest of the one instruction of that name."""
    (rest,) = (rest for name, rest in instructions(stage) if name == word)
    return rest


# --- lock files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lock", ["serve.txt", "serve-cuda.txt", "grpc.txt", "alone.txt"])
def test_every_file_of_a_serving_set_is_pinned_by_hash(lock: str) -> None:
    """A file that was not there when the lock was written is then refused."""
    text = (LOCKS / lock).read_text("utf-8")
    blocks = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert [block.splitlines()[0] for block in blocks if "--hash=sha256:" not in block] == []
    assert len(blocks) == len(pins(lock))


def test_what_the_project_asks_for_is_locked_at_a_version_that_it_accepts() -> None:
    """A floor raised in pyproject.toml without ``make lock`` is found here."""
    base = [Requirement(line) for line in project()["project"]["dependencies"]]
    optional = project()["project"]["optional-dependencies"]
    serve = [Requirement(line) for line in optional["serve"]]
    extras = [Requirement(line) for line in chain(*optional.values())]
    groups = project()["dependency-groups"]
    development = [Requirement(line) for line in [*groups["dev"], *groups["docs"]]]
    for lock, wanted in (("serve.txt", [*base, *serve]), ("dev.txt", [*base, *extras, *development])):
        locked = pins(lock)
        for requirement in wanted:
            version = locked[requirement.name].split(" ")[0]
            assert requirement.specifier.contains(version), f"{lock}: {requirement} but {version}"


def test_the_serving_set_has_no_training_in_it() -> None:
    """``make run`` and the image install no torch."""
    assert not {"torch", "onnx", "onnxscript", "safetensors", "pytest", "onnxruntime-gpu"} & set(pins("serve.txt"))
    assert not {"torch", "onnx", "onnxscript", "safetensors", "pytest", "onnxruntime"} & set(pins("serve-cuda.txt"))


def test_the_development_set_is_the_serving_set_and_more() -> None:
    """Tests run with the versions that serve."""
    serve, dev = pins("serve.txt"), pins("dev.txt")
    # The development set may need a package on more platforms than the serving set does.
    versions = {name: pin.partition(" ; ")[0] for name, pin in serve.items()}
    assert {name: dev.get(name, "").partition(" ; ")[0] for name in serve} == versions
    assert dev["torch"] == "2.13.0"


def test_the_development_set_leaves_the_device_libraries_to_torch() -> None:
    """A machine whose torch is a CPU build is spared gigabytes."""
    assert [name for name in pins("dev.txt") if name == "triton" or name.startswith(("nvidia-", "cuda-"))] == []


def test_the_cuda_set_differs_in_the_runtime_alone() -> None:
    """Both variants serve with the same versions of everything else."""
    cpu, cuda = pins("serve.txt"), pins("serve-cuda.txt")
    assert set(cpu) - set(cuda) == {"onnxruntime"}
    more = set(cuda) - set(cpu)
    assert "onnxruntime-gpu" in more
    assert all(name.startswith("nvidia-") for name in more - {"onnxruntime-gpu"})
    assert {name: cuda[name] for name in cuda if name in cpu} == {name: cpu[name] for name in cuda if name in cpu}


def test_no_file_names_a_package_index_or_a_path_of_one_machine() -> None:
    """Where packages come from is the installing machine's business."""
    names = ["Makefile", "Dockerfile", "docker-compose.yml", "pyproject.toml", ".ci/run"]
    texts = {name: read(name) for name in names} | {path.name: path.read_text("utf-8") for path in LOCKS.iterdir()}
    forbidden = re.compile(r"--(extra-)?index-url|--find-links|--trusted-host|https?://(?!127\.0\.0\.1)|file://|/root/|/home/")
    assert {name: found.group() for name, text in texts.items() if (found := forbidden.search(text))} == {}


# --- dependencies --------------------------------------------------------------------------------------------------------


def distributions(names: Iterable[str]) -> set[str]:
    """The distribution that each import name comes from."""
    return {INSTALLED_AS.get(name, name.replace("_", "-")) for name in names}


def test_every_import_of_the_service_is_a_declared_dependency_and_the_other_way_round() -> None:
    """The service imports only declared packages, and every declared package is imported."""
    imported = {
        name.split(".")[0]
        for path in (ROOT / "service").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""])
        if not (isinstance(node, ast.ImportFrom) and node.level)
    }
    used = distributions(imported - set(sys.stdlib_module_names) - {"service"})
    tables = project()["project"]
    base = {Requirement(line).name for line in tables["dependencies"]}
    extras = {name: {Requirement(line).name for line in lines} for name, lines in tables["optional-dependencies"].items()}
    # FastAPI is made of Starlette, and pydantic of pydantic-core: their names are part of the others' interfaces.
    assert used - base.union(*extras.values()) - {"starlette", "pydantic-core"} == set()
    assert (base | extras["serve"]) - used == FOR_UVICORN
    assert base == {"httpx", "numpy"}


def test_the_table_of_extras_says_what_pyproject_says() -> None:
    """A missing module leads to the extra that installs it."""
    optional = project()["project"]["optional-dependencies"]
    for extra, modules in EXTRAS.items():
        assert distributions(modules) == {Requirement(line).name for line in optional[extra]}
    assert extra_of("cv2") == extra_of("onnxruntime.capi") == "serve"
    assert extra_of("service.nothing") is extra_of("httpx") is extra_of(None) is None


def test_every_dependency_has_its_reason_written_down() -> None:
    """docs/dependencies.md has a row for each, and none for what is gone."""
    rows = {
        name for name in re.findall(r"^\| `([^`]+)`", read("docs/dependencies.md"), re.MULTILINE) if not name.endswith(".txt")
    }
    tables = project()
    lines = [*tables["project"]["dependencies"], *chain(*tables["project"]["optional-dependencies"].values())]
    lines += chain(*tables["dependency-groups"].values())
    assert rows == {Requirement(line).name for line in lines} | set(pins("alone.txt"))


# --- Makefile ------------------------------------------------------------------------------------------------------------


def dry_run(target: str) -> str:
    """What make would do on a fresh clone for a target."""
    command = ["make", "--dry-run", "--always-make", target, f"PYTHON={sys.executable}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout


def test_make_run_installs_the_serving_set_alone() -> None:
    """The first minute with the project costs no torch."""
    steps = dry_run("run")
    assert "--require-hashes --only-binary :all: --requirement deploy/locks/serve.txt" in steps
    assert "dev.txt" not in steps


@pytest.mark.parametrize("target", ["install", "test", "check", "train", "evaluate", "export"])
def test_the_other_targets_install_everything(target: str) -> None:
    """The serving set first, by hash, and the rest on top of it."""
    steps = dry_run(target)
    assert steps.index("deploy/locks/serve.txt") < steps.index("deploy/locks/dev.txt") < steps.index("--editable .")


def test_every_target_is_listed_by_make_help() -> None:
    """A newcomer types ``make`` and sees what there is."""
    (phony,) = re.findall(r"^\.PHONY: (.+)$", read("Makefile"), re.MULTILINE)
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout
    assert re.findall(r"^  make ([a-z-]+)", listed, re.MULTILINE) == phony.split()


# --- Dockerfile ----------------------------------------------------------------------------------------------------------


def test_the_image_builds_with_any_builder() -> None:
    """No frontend to fetch, no BuildKit mount, no other image than the base."""
    text = read("Dockerfile")
    assert "# syntax" not in text
    assert "--mount" not in text
    assert {rest.split()[0] for stage in (0, 1) for word, rest in instructions(stage) if word == "FROM"} == {
        "python:3.11-slim-bookworm"
    }


def test_the_image_runs_as_an_unprivileged_user_and_stops_on_sigterm() -> None:
    """A numeric user, which an orchestrator can check, and a process that receives its signals itself."""
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", only("USER"))
    assert only("STOPSIGNAL") == "SIGTERM"
    assert json.loads(only("ENTRYPOINT")) == ["python", "-m", "service"]
    assert json.loads(only("CMD")) == ["serve"]


def test_the_image_carries_the_version_and_the_port_of_the_service() -> None:
    """The label names the release that the image holds."""
    assert f'org.opencontainers.image.version="{service.__version__}"' in only("LABEL")
    assert f"FCN_PORT={only('EXPOSE')}" in only("ENV")


def test_the_image_takes_its_packages_from_the_lock_of_its_variant() -> None:
    """By hash and as wheels: nothing is compiled and nothing unknown comes in."""
    steps = " ".join(rest for word, rest in instructions(0) if word == "RUN")
    assert "--require-hashes" in steps
    assert "--only-binary :all:" in steps
    assert "cpu) lock=/locks/serve.txt" in steps
    assert "cuda) lock=/locks/serve-cuda.txt" in steps
    assert "grpc) extras=/locks/grpc.txt" in steps


def test_the_image_offers_grpc_with_the_versions_that_are_tested() -> None:
    """By default; its lock has what the extra asks for, and agrees with those that it is installed beside."""
    assert ("ARG", "EXTRAS=grpc") in instructions(0)
    more, optional = pins("grpc.txt"), project()["project"]["optional-dependencies"]
    for requirement in map(Requirement, optional["grpc"]):
        assert requirement.specifier.contains(more[requirement.name])
    versions = {name: pin.partition(" ; ")[0] for name, pin in more.items()}
    for lock in ("serve.txt", "serve-cuda.txt", "dev.txt"):
        others = {name: pin.partition(" ; ")[0] for name, pin in pins(lock).items()}
        shared = others.keys() & versions.keys()
        assert {name: others[name] for name in shared} == {name: versions[name] for name in shared}


def test_only_what_the_image_needs_is_sent_to_the_builder() -> None:
    """Everything is left out but four things; checkpoints and data sets never travel."""
    lines = [line for line in read(".dockerignore").splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    kept = {line[1:] for line in lines if line.startswith("!")}
    assert kept == {"service", "models/artifacts/*.onnx", "deploy/locks", "LICENSE"}


# --- compose -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fcn-serve", "fcn-serve-gpu"])
def test_every_composed_service_is_confined(name: str) -> None:
    """Read-only root, no capability, no way to gain one, bounded memory, processors and processes."""
    entry = compose()["services"][name]
    assert entry["read_only"] is True
    assert entry["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in entry["security_opt"]
    assert [mount.split(":")[0] for mount in entry["tmpfs"]] == ["/tmp"]
    assert set(entry["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    assert entry["restart"] == "unless-stopped"
    assert not {"privileged", "cap_add", "network_mode", "pid", "volumes"} & set(entry)


def test_both_variants_are_built_by_the_argument_that_the_dockerfile_knows() -> None:
    """And only the GPU's profile asks for a device."""
    services = compose()["services"]
    assert services["fcn-serve"]["build"]["args"] == {"VARIANT": "cpu"}
    assert services["fcn-serve-gpu"]["build"]["args"] == {"VARIANT": "cuda"}
    assert "profiles" not in services["fcn-serve"]
    assert services["fcn-serve-gpu"]["profiles"] == ["gpu"]
    assert services["fcn-serve-gpu"]["deploy"]["resources"]["reservations"]["devices"][0]["driver"] == "nvidia"


def test_health_is_asked_of_readyz_in_the_image_and_in_compose() -> None:
    """A container whose model is not loaded must not be called healthy."""
    assert "'/readyz'" in only("HEALTHCHECK")
    for entry in (entry for entry in compose()["services"].values() if "build" in entry):
        assert "'/readyz'" in entry["healthcheck"]["test"][-1]


def test_compose_waits_longer_than_the_service_drains() -> None:
    """Otherwise requests in work would be cut off by a SIGKILL."""
    for entry in compose()["services"].values():
        assert int(entry["stop_grace_period"].removesuffix("s")) > Settings.model_fields["drain_s"].default
