"""Every error becomes a problem document with the right status."""

from __future__ import annotations

import json
from typing import Annotated

import httpx
import pytest
from fastapi import FastAPI, Query
from starlette.middleware import Middleware

from service.api import problems
from service.api.in_flight import InFlight
from service.api.metrics import Metrics
from service.api.record import RequestRecord
from service.api.telemetry import Telemetry
from service.errors import (
    LEAVES,
    BadArtifact,
    BodyTooLarge,
    NotReady,
    Overloaded,
    ServiceError,
    UnknownModel,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """The loop that the service runs on."""
    return "asyncio"


def failing_app(error: Exception) -> FastAPI:
    """An application whose one route raises."""
    metrics = Metrics()
    app = FastAPI(middleware=[Middleware(Telemetry, metrics=metrics, in_flight=InFlight(), on_crash=problems.internal_error)])
    problems.install(app)

    @app.get("/")
    async def fail(number: Annotated[int, Query(le=10)] = 0, other: int = 0) -> None:
        raise error

    return app


async def reply_to(error: Exception, path: str = "/", method: str = "GET") -> httpx.Response:
    """What a caller reads when a route raises."""
    transport = httpx.ASGITransport(failing_app(error))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.request(method, path, headers={"X-Request-ID": "mine"})


def leaves(error: type[ServiceError]) -> list[type[ServiceError]]:
    """Every class below one in the tree that has none below itself."""
    below = error.__subclasses__()
    return [leaf for child in below for leaf in leaves(child)] if below else [error]


def test_every_error_of_the_tree_has_a_status() -> None:
    """Nothing that the service raises on purpose can fall through to a bare 500."""
    missing = [
        leaf.__name__ for leaf in leaves(ServiceError) if leaf.__module__ == "service.errors" and leaf not in problems.KINDS
    ]
    assert missing == []
    assert set(problems.KINDS) == set(LEAVES)


def test_every_status_is_one_of_the_contract() -> None:
    """A caller's mistake is never a 500, and no status surprises a client."""
    assert {kind.status for kind in problems.KINDS.values()} <= {401, 404, 413, 415, 422, 429, 500, 503, 504}


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.__name__)
async def test_an_error_becomes_a_problem_document(leaf: type[ServiceError]) -> None:
    """RFC 9457's members, the code, the request's id, the facts, and ``error`` for clients of other protocols."""
    error = leaf("what to do", retry_after_s=2.5, allowed=["a", "b"])
    reply = await reply_to(error)
    assert reply.status_code == problems.KINDS[leaf].status
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.json() == {
        "type": f"urn:fcn-serve:problem:{leaf.code.replace('_', '-')}",
        "title": problems.KINDS[leaf].title,
        "status": reply.status_code,
        "detail": "what to do",
        "code": leaf.code,
        "request_id": "mine",
        "error": "what to do",
        "retry_after_s": 2.5,
        "allowed": ["a", "b"],
    }


async def test_a_shed_request_is_told_when_to_come_back() -> None:
    """``Retry-After`` is whole seconds, rounded up, never zero."""
    assert (await reply_to(Overloaded("full", retry_after_s=2.1))).headers["retry-after"] == "3"
    assert (await reply_to(Overloaded("full", retry_after_s=0.0))).headers["retry-after"] == "1"
    assert (await reply_to(NotReady("starting"))).headers["retry-after"] == "1"
    assert "retry-after" not in (await reply_to(BadArtifact("broken"))).headers


async def test_an_early_rejection_says_what_a_later_one_says() -> None:
    """It is put together from a text with gaps: the same document, the same headers, whatever the gaps are filled with."""
    error = Overloaded('full of "%s" %d, \\ and straße\r\n', retry_after_s=2.5)
    inside = await reply_to(error)
    del inside.headers["connection"]  # said to those who do not say how much they send, and who are never rejected early
    record = RequestRecord("mine", echo=[(b"x-frame-id", b"front % 7")])
    status, reply = problems.on_the_wire(record, error)
    head, _, body = reply.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    assert (first, status) == ("HTTP/1.1 429 Too Many Requests", inside.status_code)
    assert body == inside.content
    assert dict(line.split(": ", 1) for line in lines) == {**inside.headers, "x-frame-id": "front % 7"}
    assert (record.code, record.bytes_out) == ("overloaded", len(body))


async def test_a_refused_upload_closes_its_connection() -> None:
    """What the sender still has under way must not be taken for the next request."""
    assert (await reply_to(BodyTooLarge("large", limit=1, unit="bytes"))).headers["connection"] == "close"
    assert "connection" not in (await reply_to(UnknownModel("which"))).headers


async def test_an_unforeseen_exception_tells_nothing_but_the_request_id() -> None:
    """The words of an internal error may hold secrets: they are for the log."""
    reply = await reply_to(RuntimeError("the password is swordfish"))
    assert reply.status_code == 500
    assert reply.headers["x-request-id"] == "mine"
    assert (reply.json()["code"], reply.json()["request_id"]) == ("internal_error", "mine")
    assert "swordfish" not in reply.text
    assert "Runtime" not in reply.text


@pytest.mark.parametrize(
    ("path", "method", "status", "code"),
    [
        ("/?number=eleven", "GET", 422, "bad_parameter"),
        ("/?number=11", "GET", 422, "bad_parameter"),
        ("/nowhere", "GET", 404, "not_found"),
        ("/", "DELETE", 405, "method_not_allowed"),
    ],
)
async def test_what_the_framework_refuses_is_a_problem_document_too(path: str, method: str, status: int, code: str) -> None:
    """There is one form of error, wherever it is found."""
    reply = await reply_to(RuntimeError(), path, method)
    assert (reply.status_code, reply.json()["code"]) == (status, code)
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.json()["request_id"] == "mine"
    assert reply.json()["error"] == reply.json()["detail"]


async def test_a_bad_parameter_is_named_and_the_others_are_counted() -> None:
    """The first mistake is told in full."""
    document = (await reply_to(RuntimeError(), "/?number=11&other=x")).json()
    assert document["parameter"] == "number"
    assert document["detail"].startswith("'number': ")
    assert document["detail"].endswith("(and 1 more)")


async def test_a_parameter_of_any_length_makes_a_short_problem() -> None:
    """What a caller sends comes back cut, and as valid JSON."""
    reply = await reply_to(RuntimeError(), "/?number=" + "%ff%00" * 1000)
    assert reply.status_code == 422
    assert len(json.dumps(reply.json())) < 600
