"""Free space, against slow references, and against scenes whose geometry is known."""

from __future__ import annotations

import asyncio
import json
import math
import struct
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from typer.testing import CliRunner

from models.scenes import CLASSES, draw_scene
from models.scenes.canvas import CAR, PAVEMENT, ROAD, Canvas, Noise, View
from models.scenes.layout import Street, draw_street, draw_view, paint_scene
from models.scenes.light import draw_light
from service import encodings
from service.cli import app
from service.client import AsyncClient, Client
from service.encodings import freespace, freespace_binary, ground
from service.encodings.driving import Driving
from service.encodings.freespace import Freespace
from service.encodings.ground import Camera, sampling_of
from service.errors import BadParameter, UnknownClass
from service.pipeline.tasks import semantic
from service.settings import Settings
from tests.conftest import encode_image, make_image
from tests.live import live_server
from tests.maps import STREET_CLASSES, street, street_view

Labels = NDArray[np.uint8]

ROAD_ID = 1
maps = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.sampled_from([0, 1, 1, 1, 2, 255]))
cameras = st.builds(
    Camera,
    fx=st.floats(3, 60),
    fy=st.floats(3, 60),
    cx=st.floats(-2, 14),
    cy=st.floats(-8, 6),
    height=st.floats(0.3, 3),
    pitch=st.floats(-0.3, 0.5),
)


def find(labels: Labels, camera: Camera | None = None, drivable: tuple[int, ...] = (ROAD_ID,), **more: Any) -> Freespace:
    """The free space of a map whose confidence is its labels."""
    return freespace.find(labels, lambda rows, columns: labels[rows, columns], Driving(frozenset(drivable), **more), camera)


@given(maps, st.sets(st.sampled_from([0, 1, 2, 255])), st.integers(0, 3))
def test_the_lowest_obstacle_is_the_one_that_a_loop_finds(labels: Labels, drivable: set[int], ego_rows: int) -> None:
    """Column by column, pixel by pixel from below; 255 is never drivable."""
    rows = freespace.lowest_obstacles(labels, drivable, ego_rows)
    for column in range(labels.shape[1]):
        expected = -1
        for row in range(labels.shape[0] - ego_rows - 1, -1, -1):
            if labels[row, column] not in drivable - {255}:
                expected = row
                break
        assert rows[column] == expected


@pytest.mark.parametrize("height", [1, 254, 255, 256, 511, 700])
def test_tall_images_are_searched_to_the_top(height: int) -> None:
    """The search goes in bands; an obstacle at either side of a band's edge is found."""
    places = sorted({0, height - 1, *range(max(height - 258, 0), max(height - 252, 0)), height // 2})
    labels = np.full((height, len(places) + 1), ROAD_ID, np.uint8)
    for column, row in enumerate(places):
        labels[: row + 1, column] = 0
    assert freespace.lowest_obstacles(labels, [ROAD_ID]).tolist() == [*places, -1]


def ground_of(camera: Camera, column: float, row: float) -> tuple[float, float] | None:
    """Where a pixel's ray meets the ground: (x ahead, y left), by rotation matrices and not by the module's formulas."""
    right, down = (column - camera.cx) / camera.fx, (row - camera.cy) / camera.fy
    body = (1.0, -right, -down)  # REP 103: x ahead, y left, z up
    sine, cosine = math.sin(camera.pitch), math.cos(camera.pitch)
    turned = (cosine * body[0] + sine * body[2], body[1], -sine * body[0] + cosine * body[2])  # about y, by the pitch
    if turned[2] >= -1e-9:
        return None
    scale = camera.height / -turned[2]
    return turned[0] * scale, turned[1] * scale


@given(maps, cameras, st.integers(1, 40))
def test_no_beam_leads_over_a_pixel_that_is_not_drivable(labels: Labels, camera: Camera, beams: int) -> None:
    """Each such pixel on the ground is at the beam's range or behind it, whatever the pitch; an unlabelled one may be NaN."""
    try:
        scan = find(labels, camera, beams=beams).scan
    except BadParameter:
        return
    assert scan is not None
    assert scan.ranges.shape == (beams,)
    low = scan.angle_min - scan.angle_increment / 2
    obstacles = (labels != ROAD_ID) & (labels != 255)
    for row, column in np.argwhere(obstacles).tolist():
        place = ground_of(camera, column, row)
        if place is None or math.hypot(*place) > 0.99 * scan.range_max:
            continue
        beam = (math.atan2(place[1], place[0]) - low) / scan.angle_increment
        if min(beam % 1, 1 - beam % 1) < 1e-4:  # rounding decides
            continue
        found = scan.ranges[int(beam)]
        if np.isnan(found):  # the column's end is an unlabelled pixel below this one
            assert (labels[row:, column] == 255).any()
        else:
            assert (labels[row:, column] == 255).any() or found <= math.hypot(*place) * (1 + 1e-5)


@given(maps, cameras, st.integers(1, 40))
def test_the_scan_is_the_one_that_loops_over_pixels_find(labels: Labels, camera: Camera, beams: int) -> None:
    """In a beam the nearest of all columns that it crosses wins: an obstacle over the unknown, the unknown over free ground."""
    try:
        scan = find(labels, camera, beams=beams).scan
    except BadParameter:
        return
    assert scan is not None
    sampling = sampling_of(camera, (labels.shape[0], labels.shape[1]), beams=beams)
    low = scan.angle_min - scan.angle_increment / 2
    surely, perhaps = [3e9] * beams, [3e9] * beams
    for column in range(labels.shape[1]):
        blocked = np.flatnonzero(labels[:, column] != ROAD_ID)
        row = int(blocked[-1]) if len(blocked) else -1
        place = ground_of(camera, column, row + 0.5) if row >= 0 and row + 0.5 > camera.horizon else None
        told = 2e9 if place is None or math.hypot(*place) > scan.range_max else math.hypot(*place)
        if told < 2e9 and labels[row, column] == 255:
            told = 1e9
        edges = np.linspace(max(row + 0.5, sampling.top), sampling.top, 20)
        turns = [
            math.atan2(
                (camera.cx - side) / camera.fx, math.cos(camera.pitch) - (v - camera.cy) / camera.fy * math.sin(camera.pitch)
            )
            for v in edges
            for side in (column - 0.5, column + 0.5)
        ]
        first, last = (min(turns) - low) / scan.angle_increment, (max(turns) - low) / scan.angle_increment
        for beam in range(beams):
            if first < beam + 1 - 1e-5 and last > beam + 1e-5:
                surely[beam] = min(surely[beam], told)
            if first < beam + 1 + 1e-5 and last > beam - 1e-5:
                perhaps[beam] = min(perhaps[beam], told)
    for beam, found in enumerate(scan.ranges.astype(float).tolist()):
        value = (1e9 if surely[beam] < 2e9 else 3e9) if math.isnan(found) else 2e9 if math.isinf(found) else found
        if math.isnan(found) and perhaps[beam] <= 1e9 <= surely[beam]:
            continue
        assert perhaps[beam] * (1 - 1e-5) <= value <= surely[beam] * (1 + 1e-5)


def test_a_scan_that_is_made_in_parts_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A steep camera has many pairs of columns and beams; the parts change the memory and not one value."""
    labels = np.where(np.random.default_rng(7).random((40, 300)) < 0.02, 0, ROAD_ID).astype(np.uint8)
    camera = Camera(900, 200, 150, 20, 1.0, 1.4)
    whole = find(labels, camera, beams=500).scan
    monkeypatch.setattr(ground, "_PART", 1000)
    parts = find(labels, camera, beams=500).scan
    assert whole is not None
    assert parts is not None
    assert np.isfinite(whole.ranges).any()
    np.testing.assert_array_equal(parts.ranges, whole.ranges)


def test_bearings_and_distances_of_one_column_by_hand() -> None:
    """A camera 1 m above the ground, tilted down by 45 degrees, sees the ground below its axis 1 m ahead."""
    camera = Camera(100, 100, 50, 50, 1.0, math.pi / 4)
    labels = np.full((101, 101), ROAD_ID, np.uint8)
    labels[:50] = 0  # the lower edge of row 49 is at 49.5
    camera = Camera(100, 100, 50, 49.5, 1.0, math.pi / 4)
    found = find(labels, camera)
    assert found.distances is not None
    assert found.bearings is not None
    assert found.distances[50] == pytest.approx(1.0, abs=1e-6)
    assert found.bearings[50] == 0
    assert found.bearings[0] > 0 > found.bearings[100], "the left is positive"


def seen(view: View, samples: int) -> Camera:
    """The camera of a drawn view, in pixels: a pixel's class is the one at its middle sample."""
    middle = samples // 2
    focal = view.focal / samples
    return Camera(focal, focal, (view.column - middle) / samples, (view.horizon - middle) / samples, view.eye_m)


def spread(camera: Camera, row: float, column: float, pixels: float) -> float:
    """How far on the ground a shift of the row by so many pixels leads, in metres."""
    near, far = (camera.distances(np.float64(column), np.float64(row + shift)) for shift in (pixels, -pixels))
    return float(far - near)


@pytest.mark.parametrize(("height", "width", "samples"), [(180, 240, 3), (720, 1280, 1)])
def test_blocks_on_a_drawn_street_are_where_they_stand(height: int, width: int, samples: int) -> None:
    """Columns and beams tell the distance of each block within what one pixel sees of the ground."""
    rng = np.random.default_rng(5)
    view = View(
        height * samples,
        width * samples,
        samples,
        width * 0.9 * samples,
        width * samples * 0.52,
        height * samples * 0.4,
        1.5,
        0.0,
    )
    canvas = Canvas(view, draw_light(rng), Noise(rng))
    canvas.plan[int(view.horizon) + 1 :] = ROAD
    blocks = [(-1.5, 1.0, 30.0), (-4.0, -1.0, 14.0), (0.5, 1.2, 6.0), (2.0, 5.0, 9.0)]
    for left, right, z in sorted(blocks, key=lambda block: -block[2]):
        corners = np.array([[left, 0, z], [right, 0, z], [right, 2.5, z], [left, 2.5, z]])
        canvas.face(corners, (90, 20, 20), CAR)
    camera = seen(view, samples)
    found = find(canvas.labels(samples), camera, (ROAD,))
    assert found.distances is not None
    assert found.bearings is not None
    assert found.scan is not None
    met = set()
    for column in range(width):
        slope = (column - camera.cx) / camera.fx
        hits = [block for block in blocks if block[0] + 0.02 * block[2] < slope * block[2] < block[1] - 0.02 * block[2]]
        inside = [block for block in blocks if block[0] - 0.02 * block[2] < slope * block[2] < block[1] + 0.02 * block[2]]
        if hits != inside:  # at a block's side, where the rasteriser decides
            continue
        bearing = -math.atan(slope)
        beam = int((bearing - found.scan.angle_min) / found.scan.angle_increment + 0.5)
        if not hits:
            assert found.rows[column] <= camera.horizon
            assert found.distances[column] > 1000
            continue
        z = min(block[2] for block in hits)
        met.add(z)
        truth = math.hypot(z, slope * z)
        bound = spread(camera, camera.cy + camera.fy * camera.height / z, column, 1.0)
        assert found.distances[column] == pytest.approx(truth, abs=bound)
        assert found.bearings[column] == pytest.approx(bearing, abs=1e-6)
        assert found.scan.ranges[beam] == pytest.approx(truth, abs=bound + 0.02 * truth)
        assert found.labels[column] == CAR
    assert met == {z for _, _, z in blocks}


def drawn(height: int, width: int, seed: int) -> tuple[Labels, Camera, View, Street]:
    """A street scene with its plan: the steps of ``draw_scene``."""
    rng = np.random.default_rng(seed)
    light = draw_light(rng)
    samples = 3 if height * width <= 100_000 else 2
    canvas = Canvas(draw_view(height, width, samples, rng), light, Noise(rng))
    plan = draw_street(light, rng)
    paint_scene(canvas, plan, rng)
    return canvas.labels(samples), seen(canvas.view, samples), canvas.view, plan


def test_kerbs_of_drawn_streets_lie_where_the_plan_has_them() -> None:
    """Where the road ends at a pavement, the point on the ground is on the kerb, within what one pixel sees."""
    assert sum(kerb_points(seed) for seed in range(3)) > 50


def kerb_points(seed: int) -> int:
    """Check the points of one street on its kerbs, and count them."""
    labels, camera, view, plan = drawn(240, 320, seed)
    assert np.array_equal(labels, draw_scene(240, 320, seed).labels)
    found = find(labels, camera, (CLASSES.index("road"),))
    assert found.distances is not None
    assert found.bearings is not None
    ends = np.flatnonzero((found.labels == PAVEMENT) & (found.rows < labels.shape[0] - 1) & (found.distances < 25))
    checked = 0
    for column in ends.tolist():
        distance, bearing = float(found.distances[column]), float(found.bearings[column])
        z, x = distance * math.cos(bearing), -distance * math.sin(bearing)
        if any(junction.near - 2 < z < junction.far + 2 for junction in plan.junctions):
            continue
        kerb = plan.left.kerb if x < 0 else plan.right.kerb
        slope = abs(column - camera.cx) / camera.fx
        bound = slope * spread(camera, float(found.rows[column]) + 0.5, column, 1.0) + z / camera.fx
        assert x - view.bend * z * z == pytest.approx(kerb, abs=bound)
        checked += 1
    return checked


def test_an_image_without_an_obstacle_is_free_as_far_as_it_shows() -> None:
    """Below a horizon at the top all beams are inf; without the horizon in view range_max says how far the image shows."""
    labels = np.full((20, 30), ROAD_ID, np.uint8)
    found = find(labels, Camera(30, 30, 14.5, -0.5, 1.0))
    assert found.scan is not None
    assert (found.rows == -1).all()
    assert (found.labels == 255).all()
    assert np.isinf(found.scan.ranges).all()
    assert found.scan.range_max == 100
    steep = find(labels, Camera(30, 30, 14.5, 9.5, 1.0, 0.6))
    assert steep.scan is not None
    assert steep.scan.range_max < 5
    assert not np.isfinite(steep.scan.ranges).any()


def test_what_is_above_the_horizon_blocks_nothing() -> None:
    """Sky is not drivable, and no obstacle on the ground."""
    labels = np.full((20, 30), ROAD_ID, np.uint8)
    labels[:8] = 2
    found = find(labels, Camera(30, 30, 14.5, 8.0, 1.0))
    assert found.scan is not None
    assert found.distances is not None
    assert (found.rows == 7).all()
    assert np.isinf(found.distances).all()
    assert np.isinf(found.scan.ranges).all()


def test_unlabelled_pixels_are_unknown_and_an_obstacle_wins_over_them() -> None:
    """NaN where the ground ends at 255; a beam of several columns tells the obstacle, then the unknown, then free ground."""
    labels = np.full((20, 4), ROAD_ID, np.uint8)
    camera = Camera(30, 30, 1.5, 2.0, 1.0)
    labels[:10, 1] = 255
    unknown = find(labels, camera)
    assert unknown.distances is not None
    assert np.isnan(unknown.distances).tolist() == [False, True, False, False]
    (one,) = find(labels, camera, beams=1).scan.ranges  # type: ignore[union-attr]
    assert np.isnan(one)
    labels[:6, 3] = 0
    (one,) = find(labels, camera, beams=1).scan.ranges  # type: ignore[union-attr]
    assert np.isfinite(one)


@pytest.mark.parametrize("label", [ROAD_ID, 0, 255])
def test_an_image_of_one_pixel(label: int) -> None:
    """One column, one beam."""
    found = find(np.full((1, 1), label, np.uint8), Camera(1, 1, 0, -0.5, 1.0))
    assert found.rows.tolist() == [-1 if label == ROAD_ID else 0]
    assert found.scan is not None
    (told,) = found.scan.ranges
    assert (math.isinf(told), math.isnan(told)) == (label == ROAD_ID, label == 255)
    assert found.scan.angle_min == pytest.approx(found.scan.angle_max)


def test_the_vehicle_s_own_rows_are_left_out() -> None:
    """A bonnet at the bottom stops nothing once its rows are named."""
    labels = np.full((20, 30), ROAD_ID, np.uint8)
    labels[17:], labels[:9] = 0, 0
    assert (find(labels).rows == 19).all()
    assert (find(labels, ego_rows=3).rows == 8).all()
    with pytest.raises(BadParameter, match="ego_rows is 20, and the image has 20 rows"):
        find(labels, ego_rows=20)


@pytest.mark.parametrize(
    ("camera", "match"),
    [(Camera(30, 30, 14, 40, 1.0), "horizon would be at row 40"), (Camera(10, 10, 14, 0, 1.0, 1.2), "behind the camera")],
)
def test_a_camera_that_sees_no_ground_is_refused(camera: Camera, match: str) -> None:
    """A wrong sign of the pitch must not become a scan."""
    with pytest.raises(BadParameter, match=match):
        find(np.full((20, 30), ROAD_ID, np.uint8), camera)


def test_unsure_pixels_become_unknown() -> None:
    """min_confidence applies before: every third pixel of this street is uncertain."""
    plain = freespace.read(street("freespace"))
    strict = freespace.read(street("freespace", min_confidence=0.5))
    assert (strict.rows >= plain.rows).all()
    assert (strict.labels == 255).any()
    assert not (plain.labels == 255).any()
    at = street_view()
    assert (plain.confidences == at.confidence()[plain.rows, np.arange(240)]).all()


CAMERA: dict[str, Any] = {"fx": 200.0, "camera_height": 1.4, "camera_pitch": 0.02}


def test_both_formats_tell_the_same() -> None:
    """To the millimetre; what a class id means follows the reply's table."""
    for query in ({}, CAMERA, {**CAMERA, "beams": 37, "drivable": ["road", "pavement"], "min_confidence": 0.5}):
        text = freespace.read(street("freespace", **query))
        data = freespace_binary.read(street("freespace-binary", **query))
        assert data.size == text.size == (180, 240)
        for name in ("rows", "labels", "confidences"):
            assert np.array_equal(getattr(text, name), getattr(data, name))
        assert (text.scan is None) == (data.scan is None) == (not query)
        if text.scan is None or data.scan is None:
            continue
        assert len(data.scan.ranges) == query.get("beams", 240)
        for one, other in ((text.distances, data.distances), (text.scan.ranges, data.scan.ranges)):
            np.testing.assert_allclose(one, other, atol=6e-4)  # type: ignore[arg-type]
        np.testing.assert_allclose(text.scan.angle_min, data.scan.angle_min, rtol=1e-6)


def test_the_bytes_are_those_of_the_page_of_formats() -> None:
    """Read with struct alone, as the documentation lays them out."""
    body = street("freespace-binary", **CAMERA)
    magic, version, flags, height, width, beams = struct.unpack_from("<4sHHIII", body)
    assert (magic, version, flags, height, width, beams) == (b"FCNF", 1, 1, 180, 240, 240)
    angle_min, angle_max, increment, range_min, range_max = struct.unpack_from("<5f", body, 20)
    assert angle_max == pytest.approx(angle_min + (beams - 1) * increment, abs=1e-5)
    assert (range_min, range_max) == (0, 100)
    rows = struct.unpack_from(f"<{width}i", body, 40)
    labels, sure = body[40 + 4 * width : 40 + 5 * width], body[40 + 5 * width : 40 + 6 * width]
    text = json.loads(street("freespace", **CAMERA))
    assert list(rows) == text["rows"]
    assert list(labels) == text["labels"]
    assert [round(value / 255, 3) for value in sure] == text["confidences"]
    start = -(-(40 + 6 * width) // 4) * 4
    assert len(body) == start + 4 * (2 * width + beams)
    ranges = struct.unpack_from(f"<{beams}f", body, start + 8 * width)
    np.testing.assert_allclose(ranges, [float(value) for value in text["scan"]["ranges"]], atol=6e-4)


@given(st.integers(0, 2000), st.binary(max_size=8))
def test_bytes_that_are_cut_or_changed_are_a_value_error(cut: int, junk: bytes) -> None:
    """Every prefix, and whatever stands in its place."""
    body = street("freespace-binary", **CAMERA)
    with pytest.raises(ValueError, match="free space"):
        freespace_binary.read(body[: min(cut, len(body) - 1)])
    with pytest.raises(ValueError, match="free space"):
        freespace_binary.read(body + junk + b"\0")
    with pytest.raises(ValueError, match=r"free space|size"):
        freespace_binary.read(b"FCNF" + junk.ljust(40, b"\xff"))


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"size": [2, 2], "rows": [0], "labels": [0], "confidences": [0]}'])
def test_what_is_not_free_space_is_a_value_error(body: bytes) -> None:
    """One kind of error."""
    with pytest.raises(ValueError, match=r"."):
        freespace.read(body)


@pytest.mark.parametrize(
    ("query", "error", "match"),
    [
        ({"fx": 800.0}, BadParameter, "fx: distances need camera_height too"),
        ({"camera_height": 1.4, "beams": 5}, BadParameter, "camera_height, beams: distances need fx too"),
        ({"beams": 5}, BadParameter, "beams: distances need fx too"),
        ({"fx": float("nan"), "camera_height": 1.0}, BadParameter, "fx must be a finite number"),
        ({"fx": 800.0, "camera_height": -1.0}, BadParameter, "camera_height must be more than 0"),
        ({**CAMERA, "camera_pitch": 2.0}, BadParameter, "camera_pitch is in radians, -1.5 to 1.5, not 2"),
        ({**CAMERA, "camera_pitch": -10.0}, BadParameter, "camera_pitch is in radians, -1.5 to 1.5, not -10"),
        ({"drivable": ["lane"]}, UnknownClass, "no class 'lane'; the model knows sky"),
        ({"drivable": [","]}, BadParameter, "drivable names no class"),
    ],
)
def test_a_camera_or_a_class_that_makes_no_sense_is_refused(query: dict[str, Any], error: type[Exception], match: str) -> None:
    """Before anything is computed, with what would have worked."""
    with pytest.raises(error, match=match):
        encodings.understood("freespace", STREET_CLASSES, **query)


def test_options_of_free_space_mean_nothing_to_a_mask() -> None:
    """A mistyped format does not drop the camera in silence."""
    for query in ({"fx": 800.0}, {"drivable": ["road"]}, {"cy": 0.0}):
        with pytest.raises(BadParameter, match="it is for format=freespace, freespace-binary"):
            encodings.understood("png", STREET_CLASSES, **query)


def test_a_model_without_a_road_needs_to_be_told() -> None:
    """No default is guessed."""
    table = [row for row in STREET_CLASSES if row.name != "road"]
    with pytest.raises(BadParameter, match="there is no class 'road': name the drivable ones with drivable="):
        encodings.understood("freespace", table)


def test_names_follow_the_table_of_the_reply() -> None:
    """With ids=cityscapes-train road is 0, and sidewalk is what pavement is called."""
    plain = freespace.read(street("freespace", drivable=["road", "pavement"]))
    other = freespace.read(street("freespace", ids="cityscapes-train", drivable=["road,sidewalk"]))
    assert np.array_equal(plain.rows, other.rows)
    assert json.loads(street("freespace", ids="cityscapes-train"))["drivable"] == [0]


@given(
    arrays(np.float32, st.tuples(st.integers(2, 5), st.integers(1, 6), st.integers(1, 6)), elements=st.floats(-9, 9, width=32)),
    st.tuples(st.integers(1, 30), st.integers(1, 30)),
    st.floats(0.5, 3),
)
def test_the_confidence_of_some_pixels_is_that_of_the_map(
    scores: NDArray[np.float32], size: tuple[int, int], temperature: float
) -> None:
    """At most 1 of 255 apart, which is float32's rounding."""
    labels = semantic.label_map(scores, size)
    whole = semantic.confidence_map(scores, labels, temperature).astype(int)
    rows, columns = np.indices(size).reshape(2, -1)
    some = semantic.confidence_at(scores, size, rows, columns, temperature).astype(int)
    assert np.abs(some - whole.reshape(-1)).max() <= 1


def test_a_server_and_its_clients_tell_the_free_space_of_an_image(artifact_dir: Path) -> None:
    """The client's arrays are the server's JSON; a command line's file is its reply; several images come together."""
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[..., 1] = 255  # green: drivable here
    picture[:32] = picture[:56, 40:64] = (255, 0, 0)
    image = encode_image(picture)
    query: dict[str, Any] = {"drivable": "green", "fx": 90.0, "camera_height": 1.2, "camera_pitch": 0.05}
    with live_server(Settings(models_dir=artifact_dir)) as url:
        with Client(url) as client:
            found = client.freespace(image, **query)
        again = asyncio.run(_async_freespace(url, image, query))
        reply = httpx.post(f"{url}/segment", params={"format": "freespace", **query}, content=image)
        both = [("image", ("a.png", image)), ("image", ("b.png", image))]
        listed = httpx.post(f"{url}/segment", params={"format": "freespace", **query}, files=both)
        accepted = httpx.post(
            f"{url}/segment", params=query, content=image, headers={"Accept": freespace_binary.FORMAT.media_type}
        )
        wrong = httpx.post(f"{url}/segment", params={**query, "format": "freespace", "camera_pitch": -1.0}, content=image)
    assert "X-Uncertain" not in reply.headers, "the confidence of every pixel is not computed"
    assert found.scan is not None
    assert found.distances is not None
    assert found.distances[50] < found.distances[5]
    assert np.array_equal(again.rows, found.rows)
    document = reply.json()
    assert document["rows"] == found.rows.tolist()
    np.testing.assert_allclose(np.array(document["scan"]["ranges"], float), found.scan.ranges, atol=6e-4)
    assert [entry["rows"] for entry in listed.json()] == [document["rows"]] * 2
    assert np.array_equal(freespace_binary.read(accepted.content).rows, found.rows)
    assert (wrong.status_code, wrong.json()["code"]) == (422, "bad_parameter")
    assert "the horizon would be at row" in wrong.json()["detail"]


async def _async_freespace(url: str, image: bytes, query: dict[str, Any]) -> Freespace:
    client = AsyncClient(url)
    try:
        return await client.freespace(image, **query)
    finally:
        await client.close()


def test_the_command_line_writes_free_space(artifact_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the camera's options; another camera is another result, and is made again."""
    (tmp_path / "a.png").write_bytes(encode_image(make_image()))
    monkeypatch.setenv("FCN_MODELS_DIR", str(artifact_dir))
    command = ["segment", str(tmp_path / "a.png"), "--format", "freespace", "--drivable", "green,blue", "--write", "masks"]
    camera = ["--fx", "100", "--camera-height", "1.3"]
    for more, beams in ((camera, 128), ([*camera, "--beams", "9"], 9)):
        result = CliRunner().invoke(app, [*command, *more])
        assert result.exit_code == 0, result.output
        (made,) = tmp_path.glob("*.mask.json")
        assert len(json.loads(made.read_text("utf-8"))["scan"]["ranges"]) == beams
    result = CliRunner().invoke(app, [*command, "--fx", "100"])
    assert isinstance(result.exception, BadParameter)  # the program's entry turns it into a line and exit code 2
    assert "camera_height" in str(result.exception)
