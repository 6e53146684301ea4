"""The manifest inside an artifact."""

from __future__ import annotations

import json
from typing import Any

import pytest

from service.errors import BadArtifact
from service.pipeline.manifest import METADATA_KEY, read_manifest
from tests.conftest import make_manifest


def altered(**changes: Any) -> dict[str, str]:
    """The metadata of the good manifest with some fields replaced; None removes one."""
    fields = json.loads(make_manifest().to_metadata()[METADATA_KEY])
    fields |= changes
    return {METADATA_KEY: json.dumps({name: value for name, value in fields.items() if value is not None})}


def test_what_is_written_is_read_back() -> None:
    """Nothing is lost on the way through ONNX metadata."""
    manifest = make_manifest()
    assert read_manifest(manifest.to_metadata()) == manifest


def test_the_palette_colours_classes_and_leaves_the_rest_black() -> None:
    """Every pixel value has a colour."""
    palette = make_manifest().palette()
    assert palette.shape == (256, 3)
    assert palette[:4].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255], [0, 0, 0]]


def test_an_onnx_file_without_a_manifest_is_refused_with_the_remedy() -> None:
    """Whoever drops any ONNX file into the folder learns what is missing."""
    with pytest.raises(BadArtifact, match=r"net\.onnx: .*models\.export"):
        read_manifest({}, source="net.onnx")


CLASSES = [{"id": 0, "name": "a", "color": [0, 0, 0]}, {"id": 1, "name": "b", "color": [1, 1, 1]}]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"stride": None}, "stride"),
        ({"stride": 0}, "stride"),
        ({"name": "../etc"}, "name"),
        ({"unheard_of": 1}, "unheard_of"),
        ({"classes": []}, "classes"),
        ({"classes": [CLASSES[1], CLASSES[0]]}, "class ids"),
        ({"classes": [CLASSES[0], {**CLASSES[1], "name": "a"}]}, "unique"),
        ({"classes": [{**CLASSES[0], "color": [0, 0, 256]}]}, "color"),
        ({"ignore_id": 1}, "ignore_id"),
        ({"stride": 16}, "multiple"),
        ({"schema_version": 2}, "schema_version"),
        ({"input": {"working_size": [0, 10]}}, "working_size"),
    ],
)
def test_nonsense_is_refused_with_the_name_of_its_field(changes: dict[str, Any], reason: str) -> None:
    """A wrong manifest never reaches the serving path."""
    with pytest.raises(BadArtifact, match=reason):
        read_manifest(altered(**changes))


def test_what_is_not_json_is_refused() -> None:
    """A damaged manifest is an artifact's fault, not a crash."""
    with pytest.raises(BadArtifact, match="manifest refused"):
        read_manifest({METADATA_KEY: "{"})
