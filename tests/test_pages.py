"""The web page: static files that need nobody else's host. A real browser looks at it where there is one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.api.pages import PAGE
from service.settings import Settings
from tests.live import live_server

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def base_url(artifact_dir: Path) -> Iterator[str]:
    """A server with the colour network."""
    with live_server(Settings(models_dir=artifact_dir)) as url:
        yield url


def test_the_pages_and_everything_that_they_name_is_served(base_url: str) -> None:
    """Scripts, styles and icon come from here, with their types and with the headers that keep the pages to themselves."""
    named = set()
    for path in ("/", "/docs"):
        page = httpx.get(f"{base_url}{path}")
        assert page.headers["content-type"].startswith("text/html")
        named |= set(re.findall(r'(?:href|src)="(page/[^"]+)"', page.text))
    assert {name.rpartition("/")[2] for name in named} == set(PAGE) - {"index.html", "docs.html"}
    for name in named:
        file = httpx.get(f"{base_url}/{name}")
        assert file.status_code == 200
        assert "default-src 'self'" in file.headers["content-security-policy"]
        assert file.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", sorted(PAGE))
def test_the_page_asks_nobody_else(name: str) -> None:
    """A car has no internet, and what it sees is nobody's business: no address but the service's own, no inline script."""
    text = PAGE[name].read_text("utf-8")
    assert set(re.findall(r"https?://[^\s\"'<>]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<script(?![^>]*\bsrc=)|\bon\w+=\"|\bstyle=\"|@import|\burl\((?!#)", text)


def seen(url: str, profile: Path) -> str:
    """The document that a real browser makes of a page, scripts run."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "--virtual-time-budget=3000", "--dump-dom", url]
    environment = {**os.environ, "HOME": str(profile)}
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=environment).stdout


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
def test_a_real_browser_runs_the_page(base_url: str, tmp_path: Path) -> None:
    """The script loads under its own security policy, asks for the models, and writes the curl line."""
    dom = seen(base_url, tmp_path)
    assert '<option value="colours"' in dom
    assert re.search(rf"curl -F image=@'street.jpg' '{base_url}/segment\?format=overlay&amp;model=colours' -o overlay.png", dom)
    assert re.search(r'id="problem"[^>]*hidden', dom)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
def test_a_real_browser_shows_every_call_of_the_documentation(base_url: str, tmp_path: Path) -> None:
    """``/docs`` needs no internet, and leaves out nothing."""
    dom = seen(f"{base_url}/docs", tmp_path)
    for path, calls in httpx.get(f"{base_url}/openapi.json").json()["paths"].items():
        for method in calls:
            assert f"<code>{method.upper()} {path}</code>" in dom
    assert "<code>min_confidence</code>" in dom
