"""The page on Triton's and KServe's clients: every snippet runs, in order, against a real server with the shipped models."""

from __future__ import annotations

import re
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from service.settings import Settings
from tests.conftest import encode_image, make_image
from tests.live import ROOT, free_port, live_server

PAGE = (ROOT / "docs" / "triton-clients.md").read_text("utf-8")
KSERVE = "kserve==0.21.0"
GRPC_PORT = free_port()


def snippets(kind: str) -> str:
    """All of one kind, one after another, without those that start a service: `host` is one."""
    blocks = re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return "\n".join(block for block in blocks if "fcn-serve serve" not in block)


def addressed(text: str, host: str) -> str:
    """Snippets that ask the server of this test."""
    return text.replace("localhost:8000", host).replace("localhost:8001", f"127.0.0.1:{GRPC_PORT}")


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    """A server with the shipped models."""
    with live_server(Settings(admin_keys=(SecretStr("an administrator's key"),), grpc_port=GRPC_PORT)) as url:
        yield url.removeprefix("http://")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files that the page speaks of."""
    (tmp_path / "street.jpg").write_bytes(encode_image(make_image(360, 480), "JPEG"))
    (tmp_path / "small.png").write_bytes(encode_image(make_image(60, 80)))
    return tmp_path


def run(command: list[Any], folder: Path) -> str:
    """What a command prints."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_tritons_clients_do_what_the_page_says(host: str, folder: Path) -> None:
    """Files, pixels, different sizes, asyncio, the repository."""
    printed = run([sys.executable, "-c", addressed(snippets("python"), host)], folder).splitlines()
    assert printed[0].startswith("(1, 360, 480) [")
    assert printed[1].startswith("(360, 480) (360, 480) (11, ")
    assert printed[2:5] == ["(360, 480)", "(60, 80)", "[(360, 480), (60, 80)]"]
    assert printed[5:7] == ["(360, 480)", "['0', '1', '2']"]
    assert "'state': 'READY'" in printed[7]
    assert "'count': 9" in printed[8]


def test_curl_does_what_the_page_says(host: str, folder: Path) -> None:
    """The image as it is, and JSON."""
    run(["bash", "-e", "-o", "pipefail", "-c", snippets("bash").replace("localhost:8000", host)], folder)
    size = int(re.findall(r"(?i)inference-header-content-length: (\d+)", (folder / "headers.txt").read_text("ascii"))[0])
    reply = (folder / "reply.bin").read_bytes()
    assert len(reply) == size + 60 * 80
    numbers = re.findall(r'"data":\[([\d,]+)\]', (folder / "reply.json").read_text("ascii"))[0]
    assert bytes(map(int, numbers.split(","))) == reply[size:]


@pytest.mark.slow
def test_kserves_client_does_what_the_page_says(host: str, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """In an environment of its own: it wants an older protobuf than the export side, and half of Kubernetes."""
    home = tmp_path_factory.mktemp("kserve")
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    pip: list[str | Path] = [python, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "--no-input", KSERVE]
    installed = subprocess.run(pip, capture_output=True, text=True, check=False, timeout=1800)
    if installed.returncode:
        pytest.skip(f"{KSERVE} cannot be installed here: {installed.stderr[-200:]}")
    assert run([python, "-c", snippets("py").replace("localhost:8000", host)], folder) == "(1, 360, 480)\n"
    assert run([python, "-c", ALL_OF_KSERVE, f"http://{host}"], folder) == "ok\n"


ALL_OF_KSERVE = """
import asyncio, sys
import httpx, numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

async def main(url, model="fcn4s-lite0-streets"):
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    assert await client.is_server_live(url) is True
    assert await client.is_server_ready(url) is True
    assert await client.is_model_ready(url, model) is True
    assert await client.is_model_ready(url, "unicorn") is False
    pixels = np.full((60, 80, 3), 128, np.uint8)
    masks = []
    for binary in (True, False):
        image = InferInput("image", list(pixels.shape), "UINT8")
        image.set_data_from_numpy(pixels, binary_data=binary)
        wanted = [RequestedOutput("scores", {"binary_data": binary}), RequestedOutput("labels", {"binary_data": not binary})]
        parameters = {"timeout": 20_000_000, "priority": 1}
        request = InferRequest(model, [image], request_id="mine", parameters=parameters, request_outputs=wanted)
        reply = await client.infer(url, request, model_name=model)
        assert (reply.id, reply.model_name, [output.name for output in reply.outputs]) == ("mine", model, ["scores", "labels"])
        assert reply.outputs[0].as_numpy().dtype == np.float32
        masks.append(reply.outputs[1].as_numpy())
    assert masks[0].shape == (60, 80) and (masks[0] == masks[1]).all()
    try:
        await client.infer(url, InferRequest("unicorn", [image]), model_name="unicorn")
    except httpx.HTTPStatusError as error:
        assert error.response.status_code == 404
    else:
        raise AssertionError("a model that is not there answered")
    await client.close()

asyncio.run(main(sys.argv[1]))
print("ok")
"""
