"""The proxy configurations of ``deploy/proxy``, in front of a real server: TLS, a sub-path, WebSocket, large bodies."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from service.client import Client
from service.settings import Settings
from tests.live import ROOT, live_server
from tests.waiting import wait_until

PROXY = ROOT / "deploy" / "proxy"
STREET = ROOT / "service" / "api" / "page" / "street-1.jpg"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``proxy.pem`` and ``proxy.key``, for localhost."""
    folder = tmp_path_factory.mktemp("certificate")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", "proxy.key", "-out", "proxy.pem"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def nginx(folder: Path, upstream: str, port: int, certificate: Path) -> list[str]:
    """The command of an nginx with our configuration, its addresses and files replaced."""
    text = (PROXY / "nginx.conf").read_text("utf-8")
    for ours, theirs in {
        "127.0.0.1:8000": upstream,
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "segment.example;": "localhost;",
        "/etc/ssl/segment.example.pem": str(certificate / "proxy.pem"),
        "/etc/ssl/segment.example.key": str(certificate / "proxy.key"),
    }.items():
        assert ours in text
        text = text.replace(ours, theirs)
    (folder / "site.conf").write_text(text, "utf-8")
    spools = "".join(f"{kind}_temp_path {folder};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "main.conf").write_text(
        f"daemon off;\npid {folder}/pid;\nerror_log {folder}/error.log;\nuser root;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{spools}include {folder}/site.conf;\n}}\n",
        "utf-8",
    )
    return ["nginx", "-c", str(folder / "main.conf"), "-e", str(folder / "error.log")]


def caddy(folder: Path, upstream: str, port: int, certificate: Path) -> list[str]:
    """The command of a Caddy with our configuration; the certificate is given, because nothing here can obtain one."""
    text = (PROXY / "Caddyfile").read_text("utf-8")
    site = f"https://localhost:{port} {{\n\ttls {certificate / 'proxy.pem'} {certificate / 'proxy.key'}"
    for ours, theirs in {"127.0.0.1:8000": upstream, "segment.example {": site}.items():
        assert ours in text
        text = text.replace(ours, theirs)
    (folder / "Caddyfile").write_text(f"{{\n\tadmin off\n\tauto_https off\n}}\n{text}", "utf-8")
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]


@contextmanager
def proxied(name: str, folder: Path, certificate: Path) -> Iterator[str]:
    """The address of fcn-serve behind a proxy, with the sub-path and without a slash at the end."""
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed: apt-get install {name}")
    command: Callable[[Path, str, int, Path], list[str]] = {"nginx": nginx, "caddy": caddy}[name]
    port = free_port()
    with live_server(Settings()) as upstream, (folder / "proxy.log").open("wb") as log:
        words = command(folder, upstream.removeprefix("http://"), port, certificate)
        with subprocess.Popen(words, cwd=folder, stdout=log, stderr=log, env={**os.environ, "HOME": str(folder)}) as proxy:
            try:
                base = f"https://localhost:{port}/vision"
                wait_until(lambda: answers(base, certificate) or proxy.poll() is not None, "the proxy's first answer")
                assert proxy.poll() is None, (folder / "proxy.log").read_text("utf-8")
                yield base
            finally:
                proxy.terminate()


def answers(base: str, certificate: Path) -> bool:
    """Whether readiness comes through the proxy."""
    try:
        return httpx.get(f"{base}/readyz", verify=ssl.create_default_context(cafile=certificate / "proxy.pem")).is_success
    except httpx.TransportError:
        return False


@pytest.fixture(params=["nginx", "caddy"])
def base(request: pytest.FixtureRequest, tmp_path: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """fcn-serve behind each proxy, whose certificate is trusted."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "proxy.pem"))
    with proxied(request.param, tmp_path, certificate) as address:
        yield address


def test_everything_works_through_the_proxy(base: str) -> None:
    """Masks, problem documents, the page below its sub-path, streams from a client and from a page; metrics stay inside."""
    street = STREET.read_bytes()
    with Client(base) as client:
        assert client.segment(STREET).labels.shape == (405, 720)
        masks = list(client.stream([street] * 3, every=True))
        assert [mask.labels.shape for mask in masks] == [(405, 720)] * 3
    context = ssl.create_default_context()
    with httpx.Client(verify=context, timeout=60) as http:
        page = http.get(f"{base}/")
        assert page.headers["content-type"].startswith("text/html")
        moved = http.get(base)
        assert (moved.status_code, moved.headers["location"].endswith("/vision/")) == (308, True)
        reply = http.post(f"{base}/segment", content=street, headers={"X-Frame-Id": "7", "X-Request-ID": "through-the-proxy"})
        assert (reply.headers["x-frame-id"], reply.headers["x-request-id"]) == ("7", "through-the-proxy")
        large = http.post(f"{base}/segment", content=b"\xff\xd8" + bytes(20 << 20))
        assert large.headers["content-type"] == "application/problem+json"
        too_large = http.post(f"{base}/segment", content=b"\xff\xd8" + bytes(40 << 20))
        assert (too_large.status_code, too_large.json()["code"]) == (413, "body_too_large")
        assert http.get(f"{base}/metrics").status_code == 404


def test_a_page_may_open_a_stream_through_the_proxy(base: str) -> None:
    """The proxy passes the Host header on, so a page of the public address is the service's own and another one is not."""
    address = base.replace("https://", "wss://")
    with connect(f"{address}/stream?format=rle", origin=Origin(base.removesuffix("/vision"))) as link:
        link.send(STREET.read_bytes())
        assert '"outcome":"mask"' in str(link.recv(timeout=60)).replace(" ", "")
    with pytest.raises(InvalidStatus) as refused, connect(f"{address}/stream", origin=Origin("https://elsewhere.example")):
        pass
    assert refused.value.response.status_code == 403
