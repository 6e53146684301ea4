"""The web pages: static files, with headers that keep them to themselves; and the list of formats, which the page reads."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException
from starlette.staticfiles import NotModifiedResponse, StaticFiles

from service.api import schemas
from service.encodings import FORMATS, to_json
from service.encodings.palettes import bright

MOST_CLASSES = 255
"""Rows of a class table at the most."""

_FOLDER = Path(__file__).parent / "page"

PAGE = frozenset(path.name for path in _FOLDER.iterdir())
"""The page's files by name: a requested name is searched for here, and never becomes a path."""

PAGE_HEADERS = {
    "Cache-Control": "no-cache",  # kept, and asked about each time: 304 where nothing changed
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",  # text cannot become markup, not even by mistake
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

_files = StaticFiles(directory=_FOLDER)

router = APIRouter()


@router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
async def page(request: Request) -> Response:
    """The page."""
    return await page_file("index.html", request)


@router.api_route("/docs", methods=["GET", "HEAD"], include_in_schema=False)
async def docs(request: Request) -> Response:
    """The OpenAPI document, for people."""
    return await page_file("docs.html", request)


@router.api_route("/page/{name}", methods=["GET", "HEAD"], include_in_schema=False)
async def page_file(name: str, request: Request) -> Response:
    """One of the files that they are made of."""
    if name not in PAGE:
        raise HTTPException(404)
    reply = await _files.get_response(name, request.scope)
    reply.headers.update(PAGE_HEADERS)
    return reply


_ROWS = to_json([schemas.FormatRow.of(form).model_dump() for form in FORMATS.values()])
_BRIGHT = to_json({"bright": bright(MOST_CLASSES)})


def _headers(body: bytes) -> dict[str, str]:
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    return {"Cache-Control": "no-cache", "ETag": etag, "X-Content-Type-Options": "nosniff"}


def _unless_known(request: Request, reply: Response) -> Response:
    """Return the reply, or 304 if the caller has it, compressed or not."""
    return NotModifiedResponse(reply.headers) if _files.is_not_modified(reply.headers, request.headers) else reply


@router.get("/palettes", response_model=schemas.Palettes)
async def palettes(request: Request) -> Response:
    """The colours of `palette=bright`: the class in row k of a class table has colour k."""
    return _unless_known(request, Response(_BRIGHT, media_type="application/json", headers=_headers(_BRIGHT)))


@router.get("/formats", response_model=list[schemas.FormatRow])
async def formats(request: Request) -> Response:
    """Every format of a mask, in the order in which `Accept` chooses: what it is, and which options it takes."""
    return _unless_known(request, Response(_ROWS, media_type="application/json", headers=_headers(_ROWS)))
