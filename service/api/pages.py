"""The web pages: static files, with headers that keep them to themselves.

May import: fastapi.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException

PAGE = {path.name: path for path in (Path(__file__).parent / "page").iterdir()}
"""The page's files by name: what a caller asks for is looked up here, and never becomes a path."""

PAGE_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

router = APIRouter(include_in_schema=False)


@router.get("/")
async def page() -> FileResponse:
    """The page."""
    return await page_file("index.html")


@router.get("/docs")
async def docs() -> FileResponse:
    """The OpenAPI document, for people."""
    return await page_file("docs.html")


@router.get("/page/{name}")
async def page_file(name: str) -> FileResponse:
    """One of the files that they are made of."""
    if name not in PAGE:
        raise HTTPException(404)
    return FileResponse(PAGE[name], headers=PAGE_HEADERS)
