"""Texts where an image is expected: each is refused over HTTP with what it is and what to send instead."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.settings import Settings
from tests.conftest import encode_image, make_image
from tests.live import live_server

PNG = encode_image(make_image())
JPEG = encode_image(make_image(), "JPEG")

SENT: dict[str, tuple[bytes, str]] = {
    "Base64 in JSON": (json.dumps({"image": base64.b64encode(PNG).decode()}).encode(), "JSON with an image as base64"),
    "an address in JSON": (b'\r\n{\n  "url": "http://x/y.jpg"\n}\n', "JSON; send the bytes of the image"),
    "pixels in JSON": (b"[[[255, 0, 0], [0, 255, 0]]]", "JSON; send the bytes of the image"),
    "a page": (b"<!DOCTYPE html>\n<html lang=en><title>Photo</title>", "an HTML or XML page"),
    "a data URL": (b"data:image/png;base64," + base64.b64encode(PNG), "a data: URL"),
    "a JPEG as Base64": (base64.b64encode(JPEG), "a JPEG image as base64"),
    "a PNG as Base64 in lines": (base64.encodebytes(PNG), "a PNG image as base64"),
    "an address": (b"https://cars.example/street.jpg", "an address"),
    "a form of texts": (b"image=street.jpg&model=colours", "a form of texts"),
    "a form without its type": (
        b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n' + PNG + b"\r\n--b--\r\n",
        "a multipart form without its Content-Type",
    ),
}


@pytest.fixture(scope="module")
def base_url(artifact_dir: Path) -> Iterator[str]:
    """A real server."""
    with live_server(Settings(models_dir=artifact_dir)) as url:
        yield url


@pytest.mark.parametrize("name", SENT)
@pytest.mark.parametrize("content_type", ["application/json", "application/x-www-form-urlencoded", "image/png", ""])
def test_a_text_is_refused_with_what_it_is(base_url: str, name: str, content_type: str) -> None:
    """415, whatever the Content-Type says: the body decides."""
    body, found = SENT[name]
    reply = httpx.post(f"{base_url}/segment", content=body, headers={"Content-Type": content_type} if content_type else {})
    assert (reply.status_code, reply.json()["code"]) == (415, "unsupported_image")
    assert found in reply.json()["detail"]
    assert "send" in reply.json()["detail"]


def test_a_text_in_a_form_is_refused_as_well(base_url: str) -> None:
    """The part has the text where the file belongs."""
    reply = httpx.post(f"{base_url}/segment", files={"image": ("a.json", SENT["Base64 in JSON"][0], "application/json")})
    assert (reply.status_code, reply.json()["code"]) == (415, "unsupported_image")
    assert "JSON" in reply.json()["detail"]


@pytest.mark.parametrize("data", [{"model": "colours"}, {"image": "street.jpg"}])
def test_a_form_without_an_image_is_refused(base_url: str, data: dict[str, str]) -> None:
    """Fields that are text have no image in them."""
    reply = httpx.post(f"{base_url}/segment", files={name: (None, value) for name, value in data.items()})
    assert reply.status_code in (415, 422)
    assert "image" in reply.json()["detail"]


@pytest.mark.parametrize("content_type", ["application/json", "text/html", "application/x-www-form-urlencoded", "text/plain"])
def test_an_image_is_an_image_whatever_its_content_type(base_url: str, content_type: str) -> None:
    """``curl --data-binary`` calls every body a form."""
    assert httpx.post(f"{base_url}/segment", content=PNG, headers={"Content-Type": content_type}).status_code == 200
