"""Errors as replies: RFC 9457 problem documents (``application/problem+json``), and the one table from error to status.

Every document has ``type title status detail code request_id``, the error's facts, and ``error``: the sentence once more, under
the name that clients of the Open Inference Protocol read. An unforeseen exception tells its caller only the request id.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from http import HTTPStatus
from json.encoder import encode_basestring_ascii as json_string
from typing import NamedTuple

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.websockets import WebSocket

from service.api.record import RequestRecord, new_request_id, record_of
from service.api.upload import LingeringResponse
from service.errors import (
    BadArtifact,
    BadParameter,
    BadSetting,
    BodyTooLarge,
    CorruptImage,
    DeadlineExceeded,
    EmptyBody,
    Fact,
    ImageTooLarge,
    InferenceFailed,
    NotReady,
    Overloaded,
    ProviderUnavailable,
    ServiceError,
    Unauthorized,
    UnknownClass,
    UnknownModel,
    UnsupportedFormat,
    UnsupportedImage,
)

MEDIA_TYPE = "application/problem+json"

log = logging.getLogger("service.request")

UNKNOWN_PARAMETER = "unknown_parameter"
"""The type of a validation error whose message is whole, and whose context has the parameter's name."""

CLIENT_GONE = 499
"""The status of a caller who has hung up. The number is nginx's; it is for the log and the metrics alone."""


class Kind(NamedTuple):
    """A class of errors on the wire."""

    status: int
    title: str


KINDS: dict[type[ServiceError], Kind] = {
    EmptyBody: Kind(422, "No image in the request"),
    BodyTooLarge: Kind(413, "Too many bytes"),
    ImageTooLarge: Kind(413, "Too many pixels"),
    UnsupportedImage: Kind(415, "Not an image that can be read"),
    CorruptImage: Kind(422, "The image is damaged"),
    BadParameter: Kind(422, "A parameter makes no sense"),
    UnsupportedFormat: Kind(422, "No such output format"),
    UnknownModel: Kind(404, "No such model"),
    UnknownClass: Kind(422, "No such class"),
    Unauthorized: Kind(401, "Unauthorized"),
    Overloaded: Kind(429, "Too much work at once"),
    DeadlineExceeded: Kind(504, "Not finished in time"),
    NotReady: Kind(503, "Not ready"),
    InferenceFailed: Kind(500, "The network failed"),
    BadArtifact: Kind(422, "The artifact cannot be served"),
    ProviderUnavailable: Kind(503, "The execution provider does not run"),
    BadSetting: Kind(500, "The service is misconfigured"),
}
"""One row for every leaf of the error tree; a test proves that none is missing."""


class _Unforeseen(NamedTuple):
    status: int = 500
    title: str = "Internal error"
    detail: str = "an internal error; its details are in the service's log under this request id"
    code: str = "internal_error"


_INTERNAL = _Unforeseen()


def install(app: FastAPI) -> None:
    """Make every error that can leave a route a problem document."""
    for kind in (ServiceError, RequestValidationError, WebSocketRequestValidationError, HTTPException, ClientDisconnect):
        app.add_exception_handler(kind, _answer)  # type: ignore[arg-type]  # one for both: requests and openings


def document(record: RequestRecord, error: ServiceError) -> dict[str, object]:
    """Return the problem document of an error as a dict (for streams, where it is part of a message)."""
    record.code = error.code
    status, title = KINDS[type(error)]
    return _document(status, title, error.message, error.code, record.request_id, error.facts)


def internal_document(record: RequestRecord) -> dict[str, object]:
    """Return the problem document of an unforeseen exception as a dict."""
    record.code = _INTERNAL.code
    return _document(*_INTERNAL, record.request_id)


def internal_error(request_id: str) -> Response:
    """Return the reply to an unforeseen exception. It tells only the request id, under which the log has the rest."""
    return _reply(*_INTERNAL, request_id)


def refusal(status: int, code: str, detail: str) -> Response:
    """Return the rejection of bytes that never become a request, and write its line in the log."""
    request_id = new_request_id()
    log.info("refused", extra={"fields": {"request_id": request_id, "status": status, "code": code}})
    return _reply(status, phrase(status), detail, code, request_id, headers={"X-Request-ID": request_id})


def on_the_wire(record: RequestRecord, error: Overloaded) -> tuple[int, bytes]:
    """Return the early rejection of a request, as bytes.

    Between two images the network empties the processor's caches, and this runs a hundred times a second: every part that does
    not change is put together beforehand.

    Gives:
        its status
        the whole reply in HTTP/1.1: the connection stays open
    """
    record.code = error.code
    detail = json_string(error.message)
    body = _OVERLOADED % (detail, json_string(record.request_id), error.retry_after_s, detail)
    record.bytes_out = len(body)
    headers = b"".join([b"%b: %b\r\n" % header for header in record.headers()])
    head = _OVERLOADED_HEAD % (_retry_after_s(error), len(body))
    return KINDS[Overloaded].status, head.encode() + headers + b"\r\n" + body.encode()


def phrase(status: int) -> str:
    """Return the standard's words for a status."""
    return HTTPStatus(status).phrase


async def _answer(connection: Request | WebSocket, error: Exception) -> Response | None:
    """Return the reply to any error that :func:`install` names; None if it is sent already, as on a WebSocket's opening."""
    reply = _reply_to(record_of(connection.scope), error, connection.headers)
    if isinstance(connection, WebSocket):  # errors come here before it is accepted: its opening is rejected like a request
        await connection.send_denial_response(Response(reply.body, reply.status_code, reply.headers))
        return None
    return reply


def _reply_to(record: RequestRecord, error: Exception, asked: Mapping[str, str]) -> Response:
    match error:
        case ServiceError():
            return _service_problem(record, error, asked)
        case RequestValidationError() | WebSocketRequestValidationError():
            return _service_problem(record, _bad_parameter(error), asked)
        case HTTPException():
            title = phrase(error.status_code)
            record.code = title.lower().replace(" ", "_")
            detail = error.detail
            if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED and detail == title and error.headers:
                detail = f"this path takes {error.headers['Allow']} only"
            return _reply(error.status_code, title, detail, record.code, record.request_id, headers=error.headers)
        case _:  # ClientDisconnect
            record.code = "client_gone"
            return Response(status_code=CLIENT_GONE)


def _service_problem(record: RequestRecord, error: ServiceError, asked: Mapping[str, str]) -> Response:
    record.code = error.code
    status, title = KINDS[type(error)]
    headers = {}
    if isinstance(error, Overloaded):
        headers["Retry-After"] = str(_retry_after_s(error))
    elif isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    elif isinstance(error, NotReady):
        headers["Retry-After"] = "1"
    # The rest of a body is dropped as it comes, and the connection stays; unless the rest is too long, too slow or unknown.
    endless = isinstance(error, BodyTooLarge | DeadlineExceeded)
    endless = endless or (isinstance(error, Overloaded) and "content-length" not in asked)
    shape = LingeringResponse if endless and not record.bytes_in else Response
    return _reply(status, title, error.message, error.code, record.request_id, error.facts, headers, shape)


def _retry_after_s(error: Overloaded) -> int:
    return max(1, math.ceil(error.retry_after_s))


def _bad_parameter(error: RequestValidationError | WebSocketRequestValidationError) -> BadParameter:
    reasons = error.errors()
    # loc is where it stood, its name, and perhaps what it failed to be: a value that may be one of two fails as both.
    names = [str(reason["loc"][:2][-1])[:64] for reason in reasons]
    name, others = names[0], len(set(names)) - 1
    more = f" (and {others} more)" if others else ""
    if reasons[0]["type"] == UNKNOWN_PARAMETER:
        return BadParameter(reasons[0]["msg"], parameter=reasons[0]["ctx"]["name"])
    return BadParameter(f"{name!r}: {reasons[0]['msg']}{more}", parameter=name)


def _reply(
    status: int,
    title: str,
    detail: str,
    code: str,
    request_id: str,
    facts: Mapping[str, Fact] | None = None,
    headers: Mapping[str, str] | None = None,
    shape: type[Response] = Response,
) -> Response:
    body = json.dumps(_document(status, title, detail, code, request_id, facts)).encode()
    return shape(body, status, dict(headers or {}), MEDIA_TYPE)


def _document(
    status: int, title: str, detail: str, code: str, request_id: str, facts: Mapping[str, Fact] | None = None
) -> dict[str, object]:
    return {
        "type": f"urn:fcn-serve:problem:{code.replace('_', '-')}",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": request_id,
        **(facts or {}),
        "error": detail,
    }


_OVERLOADED = json.dumps(_document(*KINDS[Overloaded], "%s", Overloaded.code, "%s", {"retry_after_s": "%s"})).replace(
    '"%s"', "%s"
)
"""The document with gaps for the detail, the request's id, the seconds, and the detail once more."""
_OVERLOADED_HEAD = (
    f"HTTP/1.1 {KINDS[Overloaded].status} {phrase(KINDS[Overloaded].status)}\r\n"
    f"content-type: {MEDIA_TYPE}\r\nretry-after: %d\r\ncontent-length: %d\r\n"
)
