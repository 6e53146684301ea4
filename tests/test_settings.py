"""Settings from the environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from service.errors import BadSetting
from service.settings import PREFIX, Settings, without_effect


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine that runs the tests leaks in."""
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)


def test_the_defaults_serve_the_shipped_models_on_this_machine_alone() -> None:
    """Nothing has to be set to begin."""
    settings = Settings.load()
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.models_dir == Path(__file__).parent.parent / "models" / "artifacts"
    assert settings.provider == "cpu"


def test_the_environment_sets_and_a_flag_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flags beat the environment, and a flag that was not given beats nothing."""
    monkeypatch.setenv("FCN_PORT", "9000")
    monkeypatch.setenv("FCN_MODELS_DIR", "/somewhere")
    settings = Settings.load(port=9001, models_dir=None)
    assert settings.port == 9001
    assert settings.models_dir == Path("/somewhere")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FCN_PORT", "-1"),
        ("FCN_PORT", "http"),
        ("FCN_PROVIDER", "gpu"),
        ("FCN_QUEUE_MEGAPIXELS", "0"),
        ("FCN_MAX_IMAGE_PIXELS", "0"),
        ("FCN_DEADLINE_MS", "nan"),
        ("FCN_CONCURRENCY", "-1"),
    ],
)
def test_nonsense_is_refused_by_the_name_of_its_variable(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of a mistyped setting names it."""
    monkeypatch.setenv(name, value)
    with pytest.raises(BadSetting, match=f"^{name}: "):
        Settings.load()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("FCN_PORT", "http", "'http' is not a whole number; a good value is FCN_PORT=8000"),
        ("FCN_PORT", "70000", "'70000' is out of range: it has to be at most 65535; a good value is FCN_PORT=8000"),
        ("FCN_ADMIN_PORT", "0", "'0' is out of range: it has to be at least 1; a good value is FCN_ADMIN_PORT=9000"),
        ("FCN_RELOAD_S", "soon", "'soon' is not a number; a good value is FCN_RELOAD_S=1.0"),
        ("FCN_PROVIDER", "gpu", "'gpu' is not known; there are cpu, cuda or auto"),
        ("FCN_UDS_MODE", "rw", "String should match pattern '^[0-7]{3,4}$'; a good value is FCN_UDS_MODE=660"),
    ],
)
def test_a_value_that_makes_no_sense_is_told_a_good_one(
    name: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the variable, the fault and a value that works."""
    monkeypatch.setenv(name, value)
    with pytest.raises(BadSetting) as caught:
        Settings.load()
    assert caught.value.message == f"{name}: {words}"


def test_an_unknown_flag_is_refused() -> None:
    """A setting that does not exist cannot be set in vain."""
    with pytest.raises(BadSetting, match="FCN_PROT"):
        Settings.load(prot=1)


def test_a_variable_without_effect_is_told_with_the_one_that_may_be_meant() -> None:
    """Mistyped or made up; those that are for others are left alone, and so are variables of other programs."""
    others = ["FCN_CPUS", "FCN_MEMORY_GPU", "FCN_PUBLISH", "FCN_SERVE_SERVICE_HOST", "PATH", "FCN", "FCNPORT"]
    right = ["FCN_PORT", "fcn_port", *(f"FCN_{name.upper()}" for name in Settings.model_fields)]
    assert without_effect([*others, *right]) == []
    assert without_effect(["FCN_PROT"]) == ["FCN_PROT is not a setting and has no effect; is FCN_PORT meant?"]
    assert without_effect(["FCN_XYZZY"]) == ["FCN_XYZZY is not a setting and has no effect"]


def test_every_field_is_explained() -> None:
    """The table of settings can be made from the class."""
    assert all((field.description or "").endswith(".") for field in Settings.model_fields.values())


def test_settings_cannot_be_changed_after_loading() -> None:
    """Settings are frozen after they are read."""
    with pytest.raises(ValueError, match="frozen"):
        Settings.load().port = 1  # type: ignore[misc]
