"""Tensors in shared memory: Triton's own functions against a real server, over both transports."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException
from tritonclient.utils import shared_memory as shm

from service.api.v2.memory import FOLDER, MAX_REGIONS, Placement, Regions
from service.errors import BadParameter, BodyTooLarge, Overloaded
from service.settings import Settings
from tests.conftest import encode_image, make_image
from tests.live import free_port, live_server

MAX_BYTES = 2_000_000

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="no POSIX shared memory in the file system here")


@pytest.fixture
def prefix() -> Iterator[str]:
    """The beginning of names that no other test uses; what is left of them is removed."""
    prefix = f"/fcn-test-{uuid.uuid4().hex[:12]}-"
    yield prefix
    for path in FOLDER.glob(f"{prefix[1:]}*"):
        path.unlink()


@pytest.fixture(scope="module")
def server(artifact_dir: Path) -> Iterator[tuple[str, dict[Any, str]]]:
    """The prefix that a server allows, and its addresses by Triton's client."""
    prefix, port = f"/fcn-test-{uuid.uuid4().hex[:12]}-", free_port()
    settings = Settings(models_dir=artifact_dir, shared_memory=prefix, grpc_port=port, max_image_bytes=MAX_BYTES)
    with live_server(settings) as url:
        yield prefix, {triton_http: url.removeprefix("http://"), triton_grpc: f"127.0.0.1:{port}"}
    for path in FOLDER.glob(f"{prefix[1:]}*"):
        path.unlink()


@pytest.mark.parametrize("kind", [triton_http, triton_grpc])
def test_inputs_and_outputs_in_shared_memory_equal_those_in_the_request(kind: Any, server: Any) -> None:
    """Pixels and files in, two outputs to one region and a third in the reply; offsets are kept."""
    prefix, addresses = server
    pixels, file = make_image(40, 60), np.array([encode_image(make_image(40, 60))], object)
    where = shm.create_shared_memory_region("all", f"{prefix}{kind.__name__}", 200_000)
    with kind.InferenceServerClient(addresses[kind]) as client:
        client.register_system_shared_memory("all", f"{prefix}{kind.__name__}", 200_000)
        status = client.get_system_shared_memory_status()
        regions = status if isinstance(status, list) else [*status.regions.values()]
        assert "all" in str(regions[0])
        assert client.get_server_metadata()
        for array, datatype in ((pixels, "UINT8"), (file, "BYTES")):
            sent = kind.InferInput("image", list(array.shape), datatype)
            sent.set_data_from_numpy(array)
            outputs = [kind.InferRequestedOutput(name) for name in ("labels", "scores", "confidence")]
            expected = client.infer("colours", [sent], outputs=outputs)
            shm.set_shared_memory_region(where, [array if datatype == "UINT8" else triton_bytes(array)], offset=16)
            size = pixels.nbytes if datatype == "UINT8" else 4 + len(file[0])
            shared = kind.InferInput("image", list(array.shape), datatype)
            shared.set_shared_memory("all", size, 16)
            scores = expected.as_numpy("scores")
            outputs[0].set_shared_memory("all", 2400, 100_000)
            outputs[1].set_shared_memory("all", scores.nbytes + 4, 110_000)
            reply = client.infer("colours", [shared], outputs=outputs)
            for name, dtype, offset in (("labels", np.uint8, 100_000), ("scores", np.float32, 110_000)):
                found = shm.get_contents_as_numpy(where, dtype, expected.as_numpy(name).shape, offset)
                assert (found == expected.as_numpy(name)).all()
            assert (reply.as_numpy("confidence") == expected.as_numpy("confidence")).all()
            described = reply.get_output("scores")
            parameters = described["parameters"] if isinstance(described, dict) else described.parameters
            assert str(scores.nbytes) in str(parameters["shared_memory_byte_size"])
        client.unregister_system_shared_memory("all")
        with pytest.raises(InferenceServerException, match="no region 'all'"):
            client.infer("colours", [shared])
        with pytest.raises(InferenceServerException, match="no region 'all'"):
            client.get_system_shared_memory_status("all")
        client.unregister_system_shared_memory()
    shm.destroy_shared_memory_region(where)


def triton_bytes(array: Any) -> Any:
    """``BYTES`` as they lie in memory."""
    return np.frombuffer(b"".join(len(item).to_bytes(4, "little") + item for item in array), np.uint8)


@pytest.mark.parametrize("kind", [triton_http, triton_grpc])
def test_a_region_that_shrinks_is_an_error_of_the_request(kind: Any, server: Any) -> None:
    """The process goes on: nothing is mapped."""
    prefix, addresses = server
    path = FOLDER / f"{prefix[1:]}shrinks-{kind.__name__}"
    path.write_bytes(bytes(20_000))
    with kind.InferenceServerClient(addresses[kind]) as client:
        client.register_system_shared_memory("shrinks", f"/{path.name}", 20_000)
        sent = kind.InferInput("image", [40, 60, 3], "UINT8")
        sent.set_shared_memory("shrinks", 7200)
        output = kind.InferRequestedOutput("labels")
        output.set_shared_memory("shrinks", 2400, 10_000)
        assert client.infer("colours", [sent], outputs=[output])
        os.truncate(path, 11_000)
        with pytest.raises(InferenceServerException, match="is shorter than the region"):
            client.infer("colours", [sent], outputs=[output])
        assert path.stat().st_size == 11_000
        os.truncate(path, 100)
        with pytest.raises(InferenceServerException, match="is shorter than the region"):
            client.infer("colours", [sent])
        path.unlink()
        with pytest.raises(InferenceServerException, match="does not exist"):
            client.infer("colours", [sent])
        client.unregister_system_shared_memory("shrinks")
        assert client.is_server_ready()


def test_what_a_tensor_in_shared_memory_may_not_be(server: Any) -> None:
    """Data beside it, more than the region or any image has."""
    prefix, addresses = server
    path = FOLDER / f"{prefix[1:]}bounds"
    path.write_bytes(b"")
    os.truncate(path, 2 * MAX_BYTES)
    with triton_grpc.InferenceServerClient(addresses[triton_grpc]) as client:
        client.register_system_shared_memory("bounds", f"/{path.name}", 2 * MAX_BYTES)
        for shape, size, offset, message in (
            ([40, 60, 3], 7200, 2 * MAX_BYTES - 7199, "are not inside the region"),
            ([40, 60, 3], 7199, 0, "is 7200 bytes, and 7199 came"),
            ([1000, 1000, 3], 3_000_000, 0, "2000000 are allowed"),
        ):
            sent = triton_grpc.InferInput("image", shape, "UINT8")
            sent.set_shared_memory("bounds", size, offset)
            with pytest.raises(InferenceServerException, match=message) as refused:
                client.infer("colours", [sent])
            assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"
        output = triton_grpc.InferRequestedOutput("labels")
        output.set_shared_memory("bounds", 2399)
        sent.set_shared_memory("bounds", 7200)
        sent.set_shape([40, 60, 3])
        with pytest.raises(InferenceServerException, match="has 2400 bytes, and 2399 are meant for it"):
            client.infer("colours", [sent], outputs=[output])
        client.unregister_system_shared_memory()


@pytest.mark.parametrize(
    "key",
    ["", "/", "/other", "../fcn", "/{p}x/../y", "/{p}/y", "/{p}\0", "/{p}" + "x" * 250, "/etc/passwd", "//{p}x", "/.{p}x"],
)
def test_only_objects_that_the_operator_names_may_be_registered(key: str, prefix: str) -> None:
    """No other file, by no spelling."""
    with pytest.raises(BadParameter, match="may be used"):
        Regions(prefix, 100).register("a", key.replace("{p}", prefix[1:]), 0, 1)


def test_links_pipes_and_folders_are_refused(prefix: str) -> None:
    """A link with an allowed name leads nowhere, and a pipe holds up no thread."""
    regions = Regions(prefix, 100)
    link, pipe, folder = (FOLDER / f"{prefix[1:]}{kind}" for kind in ("link", "pipe", "folder"))
    link.symlink_to("/etc/hostname")
    os.mkfifo(pipe)
    folder.mkdir()
    try:
        for path in (link, pipe, folder):
            with pytest.raises(BadParameter, match=r"cannot be used|is not a shared memory object"):
                regions.register("a", f"/{path.name}", 0, 1)
    finally:
        folder.rmdir()


def test_registrations_are_checked_and_bounded(prefix: str) -> None:
    """Parts outside of the object, names that are taken, too many; unregistering what is not there does nothing."""
    regions = Regions(prefix, 100)
    (FOLDER / f"{prefix[1:]}a").write_bytes(bytes(100))
    for offset, size in ((0, 101), (1, 100), (2**62, 1), (0, 0)):
        with pytest.raises(BadParameter, match="byte_size"):
            regions.register("a", f"{prefix}a", offset, size)
    with pytest.raises(BadParameter, match="does not exist"):
        regions.register("a", f"{prefix}b", 0, 1)
    with pytest.raises(BadParameter, match="printable"):
        regions.register("", f"{prefix}a", 0, 1)
    for number in range(MAX_REGIONS):
        regions.register(str(number), f"{prefix}a", 0, 100)
    with pytest.raises(BadParameter, match="registered already"):
        regions.register("7", f"{prefix}a", 0, 100)
    with pytest.raises(BadParameter, match=f"{MAX_REGIONS} regions"):
        regions.register("one more", f"{prefix}a", 0, 100)
    regions.unregister("7")
    regions.unregister("7")
    assert len(regions.status()) == MAX_REGIONS - 1
    regions.unregister()
    assert regions.status() == []


def test_what_is_read_is_counted_before_it_is_in_memory(prefix: str) -> None:
    """The bound on all bodies together holds for shared memory too."""
    regions = Regions(prefix, 60)
    (FOLDER / f"{prefix[1:]}a").write_bytes(bytes(range(100)))
    regions.register("a", f"{prefix}a", 10, 90)
    counted: list[int] = []
    assert bytes(regions.read(Placement("a", 50, 5), counted.append)) == bytes(range(15, 65))
    assert counted == [50]
    with pytest.raises(BodyTooLarge):
        regions.read(Placement("a", 61), counted.append)

    def full(_: int) -> None:
        raise Overloaded("full", retry_after_s=1.0)

    with pytest.raises(Overloaded):
        regions.read(Placement("a", 50), full)
    assert regions.write(Placement("a", 50, 40), [b"ab", b"c"]) == 3
    assert (FOLDER / f"{prefix[1:]}a").read_bytes()[50:54] == b"abc" + bytes([53])


def test_it_is_off_unless_the_operator_turns_it_on(tmp_path: Path) -> None:
    """And the setting takes names alone."""
    assert not Settings().shared_memory
    for call in (Regions("", 1).status, Regions("", 1).unregister, lambda: Regions("", 1).register("a", "/a", 0, 1)):
        with pytest.raises(BadParameter, match="it is off; FCN_SHARED_MEMORY"):
            call()
    for bad in ("/", "/a/b", "..", "/.a"):
        with pytest.raises(ValueError, match="pattern"):
            Settings(shared_memory=bad)
