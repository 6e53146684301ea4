"""Which variant of the default model answers a request that names no model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from service.pipeline.cpus import INT8_INSTRUCTIONS, int8_instructions
from service.pipeline.engine import Engine
from service.pipeline.manifest import Loss, Reduced
from service.pipeline.repository import Repository
from service.pipeline.variants import MOST_LOST, Choice, Precision, choose
from service.settings import Settings
from tests.conftest import make_manifest, write_artifact

ARTIFACTS = Path(__file__).resolve().parents[1] / "models/artifacts"


def write_variants(folder: Path, *points: float | None, **changes: Any) -> Path:
    """Write the float32 artifact ``colours``, and one int8 artifact for each loss; None is an unknown loss.

    Takes:
        changes: fields of the int8 manifests
    """
    folder.mkdir(exist_ok=True)
    write_artifact(folder / "colours.onnx", make_manifest())
    for k, lost in enumerate(points):
        losses = (
            {}
            if lost is None
            else {"val": Loss(points=lost, changed=0.01, frames=9), "other": Loss(points=-1, changed=0, frames=1)}
        )
        reduced = Reduced(float32="colours", calibrated_on="train", frames=9, losses=losses)
        fields = {"name": f"colours-int8-{k}", "precision": "int8", "reduced": reduced, **changes}
        write_artifact(folder / f"int8-{k}.onnx", make_manifest(**fields))
    return folder


def chosen(folder: Path, precision: Precision, instructions: str | None = "VNNI", default: str | None = None) -> Choice:
    """The choice among the artifacts of a folder."""
    engines = {(engine := Engine.open(path)).manifest.name: engine for path in sorted(folder.glob("*.onnx"))}
    choice = choose(engines, default, precision, instructions)
    assert choice is not None
    assert choice.name in engines
    return choice


@pytest.mark.parametrize(
    ("precision", "instructions", "points", "name", "reason"),
    [
        ("auto", "VNNI", (0.1,), "colours-int8-0", "this processor has VNNI; its card shows 0.10 points"),
        ("auto", "VNNI", (MOST_LOST,), "colours-int8-0", "0.30 points"),
        ("auto", "VNNI", (-0.5,), "colours-int8-0", "0.00 points"),
        ("auto", "VNNI", (0.2, 0.05), "colours-int8-1", "0.05 points"),
        ("auto", None, (0.1,), "colours", "no VNNI, AMX or dot-product"),
        ("auto", "VNNI", (MOST_LOST + 0.01,), "colours", "0.31 points of mean IoU lost; at most 0.3"),
        ("auto", "VNNI", (None,), "colours", "its loss is unknown"),
        ("auto", "VNNI", (), "colours", "no int8 variant"),
        ("int8", None, (2.0,), "colours-int8-0", "FCN_PRECISION asks for it; its card shows 2.00"),
        ("int8", None, (), "colours", "no int8 variant"),
        ("fp32", "VNNI", (0.1,), "colours", "FCN_PRECISION asks for it"),
    ],
)
def test_the_variant_follows_setting_processor_and_card(
    precision: Precision, instructions: str | None, points: tuple[float | None, ...], name: str, reason: str, tmp_path: Path
) -> None:
    """int8 answers unasked only on a processor with the instructions and with a loss on its card within the limit."""
    choice = chosen(write_variants(tmp_path, *points), precision, instructions)
    assert choice.name == name
    assert reason in choice.reason


@pytest.mark.parametrize(
    "changes",
    [
        {"version": "2.0.0"},
        {"version": "1.1.0"},
        {"reduced": Reduced(float32="another", losses={"val": Loss(points=0, changed=0, frames=1)})},
        {"reduced": None},
        {"input": {"working_size": (64, 64), "multiple": 8}},
        {"classes": [{"id": k, "name": name, "color": (k, k, k)} for k, name in enumerate("abc")]},
    ],
)
def test_another_model_is_not_a_variant(changes: dict[str, Any], tmp_path: Path) -> None:
    """Another version, other weights, another input or other classes make another model."""
    assert chosen(write_variants(tmp_path, 0.0, **changes), "int8").name == "colours"


def test_the_patch_of_a_version_may_differ(tmp_path: Path) -> None:
    """int8 that is exported once more is the same model."""
    assert chosen(write_variants(tmp_path, 0.0, version="1.0.9"), "int8").name == "colours-int8-0"


def test_the_shipped_int8_network_answers_unasked() -> None:
    """The two shipped files are variants of one model, and the card shows next to no loss."""
    engines = {name: Engine.open(ARTIFACTS / f"{name}.onnx") for name in ("fcn4s-lite0-streets", "fcn4s-lite0-streets-int8")}
    choice = choose(engines, "fcn4s-lite0-streets", "auto", "VNNI")
    assert choice is not None
    assert choice.name == "fcn4s-lite0-streets-int8"


def test_a_default_that_is_int8_answers_unless_float32_is_asked_for(tmp_path: Path) -> None:
    """A setting that names the int8 artifact is followed; ``fp32`` finds the float32 form of it."""
    folder = write_variants(tmp_path, 5.0)
    assert chosen(folder, "auto", None, "colours-int8-0").name == "colours-int8-0"
    assert chosen(folder, "fp32", None, "colours-int8-0").name == "colours"
    (folder / "colours.onnx").unlink()
    choice = chosen(folder, "fp32")
    assert (choice.name, choice.reason) == ("colours-int8-0", "int8: no float32 variant of it is served")


def test_a_repository_answers_with_the_variant_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The choice is logged once at start, and again when the folder changes it; a model that is named is not exchanged."""
    monkeypatch.setattr("service.pipeline.repository.int8_instructions", lambda: "AMX")
    folder = write_variants(tmp_path / "models", 0.1)
    with caplog.at_level(logging.INFO):
        repository = Repository(folder)
        assert repository.default == repository.get().manifest.name == "colours-int8-0"
        assert repository.get("colours").manifest.name == "colours"
        assert "AMX" in repository.default_reason
        (folder / "int8-0.onnx").unlink()
        repository.refresh()
        repository.refresh()
        assert repository.default == "colours"
        assert "no int8 variant" in repository.default_reason
    told = [record.getMessage() for record in caplog.records if "name no model" in record.getMessage()]
    assert [line.split(" (")[0].rpartition(" ")[2] for line in told] == ["colours-int8-0", "colours"]
    repository.close()
    assert repository.default_reason == ""


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_vnni amx_int8\n", "AMX"),
        ("flags\t\t: fpu avx2 avx512_vnni\n", "AVX-512 VNNI"),
        ("flags\t\t: fpu avx2 avx_vnni\n", "AVX VNNI"),
        ("flags\t\t: fpu avx2 fma avx512f\n", None),
        ("Features\t: fp asimd evtstrm aes asimdhp asimddp\n", "dot-product instructions"),
        ("Features\t: fp asimd evtstrm aes\n", None),
        ("vendor_id: avx512_vnni\n", None),
        (None, None),
    ],
)
def test_the_instructions_are_read_from_the_processor(lines: str | None, expected: str | None, tmp_path: Path) -> None:
    """Linux lists a processor's features; where the list is missing, float32 answers."""
    if lines is not None:
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc" / "cpuinfo").write_text(lines)
    assert int8_instructions(tmp_path) == expected
    assert expected is None or expected in INT8_INSTRUCTIONS.values()


def test_the_setting_is_one_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    """``auto`` unless the environment says otherwise."""
    assert Settings.load().precision == "auto"
    monkeypatch.setenv("FCN_PRECISION", "int8")
    assert Settings.load().precision == "int8"
