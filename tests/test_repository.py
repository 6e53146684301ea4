"""The artifacts of a folder."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from service.errors import NotReady, UnknownModel
from service.pipeline.repository import Repository
from tests.conftest import make_manifest, write_artifact


def test_models_are_known_by_their_manifests_not_by_their_files(tmp_path: Path) -> None:
    """A file may be renamed; its model keeps its name."""
    write_artifact(tmp_path / "renamed.onnx", make_manifest(name="zebra"))
    write_artifact(tmp_path / "x.onnx", make_manifest(name="ant"))
    (tmp_path / "notes.md").write_text("no model")
    repository = Repository(tmp_path)
    assert repository.names() == ["ant", "zebra"]
    assert repository.get("zebra").path.name == "renamed.onnx"
    assert repository.default == "ant"
    assert repository.get() is repository.get("ant")


def test_the_default_can_be_chosen(tmp_path: Path) -> None:
    """It need not be the first."""
    for name in ("a", "b"):
        write_artifact(tmp_path / f"{name}.onnx", make_manifest(name=name))
    assert Repository(tmp_path, default="b").get().manifest.name == "b"
    with pytest.raises(UnknownModel, match="'c'"):
        Repository(tmp_path, default="c")


def test_an_unknown_model_is_answered_with_those_that_exist(artifact_dir: Path) -> None:
    """The caller can correct himself."""
    with pytest.raises(UnknownModel) as caught:
        Repository(artifact_dir).get("../../etc/passwd")
    assert caught.value.allowed == ["colours"]


def test_a_broken_artifact_harms_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is listed with its reason, and logged."""
    write_artifact(tmp_path / "good.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    with caplog.at_level(logging.WARNING):
        repository = Repository(tmp_path)
    assert repository.names() == ["colours"]
    assert list(repository.broken) == ["broken.onnx"]
    assert "broken.onnx" in caplog.text


def test_a_name_is_given_once(tmp_path: Path) -> None:
    """Of two artifacts of one name the first file is served; the other says why it is not."""
    write_artifact(tmp_path / "a.onnx")
    write_artifact(tmp_path / "b.onnx")
    repository = Repository(tmp_path)
    assert repository.get("colours").path.name == "a.onnx"
    assert "taken by a.onnx" in repository.broken["b.onnx"]


def test_a_folder_without_a_model_is_not_ready(tmp_path: Path) -> None:
    """The service starts, says what is missing, and answers 'not ready'."""
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(NotReady, match=r"no \*\.onnx"):
            Repository(folder).get()


def test_the_reason_for_not_being_ready_is_that_of_the_broken_artifact(tmp_path: Path) -> None:
    """Not a mystery."""
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    with pytest.raises(NotReady, match=r"broken\.onnx"):
        _ = Repository(tmp_path).default
