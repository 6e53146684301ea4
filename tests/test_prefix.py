"""Behind a proxy: a prefix that it keeps or strips, and slashes at the end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest
from pydantic import ValidationError
from websockets.sync.client import connect

from service.settings import Settings
from tests.live import live_server

PREFIX = "/seg/v1"


@pytest.fixture(scope="module")
def base_url(artifact_dir: Path) -> Iterator[str]:
    """A server that is asked directly."""
    with live_server(Settings(models_dir=artifact_dir)) as url:
        yield url


@pytest.fixture(scope="module")
def prefixed_url(artifact_dir: Path) -> Iterator[str]:
    """A server that knows its prefix."""
    with live_server(Settings(models_dir=artifact_dir, root_path=PREFIX)) as url:
        yield url


# A prefix --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", [PREFIX, ""], ids=["kept", "stripped"])
def test_a_prefix_may_be_kept_or_stripped(prefixed_url: str, png: bytes, prefix: str) -> None:
    """Every route answers under the prefix, and without it: probes of the machine itself come past the proxy."""
    for path in ("/", "/docs", "/models", "/models/colours", "/livez", "/readyz", "/metrics", "/openapi.json", "/v2"):
        assert httpx.get(f"{prefixed_url}{prefix}{path}").status_code == 200, path
    assert httpx.get(f"{prefixed_url}{prefix}/nothing").status_code == 404
    mask = httpx.post(f"{prefixed_url}{prefix}/segment?format=gray", content=png)
    assert (mask.status_code, mask.headers["content-type"]) == (200, "image/png")
    address = prefixed_url.replace("http://", "ws://")
    with connect(f"{address}{prefix}/stream", compression=None) as stream:
        stream.send(png)
        assert json.loads(stream.recv(timeout=60))["outcome"] == "mask"


def test_a_prefix_in_the_middle_of_a_path_is_not_one(prefixed_url: str) -> None:
    """``/seg/v10`` begins like ``/seg/v1``, and is another path."""
    assert httpx.get(f"{prefixed_url}{PREFIX}0/livez").status_code == 404
    assert httpx.get(f"{prefixed_url}/x{PREFIX}/livez").status_code == 404


def test_the_prefix_alone_is_the_page(prefixed_url: str) -> None:
    """With a slash, since the addresses in the page are relative; without one the browser is sent there."""
    assert httpx.get(f"{prefixed_url}{PREFIX}/").headers["content-type"].startswith("text/html")
    reply = httpx.get(f"{prefixed_url}{PREFIX}?model=colours")
    assert (reply.status_code, reply.headers["location"]) == (307, "v1/?model=colours")


def test_the_document_names_the_prefix(prefixed_url: str, base_url: str) -> None:
    """So that a client made from it calls the right addresses."""
    assert httpx.get(f"{prefixed_url}{PREFIX}/openapi.json").json()["servers"] == [{"url": PREFIX}]
    assert "servers" not in httpx.get(f"{base_url}/openapi.json").json()


def test_routes_are_counted_without_the_prefix(prefixed_url: str) -> None:
    """Dashboards need no change."""
    httpx.get(f"{prefixed_url}{PREFIX}/models/colours")
    assert 'route="/models/{name}"' in httpx.get(f"{prefixed_url}/metrics").text


@pytest.mark.parametrize("value", ["seg", "http://x/seg", "/seg/../x", "/a b", "/%2e", "//x", "/seg?x"])
def test_a_prefix_that_makes_no_sense_is_refused(value: str) -> None:
    """Before the start, with the reason."""
    with pytest.raises(ValidationError, match="is not a prefix such as"):
        Settings(root_path=value)


@pytest.mark.parametrize(("value", "meant"), [("", ""), ("/", ""), ("/seg/", "/seg"), (" /seg/v1 ", "/seg/v1")])
def test_slashes_and_blanks_around_a_prefix_do_not_matter(value: str, meant: str) -> None:
    """As compose files and proxies' manuals write it."""
    assert Settings(root_path=value).root_path == meant


# A slash at the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outside", ["http://cars.example/", "https://cars.example/some/prefix/"])
@pytest.mark.parametrize(
    "path",
    [
        "models/",
        "segment/",
        "livez/",
        "v2/models/colours/",
        "models/colours/?x=1&y=%C3%A4",
        "docs/",
        "stream/",
        "stream/?format=rle",
    ],
)
def test_a_slash_at_the_end_is_redirected_relative_to_what_the_caller_sees(base_url: str, outside: str, path: str) -> None:
    """Whatever host, scheme and prefix the proxy has outside."""
    reply = httpx.post(f"{base_url}/{path}") if path.startswith("segment") else httpx.get(f"{base_url}/{path}")
    assert reply.status_code == 307
    name, _, query = path.partition("?")
    assert urljoin(outside + path, reply.headers["location"]) == outside + name.rstrip("/") + ("?" + query if query else "")


def test_a_client_that_follows_gets_the_mask(base_url: str, png: bytes) -> None:
    """307 keeps the method and the body."""
    reply = httpx.post(f"{base_url}/segment/?format=gray", content=png, follow_redirects=True)
    assert (reply.status_code, reply.headers["content-type"]) == (200, "image/png")


@pytest.mark.parametrize(
    "path", ["/nothing/", "//", "/livez//", "//evil.example/", "/%2e%2e/", "/models/colours/no/", "/nothing"]
)
def test_a_slash_after_nothing_is_not_found(base_url: str, path: str) -> None:
    """No redirect leads to a path that is not there, or to another host."""
    reply = httpx.get(base_url + path)
    assert (reply.status_code, reply.json()["code"]) == (404, "not_found")


def test_a_slash_under_a_prefix_is_redirected_below_it(prefixed_url: str) -> None:
    """Kept or stripped."""
    for prefix in (PREFIX, ""):
        reply = httpx.get(f"{prefixed_url}{prefix}/models/", follow_redirects=True)
        assert (reply.status_code, reply.url.path) == (200, f"{prefix}/models")
