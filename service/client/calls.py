"""Requests before they are sent. Nothing here touches the network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

from service import __version__
from service.client.budget import Budget, Timeouts

_KEEP_ALIVE_S = 4.0
"""Idle connections are dropped a second before the server (uvicorn: 5 s) would, so that no request meets a closing one."""

FREESPACE = "freespace-binary"
"""The format of free space that the client decodes."""
VOLUME_DEADLINE_MS = 120_000.0
"""The deadline of a scan, unless the call names one."""

USER_AGENT = f"fcn-serve-client/{__version__}"


@dataclass(frozen=True)
class Call:
    """A request before it is sent, perhaps several times."""

    method: str
    path: str
    params: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes = field(default=b"", repr=False)
    deadline_ms: float | None = None
    patient: bool = False
    """Whether the whole call may take until its deadline, whatever the timeouts say: a scan takes longer than a frame."""

    def timeouts(self, usual: Timeouts) -> Timeouts:
        """Return the timeouts of this call."""
        if not self.patient or self.deadline_ms is None:
            return usual
        limit_s = self.deadline_ms / 1000 + 1
        return replace(usual, read_s=max(usual.read_s, limit_s), total_s=max(usual.total_s, limit_s))

    def to_request(self, http: httpx.Client | httpx.AsyncClient, budget: Budget) -> httpx.Request:
        """The next attempt, with what is left of the call's time."""
        headers = dict(self.headers)
        if self.deadline_ms is not None:
            headers["X-Deadline-Ms"] = f"{budget.deadline_left_ms():.0f}"
        # No body at all is something else than an empty one: a GET has no Content-Length.
        content = self.content if self.method == "POST" else None
        return http.build_request(
            self.method, self.path, params=self.params, headers=headers, content=content, timeout=budget.timeout()
        )


@dataclass(frozen=True)
class MaskQuery:
    """The query of ``POST /segment`` and of ``WS /stream``, as far as the client decodes the masks itself."""

    model: str | None = None
    classes: Iterable[str | int] | None = None
    min_confidence: float | None = None
    ids: str | None = None
    statistics: bool = False
    instances: bool = False
    min_area: int = 0

    def params(self) -> list[tuple[str, str]]:
        """Return the query; the mask comes as run lengths, with instances as COCO's."""
        kept = [self.classes] if isinstance(self.classes, str) else self.classes or ()
        params = [("format", "coco" if self.instances else "rle"), *(("classes", str(wanted)) for wanted in kept)]
        options = {
            "model": self.model,
            "min_confidence": self.min_confidence,
            "ids": self.ids,
            "statistics": self.statistics or None,
            "instances": self.instances or None,
            "min_area": self.min_area or None,
        }
        return params + [(name, _text(value)) for name, value in options.items() if value is not None]


def segment_call(
    body: bytes,
    query: MaskQuery = MaskQuery(),
    deadline_ms: float | None = None,
    frame_id: str | None = None,
    frame_stamp: str | None = None,
) -> Call:
    """Describe ``POST /segment`` for one image file, whose mask the client decodes."""
    headers = {"Content-Type": "application/octet-stream"}
    if frame_id is not None:
        headers["X-Frame-Id"] = sendable("frame_id", frame_id)
    if frame_stamp is not None:
        headers["X-Frame-Stamp"] = sendable("frame_stamp", frame_stamp)
    return Call("POST", "/segment", tuple(query.params()), headers, body, deadline_ms)


def encoded_call(body: bytes, form: str, query: Mapping[str, object], deadline_ms: float | None = None) -> Call:
    """Describe ``POST /segment`` for one image file, whose mask the caller wants as it comes.

    Takes:
        body: the file
        form: the format
        query: of ``POST /segment``; an option that is None is left out, a list is repeated
        deadline_ms: from now
    """
    params = [("format", form)]
    for name, value in query.items():
        values = value if isinstance(value, list | tuple | set | frozenset) else [value]
        params += [(name, _text(one)) for one in values if one is not None]
    return Call("POST", "/segment", tuple(params), {"Content-Type": "application/octet-stream"}, body, deadline_ms)


def volume_call(
    body: bytes,
    model: str | None,
    classes: Iterable[str | int] | None,
    min_confidence: float | None,
    deadline_ms: float,
) -> Call:
    """Describe ``POST /segment`` for one scan."""
    kept = None if classes is None else [classes] if isinstance(classes, str) else list(classes)
    query = {"model": model, "classes": kept, "min_confidence": min_confidence}
    return replace(encoded_call(body, "nifti", query, deadline_ms), patient=True)


def _text(value: object) -> str:
    """A value as a query has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


class ApiKey(httpx.Auth):
    """Adds the key to each request, so that it stands in no list of headers that could be printed."""

    def __init__(self, key: str) -> None:
        self._key = sendable("api_key", key)

    def headers(self) -> dict[str, str]:
        """The key, where httpx does not send it."""
        return {"X-API-Key": self._key}

    def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:  # type: ignore[override]
        """As httpx calls it."""
        request.headers.update(self.headers())
        yield request

    def __repr__(self) -> str:
        return "ApiKey(**********)"


def http_options(url: str, auth: ApiKey | None, connections: int) -> dict[str, Any]:
    """Return the arguments of both kinds of httpx clients.

    Raises:
        ValueError: if the address is none
    """
    if not url.startswith(("http://", "https://")):
        better = f"http://{url.rpartition('://')[2]}"
        raise ValueError(f"an address begins with http:// or https://; try {better!r}, not {url!r}")
    return {
        "base_url": url,
        "auth": auth,
        "headers": {"User-Agent": USER_AGENT},
        "limits": httpx.Limits(
            max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=_KEEP_ALIVE_S
        ),
    }


def sendable(name: str, value: str) -> str:
    """A text that can travel in a header.

    Raises:
        ValueError: if it cannot
    """
    if not (value.isascii() and value.isprintable()):  # the value is not repeated: it may be a key
        raise ValueError(f"{name} must be printable ASCII: it travels in a header")
    return value
