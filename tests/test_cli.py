"""The command line: the commands as a person types them, on real files, real artifacts and real ports."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from service import __version__, cli, encodings
from service.batch.lines import Lines
from service.batch.records import NAME as RECORD
from service.batch.records import Records
from service.cli.check import _manifest_rows
from service.client import Client
from service.encodings import decode, overlay, rle, tiff
from service.pipeline.codecs import georeference
from service.pipeline.codecs.georeference import Georeference
from service.pipeline.manifest import Parity, SplitScores
from service.settings import Settings
from tests.conftest import encode_image, make_graph, make_image, make_labels, make_manifest, write_artifact
from tests.live import live_server
from tests.waiting import wait_until

COMMAND = [sys.executable, "-m", "service"]
ROOT = Path(__file__).resolve().parent.parent


class Outcome(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(artifact_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """``run("segment", path, FCN_THREADS="1")``: a command in this process, with the colour network to serve."""

    def invoke(*words: object, **environment: object) -> Outcome:
        monkeypatch.setenv("FCN_MODELS_DIR", str(artifact_dir))
        for name, value in environment.items():
            monkeypatch.setenv(name, str(value))
        monkeypatch.setattr(sys, "argv", ["fcn-serve", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return Outcome(end.value.code, captured.out, captured.err)

    return invoke


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two images, a third one in a folder below, and a file that is none."""
    photos = tmp_path / "photos"
    (photos / "night").mkdir(parents=True)
    for name in ("a.jpg", "b.PNG", "night/c.bmp"):
        picture = encode_image(make_image(), {".jpg": "JPEG", ".PNG": "PNG", ".bmp": "BMP"}[Path(name).suffix])
        (photos / name).write_bytes(picture)
    (photos / "notes.txt").write_text("no image")
    return photos


def files(folder: Path) -> list[str]:
    """Every file below a folder, by its path within, but the record of what was made of what."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != RECORD)


# segment ---------------------------------------------------------------------------------------------------------------------


def test_mask_and_overlay_are_written_beside_each_image(run: Run, folder: Path) -> None:
    """A folder is searched to the bottom; each image gets its mask, with the right classes, and its overlay."""
    before = {name: (folder / name).read_bytes() for name in files(folder)}
    outcome = run("segment", folder)
    assert outcome.code == 0
    assert "3 of 3 segmented with colours@1.0.0" in outcome.out
    results = {name + end for name in ("a", "b", "night/c") for end in (".mask.png", ".overlay.png")}
    assert set(files(folder)) == set(before) | results
    assert all((folder / name).read_bytes() == content for name, content in before.items())
    mask = np.asarray(Image.open(folder / "b.mask.png"))
    assert np.mean(mask == make_labels()) > 0.9
    blended = overlay.blend(make_image(), mask, make_manifest().palette())
    assert np.array_equal(np.asarray(Image.open(folder / "b.overlay.png")), blended)


@pytest.mark.parametrize(("name", "suffix"), [("rle", "json"), ("polygons", "json"), ("npy", "npy"), ("autoware", "rle")])
def test_masks_are_written_in_any_format(run: Run, folder: Path, name: str, suffix: str) -> None:
    """What --format names, in a file that is called so; the overlays stay as they are."""
    assert run("segment", folder / "b.PNG", "--format", name).code == 0
    mask = decode(name, (folder / f"b.mask.{suffix}").read_bytes(), (96, 128))
    assert np.mean(mask == make_labels()) > 0.9
    assert (folder / "b.overlay.png").exists()
    assert not (folder / "b.mask.png").exists()


@pytest.mark.parametrize(("option", "value", "hint"), [("--format", "jpeg", "png, rle"), ("--ids", "kitti", "autoware")])
def test_a_format_or_ids_that_do_not_exist_are_refused_before_any_work(
    run: Run, folder: Path, option: str, value: str, hint: str
) -> None:
    """The message names those that do, and nothing is written."""
    before = files(folder)
    outcome = run("segment", folder, option, value)
    assert outcome.code == 1
    assert hint in outcome.err
    assert files(folder) == before


def street_models(folder: Path) -> Path:
    """The colour network, whose classes are those of a street: things that can be counted, and that other tables know."""
    table = make_manifest().classes
    named = [entry.model_copy(update={"name": name}) for entry, name in zip(table, ("car", "road", "sky"), strict=True)]
    folder.mkdir()
    write_artifact(folder / "colours.onnx", make_manifest(classes=named))
    return folder


def test_masks_are_those_that_the_service_would_send(run: Run, folder: Path, tmp_path: Path) -> None:
    """Every option of the query, by the same name: byte for byte the same results."""
    models = street_models(tmp_path / "models")
    image = folder / "b.PNG"
    with live_server(Settings(models_dir=models)) as url:
        cases: tuple[tuple[list[object], dict[str, Any], str], ...] = (
            (["--classes", "car,sky", "--min-confidence", 0.3], {"classes": "car,sky", "min_confidence": 0.3}, "png"),
            (["--classes", "car", "--classes", 2, "--ids", "autoware"], {"classes": ["car", "2"], "ids": "autoware"}, "png"),
            (
                ["--format", "coco", "--instances", "--min-area", 9],
                {"format": "coco", "instances": True, "min_area": 9},
                "json",
            ),
            (["--format", "rle", "--statistics"], {"format": "rle", "statistics": True}, "json"),
            (["--format", "polygons", "--tolerance", 2], {"format": "polygons", "tolerance": 2}, "json"),
            (["--palette", "bright"], {"palette": "bright"}, "png"),
            (["--format", "panoptic", "--min-area", 9], {"format": "panoptic", "min_area": 9}, "json"),
        )
        for words, query, suffix in cases:
            outcome = run("segment", image, "--overwrite", "--write", "masks", *words, FCN_MODELS_DIR=models)
            assert (outcome.code, outcome.err) == (0, "")
            sent = httpx.post(f"{url}/segment", params=query, content=image.read_bytes()).raise_for_status()
            assert (folder / f"b.mask.{suffix}").read_bytes() == sent.content, words
        run("segment", image, "--overwrite", "--legend", "--ids", "cityscapes-train", FCN_MODELS_DIR=models)
        overlaid: dict[str, Any] = {"format": "overlay", "legend": True, "ids": "cityscapes-train"}
        sent = httpx.post(f"{url}/segment", params=overlaid, content=image.read_bytes()).raise_for_status()
        assert (folder / "b.overlay.png").read_bytes() == sent.content


def test_documents_name_their_image_and_its_place(run: Run, tmp_path: Path) -> None:
    """A dataset points to its image's file, and polygons of a GeoTIFF lie on the map."""
    place = Georeference((500_000.0, 10.0, 0.0, 5_400_000.0, 0.0, -20.0), 32632, projected=True)
    (tmp_path / "field.tif").write_bytes(tiff.encode(make_labels(), make_manifest().palette(), place))
    for form, suffix in (("coco-dataset", "json"), ("labelme", "json"), ("geojson", "geojson"), ("tiff", "tif")):
        assert run("segment", tmp_path / "field.tif", "--overwrite", "--write", "masks", "--format", form).code == 0
        body = (tmp_path / f"field.mask.{suffix}").read_bytes()
        if form == "tiff":
            assert georeference.of(body) == place
            continue
        document = json.loads(body)
        if form == "coco-dataset":
            assert document["images"][0]["file_name"] == "field.tif"
        elif form == "labelme":
            assert document["imagePath"] == "field.tif"
        else:
            assert document["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32632"


def test_lines_say_what_the_options_ask_for(run: Run, folder: Path, tmp_path: Path) -> None:
    """``--write rle`` of images: a line each, readable as any run-length encoding, and a second run adds none."""
    words = ("segment", folder, "--write", "rle", "--out", tmp_path / "out", "--statistics", "--classes", "red")
    assert "3 of 3 segmented" in run(*words).out
    lines = [json.loads(line) for line in (tmp_path / "out" / "masks.jsonl").read_text("utf-8").splitlines()]
    assert sorted(line["file"] for line in lines) == sorted(str(folder / name) for name in ("a.jpg", "b.PNG", "night/c.bmp"))
    expected = np.where(make_labels() == 0, 0, 255)
    for line in lines:
        assert np.mean(rle.decode(line) == expected) > 0.9
        assert [(entry["name"], entry["bbox"][:2]) for entry in line["classes"]] == [("red", [0, 0])]
    assert "0 of 0 segmented with colours@1.0.0; 3 were finished before" in run(*words).out
    with (tmp_path / "out" / "masks.jsonl").open("ab") as torn:
        torn.write(b'{"file":')  # as a power cut would leave it
    (folder / "d.bmp").write_bytes((folder / "night" / "c.bmp").read_bytes())
    assert "1 of 1 segmented" in run(*words).out
    lines = [json.loads(line) for line in (tmp_path / "out" / "masks.jsonl").read_text("utf-8").splitlines()]
    assert len(lines) == 4
    assert files(tmp_path / "out") == ["masks.jsonl"]


@pytest.mark.parametrize(
    ("words", "code", "hint"),
    [
        (["--classes", "dragon"], 1, "no class 'dragon'; the model knows red, green, blue"),
        (["--classes", ","], 1, "classes names no class"),
        (["--min-confidence", "1.5"], 2, "Invalid value for '--min-confidence'"),
        (["--tolerance", "-1"], 2, "Invalid value for '--tolerance'"),
        (["--ids", "autoware"], 1, "has a place for none of the model's classes (red, green, blue)"),
        (["--instances"], 1, "it is for format=coco, coco-uncompressed"),
        (["--instances", "--format", "coco"], 1, "the classes (red, green, blue) include none that can be counted"),
        (["--min-area", "5"], 1, "min_area means nothing to"),
        (["--legend", "--write", "masks"], 1, "legend means nothing to png; it is for format=overlay"),
        (["--statistics"], 1, "it is for format=rle, coco"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_an_option_that_makes_no_sense_is_refused_before_any_work(
    run: Run, folder: Path, words: list[str], code: int, hint: str
) -> None:
    """In the service's own words, and nothing is written."""
    before = files(folder)
    outcome = run("segment", folder, *words)
    assert outcome.code == code
    assert hint in outcome.err
    assert files(folder) == before


def test_a_second_run_does_not_take_the_results_for_images(run: Run, folder: Path) -> None:
    """Running again does no more, and with --overwrite the same again."""
    run("segment", folder)
    once = files(folder)
    assert "0 of 0 segmented with colours@1.0.0; 3 were finished before" in run("segment", folder).out
    outcome = run("segment", folder, "--overwrite")
    assert "3 of 3" in outcome.out
    assert files(folder) == once


def test_out_keeps_the_shape_of_the_folder(run: Run, folder: Path, tmp_path: Path) -> None:
    """With --out nothing is written beside the images, and folders below stay folders below."""
    before = files(folder)
    assert run("segment", folder, "--out", tmp_path / "new" / "results").code == 0
    assert files(folder) == before
    written = files(tmp_path / "new" / "results")
    assert written == [
        *("a.mask.png", "a.overlay.png", "b.mask.png", "b.overlay.png"),
        *("night/c.mask.png", "night/c.overlay.png"),
    ]


def test_a_broken_file_does_not_stop_the_others(run: Run, folder: Path) -> None:
    """The others are done; the summary names each broken one with its reason, and the exit code is 1."""
    (folder / "letter.jpg").write_text("dear reader")
    (folder / "half.jpg").write_bytes((folder / "a.jpg").read_bytes()[:300])
    (folder / "empty.png").touch()
    outcome = run("segment", folder, folder / "missing.jpg")
    assert outcome.code == 1
    assert "3 of 7 segmented" in outcome.out
    assert len(outcome.err.splitlines()) == 4
    for name in ("letter.jpg", "half.jpg", "empty.png", "missing.jpg: No such file or directory"):
        assert f"{folder / name}" in outcome.err
    assert not (folder / "letter.mask.png").exists()


def test_limits_hold_on_the_command_line_too(run: Run, folder: Path) -> None:
    """The service's limits on bytes and pixels are this command's limits."""
    many = run("segment", folder / "a.jpg", FCN_MAX_IMAGE_BYTES=100)
    assert many.code == 1
    assert "FCN_MAX_IMAGE_BYTES allows 100" in many.err
    assert run("segment", folder / "a.jpg", FCN_MAX_IMAGE_PIXELS=100).code == 1


def test_images_of_one_stem_get_results_of_their_own(run: Run, tmp_path: Path) -> None:
    """a.jpg and a.png side by side do not overwrite each other's mask."""
    (tmp_path / "a.jpg").write_bytes(encode_image(make_image(), "JPEG"))
    (tmp_path / "a.png").write_bytes(encode_image(make_image()))
    assert run("segment", tmp_path).code == 0
    results = {f"a.{kind}.{what}.png" for kind in ("jpg", "png") for what in ("mask", "overlay")}
    assert set(files(tmp_path)) == {"a.jpg", "a.png"} | results


def test_results_that_a_pattern_finds_are_left_out(run: Run, folder: Path) -> None:
    """As in a folder: the shell says nothing of its patterns, so of several files those called as results are left out."""
    words = ("segment", "--write", "masks", "--write", "overlays", "--write", "rle", "--out", folder)
    assert "2 of 2" in run(*words, folder / "a.jpg", folder / "b.PNG").out
    once = files(folder)
    named = [path for path in sorted(folder.iterdir()) if path.name[:2] in ("a.", "b.", "ma")]
    assert len(named) == 7
    outcome = run(*words, *named, "--overwrite")
    assert (outcome.code, outcome.err) == (0, "")
    assert "2 of 2" in outcome.out
    assert files(folder) == once
    assert run("segment", folder / "[ab].*").code == 0
    assert files(folder) == once
    assert run("segment", folder / "a.mask.png", "--out", folder / "new").code == 0
    assert files(folder / "new") == ["a.mask.mask.png", "a.mask.overlay.png"]
    outcome = run("segment", folder / "a.mask.png", folder / "b.mask.png")
    assert outcome.code == 2
    assert "name one alone" in outcome.err


def test_two_images_never_write_one_result(run: Run, tmp_path: Path) -> None:
    """Images of one name from two folders, sent into one: the second is named instead of overwriting the first."""
    for name in ("day", "night"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(encode_image(make_image()))
    outcome = run("segment", tmp_path / "day" / "a.png", tmp_path / "night" / "a.png", "--out", tmp_path / "out")
    assert outcome.code == 1
    assert "1 of 2" in outcome.out
    assert "night/a.png" in outcome.err


def test_an_image_named_twice_is_done_once(run: Run, folder: Path) -> None:
    """By itself and through its folder: one image, one job."""
    assert "3 of 3" in run("segment", folder / "a.jpg", folder, folder / "night" / ".." / "a.jpg").out


def test_a_folder_without_images_is_named(run: Run, tmp_path: Path) -> None:
    """An empty folder is a mistake worth an exit code."""
    outcome = run("segment", tmp_path)
    assert outcome.code == 1
    assert f"{tmp_path}: there is no image in this folder" in outcome.err


def test_a_folder_that_cannot_be_written_is_told_for_each_image(run: Run, folder: Path, tmp_path: Path) -> None:
    """A results' folder that is a file: a reason, no trace, nothing left behind."""
    (tmp_path / "taken").touch()
    outcome = run("segment", folder / "a.jpg", "--out", tmp_path / "taken")
    assert outcome.code == 1
    assert "a.jpg: " in outcome.err
    assert (tmp_path / "taken").read_bytes() == b""


def test_the_model_is_chosen_by_name(run: Run, folder: Path, tmp_path: Path) -> None:
    """--model takes another network; a name that is not there lists those that are."""
    models = tmp_path / "models"
    models.mkdir()
    write_artifact(models / "colours.onnx")
    write_artifact(models / "b.onnx", make_manifest(name="backwards"), make_graph(np.eye(3, dtype=np.float32)[::-1].copy()))
    assert run("segment", folder / "b.PNG", "--model", "colours", FCN_MODELS_DIR=models).code == 0
    plain = np.asarray(Image.open(folder / "b.mask.png")).copy()
    assert "backwards@1.0.0" in run("segment", folder / "b.PNG", "--overwrite", FCN_MODELS_DIR=models).out
    assert np.array_equal(np.asarray(Image.open(folder / "b.mask.png")), 2 - plain)
    unknown = run("segment", folder / "b.PNG", "--model", "missing", FCN_MODELS_DIR=models)
    assert unknown.code == 1
    assert "backwards, colours" in unknown.err


def test_on_a_terminal_a_bar_shows_speed_and_time_left(folder: Path, artifact_dir: Path) -> None:
    """The bar is drawn on the standard error, and only where it can be seen."""
    watching, shown = pty.openpty()
    environment = {**os.environ, "FCN_MODELS_DIR": str(artifact_dir), "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(
        [*COMMAND, "segment", str(folder)], stderr=shown, stdout=subprocess.PIPE, cwd=ROOT, env=environment
    ) as process:
        os.close(shown)
        drawn = b""
        with contextlib.suppress(OSError):  # the way in which a closed terminal ends
            while piece := os.read(watching, 65536):
                drawn += piece
        os.close(watching)
        assert process.stdout is not None
        printed = process.stdout.read()
    assert process.returncode == 0
    assert b"3/3" in drawn
    assert b"frames/s" in drawn
    assert re.search(rb"\d:\d\d", drawn)
    assert printed.decode().splitlines()[1:] == [f"  the results are in {folder}"]


def lines_of(folder: Path) -> dict[str, dict[str, Any]]:
    """The lines of a run, by the image's name: one an image."""
    lines = [json.loads(line) for line in (folder / "masks.jsonl").read_text("utf-8").splitlines()]
    by_name = {Path(line["file"]).name: line for line in lines}
    assert len(by_name) == len(lines)
    return by_name


def test_overwriting_some_lines_leaves_the_others(run: Run, folder: Path, tmp_path: Path) -> None:
    """``--overwrite`` replaces the lines of this run's images, and those only; there is one line an image."""
    words = ("--write", "rle", "--out", tmp_path / "out")
    assert run("segment", folder, *words).code == 0
    before = lines_of(tmp_path / "out")
    assert "1 of 1" in run("segment", folder / "a.jpg", *words, "--overwrite", "--classes", "red").out
    after = lines_of(tmp_path / "out")
    assert set(after) == {"a.jpg", "b.PNG", "c.bmp"}
    assert [name for name in after if after[name] != before[name]] == ["a.jpg"]
    assert [entry["name"] for entry in after["a.jpg"]["classes"]] == ["red"]
    assert files(tmp_path / "out") == ["masks.jsonl"]


def test_overwriting_loses_no_line_when_it_is_interrupted(
    run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines are replaced one by one: Ctrl-C leaves those of before for the images that it did not come to."""
    words = ("segment", folder, "--write", "rle", "--out", tmp_path / "out")
    assert run(*words).code == 0
    before = lines_of(tmp_path / "out")
    add = Lines.add
    added: list[bytes] = []

    def interrupted(lines: Lines, line: bytes, rank: int = 0) -> None:
        if added:
            raise KeyboardInterrupt
        added.append(line)
        add(lines, line, rank)

    with monkeypatch.context() as patch:
        patch.setattr(Lines, "add", interrupted)
        assert run(*words, "--overwrite", "--classes", "red").code == 130
    after = lines_of(tmp_path / "out")
    assert set(after) == set(before)
    assert sum(after[name] != before[name] for name in after) == 1
    assert files(tmp_path / "out") == ["masks.jsonl"]


def test_a_line_is_done_when_it_is_there_and_of_its_image_as_it_is(run: Run, folder: Path, tmp_path: Path) -> None:
    """Files alone are not all where lines are wanted too, and a line of an image that has changed since does not count."""
    out = ("--out", tmp_path / "out")
    assert run("segment", folder, "--write", "masks", *out).code == 0
    assert "3 of 3" in run("segment", folder, "--write", "masks", "--write", "rle", *out).out
    assert set(lines_of(tmp_path / "out")) == {"a.jpg", "b.PNG", "c.bmp"}
    for write in (("rle",), ("masks", "rle")):
        options = [word for each in write for word in ("--write", each)]
        assert run("segment", folder, *options, *out).code == 0
        assert "3 were finished before" in run("segment", folder, *options, *out).out
        (folder / "b.PNG").write_bytes(encode_image(np.zeros_like(make_image()) + len(write)))
        os.utime(folder / "b.PNG", (time.time() + 5, time.time() + 5))
        assert "1 of 1" in run("segment", folder, *options, *out).out
        assert [entry["name"] for entry in lines_of(tmp_path / "out")["b.PNG"]["classes"]] != ["red", "green", "blue"]
        assert "3 were finished before" in run("segment", folder, *options, *out).out


def test_ctrl_c_leaves_whole_files_only(tmp_path: Path, artifact_dir: Path) -> None:
    """Interrupted in the middle: exit code 130, one line, and every file that is there can be read."""
    picture = encode_image(make_image(720, 1280), "JPEG")
    for i in range(400):
        (tmp_path / f"{i:03}.jpg").write_bytes(picture)
    environment = {**os.environ, "FCN_MODELS_DIR": str(artifact_dir)}
    with subprocess.Popen(
        [*COMMAND, "segment", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment,
    ) as process:
        wait_until((tmp_path / "002.mask.png").exists, "the third mask", alive=lambda: process.poll() is None)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert out == ""
    assert re.fullmatch(
        r"interrupted after \d+ of 400 images; what was written is whole, and the same command goes on from here\n", err
    )
    written = [path for path in tmp_path.iterdir() if path.suffix == ".png"]
    assert 6 <= len(written) < 800
    for path in written:
        Image.open(path).load()
    assert not list(tmp_path.glob("*.part"))


# models, check ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    """Two good artifacts, one with scores, and a broken one."""
    models = tmp_path / "models"
    models.mkdir()
    scores = SplitScores(pixel_accuracy=0.9, mean_accuracy=0.8, mean_iou=0.7, frequency_weighted_iou=0.8)
    write_artifact(models / "colours.onnx", make_manifest(scores={"camvid-val": scores}))
    write_artifact(models / "other.onnx", make_manifest(name="other", version="2.1"))
    (models / "torn.onnx").write_bytes((models / "other.onnx").read_bytes()[:200])
    return models


def test_models_are_listed_with_what_they_are(run: Run, models_dir: Path) -> None:
    """Name, version, size and score of each, the default marked, the broken one with its reason."""
    outcome = run("models", FCN_MODELS_DIR=models_dir)
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert re.match(r"\*\s+colours\s+1\.0\.0\s.*128 x 96.*camvid-val 0\.700", lines[1])
    assert re.match(r"\s+other\s+2\.1\s", lines[2])
    assert re.match(r"broken: torn\.onnx: .*\n", outcome.err)
    other = run("models", FCN_MODELS_DIR=models_dir, FCN_DEFAULT_MODEL="other")
    assert [line.split()[:2] for line in other.out.splitlines()[1:3]] == [["colours", "1.0.0"], ["*", "other"]]


def test_check_proves_and_times_every_artifact(run: Run, artifact_dir: Path) -> None:
    """Provider, file and the time of a frame; exit code 0 when all is well."""
    outcome = run("check")
    assert outcome.code == 0
    (line,) = [line for line in outcome.out.splitlines() if "colours.onnx" in line]
    assert re.search(r"\scpu\s+128 x 96\s+[\d.]+ ms\s+[\d.]+ ms", line)
    assert outcome.err == ""


def test_check_fails_when_an_artifact_is_broken(run: Run, models_dir: Path) -> None:
    """The good ones are still timed; the broken one is named, and the exit code is 1."""
    outcome = run("check", FCN_MODELS_DIR=models_dir)
    assert outcome.code == 1
    assert "colours.onnx" in outcome.out
    assert re.fullmatch(r"broken: torn\.onnx: .*\n", outcome.err)


def test_check_runs_the_whole_pipeline(run: Run, tmp_path: Path) -> None:
    """An artifact that opens and gives no numbers is broken, too."""
    write_artifact(tmp_path / "nan.onnx", graph=make_graph(np.full((3, 3), np.nan, np.float32)))
    outcome = run("check", FCN_MODELS_DIR=tmp_path)
    assert outcome.code == 1
    assert "nan.onnx" in outcome.err


PARITY = Parity(max_score_difference=2e-5, mean_score_difference=1e-6, argmax_agreement=1, shapes=((1, 8, 8),), opset=18)


def test_check_explains_an_artifact(run: Run, tmp_path: Path) -> None:
    """Format, ports, classes, size, reach, parity, providers and the time of a frame."""
    unpooled = PARITY.model_copy(update={"switches": 4096, "moved_switches": 3})
    artifact = write_artifact(tmp_path / "colours.onnx", make_manifest(parity=unpooled))
    outcome = run("check", artifact, FCN_MODELS_DIR="/no/such/folder")
    assert (outcome.code, outcome.err) == (0, "")
    for line in (
        rf"file +{artifact}, 0\.00\d+ MB",
        "sha256 +[0-9a-f]{64}",
        "format +ONNX IR 10, opset 18",
        "input +image uint8 N x H x W x 3",
        "output +scores float32 N x 3 x h x w",
        "model +colours@1.0.0, colour-distance, fp32",
        "classes +3: red, green, blue",
        "runs at +area of 128 x 96, sides multiples of 8",
        "reach +stride 8, receptive field 8 pixels, halo 8 pixels",
        "parity +scores within 2.0e-05, winners 100.0000%",
        "unpooling +3 of 4096 recorded maxima tie up to a rounding and are other pixels",
        r"runs on +cpu: network [\d.]+ ms, whole [\d.]+ ms",
        "providers .*CPUExecutionProvider",
    ):
        assert re.search(f"^{line}", outcome.out, re.MULTILINE), line
    assert "missing" not in outcome.out
    assert "unpooling" not in dict(_manifest_rows(make_manifest(parity=PARITY)))


def test_check_explains_what_a_foreign_network_lacks(run: Run, tmp_path: Path) -> None:
    """And the command that adds it; exit code 1, for it cannot be served as it is."""
    model = make_graph()
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 96, 128]))
    del model.graph.node[:2]
    model.graph.node[0].input[0] = "x"
    path = tmp_path / "foreign.onnx"
    onnx.save(model, path)
    outcome = run("check", path)
    assert (outcome.code, outcome.err) == (1, "")
    assert len(re.findall("^missing ", outcome.out, re.MULTILINE)) == 3
    assert re.search(f"^to add it +python -m models.adopt {path} --classes FILE.json ", outcome.out, re.MULTILINE)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.write_text("a shopping list"), "is not an ONNX file"),
        (lambda path: path.write_bytes(path.read_bytes()[:150]), "is truncated"),
        (lambda path: path.unlink(), "No such file"),
        (lambda path: write_artifact(path, make_manifest(stride=4)), "instead of"),
        (lambda path: write_artifact(path, graph=make_graph(np.eye(3, dtype=np.float32)[:2])), "one plane a class"),
        (lambda path: (path.unlink(), path.mkdir()), "Is a directory"),
    ],
    ids=["text", "truncated", "gone", "stride", "planes", "folder"],
)
def test_check_says_in_one_line_what_is_wrong_with_a_file(
    spoil: Callable[[Path], object], reason: str, run: Run, tmp_path: Path
) -> None:
    """Nothing on the standard output, exit code 1."""
    path = write_artifact(tmp_path / "file.onnx")
    spoil(path)
    outcome = run("check", path)
    assert (outcome.code, outcome.out) == (1, "")
    assert re.fullmatch(rf"fcn-serve: file\.onnx: .*{reason}.*\n", outcome.err)


# What cannot be started ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["serve"], ["check"], ["models"], ["segment", "x.jpg"]], ids=lambda words: words[0])
@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"FCN_MODELS_DIR": "/no/such/folder"}, "/no/such/folder"),
        ({"FCN_MODELS_DIR": os.curdir + "/service"}, "no artifact"),
        ({"FCN_THREADS": "many"}, "FCN_THREADS"),
        ({"FCN_PROVIDER": "tpu"}, "FCN_PROVIDER"),
    ],
    ids=["missing", "empty", "threads", "provider"],
)
def test_a_setting_that_cannot_be_used_is_one_line(
    command: list[str], environment: dict[str, str], words: str, run: Run
) -> None:
    """Every command says which setting it is, in one line, with exit code 2."""
    outcome = run(*command, **environment)
    assert outcome.code == 2
    assert outcome.out == ""
    assert re.fullmatch(r"fcn-serve: FCN_.*\n", outcome.err)
    assert words in outcome.err


def test_a_port_that_is_taken_is_one_line(run: Run) -> None:
    """The service says which port, and does not start."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        outcome = run("serve", "--port", port)
    assert outcome.code == 2
    assert re.fullmatch(rf"fcn-serve: FCN_PORT: cannot listen on port {port} of 127\.0\.0\.1: .*in use\n", outcome.err)


def test_a_host_that_is_none_is_one_line(run: Run) -> None:
    """A name without an address, or with that of another machine."""
    assert re.fullmatch(r"fcn-serve: FCN_HOST: .*\n", run("serve", "--host", "no such host").err)
    assert re.fullmatch(r"fcn-serve: FCN_PORT: .*\n", run("serve", "--host", "192.0.2.1", "--port", 0).err)


@pytest.mark.parametrize("words", [["serve", "--port", "many"], ["segment"], ["dance"], ["segment", "--quick", "x.jpg"]])
def test_a_command_line_that_makes_no_sense_has_exit_code_2(words: list[str], run: Run) -> None:
    """A mistyped command is told as such."""
    assert run(*words).code == 2


def test_help_names_the_commands(run: Run) -> None:
    """Every command of the contract."""
    out = run("--help").out
    for command in ("serve", "segment", "live", "models", "check", "captures", "cluster"):
        assert f"  {command}" in out


def test_the_version_is_told(run: Run) -> None:
    """Of the package that is installed, and nothing else."""
    assert run("--version") == Outcome(0, f"fcn-serve {__version__}\n", "")


# serve -----------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def serving(models: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """``fcn-serve serve`` on a free port, in a process of its own."""
    environment = {**os.environ, "FCN_MODELS_DIR": str(models), "FCN_PORT": "0", **environment}
    command = [*COMMAND, "serve"]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def address_of(process: subprocess.Popen[str]) -> str:
    """What the service says of where it listens."""
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"listens on (http://[\d.]+:\d+)", line):
            return found[1]
    raise AssertionError("the service ended without an address")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_says_where_and_ends_well(number: signal.Signals, artifact_dir: Path) -> None:
    """The address in its log answers; Ctrl-C and SIGTERM end it with exit code 0, and without a trace."""
    with serving(artifact_dir) as process:
        with Client(address_of(process)) as client:
            wait_until(client.ready, "the service to be ready")
            assert client.segment(make_image()).labels.shape == (96, 128)
        process.send_signal(number)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "Traceback" not in err


def test_json_lines_are_json_from_the_first(artifact_dir: Path) -> None:
    """A program can read every line of the log."""
    with serving(artifact_dir, FCN_LOG_FORMAT="json", FCN_PROT="1") as process:
        assert process.stderr is not None
        lines: list[str] = []
        while "listens on" not in (lines or [""])[-1]:
            lines.append(process.stderr.readline())
        process.terminate()
        lines += process.communicate(timeout=120)[1].splitlines()
    assert all(json.loads(line)["message"] for line in lines)
    told = [json.loads(line) for line in lines if "FCN_PROT" in line]
    assert [(line["level"], line["message"]) for line in told] == [
        ("warning", "FCN_PROT is not a setting and has no effect; is FCN_PORT meant?")
    ]


def test_a_start_that_fails_has_no_trace(artifact_dir: Path) -> None:
    """A provider that is not there: the last line says what is missing, and the exit code is 1."""
    with serving(artifact_dir, FCN_PROVIDER="cuda", CUDA_VISIBLE_DEVICES="") as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Traceback" not in err
    assert re.match(r"fcn-serve: CUDA", err.splitlines()[-1])


# completion ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["seg"], ["segment"]),
        ([""], ["serve", "segment", "live", "models", "check", "captures", "cluster"]),
        (["segment", "--min-"], ["--min-confidence", "--min-area"]),
        (["segment", "--format", "coco-"], ["coco-uncompressed"]),
        (["segment", "--ids", "auto"], ["autoware"]),
        (["segment", "--write", "ov"], ["overlays"]),
        (["segment", "phot"], []),
    ],
    ids=" ".join,
)
def test_the_shell_completes_commands_options_and_their_values(words: list[str], completed: list[str]) -> None:
    """What bash asks for at a tab; names of files are left to the shell."""
    line = {"COMP_WORDS": " ".join(["fcn-serve", *words]), "COMP_CWORD": str(len(words))}
    command = [sys.executable, "-c", "import sys; sys.argv[0] = 'fcn-serve'; from service.cli import main; main()"]
    asked = {**os.environ, **line, "_FCN_SERVE_COMPLETE": "complete_bash"}
    told = subprocess.run(command, cwd=ROOT, env=asked, capture_output=True, text=True, check=False, timeout=120)
    assert set(completed) <= set(told.stdout.split())
    assert completed or not told.stdout.split()


def test_the_help_of_serve_names_the_page_of_its_settings(run: Run) -> None:
    """Two flags are few; the rest is found from here."""
    assert "docs/settings.md" in run("serve", "--help").out


# what is done again ----------------------------------------------------------------------------------------------------------


def backwards(models: Path, name: str = "colours") -> Path:
    """A models folder with a network that sees red as blue and blue as red."""
    models.mkdir(exist_ok=True)
    write_artifact(models / "a.onnx", make_manifest(name=name), make_graph(np.eye(3, dtype=np.float32)[::-1].copy()))
    return models


@pytest.mark.parametrize(("name", "words"), [("colours", "another artifact called colours@1.0.0"), ("b", "colours@1.0.0")])
def test_results_of_another_model_are_done_again(run: Run, folder: Path, tmp_path: Path, name: str, words: str) -> None:
    """Another artifact, of another or of the same name: a line says so, and the masks are the new ones."""
    assert run("segment", folder).code == 0
    before = np.asarray(Image.open(folder / "b.mask.png")).copy()
    models = backwards(tmp_path / "models", name)
    outcome = run("segment", folder, FCN_MODELS_DIR=models)
    assert (outcome.code, outcome.err) == (0, "")
    assert f"3 done again: made by {words}" in outcome.out
    assert f"3 of 3 segmented with {name}@1.0.0" in outcome.out
    assert np.array_equal(np.asarray(Image.open(folder / "b.mask.png")), 2 - before)
    assert "3 were finished before" in run("segment", folder, FCN_MODELS_DIR=models).out


def test_results_with_other_options_are_done_again(run: Run, folder: Path) -> None:
    """Classes, confidence, a legend; and only the files whose options changed."""
    assert run("segment", folder).code == 0
    for words in (["--classes", "red"], ["--classes", "red", "--min-confidence", "0.3"], ["--legend"], []):
        outcome = run("segment", folder, *words)
        assert "3 done again: made with other options" in outcome.out
        assert "3 were finished before" in run("segment", folder, *words).out
    assert "3 of 3" in run("segment", folder, "--format", "npy").out
    assert "3 were finished before" in run("segment", folder).out


def test_results_that_no_record_names_are_done_again(run: Run, folder: Path) -> None:
    """As an older version leaves them: of what they were made is not known."""
    assert run("segment", folder).code == 0
    (folder / RECORD).unlink()
    outcome = run("segment", folder)
    assert "2 done again: made by a run that left no record" in outcome.out
    assert "2 of 2 segmented with colours@1.0.0" in outcome.out
    assert "1 were finished before" in outcome.out


@pytest.mark.parametrize("name", ["b.mask.png", "b.overlay.png"])
@pytest.mark.parametrize("bytes_left", [0, 20])
def test_a_result_that_was_emptied_or_cut_is_done_again(run: Run, folder: Path, name: str, bytes_left: int) -> None:
    """A file that a full disk or a slip has shortened is written again, and a line says why."""
    assert run("segment", folder).code == 0
    whole = (folder / name).read_bytes()
    os.truncate(folder / name, bytes_left)
    outcome = run("segment", folder)
    assert "1 done again: the result is of another size than the one that was written" in outcome.out
    assert "1 of 1 segmented with colours@1.0.0" in outcome.out
    assert "2 were finished before" in outcome.out
    assert (folder / name).read_bytes() == whole
    assert "3 were finished before" in run("segment", folder).out


def test_a_file_of_lines_that_was_emptied_is_made_again(run: Run, folder: Path, tmp_path: Path) -> None:
    """Every image whose line is gone is segmented again."""
    words = ("segment", folder, "--write", "rle", "--out", tmp_path / "out")
    assert run(*words).code == 0
    os.truncate(tmp_path / "out" / "masks.jsonl", 0)
    assert "3 of 3 segmented" in run(*words).out
    assert len((tmp_path / "out" / "masks.jsonl").read_bytes().splitlines()) == 3


@pytest.mark.parametrize("length", [218, 236, 240, 251])
def test_a_long_name_has_both_results(run: Run, tmp_path: Path, length: int) -> None:
    """Mask and overlay are written under a name that fits, and a second run finds them."""
    (tmp_path / ("a" * length + ".png")).write_bytes(encode_image(make_image(24, 32)))
    outcome = run("segment", tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    assert len([*tmp_path.glob("*.mask.png")]) == len([*tmp_path.glob("*.overlay.png")]) == 1
    assert "1 were finished before" in run("segment", tmp_path).out


def test_a_link_to_nothing_is_told(run: Run, folder: Path) -> None:
    """One line and exit code 1; the other images are done."""
    (folder / "z.jpg").symlink_to("missing.jpg")
    outcome = run("segment", folder)
    assert outcome.code == 1
    assert f"{folder / 'z.jpg'}: a link to missing.jpg, which is not there" in outcome.err
    assert "3 of 4 segmented" in outcome.out


def test_a_second_run_into_one_folder_is_told(folder: Path, tmp_path: Path, run: Run) -> None:
    """One line and exit code 2; the first goes on, and afterwards everything is finished."""
    out = tmp_path / "out"
    first = Records(out, hold=True)
    try:
        outcome = run("segment", folder, "--write", "rle", "--out", out)
        assert (outcome.code, outcome.out) == (2, "")
        assert outcome.err == f"fcn-serve: another run writes into {out}: wait until it has ended, or name another --out\n"
    finally:
        first.close()
    assert "3 of 3" in run("segment", folder, "--write", "rle", "--out", out).out


def test_two_runs_at_once_leave_one_line_an_image(tmp_path: Path, artifact_dir: Path) -> None:
    """Started together: one does the work, the other is refused or finds it done."""
    for number in range(40):
        (tmp_path / f"{number}.png").write_bytes(encode_image(make_image(240, 320)))
    environment = {**os.environ, "FCN_MODELS_DIR": str(artifact_dir)}
    command = [*COMMAND, "segment", str(tmp_path), "--write", "rle", "--out", str(tmp_path / "out")]
    runs = [subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate(timeout=120)[1] for process in runs]
    codes = sorted(process.returncode for process in runs)
    assert codes in ([0, 2], [0, 0])
    assert codes == [0, 0] or any("another run writes into" in each for each in told)
    assert len(lines_of(tmp_path / "out")) == 40


def test_an_error_of_an_encoder_ends_its_image_alone(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is raised while results are written; nothing half is left, and the next run does that image alone."""
    encode = encodings.encode
    calls: list[str] = []

    def failing(name: str, view: Any) -> Any:
        calls.append(name)
        if len(calls) == 3:
            raise TypeError("not a type of ours")
        return encode(name, view)

    with monkeypatch.context() as patch:
        patch.setattr("service.batch.sources.images.encode", failing)
        outcome = run("segment", folder, "--write", "masks")
    assert outcome.code == 1
    assert "2 of 3" in outcome.out
    assert re.fullmatch(r"  .*/c\.bmp: TypeError: not a type of ours\n", outcome.err)
    assert not [name for name in files(folder) if name.endswith(".part")]
    assert "1 of 1" in run("segment", folder, "--write", "masks").out


def test_a_name_that_is_not_utf_8_is_escaped(run: Run, tmp_path: Path) -> None:
    """In lines and in messages; its results have the name's own bytes."""
    name = os.fsdecode(b"caf\xe9")
    (tmp_path / f"{name}.jpg").write_bytes(encode_image(make_image(), "JPEG"))
    (tmp_path / f"{name}-torn.jpg").write_bytes(b"\xff\xd8\xff")
    words = [word for each in ("rle", "masks") for word in ("--write", each)]
    outcome = run("segment", tmp_path, "--out", tmp_path / "out", *words)
    assert (outcome.code, outcome.out[:6]) == (1, "1 of 2")
    assert r"caf\xe9-torn.jpg: " in outcome.err
    assert list(lines_of(tmp_path / "out")) == [r"caf\xe9.jpg"]
    assert (tmp_path / "out" / f"{name}.mask.png").exists()
    (tmp_path / f"{name}-torn.jpg").unlink()
    assert "1 were finished before" in run("segment", tmp_path, "--out", tmp_path / "out", *words).out


@pytest.mark.parametrize(("kind", "name"), [("TIFF", "a.tif"), ("WEBP", "a.webp"), ("PNG", "a.png")])
def test_a_file_of_several_pictures_is_told(run: Run, tmp_path: Path, kind: str, name: str) -> None:
    """The first is segmented, and a line says how many there are; exit code 0."""
    pages = [Image.fromarray(make_image()), Image.fromarray(make_image()[::-1, ::-1].copy())]
    pages[0].save(tmp_path / name, kind, save_all=True, append_images=pages[1:])
    outcome = run("segment", tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    assert f"{name} holds 2 pictures; the first is segmented" in outcome.out
    assert np.mean(np.asarray(Image.open(tmp_path / "a.mask.png")) == make_labels()) > 0.9


def test_a_run_may_have_more_folders_than_descriptors(tmp_path: Path, artifact_dir: Path) -> None:
    """Data sets of thousands of folders: each has a record of its own, and none stays open."""
    for number in range(150):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / "a.png").write_bytes(encode_image(make_image(8, 8)))
    limited = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100)); from service.cli import main; main()"
    environment = {**os.environ, "FCN_MODELS_DIR": str(artifact_dir)}
    command = [sys.executable, "-c", limited, "segment", str(tmp_path), "--write", "masks"]
    told = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert (told.returncode, told.stderr, told.stdout[:10]) == (0, "", "150 of 150")


def test_the_native_resolution_is_another_result(run: Run, tmp_path: Path) -> None:
    """The option reaches the network, and a mask of the other resolution is done again."""
    stripes = np.repeat(np.where(np.arange(64) % 2 == 0, 0, 2), 8)
    image = np.broadcast_to(np.eye(3, dtype=np.uint8)[stripes] * 255, (384, 512, 3))
    (tmp_path / "stripes.png").write_bytes(encode_image(np.ascontiguousarray(image)))
    command = ("segment", tmp_path / "stripes.png", "--out", tmp_path / "out", "--write", "masks")
    run(*command)
    working = np.asarray(Image.open(tmp_path / "out" / "stripes.mask.png"))
    assert "done again" in run(*command, "--resolution", "native").out
    native = np.asarray(Image.open(tmp_path / "out" / "stripes.mask.png"))
    assert (native == stripes).mean() > 0.99 > (working == stripes).mean()
