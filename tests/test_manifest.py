"""The manifest inside an artifact."""

from __future__ import annotations

import json
from typing import Any

import pytest

from service.errors import BadArtifact
from service.pipeline.manifest import METADATA_KEY, InputPolicy, Output, read_manifest
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
    """The error of an ONNX file without a manifest names the command that adds one."""
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
        ({"schema_version": 3}, r"schema_version: 3 .* reads 1 and 2"),
        ({"schema_version": True}, "schema_version"),
        ({"input": {"working_size": [0, 10]}}, "working_size"),
    ],
)
def test_nonsense_is_refused_with_the_name_of_its_field(changes: dict[str, Any], reason: str) -> None:
    """A wrong manifest never reaches the serving path."""
    with pytest.raises(BadArtifact, match=reason):
        read_manifest(altered(**changes))


@pytest.mark.parametrize("text", ["{", "[]", "3", "null", "[" * 10_000])
def test_a_manifest_that_is_not_a_json_object_is_refused(text: str) -> None:
    """A damaged manifest is an artifact's fault, not a crash."""
    with pytest.raises(BadArtifact, match="manifest refused"):
        read_manifest({METADATA_KEY: text})


SCHEMA_1 = {
    "schema_version": 1,
    "name": "street",
    "version": "1.0.0",
    "task": "semantic-segmentation",
    "architecture": "fcn8s-lite0",
    "classes": CLASSES,
    "ignore_id": 255,
    "input": {"working_size": [96, 128], "fit": "area", "multiple": 8, "color_order": "rgb"},
    "stride": 8,
    "receptive_field": 100,
    "halo": 64,
    "training": {"data": "none", "licence": "MIT"},
}


def first_schema(**changes: Any) -> dict[str, str]:
    """The metadata of an artifact of schema 1 with some fields replaced."""
    return {METADATA_KEY: json.dumps(SCHEMA_1 | changes)}


@pytest.mark.parametrize("document", [SCHEMA_1, {name: value for name, value in SCHEMA_1.items() if name != "schema_version"}])
def test_schema_1_is_read_as_colour_images_with_one_output(document: dict[str, Any]) -> None:
    """An artifact of schema 1 keeps its meaning: uint8 RGB in, scores at its stride out, a class for each pixel."""
    manifest = read_manifest({METADATA_KEY: json.dumps(document)})
    assert manifest.schema_version == 2
    assert (manifest.input.dimensions, manifest.input.channels, manifest.input.dtype) == (2, 3, "uint8")
    assert manifest.input.color_order == "rgb"
    assert manifest.outputs == (Output(name="scores", kind="scores", stride=8),)
    assert not manifest.learns_instances
    assert manifest.calibration is None
    assert read_manifest(manifest.to_metadata()) == manifest


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"outputs": [{"name": "scores", "kind": "scores", "stride": 8}]}, "outputs"),
        ({"calibration": None}, "calibration"),
        ({"task": "panoptic"}, "task: .*panoptic"),
        ({"input": {"working_size": [96, 128], "dtype": "uint8"}}, r"input\.dtype"),
        ({"classes": [CLASSES[0], {**CLASSES[1], "countable": True}]}, r"classes\.1\.countable"),
    ],
)
def test_schema_1_with_a_field_of_schema_2_is_refused_with_its_name(changes: dict[str, Any], field: str) -> None:
    """A document that names version 1 must keep to it: a reader of version 1 refused these fields."""
    with pytest.raises(BadArtifact, match=f"manifest refused: {field}"):
        read_manifest(first_schema(**changes))


SCORES = {"name": "scores", "kind": "scores", "stride": 8}
CENTERS = {"name": "centers", "kind": "centers", "stride": 8}
OFFSETS = {"name": "moves", "kind": "offsets", "stride": 4}
COUNTABLE = [CLASSES[0], {**CLASSES[1], "countable": True}]


def test_a_panoptic_manifest_names_its_outputs() -> None:
    """Outputs are found by their kind, whatever their names, and know their planes."""
    manifest = read_manifest(altered(task="panoptic", classes=COUNTABLE, outputs=[SCORES, CENTERS, OFFSETS]))
    offsets = manifest.output("offsets")
    assert offsets is not None
    assert (offsets.name, offsets.stride, manifest.planes(offsets)) == ("moves", 4, 2)
    assert [manifest.planes(output) for output in manifest.outputs] == [2, 1, 2]
    assert manifest.learns_instances


def test_a_manifest_of_volumes_says_how_they_lie() -> None:
    """Depth first, then height and width; offsets have one plane an axis."""
    policy = {"working_size": [64, 80], "working_depth": 48, "fit": "native", "multiple": 8, "dimensions": 3, "channels": 1}
    policy |= {"dtype": "float32", "intensity": {"lower": 0.5, "upper": 99.5, "scope": "volume"}}
    policy |= {"spacing_mm": [1, 1, 1.5], "orientation": "RAS"}
    manifest = read_manifest(altered(input=policy))
    assert manifest.input.sides == (48, 64, 80)
    assert manifest.input.color_order is None


def test_a_slice_with_adjacent_slices_is_not_a_colour() -> None:
    """Three channels of a network of slices are three slices, not red, green and blue."""
    policy = InputPolicy(working_size=(64, 64), channels=3, dtype="uint16", planes=("axial", "coronal"))
    assert policy.color_order is None
    assert policy.sides == (64, 64)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"task": "depth"}, "task: .*'depth'"),
        ({"task": "panoptic"}, "outputs: .*centers and offsets"),
        ({"task": "panoptic", "classes": COUNTABLE, "outputs": [SCORES, CENTERS]}, "offsets"),
        ({"task": "panoptic", "classes": CLASSES, "outputs": [SCORES, CENTERS, OFFSETS]}, "countable"),
        ({"outputs": [SCORES, CENTERS, OFFSETS]}, "scores alone"),
        ({"outputs": []}, "outputs: .*'scores'"),
        ({"outputs": [SCORES, SCORES]}, "each name may occur once"),
        ({"outputs": [{**SCORES, "name": "logits"}]}, "'scores'"),
        ({"outputs": [{**SCORES, "stride": 4}]}, "stride 8"),
        ({"outputs": [{**SCORES, "kind": "depth"}]}, r"outputs\.0\.kind: .*'depth'"),
        ({"outputs": [{**SCORES, "unheard_of": 1}]}, r"outputs\.0\.unheard_of: unknown field"),
        ({"calibration": {"temperature": 0, "fitted_on": "val", "ece_before": 0.1, "ece_after": 0.1}}, "temperature"),
        ({"calibration": {"temperature": 1.5, "fitted_on": "val", "ece_before": 0.1}}, "ece_after"),
        ({"input": {"working_size": [96, 128], "channels": 0}}, "channels"),
        ({"input": {"working_size": [96, 128], "channels": 1, "color_order": "rgb"}}, "color_order"),
        ({"input": {"working_size": [96, 128], "dimensions": 3, "channels": 1}}, "working_depth"),
        ({"input": {"working_size": [96, 128], "working_depth": 8}}, "working_depth"),
        ({"input": {"working_size": [96, 128], "dtype": "int16"}}, r"input\.dtype: .*'int16'"),
        ({"input": {"working_size": [96, 128], "orientation": "RRS"}}, "orientation"),
        ({"input": {"working_size": [96, 128], "planes": ["axial", "axial"]}}, "planes"),
        ({"input": {"working_size": [96, 128], "slice_step": 2}}, "slice_step"),
        ({"input": {"working_size": [96, 128], "spacing_mm": [1, 0, 1]}}, "spacing_mm"),
        ({"input": {"working_size": [96, 128], "intensity": {"lower": 1, "upper": 99}}}, "dtype must be float32"),
        ({"input": {"working_size": [96, 128], "dtype": "float32", "intensity": {"lower": 9, "upper": 9}}}, "upper"),
        ({"input": {"working_size": [96, 128], "unheard_of": 1}}, r"input\.unheard_of: unknown field"),
    ],
)
def test_what_schema_2_does_not_allow_is_refused_with_its_name(changes: dict[str, Any], reason: str) -> None:
    """An unknown field, task or kind, and a contradiction between fields, name the field."""
    with pytest.raises(BadArtifact, match=reason):
        read_manifest(altered(**changes))
