"""The web pages: static files, with headers that keep them to themselves.

May import: fastapi, starlette.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

_FOLDER = Path(__file__).parent / "page"

PAGE = frozenset(path.name for path in _FOLDER.iterdir())
"""The page's files by name: what a caller asks for is looked up here, and never becomes a path."""

PAGE_HEADERS = {
    "Cache-Control": "no-cache",  # asked for anew, answered 304 where nothing changed
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",  # text cannot become markup, not even by mistake
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

_files = StaticFiles(directory=_FOLDER)

router = APIRouter(include_in_schema=False)


@router.api_route("/", methods=["GET", "HEAD"])
async def page(request: Request) -> Response:
    """The page."""
    return await page_file("index.html", request)


@router.api_route("/docs", methods=["GET", "HEAD"])
async def docs(request: Request) -> Response:
    """The OpenAPI document, for people."""
    return await page_file("docs.html", request)


@router.api_route("/page/{name}", methods=["GET", "HEAD"])
async def page_file(name: str, request: Request) -> Response:
    """One of the files that they are made of."""
    if name not in PAGE:
        raise HTTPException(404)
    reply = await _files.get_response(name, request.scope)
    reply.headers.update(PAGE_HEADERS)
    return reply
