"""Models that change while they are served: the folder is followed, and no request notices."""

from __future__ import annotations

import gc
import io
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from PIL import Image
from pydantic import SecretStr

from service.errors import BadArtifact, NotReady, UnknownModel
from service.pipeline.cpus import available_cpus
from service.pipeline.engine import LOADS_AT_ONCE, Engine
from service.pipeline.onnx_file import read
from service.pipeline.repository import Repository
from service.settings import Settings
from tests.conftest import make_graph, make_image, make_labels, make_manifest, write_artifact
from tests.live import live_process, live_server
from tests.waiting import wait_until

STATUS = Path("/proc/self/status")
needs_proc = pytest.mark.skipif(not STATUS.exists(), reason="reads /proc")


def put(path: Path, version: str = "1.0.0", *, turn: int = 0, graph: onnx.ModelProto | None = None, **fields: Any) -> str:
    """Put an artifact in its place as an operator should: written beside it, then renamed.

    Takes:
        turn: by how much every class id is off, so that a mask tells which build made it
    Gives:
        its sha256
    """
    model = make_graph(np.roll(np.eye(3, dtype=np.float32), turn, axis=0)) if graph is None else graph
    unfinished = write_artifact(path.with_name(f".{path.name}.part"), make_manifest(version=version, **fields), model)
    sha256 = read(unfinished).sha256()
    unfinished.replace(path)
    return sha256


def refresh(repository: Repository) -> None:
    """Scan the folder twice."""
    repository.refresh()
    repository.refresh()


def identities(repository: Repository) -> list[str]:
    """``name@version`` of everything that is served."""
    return [f"{engine.manifest.name}@{engine.manifest.version}" for engine in repository.engines()]


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    """A folder with one model, ``colours@1.0.0``, in ``a.onnx``."""
    put(tmp_path / "a.onnx")
    opened = Repository(tmp_path)
    yield opened
    opened.close()


# What is taken up ------------------------------------------------------------------------------------------------------------


def test_an_artifact_that_was_added_is_served(repository: Repository, tmp_path: Path) -> None:
    """Also one in the external-data form, and under the name that its manifest says."""
    put(tmp_path / "b.onnx", name="ant")
    with_weights_beside(tmp_path / "c.onnx", name="bee")
    refresh(repository)
    assert identities(repository) == ["ant@1.0.0", "bee@1.0.0", "colours@1.0.0"]
    assert repository.default == "ant"


def test_an_artifact_that_was_replaced_is_exchanged_in_one_step(repository: Repository, tmp_path: Path) -> None:
    """Who holds the old one finishes with it."""
    held = repository.get("colours")
    sha256 = put(tmp_path / "a.onnx", "2.0.0", turn=1)
    refresh(repository)
    assert identities(repository) == ["colours@2.0.0"]
    assert repository.get().sha256 == sha256 != held.sha256
    assert held.run(make_image()[None])["scores"][0, :, 0, 0].argmax() == 0
    assert repository.get().run(make_image()[None])["scores"][0, :, 0, 0].argmax() == 1


def test_an_artifact_that_was_removed_is_served_no_more(repository: Repository, tmp_path: Path) -> None:
    """The service lives on, and says what is missing."""
    (tmp_path / "a.onnx").unlink()
    refresh(repository)
    with pytest.raises(UnknownModel):
        repository.get("colours")
    with pytest.raises(NotReady, match=r"no \*\.onnx"):
        repository.get()
    assert repository.index() == []
    put(tmp_path / "a.onnx", "2.0.0")
    refresh(repository)
    assert identities(repository) == ["colours@2.0.0"]


def test_what_did_not_change_is_not_opened_again(repository: Repository) -> None:
    """A scan costs a few system calls."""
    held = repository.get()
    refresh(repository)
    repository.load("colours")
    assert repository.get() is held


def test_a_file_that_still_grows_is_left_alone(repository: Repository, tmp_path: Path) -> None:
    """A copy under its final name is not tried between two scans that differ, and loaded when it is whole."""
    content = (tmp_path / "a.onnx").read_bytes()
    with (tmp_path / "b.onnx").open("wb") as copy:
        for byte in write_artifact(tmp_path / ".b", make_manifest(name="bee")).read_bytes():
            copy.write(bytes([byte]))
            copy.flush()
            if copy.tell() % 100 == 0:
                repository.refresh()
    assert not repository.broken
    refresh(repository)
    assert identities(repository) == ["bee@1.0.0", "colours@1.0.0"]
    assert (tmp_path / "a.onnx").read_bytes() == content


def test_a_copy_that_stalls_is_refused_and_tried_again_when_it_goes_on(repository: Repository, tmp_path: Path) -> None:
    """The file is loaded as soon as it is complete."""
    whole = write_artifact(tmp_path / ".b", make_manifest(name="bee")).read_bytes()
    (tmp_path / "b.onnx").write_bytes(whole[:-100])
    refresh(repository)
    assert "truncated" in repository.broken["b.onnx"]
    with (tmp_path / "b.onnx").open("ab") as copy:
        copy.write(whole[-100:])
    refresh(repository)
    assert identities(repository) == ["bee@1.0.0", "colours@1.0.0"]
    assert not repository.broken


def test_weights_that_arrive_after_their_graph_complete_it(repository: Repository, tmp_path: Path) -> None:
    """Refused while they are missing, then served; and a change of the weights alone is a change."""
    data = with_weights_beside(tmp_path / "b.onnx", name="bee")
    later = data.read_bytes()
    data.unlink()
    refresh(repository)
    assert "which is missing" in repository.broken["b.onnx"]
    data.write_bytes(later)
    refresh(repository)
    assert identities(repository) == ["bee@1.0.0", "colours@1.0.0"]
    before = repository.get("bee").sha256
    weights = np.frombuffer(later, np.float32).copy()
    unfinished = data.with_name(".part")
    unfinished.write_bytes((weights * 2).tobytes())
    unfinished.replace(data)
    refresh(repository)
    assert repository.get("bee").sha256 == read(tmp_path / "b.onnx").sha256() != before


def test_a_file_that_is_renamed_is_served_all_the_time(repository: Repository, tmp_path: Path) -> None:
    """Its model keeps its name, and no scan finds it without one."""
    (tmp_path / "a.onnx").rename(tmp_path / "z.onnx")
    for _ in range(3):
        repository.refresh()
        assert identities(repository) == ["colours@1.0.0"]
    assert repository.get().path.name == "z.onnx"
    assert not repository.broken


def test_a_name_that_becomes_free_goes_to_the_file_that_was_refused_for_it(repository: Repository, tmp_path: Path) -> None:
    """It had to wait, and need not be touched."""
    put(tmp_path / "b.onnx", "2.0.0")
    refresh(repository)
    assert "taken by a.onnx" in repository.broken["b.onnx"]
    (tmp_path / "a.onnx").unlink()
    refresh(repository)
    refresh(repository)
    assert identities(repository) == ["colours@2.0.0"]


def test_a_file_whose_model_has_another_name_now_is_another_model(repository: Repository, tmp_path: Path) -> None:
    """The old name is gone."""
    put(tmp_path / "a.onnx", name="bee")
    refresh(repository)
    assert identities(repository) == ["bee@1.0.0"]


def test_a_folder_that_cannot_be_read_takes_nothing_away(
    repository: Repository, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A network drive that is gone for a while is one line in the log; what is served goes on."""
    aside = tmp_path.with_name(f"{tmp_path.name}-aside")
    tmp_path.rename(aside)
    refresh(repository)
    assert identities(repository) == ["colours@1.0.0"]
    assert caplog.text.count("cannot be read") == 1
    aside.rename(tmp_path)
    put(tmp_path / "a.onnx", "2.0.0")
    refresh(repository)
    assert identities(repository) == ["colours@2.0.0"]


# What is refused -------------------------------------------------------------------------------------------------------------


def with_weights_beside(path: Path, **fields: Any) -> Path:
    """Write the colour network in the external-data form; gives its data file."""
    model = make_graph()
    wide = np.zeros((3, 3, 9, 9), np.float32)
    wide[np.arange(3), np.arange(3), 4, 4] = 1 / 255
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(wide, "kernel"))
    model.graph.node[3].attribute.append(helper.make_attribute("pads", [4] * 4))
    helper.set_model_props(model, make_manifest(**fields).to_metadata())
    onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data")
    return path.with_name(f"{path.name}.data")


def truncated(path: Path) -> None:
    """A copy that was cut off."""
    path.write_bytes(path.read_bytes()[:-300])


def no_onnx(path: Path) -> None:
    """Something else under the name of an artifact."""
    path.write_bytes(b"no network at all")


def wrong_manifest(path: Path) -> None:
    """A manifest with nonsense in it."""
    model = make_graph()
    metadata = make_manifest(version="2.0.0").to_metadata()
    helper.set_model_props(model, {key: value.replace('"stride":8', '"stride":-8') for key, value in metadata.items()})
    onnx.save(model, path)


def wrong_opset(path: Path) -> None:
    """Operators from a future that this ONNX Runtime does not know."""
    model = make_graph()
    model.opset_import[0].version = 99
    write_artifact(path, make_manifest(version="2.0.0"), model)


def no_weights(path: Path) -> None:
    """The graph alone, without the file that has its weights."""
    with_weights_beside(path, version="2.0.0").unlink()


def half_the_weights(path: Path) -> None:
    """And with one that was cut off."""
    data = with_weights_beside(path, version="2.0.0")
    data.write_bytes(data.read_bytes()[:-8])


def other_graph(path: Path) -> None:
    """A graph that does something else than its manifest says."""
    write_artifact(path, make_manifest(version="2.0.0"), make_graph(np.eye(3, dtype=np.float32)[:2]))


def unreadable(path: Path) -> None:
    """A folder under the name of an artifact: root can read every file."""
    path.unlink()
    path.mkdir()


BREAKAGES = [
    (truncated, "truncated", "is truncated"),
    (no_onnx, "damaged", "is not an ONNX file"),
    (wrong_manifest, "manifest", "manifest refused: stride"),
    (wrong_opset, "runtime", "opset"),
    (no_weights, "data", "which is missing"),
    (half_the_weights, "data", "which is truncated"),
    (other_graph, "graph", "one plane a class"),
    (unreadable, "unreadable", "cannot be read"),
]


@pytest.mark.parametrize(("breakage", "cause", "reason"), BREAKAGES, ids=[row[0].__name__ for row in BREAKAGES])
def test_a_broken_artifact_is_refused_and_the_old_one_goes_on(
    breakage: Callable[[Path], None], cause: str, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is listed and logged with its reason, once, and counted by its cause; mended, it is served."""
    put(tmp_path / "a.onnx")
    repository = Repository(tmp_path)
    breakage(tmp_path / "a.onnx")
    for _ in range(5):
        repository.refresh()
    assert identities(repository) == ["colours@1.0.0"]
    assert repository.get().run(make_image()[None])["scores"].shape == (1, 3, 12, 16)
    (state,) = repository.index()
    assert (state.file, state.version, state.state) == ("a.onnx", "1.0.0", "READY")
    assert state.reason is not None
    assert reason in state.reason
    assert str(tmp_path) not in state.reason
    assert caplog.text.count("artifact refused: a.onnx") == 1
    assert "colours@1.0.0 goes on" in caplog.text
    assert repository.outcomes == {("served", ""): 1, ("refused", cause): 1}
    if (tmp_path / "a.onnx").is_dir():
        (tmp_path / "a.onnx").rmdir()
    put(tmp_path / "a.onnx", "3.0.0")
    refresh(repository)
    assert identities(repository) == ["colours@3.0.0"]
    assert not repository.broken
    repository.close()


def test_what_changes_while_it_is_opened_is_not_served(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hash could be that of one content and the network that of the other."""
    opened = Engine.open

    def opened_too_late(path: Path, *words: Any) -> Engine:
        engine = opened(path, *words)
        monkeypatch.setattr(Engine, "open", opened)
        put(path, "3.0.0")
        return engine

    put(tmp_path / "a.onnx", "2.0.0")
    monkeypatch.setattr(Engine, "open", opened_too_late)
    refresh(repository)
    assert identities(repository) == ["colours@1.0.0"]
    assert "changed while" in repository.broken["a.onnx"]
    refresh(repository)
    assert identities(repository) == ["colours@3.0.0"]


# Load and unload -------------------------------------------------------------------------------------------------------------


def test_a_model_that_was_unloaded_stays_so_until_it_is_loaded(repository: Repository, tmp_path: Path) -> None:
    """What an administrator said is not undone by a scan of the folder."""
    repository.unload("colours")
    put(tmp_path / "a.onnx", "2.0.0")
    refresh(repository)
    assert identities(repository) == []
    (state,) = repository.index()
    assert (state.name, state.state) == ("colours", "UNAVAILABLE")
    assert "unloaded" in (state.reason or "")
    assert not repository.broken
    with pytest.raises(NotReady, match="unloaded by an administrator"):
        repository.get()
    with pytest.raises(UnknownModel):
        repository.unload("colours")
    assert repository.load("colours") is repository.get("colours")
    assert identities(repository) == ["colours@2.0.0"]


def test_load_takes_up_at_once_what_the_file_holds(repository: Repository, tmp_path: Path) -> None:
    """A new model, a new version; nothing else is touched."""
    put(tmp_path / "a.onnx", "2.0.0")
    put(tmp_path / "b.onnx", name="bee")
    assert repository.load("bee").manifest.name == "bee"
    assert identities(repository) == ["bee@1.0.0", "colours@1.0.0"]
    assert repository.load("colours").manifest.version == "2.0.0"


def test_load_says_why_it_cannot(repository: Repository, tmp_path: Path) -> None:
    """No such model; or one that is refused, and the old one goes on."""
    with pytest.raises(UnknownModel, match="'ant'"):
        repository.load("ant")
    (tmp_path / "ant.onnx").write_bytes(b"nothing")
    with pytest.raises(BadArtifact, match="not an ONNX file"):
        repository.load("ant")
    truncated(tmp_path / "a.onnx")
    with pytest.raises(BadArtifact, match="truncated"):
        repository.load("colours")
    assert identities(repository) == ["colours@1.0.0"]


def test_the_default_model_may_be_gone_for_a_while(tmp_path: Path) -> None:
    """No other one answers in its name."""
    put(tmp_path / "a.onnx")
    put(tmp_path / "b.onnx", name="bee")
    repository = Repository(tmp_path, default="bee")
    repository.unload("bee")
    with pytest.raises(NotReady, match="default model 'bee'"):
        repository.get()
    assert repository.get("colours").manifest.name == "colours"
    repository.close()


# Memory ----------------------------------------------------------------------------------------------------------------------


def heavy_graph(megabytes: int, seed: int) -> onnx.ModelProto:
    """The colour network with weights that are used and change nothing."""
    model = make_graph()
    weights = np.random.default_rng(seed).random((megabytes, 1 << 18), np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, "weights"))
    model.graph.node[-1].output[0] = "mixed"
    model.graph.node.append(helper.make_node("Shape", ["mixed"], ["shape"], start=1, end=2))
    model.graph.node.append(helper.make_node("Gather", ["weights", "shape"], ["row"]))
    model.graph.node.append(helper.make_node("ReduceMax", ["row"], ["most"], keepdims=0))
    model.graph.node.append(helper.make_node("Add", ["mixed", "most"], ["scores"]))
    return model


def resident_mb(pid: int | str = "self", field: str = "VmRSS") -> float:
    """What a process holds in memory."""
    lines = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    return float(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


@needs_proc
@pytest.mark.skipif("coverage" in sys.modules, reason="coverage's record grows in the server's memory")
def test_memory_after_ten_reloads_is_that_of_one_model(tmp_path: Path) -> None:
    """A network of 20 MB, replaced ten times: never more than two engines of it and what loading takes, and one in the end.

    An engine holds a session for a lone frame and one a lane.
    """
    sessions = 1 + available_cpus() if available_cpus() > 1 else 1
    folder = tmp_path / "models"
    folder.mkdir()
    builds = [folder / f".build{number}" for number in range(2)]
    for number, build in enumerate(builds):
        write_artifact(build, make_manifest(version=f"{number}.0.0"), heavy_graph(20, number))
    shutil.copy(builds[0], folder / "a.onnx")
    settings = {"models_dir": folder, "reload_s": 0.05}
    body = write_png(make_image())
    with live_process(tmp_path, settings) as server, httpx.Client(base_url=server.base_url) as client:

        def replaced(number: int) -> None:
            shutil.copy(builds[number % 2], folder / ".part")
            (folder / ".part").replace(folder / "a.onnx")
            wanted = f"colours@{number % 2}.0.0"
            wait_until(lambda: client.post("/segment", content=body).headers["x-model"] == wanted, wanted)

        replaced(1)
        replaced(2)
        settle()
        before = resident_mb(server.process.pid)
        for number in range(3, 11):
            replaced(number)
        wait_until(lambda: resident_mb(server.process.pid) < before + 10, "the memory to be given back")
        after = resident_mb(server.process.pid)
        peak = resident_mb(server.process.pid, "VmHWM")
    assert peak - after < 20 * (sessions + 2 * LOADS_AT_ONCE)


def settle() -> None:
    """Wait until retired engines are released."""
    time.sleep(0.5)


def test_the_memory_of_a_retired_engine_is_given_back_when_its_last_holder_lets_go(
    repository: Repository, tmp_path: Path
) -> None:
    """Not before, and not later."""
    held = repository.get()
    sessions = held._sessions
    put(tmp_path / "a.onnx", "2.0.0")
    refresh(repository)
    assert sessions
    held.run(make_image()[None])
    del held
    gc.collect()
    wait_until(lambda: not sessions, "the sessions to be closed")


# Over HTTP -------------------------------------------------------------------------------------------------------------------


def write_png(image: Any) -> bytes:
    """The bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


class Answer(NamedTuple):
    """What one request came back with."""

    status: int
    model: str
    sha256: str
    mask: bytes


@contextmanager
def hammer(base_url: str, callers: int) -> Iterator[list[Answer]]:
    """Callers who segment one picture after another; gives their answers, so far."""
    answers: list[Answer] = []
    ended = threading.Event()
    body = write_png(make_image())

    def call() -> None:
        with httpx.Client(base_url=base_url, timeout=30) as client:
            while not ended.is_set():
                reply = client.post("/segment?format=npy", content=body)
                model, sha256 = (reply.headers.get(name, "") for name in ("x-model", "x-model-sha256"))
                answers.append(Answer(reply.status_code, model, sha256, reply.content))

    with ThreadPoolExecutor(callers) as pool:
        calls = [pool.submit(call) for _ in range(callers)]
        try:
            yield answers
        finally:
            ended.set()
    for finished in calls:
        finished.result()


def test_no_request_is_dropped_while_artifacts_are_replaced(tmp_path: Path) -> None:
    """Every answer is the right mask of the very artifact that its headers name: two builds have one version, and their hashes
    tell them apart; a broken one in between affects no request.
    """
    artifact = tmp_path / "a.onnx"
    turns = {put(artifact, "1.0.0", turn=2): 2, put(artifact, "2.0.0", turn=1): 1, put(artifact, "1.0.0", turn=0): 0}
    versions = {sha256: "2.0.0" if turn == 1 else "1.0.0" for sha256, turn in turns.items()}
    with live_server(Settings(models_dir=tmp_path, reload_s=0.02)) as url, hammer(url, 6) as answers:
        for number in range(1, 25):
            turn = number % 3
            sha256 = put(artifact, "2.0.0" if turn == 1 else "1.0.0", turn=turn)
            await_sha256(url, sha256)
            if number % 6 == 0:
                no_onnx(artifact)
                await_refusal(url)
    assert Counter(answer.status for answer in answers) == {200: len(answers)}
    seen = Counter(answer.sha256 for answer in answers)
    assert set(seen) == set(turns)
    for answer in set(answers):
        mask = np.load(io.BytesIO(answer.mask))
        assert np.mean(mask == (make_labels() + turns[answer.sha256]) % 3) > 0.9
        assert answer.model == f"colours@{versions[answer.sha256]}"


def await_sha256(url: str, sha256: str) -> None:
    """Until new requests are answered by this build."""
    wait_until(lambda: httpx.get(f"{url}/models/colours").json()["sha256"] == sha256)


def await_refusal(url: str) -> None:
    """Until the file's content is refused."""
    wait_until(lambda: bool(httpx.get(f"{url}/models").json()["unavailable"]))


def test_a_refused_artifact_is_listed_and_counted(tmp_path: Path) -> None:
    """``GET /models`` has the reason and what goes on; the metrics have the file and the cause."""
    put(tmp_path / "a.onnx")
    with live_server(Settings(models_dir=tmp_path, reload_s=0.02)) as url:
        truncated(tmp_path / "a.onnx")
        no_onnx(tmp_path / "b.onnx")
        wait_until(lambda: len(httpx.get(f"{url}/models").json()["unavailable"]) == 2)
        document = httpx.get(f"{url}/models").json()
        assert (document["default"], [model["name"] for model in document["models"]]) == ("colours", ["colours"])
        assert document["unavailable"] == [
            {"file": "b.onnx", "model": "b", "reason": "b.onnx: is not an ONNX file", "serving": None},
            {"file": "a.onnx", "model": "colours", "reason": "a.onnx: is truncated", "serving": "1.0.0"},
        ]
        text = httpx.get(f"{url}/metrics").text
        assert 'fcn_artifact_refused{file="a.onnx"} 1.0' in text
        assert 'fcn_artifacts_total{cause="truncated",outcome="refused"} 1.0' in text
        assert httpx.get(f"{url}/readyz").status_code == 200


def test_an_administrator_loads_and_unloads(tmp_path: Path) -> None:
    """With a key, and without a scan of the folder in between; every reply says what became of it."""
    put(tmp_path / "a.onnx")
    settings = Settings(models_dir=tmp_path, reload_s=0, admin_keys=(SecretStr("chief"),))
    with live_server(settings) as url, httpx.Client(base_url=url, headers={"X-API-Key": "chief"}, timeout=30) as chief:
        sha256 = put(tmp_path / "a.onnx", "2.0.0")
        put(tmp_path / "b.onnx", name="bee")
        time.sleep(0.2)
        assert chief.get("/models/colours").json()["version"] == "1.0.0"
        reply = chief.post("/models/colours/load")
        assert (reply.status_code, reply.json()["version"], reply.json()["sha256"]) == (200, "2.0.0", sha256)
        assert chief.post("/models/bee/load").status_code == 200
        assert chief.post("/models/colours/unload").status_code == 204
        assert chief.get("/models/colours").status_code == 404
        assert "unloaded" in chief.get("/models").json()["unavailable"][0]["reason"]
        assert chief.post("/models/colours/unload").status_code == 404
        assert chief.post("/models/bee/unload").status_code == 204
        assert chief.get("/readyz").status_code == 503
        assert chief.post("/models/unicorn/load").status_code == 404
        truncated(tmp_path / "a.onnx")
        reply = chief.post("/models/colours/load")
        assert (reply.status_code, reply.json()["code"], reply.json()["cause"]) == (422, "bad_artifact", "truncated")
        put(tmp_path / "a.onnx", "3.0.0")
        assert chief.post("/models/colours/load").json()["version"] == "3.0.0"
        assert chief.get("/readyz").status_code == 200


@pytest.mark.parametrize("action", ["load", "unload"])
def test_administration_is_for_administrators(tmp_path: Path, action: str) -> None:
    """Off without their keys, which is said; with them, neither an unknown key nor a user's key does it."""
    put(tmp_path / "a.onnx")
    with live_server(Settings(models_dir=tmp_path)) as url:
        reply = httpx.post(f"{url}/models/colours/{action}")
        assert (reply.status_code, reply.json()["code"]) == (403, "forbidden")
        assert "FCN_ADMIN_KEYS" in reply.json()["detail"]
    settings = Settings(models_dir=tmp_path, api_keys=(SecretStr("user"),), admin_keys=(SecretStr("chief"),))
    with live_server(settings) as url:
        for headers in ({}, {"X-API-Key": "user"}, {"Authorization": "Bearer user"}):
            assert httpx.post(f"{url}/models/colours/{action}", headers=headers).status_code == 401
        assert httpx.get(f"{url}/models", headers={"X-API-Key": "user"}).json()["models"]
        assert httpx.get(f"{url}/models", headers={"X-API-Key": "chief"}).status_code == 401
        assert httpx.post(f"{url}/models/colours/{action}", headers={"X-API-Key": "chief"}).is_success


def test_without_reloading_the_folder_is_not_scanned(tmp_path: Path) -> None:
    """``FCN_RELOAD_S=0``: what is served is what was there at the start."""
    put(tmp_path / "a.onnx")
    with live_server(Settings(models_dir=tmp_path, reload_s=0)) as url:
        (tmp_path / "a.onnx").unlink()
        time.sleep(0.3)
        assert httpx.get(f"{url}/models/colours").status_code == 200
