"""Ray: the same results, records, exit codes and replies as without it, whatever is killed.

``make cluster`` runs these; each command of a cluster starts in ten seconds or more.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from service import __version__, cli, process
from service.batch.records import NAME
from service.batch.sources.images import Images, Job
from service.cluster import segment as cluster_segment
from service.cluster import serving
from service.cluster.session import ADDRESS
from service.cluster.worker import Assignment, Worker
from service.errors import BadSetting
from service.pipeline.engine import Engine
from service.settings import Settings
from tests import clusters
from tests.clusters import Cluster
from tests.conftest import encode_image, make_image
from tests.live import live_server
from tests.waiting import wait_until

WORKER = "ray::MapWorker"


def make_folder(folder: Path, count: int) -> Path:
    """Write images that all differ, one of them in a folder below, and a file that cannot be read as one."""
    (folder / "below").mkdir(parents=True)
    for number in range(count):
        image = np.roll(make_image(96, 128 + number % 7), number, axis=1)
        name = f"below/{number:03d}.png" if number % 5 == 4 else f"{number:03d}.png"
        (folder / name).write_bytes(encode_image(image))
    (folder / "007.png").write_bytes(b"no image")
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def without_time(text: str) -> str:
    """What a run prints, without its duration and its folder."""
    return "\n".join(line.partition(" in ")[0] if " segmented with " in line else line for line in text.splitlines())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty files."""
    return make_folder(tmp_path_factory.mktemp("drive") / "in", 40)


@pytest.fixture(scope="module")
def alone(folder: Path, artifact_dir: Path) -> tuple[dict[str, bytes], int, str, str]:
    """What a run without a cluster makes of the folder: its tree, exit code, output and errors."""
    out = folder.parent / "out"
    words = ["segment", str(folder), "--out", str(out), "--write", "masks", "--write", "rle"]
    result = CliRunner().invoke(cli.app, words, env={"FCN_MODELS_DIR": str(artifact_dir)})
    made = tree(out)
    out.rename(folder.parent / "alone")
    return made, result.exit_code, without_time(result.stdout), result.stderr


@pytest.fixture(scope="module")
def ray() -> Iterator[Cluster]:
    """A cluster of one node with two processors, for all tests of this file."""
    with clusters.own_network(), clusters.cluster() as running:
        yield running


# Without Ray ------------------------------------------------------------------------------------------------------------------


@given(st.lists(st.one_of(st.integers(1, 300), st.none()), max_size=6), st.integers(1, 9))
def test_every_file_of_a_run_is_in_one_task_in_order(sizes: list[int | None], workers: int) -> None:
    """None is a video; the rank of a task is the place of its first file, and of single files their own place."""
    sources: list[Any] = []
    files: list[Path] = []
    for number, size in enumerate(sizes):
        names = [Path(f"{number}-{file}") for file in range(size or 1)]
        files += names
        jobs = [Job(name, None, None) for name in names]
        sources.append(object() if size is None else Images(Path(), jobs, "png", {}, None))
    parts = cluster_segment._parts(sources, workers)
    for cut in (parts, cluster_segment._single(parts)):
        at = 0
        for rank, part in sorted(cut.items()):
            assert rank == at
            names = [job.source for job in part.jobs] if isinstance(part, Images) else [files[at]]
            assert names == files[at : at + len(names)]
            at += len(names)
        assert at == len(files)


@pytest.mark.parametrize(
    ("words", "cluster", "paths"),
    [
        (["a.png", "--cluster"], "local", ["a.png"]),
        (["--cluster", "a.png"], "local", ["a.png"]),
        (["--cluster", "auto", "a.png"], "auto", ["a.png"]),
        (["--cluster", "head.example:6379", "a.png"], "head.example:6379", ["a.png"]),
        (["--cluster=10.0.0.1:6379", "a.png"], "10.0.0.1:6379", ["a.png"]),
        (["--cluster", "--", "--cluster"], "local", ["--cluster"]),
        (["a.png"], None, ["a.png"]),
    ],
)
def test_the_word_behind_cluster_is_an_address_only_if_it_has_the_form(
    words: list[str], cluster: str | None, paths: list[str]
) -> None:
    """A path never becomes an address."""
    command = cli._imported("segment")
    context = command.make_context("segment", list(words))
    assert context.params["cluster"] == cluster
    assert [str(path) for path in context.params["paths"]] == paths


@pytest.mark.parametrize("text", ["", "ray://head:10001", "head", "head:", "a b:1", "http://head:8000", "/tmp/a:1"])
def test_other_words_are_refused_as_an_address(text: str) -> None:
    """Ray's client would run the command's own part on the cluster, without its files."""
    assert ADDRESS.fullmatch(text) is None


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ({"admin_port": 9000}, "FCN_ADMIN_PORT"),
        ({"admin_keys": "key"}, "FCN_ADMIN_KEYS"),
        ({"capture_dir": "/srv"}, "FCN_CAPTURE_DIR"),
        ({"uds": "/run/x"}, "FCN_UDS"),
    ],
)
def test_settings_that_a_replica_cannot_have_are_refused(setting: dict[str, Any], name: str) -> None:
    """In silence, they would hold for one replica or for none."""
    with pytest.raises(BadSetting, match=name):
        serving.check(Settings.load(**setting))


def test_a_replica_takes_more_requests_than_its_admission_lets_in(artifact_dir: Path) -> None:
    """Otherwise Ray would hold requests back that the service has to reject."""
    settings = Settings.load(models_dir=artifact_dir, queue_megapixels=2.0)
    assert serving.ongoing(settings) > 2.0e6 / (96 * 128) + settings.max_streams


def worker(of: str, artifact: Path, folder: Path | None) -> Worker:
    """A worker in this process, as Ray Data makes it.

    Takes:
        of: version of the command
    """
    engine = Engine.open(artifact)
    settings = Settings.load(threads=1)
    return Worker(
        of, pickle.dumps(Assignment(folder, settings, artifact, engine.sha256, {}, "native", "exact", overwrite=False))
    )


@pytest.fixture
def own_process_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A worker changes its folder; this process comes back to its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(process, "configure_process", lambda: None)


@pytest.mark.usefixtures("own_process_kept")
def test_a_worker_works_in_the_folder_of_the_command(artifact: Path, tmp_path: Path) -> None:
    """Relative paths mean the same files there; a machine without the folder refuses."""
    (tmp_path / "there").mkdir()
    assert worker(__version__, artifact, tmp_path / "there")._refusal is None
    assert Path.cwd() == tmp_path / "there"
    assert worker(__version__, artifact, None)._refusal is None
    assert Path.cwd() == tmp_path / "there"
    refusal = worker(__version__, artifact, tmp_path / "gone")._refusal
    assert refusal is not None
    assert str(tmp_path / "gone") in refusal


@pytest.mark.usefixtures("own_process_kept")
def test_a_worker_of_another_version_reads_nothing() -> None:
    """What another version has pickled may not be read here."""
    refusal = Worker("0.0.1", b"no pickle")._refusal
    assert refusal is not None
    assert "the command is of 0.0.1" in refusal


# Ray Data ---------------------------------------------------------------------------------------------------------------------


def segment_words(folder: Path, out: Path) -> list[str | Path]:
    """The command line of the tests below."""
    return ["segment", folder, "--out", out, "--write", "masks", "--write", "rle"]


@pytest.mark.slow
def test_a_cluster_gives_the_bytes_that_a_run_without_one_gives(
    ray: Cluster, folder: Path, alone: tuple[dict[str, bytes], int, str, str], artifact_dir: Path, tmp_path: Path
) -> None:
    """Masks, lines, records, failures and the exit code; a second start finds everything finished."""
    made, code, told, errors = alone
    out = folder.parent / "out"
    first = ray.run(*segment_words(folder, out), "--cluster", ray.address, models_dir=artifact_dir)
    try:
        assert first.returncode == code == 1, first.stderr
        assert without_time(first.stdout) == told
        assert errors in first.stderr
        assert tree(out) == made
        again = ray.run(*segment_words(folder, out), "--cluster", ray.address, models_dir=artifact_dir)
        assert "0 of 1 segmented" in again.stdout
        assert "39 were finished before" in again.stdout
        assert tree(out) == made
    finally:
        out.rename(tmp_path / "out")


def begin(ray: Cluster, folder: Path, out: Path, models: Path) -> subprocess.Popen[bytes]:
    """Start a run on a cluster."""
    words = ray.command(*segment_words(folder, out), "--cluster", ray.address)
    environment = ray.environment | {"FCN_MODELS_DIR": str(models)}
    return subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def recorded(out: Path) -> int:
    """How many results are recorded so far."""
    return sum(path.read_bytes().count(b"\n") for path in out.rglob(NAME))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough files that a run can be disturbed."""
    return make_folder(tmp_path_factory.mktemp("drives") / "in", 800)


@pytest.fixture(scope="module")
def many_alone(many: Path, artifact_dir: Path) -> dict[str, bytes]:
    """The tree of a run without a cluster."""
    out = many.parent / "out"
    words = [str(word) for word in segment_words(many, out)]
    assert CliRunner().invoke(cli.app, words, env={"FCN_MODELS_DIR": str(artifact_dir)}).exit_code == 1
    made = tree(out)
    out.rename(many.parent / "alone")
    return made


@pytest.mark.cluster
def test_a_killed_worker_loses_nothing(
    ray: Cluster, many: Path, many_alone: dict[str, bytes], artifact_dir: Path, tmp_path: Path
) -> None:
    """Its files are done by the worker that takes its place, and each is recorded once."""
    out = many.parent / "out"
    with begin(ray, many, out, artifact_dir) as run:
        try:
            wait_until(lambda: recorded(out) > 50, "results", deadline_s=300, alive=lambda: run.poll() is None)
            os.kill(ray.processes(WORKER)[0], signal.SIGKILL)
            assert run.wait(600) == 1
            assert tree(out) == many_alone
        finally:
            run.kill()
            out.rename(tmp_path / "out")


@pytest.mark.cluster
def test_a_killed_run_is_gone_on_with(
    ray: Cluster, many: Path, many_alone: dict[str, bytes], artifact_dir: Path, tmp_path: Path
) -> None:
    """What is recorded is not done again; what was made and not recorded yet is replaced by the same bytes."""
    out = many.parent / "out"
    with begin(ray, many, out, artifact_dir) as run:
        wait_until(lambda: recorded(out) > 50, "results", deadline_s=300, alive=lambda: run.poll() is None)
        run.kill()
    try:
        wait_until(lambda: not ray.processes(WORKER), "the workers to end")
        text = b"".join(path.read_bytes() for path in out.rglob(NAME))
        before = {path: path.stat().st_mtime_ns for path in out.rglob("*.mask.png") if f'"{path.name}"'.encode() in text}
        assert len(before) > 20
        second = ray.run(*segment_words(many, out), "--cluster", ray.address, models_dir=artifact_dir)
        assert second.returncode == 1, second.stderr
        assert {path: path.stat().st_mtime_ns for path in before} == before
        made = tree(out)
        assert made.keys() == many_alone.keys()
        for name, content in made.items():
            of_lines = name.endswith("jsonl")  # each run adds in its own order
            assert (sorted(content.splitlines()) if of_lines else content) == (
                sorted(many_alone[name].splitlines()) if of_lines else many_alone[name]
            )
    finally:
        out.rename(tmp_path / "out")


@pytest.mark.cluster
def test_a_killed_machine_loses_nothing(many: Path, many_alone: dict[str, bytes], artifact_dir: Path, tmp_path: Path) -> None:
    """Two nodes in two networks; the one that dies in the middle takes a worker and its tasks along."""
    out = many.parent / "out"
    with clusters.two_machines() as (running, other), begin(running, many, out, artifact_dir) as run:
        try:
            wait_until(lambda: recorded(out) > 50, "results", deadline_s=300, alive=lambda: run.poll() is None)
            wait_until(lambda: len(running.processes(WORKER)) == 2, "a worker on each node", deadline_s=120)
            clusters.kill_tree(other.pid)
            assert run.wait(900) == 1
            assert tree(out) == many_alone
        finally:
            run.kill()
            out.rename(tmp_path / "out")


# Ray Serve --------------------------------------------------------------------------------------------------------------------

PORT = 8123
URL = f"http://127.0.0.1:{PORT}"


@pytest.fixture(scope="module")
def deploy(ray: Cluster, artifact_dir: Path) -> Iterator[Callable[..., None]]:
    """Deploys the application with other settings: a rolling update after the first time."""
    before = dict[str, Any]()

    def start(replicas: int | None = 2, **settings: Any) -> None:
        if {"replicas": replicas, **settings} == before:
            return
        fixed = [] if replicas is None else ["--replicas", str(replicas)]
        words = ["cluster", "serve", *fixed, "--port", str(PORT), "--address", ray.address]
        done = ray.run(*words, models_dir=artifact_dir, threads=1, **settings)
        assert done.returncode == 0, done.stderr
        before.clear()
        before.update(settings, replicas=replicas)

    yield start
    stop = ["-c", "import ray; ray.init('auto', log_to_driver=False); from ray import serve; serve.shutdown()"]
    subprocess.run([sys.executable, *stop], env=ray.environment | {"RAY_ADDRESS": ray.address}, check=False)


QUIET = {"log_level": "warning", "queue_megapixels": 64}


def retried(client: httpx.Client, body: bytes, attempts: int = 20, **query: str) -> httpx.Response:
    """Send an image as a caller with retries does."""
    for _ in range(attempts):
        try:
            reply = client.post(f"{URL}/segment", content=body, params=query)
        except httpx.TransportError:
            reply = None
        if reply is not None and reply.status_code < 500 and reply.status_code != 429:
            return reply
        time.sleep(0.25)
    raise AssertionError(reply)


@pytest.mark.cluster
def test_requests_that_wait_add_a_replica(ray: Cluster, deploy: Callable[..., None]) -> None:
    """Without --replicas there is one; more ongoing requests than it is meant to have bring a second, which answers too.

    The first of these tests: Ray keeps a second replica for ten minutes after the load.
    """
    deploy(None, **QUIET)
    assert len(ray.processes("ray::ServeReplica")) == 1
    body, enough = encode_image(make_image(1200, 1600), "JPEG", quality=90), threading.Event()

    def ask(client: httpx.Client) -> int:
        count = 0
        while not enough.is_set():
            count += retried(client, body).status_code == 200
        return count

    with httpx.Client(timeout=120) as client, ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, client) for _ in range(8)]
        try:
            wait_until(lambda: len(ray.processes("ray::ServeReplica")) == 2, "a second replica", deadline_s=180)
        finally:
            enough.set()
        assert all(each.result() > 0 for each in asked)


@pytest.mark.cluster
def test_replies_are_those_of_the_service_byte_for_byte(deploy: Callable[..., None], artifact_dir: Path, png: bytes) -> None:
    """Every kind of reply: masks, documents, problems, pages, and one request id."""
    deploy(**QUIET)
    calls: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/segment", {"content": png}),
        ("POST", "/segment?format=npy", {"content": png}),
        ("POST", "/segment?format=overlay", {"files": {"image": ("a.png", png)}}),
        ("POST", "/segment?format=coco", {"files": [("image", ("a.png", png)), ("image", ("b.png", png))]}),
        ("POST", "/segment?format=dance", {"content": png}),
        ("POST", "/segment", {"content": b"no image"}),
        ("GET", "/models", {}),
        ("GET", "/livez", {}),
        ("GET", "/readyz", {}),
        ("GET", "/", {}),
        ("GET", "/v2/models/colours", {}),
        ("GET", "/nothing", {}),
    ]
    left_out = {"date", "server", "server-timing", "transfer-encoding", "content-length", "connection"}
    with live_server(Settings.load(models_dir=artifact_dir, threads=1)) as local, httpx.Client(timeout=60) as client:
        for method, path, options in calls:
            headers = {"X-Request-ID": "one-id", "X-Frame-Id": "7"}
            far, near = (client.request(method, f"{base}{path}", headers=headers, **options) for base in (URL, local))
            assert far.status_code == near.status_code, path
            assert far.content == near.content, path
            kept = [{(name, value) for name, value in reply.headers.items() if name not in left_out} for reply in (far, near)]
            assert kept[0] == kept[1], path
            assert far.headers.get_list("x-request-id") == ["one-id"], path
        made = client.post(f"{URL}/segment", content=b"no image")
        assert made.headers.get_list("x-request-id") == [made.json()["request_id"]]


@pytest.mark.cluster
def test_another_address_than_that_of_the_proxies_is_refused(
    ray: Cluster, deploy: Callable[..., None], artifact_dir: Path
) -> None:
    """Ray keeps the address of the first start: nothing would listen on the second one."""
    deploy(**QUIET)
    for words in (["--port", str(PORT + 1)], ["--port", str(PORT), "--host", "127.0.0.2"]):
        done = ray.run("cluster", "serve", *words, "--address", ray.address, models_dir=artifact_dir, threads=1)
        assert done.returncode == 2, done.stderr
        assert f"the cluster serves on 127.0.0.1:{PORT} already" in done.stderr


@pytest.mark.cluster
def test_requests_outlive_a_killed_replica(ray: Cluster, deploy: Callable[..., None], png: bytes) -> None:
    """Of 500 requests a few may fail while a replica dies; a retry brings each of them back."""
    deploy(**QUIET)
    killed: list[int] = []
    with httpx.Client(timeout=60) as client, ThreadPoolExecutor(4) as pool:
        expected = retried(client, png).content

        def one(number: int) -> bool:
            if number == 100:
                killed.append(ray.processes("ray::ServeReplica")[0])
                os.kill(killed[0], signal.SIGKILL)
            return retried(client, png, attempts=240).content == expected

        assert all(pool.map(one, range(500)))
    assert killed
    wait_until(lambda: len(ray.processes("ray::ServeReplica")) == 2, "the replica to be replaced", deadline_s=180)


@pytest.mark.cluster
def test_an_upload_of_20_megabytes_passes(deploy: Callable[..., None], artifact_dir: Path) -> None:
    """Ray's proxy streams it to the replica, and the reply is that of the service."""
    deploy(**QUIET)
    body = encode_image(make_image(2600, 2600), "PNM")
    assert len(body) > 20e6
    with live_server(Settings.load(models_dir=artifact_dir, threads=1)) as local, httpx.Client(timeout=120) as client:
        near = client.post(f"{local}/segment", content=body)
        assert near.status_code == 200
        assert retried(client, body).content == near.content


@pytest.mark.cluster
def test_a_stream_passes(deploy: Callable[..., None], png: bytes) -> None:
    """Frames in, masks out, through Ray's proxy."""
    from service.client import Client  # noqa: PLC0415

    deploy(**QUIET)
    with Client(URL) as client:
        masks = list(client.stream(iter([png] * 5)))
    assert masks
    assert all(mask.labels.shape == (96, 128) for mask in masks)


@pytest.mark.cluster
def test_overload_is_told_by_the_service_itself(deploy: Callable[..., None]) -> None:
    """429 with Retry-After and a problem document comes through Ray; nothing waits in a queue of Ray's."""
    deploy(log_level="warning", queue_megapixels=0.5)
    body = encode_image(make_image(600, 800), "JPEG", quality=90)
    with httpx.Client(timeout=120, limits=httpx.Limits(max_connections=24)) as client, ThreadPoolExecutor(24) as pool:
        replies = list(pool.map(lambda _: client.post(f"{URL}/segment", content=body), range(150)))
    codes = {reply.status_code for reply in replies}
    assert codes == {200, 429}
    for reply in replies:
        if reply.status_code == 429:
            assert reply.headers["content-type"] == "application/problem+json"
            assert reply.json()["code"] == "overloaded"
            assert "retry-after" in reply.headers


@pytest.mark.cluster
def test_an_update_loses_no_request(deploy: Callable[..., None], png: bytes) -> None:
    """Replicas are replaced one by one; a caller that retries sees no failure."""
    deploy(**QUIET)
    with httpx.Client(timeout=60) as client, ThreadPoolExecutor(2) as pool:
        expected = retried(client, png).content
        updating = pool.submit(deploy, log_level="error", queue_megapixels=32)
        answered = 0
        while not updating.done():
            assert retried(client, png, attempts=100).content == expected
            answered += 1
        updating.result()
        assert answered
