"""Files that are too large to be decoded whole: the same labels and masks as of the whole picture, by rows."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from service import cli
from service.encodings import FORMATS, MaskView, Sheet, by_rows
from service.encodings.options import NO_OPTIONS
from service.errors import BadParameter, ImageTooLarge
from service.pipeline.codecs import georeference, png_parts, spool
from service.pipeline.codecs.decoding import Limits
from service.pipeline.codecs.headers import Header
from service.pipeline.codecs.rows import PictureFile
from service.pipeline.engine import Engine
from service.pipeline.predictor import Predictor
from service.pipeline.repository import Repository
from service.pipeline.tiling import Resolution
from tests.conftest import encode_image, make_image, make_labels, make_manifest, write_artifact
from tests.pyramids import SmallTiles, open_pyramids
from tests.test_grey import write_low_bits

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def pyramids(tmp_path_factory: pytest.TempPathFactory) -> list[Engine]:
    """Random networks of one to four levels."""
    return open_pyramids(tmp_path_factory.mktemp("pyramids"))


@pytest.fixture(scope="module")
def predictor(artifact_dir: Path) -> Predictor:
    """Tiles of 100 pixels."""
    return Predictor(Repository(artifact_dir), Limits(), SmallTiles(100))


def labels_of(
    predictor: Predictor, path: Path, engine: Engine | None, resolution: Resolution
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Segment a file by rows: labels and certainty."""
    made = predictor.segment_rows(PictureFile(path, predictor.limits), engine, resolution=resolution, certainty=True)
    bands = list(made.bands(pictured=True))
    pixels = np.concatenate([image for _, _, image in bands])
    assert np.array_equal(pixels, np.asarray(Image.open(path)))
    return np.concatenate([labels for labels, _, _ in bands]), np.concatenate(
        [sure for _, sure, _ in bands if sure is not None]
    )


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    which=st.integers(0, 4),
    height=st.integers(20, 300),
    width=st.integers(20, 300),
    side=st.integers(60, 150),
    kind=st.sampled_from(["PNG", "TIFF"]),
    seed=st.integers(0, 99),
)
def test_native_labels_by_rows_are_those_of_the_whole(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pyramids: list[Engine],
    predictor: Predictor,
    which: int,
    height: int,
    width: int,
    side: int,
    kind: str,
    seed: int,
) -> None:
    """Random networks, sizes and tiles: the same tiles, so the same labels in every pixel."""
    monkeypatch.setattr(png_parts, "PART_BYTES", 20_000)
    predictor.tiling = SmallTiles(side)
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    path = tmp_path / "x"
    path.write_bytes(encode_image(noise, kind))
    found, sure = labels_of(predictor, path, pyramids[which], "native")
    expected = predictor.segment(noise, pyramids[which], resolution="native")
    assert np.array_equal(found, expected.labels)
    assert np.abs(sure.astype(int) - expected.confidence()).max() <= 1


@pytest.fixture(scope="module")
def grey_networks(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """Networks of one channel that tell the two lowest bits, in tiles of 100 pixels; sides are multiples of 8."""
    folder = tmp_path_factory.mktemp("grey")
    write_low_bits(folder, multiple=8)
    return Predictor(Repository(folder), Limits(), SmallTiles(100))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["bits8", "bits16", "floats", "policed"]),
    kind=st.sampled_from(["colours", "grey", "16 bits", "floats"]),
    resolution=st.sampled_from(["native", "working"]),
    orientation=st.integers(1, 8),
    height=st.integers(20, 200),
    width=st.integers(20, 200),
)
def test_one_channel_by_rows_has_the_labels_of_the_whole(
    tmp_path: Path,
    grey_networks: Predictor,
    name: str,
    kind: str,
    resolution: Resolution,
    orientation: int,
    height: int,
    width: int,
) -> None:
    """Of every dtype and policy, turned or not; the picture is shown as the whole is, and conversions are named."""
    random = np.random.default_rng(height)
    colours = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    stored = {
        "colours": colours,
        "grey": colours[..., 0],
        "16 bits": colours[..., 0] * np.uint16(9) + np.uint16(70),
        "floats": random.normal(0, 4, (height, width)).astype(np.float32),
    }[kind]
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, stored, extratags=[(274, 3, 1, orientation, True)])
    assume(kind != "floats" or not name.startswith("bits"))
    engine = grey_networks.engine(name)
    found = grey_networks.segment_rows(PictureFile(path, grey_networks.limits), engine, resolution=resolution)
    expected = grey_networks.segment(path.read_bytes(), engine, resolution=resolution)
    assert np.array_equal(np.concatenate(list(found.labels)), expected.labels)
    assert np.array_equal(np.concatenate([image for _, _, image in found.bands(pictured=True)]), expected.image)
    assert set(found.converted) == set(expected.converted)


@pytest.mark.parametrize("size", [(768, 1024), (1536, 2048), (333, 251), (640, 1022)])
def test_working_labels_by_rows_are_those_of_the_whole(tmp_path: Path, predictor: Predictor, size: tuple[int, int]) -> None:
    """At the working resolution: halved by rows as often as the whole is, and odd sides too where that leaves few pixels."""
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    path = tmp_path / "x.png"
    path.write_bytes(encode_image(noise))
    found, _ = labels_of(predictor, path, None, "working")
    assert np.array_equal(found, predictor.segment(noise).labels)


def test_a_picture_that_cannot_be_halved_names_the_native_resolution(tmp_path: Path, predictor: Predictor) -> None:
    """Where too many pixels are left to be resized at once."""
    path = tmp_path / "x.png"
    path.write_bytes(encode_image(make_image(901, 1201)))
    small = Predictor(predictor.repository, Limits(max_pixels=500_000), SmallTiles(100))
    with pytest.raises(ImageTooLarge, match="--resolution native"):
        small.segment_rows(PictureFile(path, small.limits))
    assert np.array_equal(
        np.concatenate(list(small.segment_rows(PictureFile(path, small.limits), resolution="native").labels)),
        make_labels(901, 1201),
    )


class Outcome(NamedTuple):
    """What a command left behind."""

    returncode: int
    stderr: str


Segment = Callable[..., Outcome]


@pytest.fixture
def segment(artifact_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Segment:
    """``segment(path, "--out", out, FCN_TILE_MEMORY_MB=64)``: the command in this process, with the colour network."""

    def invoke(*words: object, **environment: object) -> Outcome:
        with monkeypatch.context() as patch:
            for name, value in {"FCN_MODELS_DIR": artifact_dir, **environment}.items():
                patch.setenv(name, str(value))
            patch.setattr(sys, "argv", ["fcn-serve", "segment", *map(str, words)])
            with pytest.raises(SystemExit) as end:
                cli.main()
        assert isinstance(end.value.code, int)
        return Outcome(end.value.code, capsys.readouterr().err)

    return invoke


SMALL = {"FCN_MAX_IMAGE_PIXELS": 300_000, "FCN_TILE_MEMORY_MB": 64}


def test_the_command_writes_masks_by_rows(tmp_path: Path, segment: Segment) -> None:
    """Every format that is written by rows holds what the ordinary way holds, georeference included."""
    stored = make_image(640, 960)
    stored[::7] //= 2
    geo = [(33550, "d", 3, (0.5, 0.5, 0.0)), (33922, "d", 6, (0.0, 0.0, 0.0, 400_000.0, 5_000_000.0, 0.0))]
    geo.append((34735, "H", 12, (1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, 32632)))
    tifffile.imwrite(tmp_path / "field.tif", stored, photometric="rgb", tile=(64, 64), extratags=[(*tag, True) for tag in geo])
    for name, form in FORMATS.items():
        if form.by_rows is None:
            continue
        bodies = []
        for limits in ({}, SMALL):
            out = tmp_path / f"{name}{len(limits)}"
            done = segment(tmp_path / "field.tif", "--out", out, "--format", name, "--resolution", "native", **limits)
            assert done.returncode == 0, done.stderr
            assert len(list(out.glob("[!.]*"))) == 2  # the mask and the overlay
            bodies.append((next(out.glob(f"field.mask{form.suffix}")), next(out.glob("*.overlay.png"))))
        for whole, rows in zip(*bodies, strict=True):
            if name == "npy" and whole.suffix == ".npy":
                assert np.array_equal(np.load(whole), np.load(rows))
            else:
                with Image.open(whole) as expected, Image.open(rows) as found:
                    assert expected.mode == found.mode
                    assert np.abs(np.asarray(expected).astype(int) - np.asarray(found)).max() <= (name == "confidence")
                    assert expected.getpalette() == found.getpalette()
        if name == "tiff":
            placed = georeference.of(bodies[1][0].read_bytes())
            assert placed is not None
            assert placed.epsg == 32632
            assert placed == georeference.of((tmp_path / "field.tif").read_bytes())


def test_damage_in_the_middle_leaves_no_mask(tmp_path: Path, segment: Segment) -> None:
    """A line says what is wrong with the file, and no part of a mask stays behind; the next file is segmented."""
    data = bytearray(encode_image(np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8)))
    data[len(data) // 2] ^= 255
    (tmp_path / "bad.png").write_bytes(bytes(data))
    (tmp_path / "good.png").write_bytes(encode_image(make_image(700, 900)))
    out = tmp_path / "out"
    done = segment(tmp_path / "bad.png", tmp_path / "good.png", "--out", out, "--resolution", "native", **SMALL)
    assert done.returncode == 1
    assert "bad.png: the PNG image is" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in out.glob("*.png")) == ["good.mask.png", "good.overlay.png"]
    assert not list(out.glob(".*.part"))


def test_a_full_disk_under_the_rows_of_one_file_leaves_the_next(
    tmp_path: Path, segment: Segment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A turned picture needs a temporary file; the line names its folder, and the next picture is segmented."""
    exif = Image.Exif()
    exif[0x0112] = 8
    (tmp_path / "a.png").write_bytes(encode_image(make_image(700, 900), exif=exif))
    (tmp_path / "b.png").write_bytes(encode_image(make_image(700, 900)))
    monkeypatch.setattr(spool, "_temporary", lambda: os.open("/dev/full", os.O_RDWR))
    out = tmp_path / "out"
    done = segment(tmp_path / "a.png", tmp_path / "b.png", "--out", out, "--resolution", "native", **SMALL)
    assert done.returncode == 1
    assert "a.png: No space left on device in " in done.stderr
    assert sorted(path.name for path in out.glob("*.png")) == ["b.mask.png", "b.overlay.png"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--format", "coco"), "coco needs the whole mask at once"),
        (("--write", "rle"), "rle needs the whole mask at once"),
        (("--write", "overlays", "--legend"), "legend needs the whole mask at once"),
        (("--halo", "effective"), "effective halo of colours was not measured"),
    ],
)
def test_what_needs_the_whole_is_refused_with_a_line(
    tmp_path: Path, segment: Segment, words: tuple[str, ...], said: str
) -> None:
    """Before the network runs."""
    (tmp_path / "x.png").write_bytes(encode_image(make_image(640, 960)))
    done = segment(tmp_path / "x.png", "--out", tmp_path / "out", "--resolution", "native", *words, **SMALL)
    assert done.returncode != 0
    assert said in done.stderr
    assert not list((tmp_path / "out").glob("x.*"))


def test_a_halo_is_for_tiles(predictor: Predictor) -> None:
    """An effective halo that was not measured, and one without tiles, are refused."""
    with pytest.raises(BadParameter, match="not measured"):
        predictor.segment(make_image(), resolution="native", halo="effective")
    with pytest.raises(BadParameter, match="resolution=native"):
        predictor.segment(make_image(), halo="effective")


def test_the_effective_halo_cuts_other_tiles(tmp_path: Path) -> None:
    """Admission counts fewer pixels of them; a network that sees no farther gives the same labels."""
    effective = {"halo": 0, "disagreement": 0.0, "kept": 64, "measured_on": "none", "frames": 1}
    write_artifact(tmp_path / "colours.onnx", make_manifest(halo=16, effective=effective))
    predictor = Predictor(Repository(tmp_path), Limits(), SmallTiles(64))
    manifest = predictor.engine().manifest
    header = Header("RGB", 400, 400)
    exact, quick = (predictor.workload(header, manifest, "native", halo) for halo in ("exact", "effective"))
    assert quick.network_megapixels == pytest.approx((7 * 64) ** 2 / 1e6)
    assert exact.network_megapixels > 2 * quick.network_megapixels
    image = make_image(400, 400)
    wanted = predictor.segment(image, resolution="native")
    assert np.array_equal(predictor.segment(image, resolution="native", halo="effective").labels, wanted.labels)
    predictor.close()


def draw(file: Path, side: int) -> None:
    """Draw a picture of side x side pixels, 256 rows at a time: stripes that vary, and noise."""
    columns = np.arange(side)

    def bands() -> Iterator[NDArray[np.uint8]]:
        for top in range(0, side, 256):
            rows = np.arange(top, min(top + 256, side))
            waves = np.sin(rows[:, None] / 300) + np.sin(columns / 200)
            random = np.random.default_rng(top).integers(0, 32, waves.shape)
            grey = (waves * 50 + 110 + random).astype(np.uint8)
            yield np.stack([grey, np.roll(grey, 90, 1), 255 - grey], 2)

    if file.suffix == ".tif":
        pixels = np.memmap(
            file.with_suffix(".raw"), np.uint8, "w+", shape=(side, side, 3)
        )  # tifffile takes no strips one by one
        for number, band in enumerate(bands()):
            pixels[number * 256 : number * 256 + len(band)] = band
        tifffile.imwrite(file, pixels, rowsperstrip=256, compression="zlib", photometric="rgb")
        return
    with file.open("wb") as out:
        writer = by_rows("overlay", NO_OPTIONS).begin(out, Sheet(side, side, 256, np.zeros((256, 3), np.uint8)))
        for band in bands():
            unlabelled = np.full(band.shape[:2], 255, np.uint8)
            writer.add(MaskView(unlabelled, band, make_manifest(), "", lambda: unlabelled))  # noqa: B023 - called at once
        writer.finish()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["field.tif", "field.png"])
def test_200_megapixels_take_less_than_a_gigabyte(tmp_path: Path, name: str) -> None:
    """With the shipped model, at the native resolution, exactly; mask and overlay."""
    side = 14_150
    draw(tmp_path / name, side)
    command = [sys.executable, "-m", "service", "segment", str(tmp_path / name), "--out", str(tmp_path / "out")]
    process = subprocess.Popen([*command, "--resolution", "native"], cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    assert usage.ru_maxrss * 1024 < 1_000_000_000
    mask = PictureFile(tmp_path / "out" / "field.mask.png", Limits())
    assert (mask.height, mask.width) == (side, side)
