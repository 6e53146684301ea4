"""Scans over HTTP: a label volume in the scan's own grid, every form of the reply, and every refusal."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import json
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from service.__main__ import main
from service.cli.progress import Bar
from service.client import AsyncClient, Client, LabelVolume
from service.encodings import decode, rle
from service.errors import ImageTooLarge
from service.pipeline.codecs.limits import Limits
from service.pipeline.engine import Engine
from service.pipeline.manifest import InputPolicy
from service.pipeline.predictor import Predictor
from service.pipeline.repository import Repository
from service.pipeline.tasks import volume as tasks_volume
from service.settings import Settings
from tests.conftest import write_artifact
from tests.live import live_process, live_server, metric
from tests.phantoms import dicom_bytes, nifti_bytes, scan_artifact, scan_manifest, series, zipped
from tests.waiting import wait_until

OBLIQUE = np.array([[-0.98, 0.1, 0.05, 40], [0.1, 0.05, 1.0, -30], [-0.06, -1.0, 0.1, 12], [0, 0, 0, 1.0]])


@pytest.fixture(scope="module")
def base_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server whose default model takes pictures, and which has two models for scans."""
    folder = tmp_path_factory.mktemp("models")
    write_artifact(folder / "colours.onnx")
    scan_artifact(folder / "levels.onnx")
    scan_artifact(folder / "others.onnx", scan_manifest(planes=("axial",)).model_copy(update={"name": "others"}))
    with live_server(Settings(models_dir=folder, default_model="colours", max_voxels=100_000)) as url:
        yield url


@pytest.fixture(scope="module")
def client(base_url: str) -> Iterator[httpx.Client]:
    """A client that keeps its connections."""
    with httpx.Client(base_url=base_url, timeout=60) as client:
        yield client


def levels(shape: tuple[int, int, int] = (20, 24, 22)) -> NDArray[np.uint8]:
    """Class ids 0, 1 and 2 in blocks without symmetry."""
    truth = np.zeros(shape, np.uint8)
    truth[3:15, 4:20, 5:18] = 1
    truth[5:9, 6:18, 7:12] = 2
    return truth


def scan(**options: Any) -> bytes:
    """A scan of :func:`levels`."""
    return nifti_bytes(levels().astype(np.int16) * 500, OBLIQUE, **options)


def loaded(body: bytes) -> Any:
    """A NIfTI image of a reply."""
    data = gzip.decompress(body) if body.startswith(b"\x1f\x8b") else body
    kind = nibabel.Nifti1Image if data[344:348] == b"n+1\0" else nibabel.Nifti2Image
    return kind.from_bytes(data)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("compressed", [False, True])
def test_the_answer_has_the_scans_grid_and_header(
    client: httpx.Client, version: int, big_endian: bool, compressed: bool
) -> None:
    """Shape, affine, both forms, spacing, units and description stay; labels are uint8 with slope 1 and intercept 0."""
    data = scan(
        version=version, big_endian=big_endian, compressed=compressed, descrip=b"a phantom", scl_slope=2.0, scl_inter=-7
    )
    reply = client.post("/segment", content=data)
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] == "application/x-nifti"
    assert reply.headers["x-model"] == "levels@1.0.0"
    assert reply.content.startswith(b"\x1f\x8b") == compressed
    sent, found = loaded(data), loaded(reply.content)
    np.testing.assert_array_equal(np.asarray(found.dataobj), levels())
    assert np.asarray(found.dataobj).dtype == np.uint8
    assert found.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(found.affine, sent.affine)
    for name in (
        "pixdim",
        "qform_code",
        "sform_code",
        "quatern_b",
        "srow_x",
        "srow_y",
        "srow_z",
        "xyzt_units",
        "descrip",
        "dim",
    ):
        np.testing.assert_array_equal(found.header[name], sent.header[name])
    assert found.header.get_slope_inter() in ((1.0, 0.0), (None, None))
    assert found.header.endianness == sent.header.endianness
    np.testing.assert_array_equal(decode("nifti", reply.content), levels())


def test_a_form_and_a_name_do_the_same(client: httpx.Client) -> None:
    """A form, the model's name, and ``format=nifti`` lead to the same volume."""
    expected = client.post("/segment", content=scan()).content
    form = client.post("/segment", files={"image": ("scan.nii.gz", scan(), "application/gzip")})
    named = client.post("/segment", params={"model": "others", "format": "nifti"}, content=scan())
    for reply in (form, named):
        np.testing.assert_array_equal(np.asarray(loaded(reply.content).dataobj), np.asarray(loaded(expected).dataobj))
    assert named.headers["x-model"] == "others@1.0.0"


def test_one_volume_in_four_dimensions_keeps_its_shape(client: httpx.Client) -> None:
    """A fourth side of 1 comes back as it was."""
    data = nifti_bytes((levels().astype(np.int16) * 500)[..., None], OBLIQUE)
    found = loaded(client.post("/segment", content=data).content)
    assert found.shape == (20, 24, 22, 1)
    np.testing.assert_array_equal(np.asarray(found.dataobj)[..., 0], levels())


def test_run_lengths_have_volumes_in_millilitres(client: httpx.Client) -> None:
    """``rle`` holds three sides; with ``statistics`` each class has its volume and mean confidence."""
    reply = client.post("/segment", params={"format": "rle", "statistics": "true"}, content=scan())
    document = reply.json()
    assert document["size"] == [20, 24, 22]
    np.testing.assert_array_equal(rle.decode(document), levels())
    voxel_ml = abs(np.linalg.det(OBLIQUE[:3, :3])) / 1000
    for entry in document["classes"]:
        count = int((levels() == entry["id"]).sum())
        assert entry["pixels"] == count
        assert entry["volume_ml"] == pytest.approx(count * voxel_ml, abs=1e-3)
        assert 0.9 < entry["confidence"] <= 1
    assert document["model"]["name"] == "levels"


def test_an_array_and_a_mosaic(client: httpx.Client) -> None:
    """``npy`` is X x Y x Z; ``overlay`` lays slices of the three planes side by side."""
    array = np.load(io.BytesIO(client.post("/segment", params={"format": "npy"}, content=scan()).content))
    np.testing.assert_array_equal(array, levels())
    picture = Image.open(io.BytesIO(client.post("/segment", params={"format": "overlay"}, content=scan()).content))
    assert picture.size == (5 * 24, 22 + 22 + 24) or picture.width >= 5 * 20
    assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) >= 3


def test_classes_and_confidence_filter_voxels(client: httpx.Client) -> None:
    """The filters of masks work on volumes."""
    kept = np.asarray(loaded(client.post("/segment", params={"classes": "white"}, content=scan()).content).dataobj)
    np.testing.assert_array_equal(kept, np.where(levels() == 2, 2, 255))
    sure = np.asarray(loaded(client.post("/segment", params={"min_confidence": 0.999}, content=scan()).content).dataobj)
    assert set(np.unique(sure).tolist()) <= {0, 1, 2, 255}


def test_a_scans_reply_tells_the_share_of_uncertain_voxels(client: httpx.Client) -> None:
    """The confidence of a scan comes with its labels, so each reply has the header, whatever was asked."""
    reply = client.post("/segment", content=scan())
    kept = np.asarray(loaded(client.post("/segment", params={"min_confidence": 0.5}, content=scan()).content).dataobj)
    assert float(reply.headers["X-Uncertain"]) == pytest.approx(np.mean(kept == 255), abs=0.01)


@pytest.mark.parametrize("name", ["png", "coco", "gray", "color"])
def test_formats_for_pictures_are_refused(client: httpx.Client, name: str) -> None:
    """With the formats that hold a volume."""
    reply = client.post("/segment", params={"format": name}, content=scan())
    assert reply.status_code == 422
    problem = reply.json()
    assert problem["code"] == "unsupported_format"
    assert set(problem["allowed"]) == {"nifti", "npy", "rle", "overlay"}


def test_pictures_and_scans_go_to_their_own_models(client: httpx.Client, png: bytes) -> None:
    """A scan for a model of pictures, and a picture for one of scans, name the model and the kind."""
    reply = client.post("/segment", params={"model": "colours"}, content=scan())
    assert (reply.status_code, reply.json()["code"]) == (422, "bad_parameter")
    assert "colours takes pictures, and this is NIFTI" in reply.json()["detail"]
    reply = client.post("/segment", params={"model": "levels"}, content=png)
    assert (reply.status_code, reply.json()["code"]) == (422, "bad_parameter")
    assert "levels takes scans (NIfTI, DICOM), and this is PNG" in reply.json()["detail"]
    reply = client.post("/segment", params={"format": "nifti", "model": "colours"}, content=png)
    assert reply.status_code == 422


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (nifti_bytes(np.zeros((60, 60, 60), np.uint8)), 413, "voxels"),
        (nifti_bytes(np.zeros((6, 6, 6), np.int16), np.diag([40.0, 40, 40, 1])), 413, "at the network's"),
        (nifti_bytes(np.zeros((6, 6, 6, 2), np.int16)), 422, "send one volume"),
        (nifti_bytes(np.zeros((6, 6, 6), np.complex64)), 415, "complex64"),
        (scan()[:-30], 422, "truncated"),
        (scan(compressed=False)[:-30], 422, "truncated"),
        (gzip.compress(b"no scan", mtime=0), 415, "gzip"),
    ],
)
def test_bad_scans_get_a_reason(client: httpx.Client, body: bytes, status: int, reason: str) -> None:
    """Each in the form of every other problem, and never a 500."""
    reply = client.post("/segment", content=body)
    assert reply.status_code == status, reply.text
    assert reason in reply.json()["detail"]


def test_damaged_scans_are_never_a_server_error(client: httpx.Client) -> None:
    """Fifty mutations through the whole service: a volume or a 4xx with a reason, and the service goes on."""
    rng = np.random.default_rng(7)
    sources = [scan(), scan(compressed=False), scan(version=2, compressed=False)]
    for index in range(50):
        data = bytearray(sources[index % 3])
        for _ in range(3):
            at = int(rng.integers(len(data) if index % 2 else min(540, len(data))))
            data[at] = int(rng.integers(256))
        reply = client.post("/segment", content=bytes(data))
        assert reply.status_code == 200 or (400 <= reply.status_code < 500 and reply.json()["detail"])
    assert client.post("/segment", content=scan()).status_code == 200


def test_a_server_without_such_a_model_says_so(tmp_path_factory: pytest.TempPathFactory) -> None:
    """415, and not a mask of noise."""
    folder = tmp_path_factory.mktemp("pictures")
    write_artifact(folder / "colours.onnx")
    with live_server(Settings(models_dir=folder)) as url:
        reply = httpx.post(f"{url}/segment", content=scan(), timeout=60)
    assert (reply.status_code, reply.json()["code"]) == (415, "unsupported_image")
    assert "no model here takes scans" in reply.json()["detail"]


def test_other_transports_refuse_scans(client: httpx.Client) -> None:
    """The Open Inference Protocol has no form for volumes: a clear refusal."""
    body = scan()
    header = {
        "inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(body) + 4}}],
        "outputs": [{"name": "labels"}],
    }
    text = json.dumps(header).encode()
    content = text + len(body).to_bytes(4, "little") + body
    headers = {"Inference-Header-Content-Length": str(len(text))}
    reply = client.post("/v2/models/levels/infer", content=content, headers=headers)
    assert 400 <= reply.status_code < 500, reply.text
    assert "scans (NIfTI, DICOM) go to POST /segment" in reply.text


def test_a_patients_fields_reach_no_log_and_no_metric(tmp_path: Any) -> None:
    """Text of the header comes back in the reply that carried it in, and stands nowhere else."""
    folder = tmp_path / "models"
    folder.mkdir()
    scan_artifact(folder / "levels.onnx")
    secret = b"DOE JANE 1971-03-04"
    good = scan(descrip=secret, intent_name=b"DOE JANE", aux_file=b"DOE JANE", db_name=b"DOE JANE", compressed=False)
    with live_process(tmp_path, {"models_dir": folder}) as server:
        reply = httpx.post(f"{server.base_url}/segment", content=good, timeout=60)
        assert secret in reply.content
        broken = bytearray(good)
        broken[70:72] = b"\xff\x7f"
        problem = httpx.post(f"{server.base_url}/segment", content=bytes(broken), timeout=60)
        assert problem.status_code == 422
        metrics = httpx.get(f"{server.base_url}/metrics", timeout=60).text
        for text in (problem.text, metrics, server.log.read_text()):
            assert "DOE" not in text
        assert "20x24x22" in server.log.read_text()


def test_a_series_of_dicom_slices_gets_labels_in_its_grid(client: httpx.Client) -> None:
    """A zip in any order: NIfTI labels whose voxels lie where the slices say, and the other forms."""
    files = series(levels().astype(np.uint16) * 500, (0, 0, 1.0), (10, -20, 5))
    body = zipped(files[::-1])
    reply = client.post("/segment", content=body)
    assert reply.status_code == 200, reply.text
    assert reply.headers["x-model"] == "levels@1.0.0"
    found = loaded(reply.content)
    np.testing.assert_array_equal(np.asarray(found.dataobj), levels())
    np.testing.assert_allclose(found.affine, [[-1, 0, 0, -10], [0, -1, 0, 20], [0, 0, 1, 5], [0, 0, 0, 1]])
    for query in ({"format": "rle", "statistics": "true"}, {"format": "npy"}, {"format": "overlay"}):
        assert client.post("/segment", params=query, content=body).status_code == 200
    form = client.post("/segment", files={"image": ("series.zip", body, "application/zip")})
    assert form.content == reply.content
    one = client.post("/segment", content=files[10])
    assert loaded(one.content).shape == (20, 24, 1)


def test_an_irregular_series_is_refused_over_http(client: httpx.Client) -> None:
    """A 4xx with the reason."""
    files = series(levels().astype(np.uint16) * 500)
    gap = client.post("/segment", content=zipped(files[:5] + files[6:]))
    assert (gap.status_code, gap.json()["code"]) == (415, "unsupported_image")
    assert "slices are missing" in gap.json()["detail"]
    frames = client.post("/segment", content=dicom_bytes(np.zeros((8, 8), np.uint8), NumberOfFrames=4))
    assert frames.status_code == 415
    assert "several frames" in frames.json()["detail"]


PATIENT = {
    "PatientName": "DOE^JANE",
    "PatientID": "DOE-77",
    "PatientBirthDate": "19710304",
    "OtherPatientIDs": "DOE-78",
    "PatientAddress": "DOE street",
    "PatientComments": "DOE has a cat",
    "InstitutionName": "DOE clinic",
    "ReferringPhysicianName": "DOE^JOHN",
    "StudyDescription": "DOE head",
    "SeriesDescription": "DOE t1",
    "AccessionNumber": "DOE1",
    "DeviceSerialNumber": "DOE2",
    "ImageComments": "DOE",
}
"""Elements of a DICOM header that tell of a person or a place."""


def test_a_patients_elements_reach_no_reply_no_log_and_no_metric(tmp_path: Path) -> None:
    """DICOM names people; the label volume, every refusal, the log and the metrics do not."""
    folder = tmp_path / "models"
    folder.mkdir()
    scan_artifact(folder / "levels.onnx")
    files = series(levels().astype(np.uint16) * 500, **PATIENT)
    assert all(b"DOE" in data for data in files)
    broken = [
        files[3][: len(files[3]) // 2],
        files[3].replace(b"1.2.840.10008.1.2.1\0", b"DOE.9.9.9.9.9.9.9.9.\0"[:20]),
        files[3].replace(b"MONOCHROME2 ", b"DOE CHROME2 "),
        files[3].replace(b"1.2.3\0", b"DOE.1\0"),
        zipped(files[:5] + files[6:]),
        zipped([*files, files[3].replace(b"1.2.3\0", b"DOE.1\0")]),
    ]
    with live_process(tmp_path, {"models_dir": folder}) as server:
        named = {"image": ("DOE.zip", zipped({f"DOE-{k}.dcm": data for k, data in enumerate(files)}), "application/zip")}
        replies = [httpx.post(f"{server.base_url}/segment", content=body, timeout=60) for body in broken]
        assert [reply.status_code for reply in replies[:1]] == [422]
        whole = httpx.post(f"{server.base_url}/segment", files=named, timeout=60)
        whole.raise_for_status()
        metrics = httpx.get(f"{server.base_url}/metrics", timeout=60)
        for reply in (*replies, whole, metrics):
            content = gzip.decompress(reply.content) if reply.content.startswith(b"\x1f\x8b") else reply.content
            assert b"DOE" not in content
            assert "DOE" not in str(reply.headers)
        assert "DOE" not in server.log.read_text()
        assert "20x24x22" in server.log.read_text()


def test_the_client_gives_a_label_volume(base_url: str, tmp_path: Path) -> None:
    """``segment_volume`` gives the labels, the file and the model; ``save`` writes it compressed or not, as its name says."""
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(scan())
    with Client(base_url) as client:
        volume = client.segment_volume(path)
        named = client.segment_volume(scan(compressed=False), "others", classes=["white"])
        with pytest.raises(ImageTooLarge):
            client.segment_volume(nifti_bytes(np.zeros((60, 60, 60), np.uint8)))
    np.testing.assert_array_equal(volume.labels, levels())
    assert (volume.model, named.model) == ("levels@1.0.0", "others@1.0.0")
    np.testing.assert_array_equal(named.labels, np.where(levels() == 2, 2, 255))
    assert volume.timing["infer"] > 0
    for name in ("labels.nii", "labels.nii.gz"):
        volume.save(tmp_path / name)
        written = nibabel.load(tmp_path / name)
        np.testing.assert_array_equal(np.asarray(written.dataobj), levels())
        np.testing.assert_allclose(written.affine, OBLIQUE, atol=1e-6)


def test_the_asynchronous_client_does_the_same(base_url: str) -> None:
    """The same call by the asyncio client."""

    async def call() -> LabelVolume:
        async with AsyncClient(base_url) as client:
            return await client.segment_volume(scan())

    np.testing.assert_array_equal(asyncio.run(call()).labels, levels())


def test_the_command_line_segments_scans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``fcn-serve segment`` takes scans without a model's name, writes label volumes and mosaics, and skips finished ones."""
    models = tmp_path / "models"
    models.mkdir()
    write_artifact(models / "colours.onnx")
    scan_artifact(models / "levels.onnx")
    folder = tmp_path / "scans"
    folder.mkdir()
    (folder / "one.nii.gz").write_bytes(scan())
    (folder / "two.nii").write_bytes(scan(compressed=False, version=2))
    (folder / "bad.nii.gz").write_bytes(scan()[:-40])
    (folder / "slice.dcm").write_bytes(b"")  # told, and not taken for a scan of one slice
    (tmp_path / "series.zip").write_bytes(zipped(series(levels().astype(np.uint16) * 500)))
    monkeypatch.setenv("FCN_MODELS_DIR", str(models))
    monkeypatch.setattr(sys, "argv", ["fcn-serve", "segment", str(folder), str(tmp_path / "series.zip")])
    for _ in range(2):
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 1  # the damaged one is told
    written = {path.name for path in folder.iterdir()}
    assert {"one.mask.nii.gz", "two.mask.nii", "one.overlay.png", "two.overlay.png"} <= written
    assert "bad.mask.nii.gz" not in written
    for name in ("one.mask.nii.gz", "two.mask.nii"):
        np.testing.assert_array_equal(np.asarray(nibabel.load(folder / name).dataobj), levels())
    np.testing.assert_array_equal(np.asarray(nibabel.load(tmp_path / "series.mask.nii.gz").dataobj), levels())
    assert "zip those of one series" in capsys.readouterr().err


@pytest.mark.parametrize("step", [1, 3])
def test_a_file_tells_how_many_of_its_slices_are_done(tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call after another, up to all slices that run; a volume of one block tells one."""
    monkeypatch.setattr(tasks_volume, "BATCH_PIXELS", 2 * 24 * 22)  # two slices a run, or three
    policy = scan_manifest().input.model_copy(update={"slice_step": step})
    scan_artifact(tmp_path / "levels.onnx", scan_manifest().model_copy(update={"input": policy}))
    told: list[tuple[int, int]] = []
    with contextlib.closing(Predictor(Repository(tmp_path), Limits())) as predictor:
        found = predictor.segment(scan(), tell=lambda done, total: told.append((done, total)))
    assert found.labels.shape == levels().shape
    slices = sum(len({*range(0, side, step), side - 1}) for side in levels().shape)
    assert [total for _, total in told] == [slices] * len(told)
    done = [done for done, _ in told]
    assert done == sorted(set(done))
    assert done[-1] == slices
    assert len(done) > 10


def test_blocks_are_counted_as_they_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps of a network of volumes are its blocks."""
    monkeypatch.setattr(tasks_volume, "BLOCK_VOXELS", 16**3)
    policy = InputPolicy(
        working_size=(16, 16), working_depth=16, fit="native", multiple=4, dimensions=3, channels=1, dtype="float32"
    )
    manifest = scan_manifest().model_copy(update={"input": policy, "halo": 4})
    runs = []

    def run(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        runs.append(batch.shape)
        return np.zeros((1, len(manifest.classes), *batch.shape[1:4]), np.float32)

    tasks_volume.probabilities(np.zeros((30, 20, 9), np.float32), manifest, run)
    assert tasks_volume.count_steps((30, 20, 9), manifest) == len(runs) > 1


def test_the_bar_moves_with_the_parts_of_a_scan() -> None:
    """A part is its share of a scan; the next scan begins where the whole one ended."""
    with Progress(console=Console(file=io.StringIO()), disable=True) as drawn:
        bar = Bar(drawn)
        bar.begin("scans", 2)
        bar.part(30, 120)
        assert (drawn.tasks[-1].completed, drawn.tasks[-1].description) == (0.25, "scans, part 30 of 120")
        bar.advance()
        assert (drawn.tasks[-1].completed, drawn.tasks[-1].description) == (1, "scans")
        bar.part(60, 120)
        assert (drawn.tasks[-1].completed, drawn.tasks[-1].description) == (1.5, "scans, part 60 of 120")


def test_a_caller_that_leaves_stops_the_rest_of_its_slices(base_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slices under way end, and none of the others runs; the next scan is answered as ever."""
    real, may_go = Engine.run, threading.Event()
    running: list[Engine] = []

    def run(engine: Engine, *arguments: Any, **options: Any) -> Any:
        running.append(engine)
        assert may_go.wait(60)
        return real(engine, *arguments, **options)

    monkeypatch.setattr(Engine, "run", run)
    monkeypatch.setattr(tasks_volume, "BATCH_PIXELS", 1)  # a slice a run: 66 in all
    before = metric(base_url, 'fcn_errors_total{code="client_gone"}')
    body = scan()
    address = urlsplit(base_url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as link:
        link.sendall(f"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        wait_until(lambda: bool(running), "the first slice runs")
    wait_until(lambda: metric(base_url, 'fcn_errors_total{code="client_gone"}') == before + 1, "the request is cancelled")
    under_way = len(running)
    may_go.set()
    wait_until(lambda: metric(base_url, "fcn_queue_depth") == 0, "the queue is empty")
    assert len(running) <= under_way + 1  # one may have been about to begin
    assert under_way < sum(levels().shape) // 4
    reply = httpx.post(f"{base_url}/segment", content=body, timeout=60)
    np.testing.assert_array_equal(np.asarray(loaded(reply.content).dataobj), levels())
