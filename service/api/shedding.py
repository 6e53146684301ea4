"""Saying no at first sight. Whoever cannot be served in time is told so by the first bytes of his image, before the rest of it
is read or a parameter looked at: under overload most of what a server does is saying no, and it must not cost the masks of
those to whom it says yes.

May import: starlette, ``service.pipeline.segmenter``, ``service.api.record``, ``schemas`` and ``upload``.
"""

from __future__ import annotations

from starlette.requests import Request

from service.api.record import record_of
from service.api.schemas import MAX_DEADLINE_MS
from service.api.upload import first_bytes
from service.pipeline.segmenter import Segmenter


async def look_first(request: Request, segmenter: Segmenter, default_deadline_ms: float) -> Request:
    """Look at the first bytes of an image where others wait already. What they do not tell is decided later.

    Takes:
        request: one whose body nobody has touched
        default_deadline_ms: of a request that names none
    Gives:
        a request whose body is untouched
    Raises:
        Overloaded: if the image could not be served before its deadline
    """
    if not segmenter.queue.admitted:
        return request
    deadline_ms = _deadline_ms(request, default_deadline_ms)
    form = request.headers.get("content-type", "").startswith("multipart/")
    if form or b"model" in request.scope["query_string"] or deadline_ms is None:
        return request
    head, request = await first_bytes(request)
    segmenter.check_room(head, deadline_s=(deadline_ms - record_of(request.scope).elapsed_ms()) / 1000)
    return request


def _deadline_ms(request: Request, default: float) -> float | None:
    """The request's deadline; None if it makes no sense."""
    try:
        named = float(request.headers.get("x-deadline-ms", default))
    except ValueError:
        return None
    return named if 0 < named <= MAX_DEADLINE_MS else None
