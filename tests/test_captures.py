"""Captures: which frames are kept, how they lie on disk, and that nothing of it costs a mask."""

from __future__ import annotations

import json
import re
import resource
import shutil
import subprocess
import sys
import textwrap
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import httpx
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from service.captures import rules
from service.captures.capture import OUTCOMES, WAITING, Captures
from service.captures.export import export
from service.captures.rules import Pace, Rules
from service.captures.store import Store, entries
from service.cli import app
from service.encodings import decode
from service.errors import BadSetting
from service.pipeline.codecs import decoding
from service.pipeline.predictor import Predictor
from service.pipeline.repository import Repository
from service.pipeline.segmentation import Segmentation
from service.settings import Settings
from tests.conftest import encode_image, make_image
from tests.live import ROOT, live_server
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def predictor(artifact_dir: Path) -> Iterator[Predictor]:
    """The network of colours."""
    made = Predictor(Repository(artifact_dir), decoding.Limits())
    yield made
    made.close()


@pytest.fixture
def result(predictor: Predictor) -> Segmentation:
    """The three stripes."""
    return predictor.segment(encode_image(make_image()))


ALWAYS = Rules(share=1.0)


def take(captures: Captures, result: Segmentation, data: bytes, count: int = 1) -> None:
    """Offer a frame, and wait until it was written, dropped or failed."""
    header = decoding.probe(data, decoding.Limits())
    before = sum(captures.outcomes[name] for name in ("written", "dropped", "failed"))
    for _ in range(count):
        captures.consider(data, header, result)

    def done() -> bool:
        return sum(captures.outcomes[name] for name in ("written", "dropped", "failed")) >= before + count

    wait_until(done, "the captures to be decided")


def test_a_capture_is_the_image_as_sent_and_its_masks_as_tasks(result: Segmentation, tmp_path: Path) -> None:
    """The bytes are those of the caller; both tasks decode to the labels."""
    data = encode_image(make_image(), "JPEG")
    captures = Captures(Store(tmp_path / "kept", 10_000_000), ALWAYS, 6000)
    take(captures, result, data)
    captures.close()
    (entry,) = entries(tmp_path / "kept")
    assert re.fullmatch(r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{8}", entry.name)
    assert entry.image().name == "image.jpg"
    assert entry.image().read_bytes() == data
    task = json.loads((entry.folder / "labelstudio.json").read_bytes())
    assert task["data"] == {"image": f"{entry.name}/image.jpg"}
    assert np.array_equal(decode("labelstudio", json.dumps(task["predictions"][0]).encode()), result.labels)
    assert np.array_equal(decode("cvat", (entry.folder / "cvat.json").read_bytes()), result.labels)
    facts = entry.facts()
    assert facts["reason"] == "share"
    assert facts["size"] == [96, 128]
    assert facts["model"]["name"] == "colours"
    assert facts["confidence"] == pytest.approx(result.confidence().mean() / 255, abs=0.02)
    assert not list((tmp_path / "kept").glob(".*"))


@pytest.mark.parametrize(
    ("chosen", "confidence", "chance", "reason"),
    [
        (Rules(below=0.6), 0.59, 0.0, "confidence"),
        (Rules(below=0.6), 0.6, 0.0, None),
        (Rules(classes=frozenset(("blue", "unicorn"))), 0.9, 0.0, "class blue"),
        (Rules(classes=frozenset(("unicorn",))), 0.9, 0.0, None),
        (Rules(share=0.25), 0.9, 0.24, "share"),
        (Rules(share=0.25), 0.9, 0.25, None),
        (Rules(), 0.0, 0.0, None),
    ],
)
def test_rules_name_frames(chosen: Rules, confidence: float, chance: float, reason: str | None, result: Segmentation) -> None:
    """A bound of confidence, classes that a frame shows, or a share of all."""
    assert chosen.reason(result, confidence, chance) == reason


def test_the_mean_confidence_of_a_frame_is_that_of_its_pixels(predictor: Predictor) -> None:
    """Within some hundredths, although a part of the score cells is read."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        soft = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8).repeat(40, 0).repeat(40, 1)
        result = predictor.segment(encode_image(soft))
        assert rules.confidence_of(result) == pytest.approx(result.confidence().mean() / 255, abs=0.03)


def test_frames_are_taken_evenly_apart() -> None:
    """Six a minute are one in ten seconds, however many come."""
    now = [100.0]
    pace = Pace(6, lambda: now[0])
    taken = []
    for second in range(60):
        now[0] = 100.0 + second
        assert pace.is_due() == (second % 10 == 0)
        if pace.take():
            taken.append(second)
    assert taken == [0, 10, 20, 30, 40, 50]


def test_many_threads_take_one_turn() -> None:
    """Lanes finish at the same time; one of them gets the turn."""
    pace, taken = Pace(1, lambda: 0.0), []
    threads = [threading.Thread(target=lambda: taken.append(pace.take())) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken) == 1


class _Blocked(Store):
    """A store whose disk stands still until it is released."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, 10_000_000)
        self.entered, self.released = threading.Event(), threading.Event()

    def add(self, name: str, files: dict[str, bytes]) -> int:
        self.entered.set()
        assert self.released.wait(60)
        return super().add(name, files)


def test_a_disk_that_stands_still_drops_captures_and_holds_up_nothing(
    result: Segmentation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue is short; what does not fit is counted; what waited is written when the disk goes on."""
    monkeypatch.setattr(Pace, "is_due", lambda _: True)
    monkeypatch.setattr(Pace, "take", lambda _: True)
    store = _Blocked(tmp_path / "kept")
    captures = Captures(store, ALWAYS, 6000)
    data = encode_image(make_image())
    header = decoding.probe(data, decoding.Limits())
    captures.consider(data, header, result)
    assert store.entered.wait(60)  # the writer has the first one
    for _ in range(WAITING + 3):
        captures.consider(data, header, result)
    assert captures.outcomes["dropped"] == 3
    store.released.set()
    captures.close(60)
    assert captures.outcomes["written"] == WAITING + 1
    assert len(entries(tmp_path / "kept")) == WAITING + 1


def test_the_oldest_capture_goes_where_the_folder_is_full(tmp_path: Path) -> None:
    """The newest ones are kept, within the bound, and after a restart as well."""
    store = Store(tmp_path, 1000)
    assert [store.add(f"{number:03}", {"image.png": b"x" * 200, "capture.json": b"{}"}) for number in range(6)] == [
        0,
        0,
        0,
        0,
        1,
        1,
    ]
    assert [entry.name for entry in entries(tmp_path)] == ["002", "003", "004", "005"]
    again = Store(tmp_path, 500)
    assert again.bytes == 808
    assert again.add("006", {"image.png": b"x" * 200, "capture.json": b"{}"}) == 3
    assert [entry.name for entry in entries(tmp_path)] == ["005", "006"]
    with pytest.raises(ValueError, match="exceeds FCN_CAPTURE_MAX_MB"):
        again.add("007", {"image.png": b"x" * 501})
    assert [entry.name for entry in entries(tmp_path)] == ["005", "006"]


def test_what_a_killed_process_left_is_removed_and_what_is_whole_stays(tmp_path: Path) -> None:
    """A half capture is hidden from the list, and gone after the next start."""
    Store(tmp_path, 1000).add("001", {"image.png": b"x", "capture.json": b"{}"})
    half = tmp_path / ".partial-002"
    half.mkdir()
    (half / "image.png").write_bytes(b"x")
    (half / "capture.json").write_bytes(b"{}")
    assert [entry.name for entry in entries(tmp_path)] == ["001"]
    Store(tmp_path, 1000)
    assert not half.exists()
    assert [entry.name for entry in entries(tmp_path)] == ["001"]


def test_a_folder_that_cannot_be_written_is_told_at_start(tmp_path: Path) -> None:
    """A setting that cannot work ends the start, not every frame."""
    (tmp_path / "file").write_text("")
    with pytest.raises(BadSetting, match="FCN_CAPTURE_DIR: cannot write into"):
        Store(tmp_path / "file", 1000)


FULL_DISK = """
    import resource, sys
    from pathlib import Path
    from service.pipeline.codecs import decoding
    from service.captures.capture import Captures
    from service.captures.rules import Rules
    from service.captures.store import Store, entries
    from service.pipeline.predictor import Predictor
    from service.pipeline.repository import Repository
    from tests.conftest import encode_image, make_image
    from tests.waiting import wait_until

    folder, models = Path(sys.argv[1]), Path(sys.argv[2])
    predictor = Predictor(Repository(models), decoding.Limits())
    data = encode_image(make_image(200, 300), "BMP")
    header = decoding.probe(data, decoding.Limits())
    captures = Captures(Store(folder, 10_000_000), Rules(share=1.0), 6000)
    result = predictor.segment(data)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))  # a write beyond fails, as on a full disk
    captures.consider(data, header, result)
    wait_until(lambda: captures.outcomes["failed"] == 1, "the capture to fail")
    assert entries(folder) == [] and not list(folder.iterdir()), list(folder.iterdir())
    assert (predictor.segment(data).labels == result.labels).all()
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    captures.consider(data, header, result)
    wait_until(lambda: captures.outcomes["written"] == 1, "a capture to be written")
    captures.close()
    assert len(entries(folder)) == 1
    predictor.close()
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limit of files' sizes here")
def test_a_full_disk_costs_captures_and_no_mask(artifact_dir: Path, tmp_path: Path) -> None:
    """Nothing is left of the one that failed, and the next one is written once there is space."""
    command = [sys.executable, "-c", textwrap.dedent(FULL_DISK), str(tmp_path / "kept"), str(artifact_dir)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr


def test_a_capture_that_cannot_be_removed_still_counts(tmp_path: Path) -> None:
    """The bound holds: the new capture fails. One that an operator has removed counts no more."""
    store = Store(tmp_path, 1000)
    for number in range(4):
        store.add(f"{number:03}", {"image.png": b"x" * 200, "capture.json": b"{}"})
    blocked = tmp_path / ".partial-000"
    blocked.mkdir()
    (blocked / "left").write_bytes(b"")  # a folder cannot be renamed to one that is not empty
    with pytest.raises(OSError, match="000"):
        store.add("004", {"image.png": b"x" * 200, "capture.json": b"{}"})
    assert store.bytes == 4 * 202
    assert [entry.name for entry in entries(tmp_path)] == ["000", "001", "002", "003"]
    shutil.rmtree(blocked)
    shutil.rmtree(tmp_path / "000")
    assert store.add("004", {"image.png": b"x" * 200, "capture.json": b"{}"}) == 0
    assert store.bytes == 4 * 202


def test_a_capture_that_is_removed_meanwhile_is_left_out_of_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server goes on removing old ones while another process lists them."""
    store = Store(tmp_path, 1000)
    for number in range(2):
        store.add(f"{number:03}", {"image.png": b"x", "capture.json": b"{}"})
    is_file = Path.is_file

    def removed_after(path: Path) -> bool:
        found = is_file(path)
        if path.parent.name == "000":
            shutil.rmtree(path.parent)
        return found

    monkeypatch.setattr(Path, "is_file", removed_after)
    assert [entry.name for entry in entries(tmp_path)] == ["001"]


def test_captures_are_exported_into_the_empty_folder_one_is_in(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--export .``"""
    kept = kept.absolute()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    outcome = CliRunner().invoke(app, ["captures", str(kept), "--export", "."])
    assert outcome.exit_code == 0, outcome.output
    assert (tmp_path / "empty" / "captures.jsonl").is_file()


def test_a_server_keeps_frames_and_counts_them(artifact_dir: Path, tmp_path: Path) -> None:
    """Over HTTP: masks as ever, a capture on disk, its outcome in the metrics, and the list of the command line."""
    kept = tmp_path / "kept"
    settings = Settings(
        models_dir=artifact_dir, capture_dir=kept, capture_below=0.0, capture_classes=("green",), capture_per_minute=6000
    )
    image = encode_image(make_image(), "JPEG")
    with live_server(settings) as url:
        reply = httpx.post(f"{url}/segment", content=image)
        assert reply.status_code == 200

        def counted() -> bool:
            return 'fcn_captures_total{outcome="written"} 1.0' in httpx.get(f"{url}/metrics").text

        wait_until(counted, "the capture to be counted")
        metrics = httpx.get(f"{url}/metrics").text
        red = httpx.post(f"{url}/segment", content=encode_image(np.full((64, 64, 3), (255, 0, 0), np.uint8)))
        assert red.status_code == 200
    assert all(f'fcn_captures_total{{outcome="{outcome}"}}' in metrics for outcome in OUTCOMES)
    (entry,) = entries(kept)
    assert entry.image().read_bytes() == image
    assert entry.facts()["reason"] == "class green"
    assert f"fcn_capture_bytes {float(entry.size_bytes)}" in metrics
    listed = CliRunner().invoke(app, ["captures", str(kept)])
    assert listed.exit_code == 0
    assert entry.name in listed.output
    assert "1 captures" in listed.output


def test_without_the_setting_nothing_is_kept(artifact_dir: Path) -> None:
    """Off by default: no counter moves, and no thread runs."""
    with live_server(Settings(models_dir=artifact_dir)) as url:
        assert httpx.post(f"{url}/segment", content=encode_image(make_image())).status_code == 200
        counted = re.findall(r'fcn_captures_total{outcome="(.*)"} (.*)', httpx.get(f"{url}/metrics").text)
        assert counted == [(outcome, "0.0") for outcome in OUTCOMES]
        assert all(thread.name != "fcn-captures" for thread in threading.enumerate())


@pytest.fixture
def kept(result: Segmentation, tmp_path: Path) -> Path:
    """A folder with captures of a JPEG and of decoded pixels."""
    captures = Captures(Store(tmp_path / "kept", 10_000_000), ALWAYS, 6000)
    take(captures, result, encode_image(make_image(), "JPEG"))
    pixels = make_image()
    header = decoding.probe(pixels, decoding.Limits())
    wait_until(captures._pace.is_due, "the next turn")
    captures.consider(pixels, header, result)
    captures.close(60)
    assert captures.outcomes["written"] == 2
    return tmp_path / "kept"


@pytest.mark.parametrize("name", ["out", "out.zip"])
def test_an_export_holds_images_and_tasks(name: str, kept: Path, result: Segmentation, tmp_path: Path) -> None:
    """Label Studio's tasks, CVAT's XML and a line each, for the same images; masks decode to the labels."""
    outcome = CliRunner().invoke(app, ["captures", str(kept), "--export", str(tmp_path / name)])
    assert outcome.exit_code == 0, outcome.output
    folder = tmp_path / name
    if name.endswith(".zip"):
        with zipfile.ZipFile(folder) as archive:
            archive.extractall(tmp_path / "unpacked")
        folder = tmp_path / "unpacked"
    images = sorted(path.name for path in (folder / "images").iterdir())
    assert [Path(image).suffix for image in images] == [".jpg", ".png"]
    assert np.array_equal(np.asarray(Image.open(folder / "images" / images[1])), make_image())
    tasks = json.loads((folder / "labelstudio.json").read_bytes())
    assert [task["data"]["image"] for task in tasks] == [f"/data/local-files/?d=images/{image}" for image in images]
    for task in tasks:
        assert np.array_equal(decode("labelstudio", json.dumps(task["predictions"][0]).encode()), result.labels)
    root = ET.fromstring((folder / "annotations.xml").read_text("utf-8"))
    assert [image.get("name") for image in root.iter("image")] == images
    for image in root.iter("image"):
        assert np.array_equal(from_xml(image), result.labels)
    lines = [json.loads(line) for line in (folder / "captures.jsonl").read_text("utf-8").splitlines()]
    assert [line["image"] for line in lines] == [f"images/{image}" for image in images]
    again = CliRunner().invoke(app, ["captures", str(kept), "--export", str(tmp_path / name)])
    assert isinstance(again.exception, BadSetting)


def from_xml(image: ET.Element) -> np.ndarray:
    """The label map of an image of CVAT's XML, run by run as CVAT reads it."""
    labels = np.full((int(image.attrib["height"]), int(image.attrib["width"])), 255, np.uint8)
    ids = {"red": 0, "green": 1, "blue": 2}
    for mask in image.iter("mask"):
        left, top, width, height = (int(mask.attrib[key]) for key in ("left", "top", "width", "height"))
        flat = [inside for at, run in enumerate(mask.attrib["rle"].split(", ")) for inside in [at % 2] * int(run)]
        part = labels[top : top + height, left : left + width]
        part[np.array(flat, bool).reshape(height, width)] = ids[mask.attrib["label"]]
    return labels


def test_a_damaged_capture_is_named_and_the_others_are_exported(kept: Path, tmp_path: Path) -> None:
    """Neither the list nor the export ends at it."""
    first, second = entries(kept)
    (first.folder / "capture.json").write_bytes(b"{")
    count, unread = export(entries(kept), tmp_path / "out")
    assert count == 1
    assert unread[0].startswith(first.name)
    listed = CliRunner().invoke(app, ["captures", str(kept)])
    assert listed.exit_code == 1
    assert second.name in listed.output


@pytest.mark.parametrize(("words", "match"), [([], "FCN_CAPTURE_DIR is not set"), (["/no/such"], "cannot read the captures")])
def test_a_folder_that_is_not_there_is_told(words: list[Any], match: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the setting or the path that is missing."""
    monkeypatch.delenv("FCN_CAPTURE_DIR", raising=False)
    result = CliRunner().invoke(app, ["captures", *words])
    assert isinstance(result.exception, BadSetting)
    assert match in str(result.exception)
