"""Errors as gRPC statuses: the one table from error to code, and what the trailing metadata say beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc

from service.api.problems import KINDS
from service.api.v2.grpc import messages
from service.errors import (
    BadArtifact,
    BadParameter,
    BadSetting,
    BodyTooLarge,
    CorruptImage,
    DeadlineExceeded,
    EmptyBody,
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

Code = grpc.StatusCode

CODES: dict[type[ServiceError], grpc.StatusCode] = {
    EmptyBody: Code.INVALID_ARGUMENT,
    BodyTooLarge: Code.INVALID_ARGUMENT,
    ImageTooLarge: Code.INVALID_ARGUMENT,
    UnsupportedImage: Code.INVALID_ARGUMENT,
    CorruptImage: Code.INVALID_ARGUMENT,
    BadParameter: Code.INVALID_ARGUMENT,
    UnsupportedFormat: Code.INVALID_ARGUMENT,
    UnknownModel: Code.NOT_FOUND,
    UnknownClass: Code.INVALID_ARGUMENT,
    Unauthorized: Code.UNAUTHENTICATED,
    Overloaded: Code.RESOURCE_EXHAUSTED,
    DeadlineExceeded: Code.DEADLINE_EXCEEDED,
    NotReady: Code.UNAVAILABLE,
    InferenceFailed: Code.INTERNAL,
    BadArtifact: Code.FAILED_PRECONDITION,
    ProviderUnavailable: Code.UNAVAILABLE,
    BadSetting: Code.INTERNAL,
}
"""One row for every leaf of the error tree; a test proves that none is missing."""

DOMAIN = "fcn-serve"
DETAILS = "grpc-status-details-bin"
"""The metadata of the standard error model: a serialised google.rpc.Status."""
PUSHBACK = "grpc-retry-pushback-ms"
"""The metadata by which clients with a retry policy wait."""
NOT_READY_RETRY_S = 1.0
"""Seconds after which a draining or starting service may be asked again, as Retry-After of HTTP has it."""


@dataclass(frozen=True)
class Refusal:
    """How a call fails."""

    code: grpc.StatusCode
    detail: str
    http_status: int
    """The status of the same error over HTTP: metrics and log lines of both transports have one scale."""
    name: str
    """The error's code, such as ``overloaded``."""
    facts: tuple[tuple[str, str], ...] = ()
    retry_after_s: float | None = None

    def metadata(self) -> list[tuple[str, str | bytes]]:
        """Return the trailing metadata: the error's facts, and when to retry."""
        found = [messages.ErrorInfo(reason=self.name.upper(), domain=DOMAIN, metadata=dict(self.facts))]
        if self.retry_after_s is not None:
            retry = messages.RetryInfo()
            retry.retry_delay.FromNanoseconds(round(1e9 * self.retry_after_s))
            found.append(retry)
        status = messages.Status(code=self.code.value[0], message=self.detail)
        for detail in found:
            status.details.add().Pack(detail)
        pushback = [] if self.retry_after_s is None else [(PUSHBACK, str(round(1000 * self.retry_after_s)))]
        return [(DETAILS, status.SerializeToString()), *pushback]


class Refused(Exception):
    """A call that fails for a reason that is not in the error tree.

    Takes:
        refusal: how it fails
    """

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.detail)
        self.refusal = refusal


INTERNAL = Refusal(
    Code.INTERNAL, "an internal error; its details are in the service's log under this request id", 500, "internal_error"
)


def not_offered(detail: str) -> Refused:
    """Return the refusal of a call that the protocol has and this service has not."""
    return Refused(Refusal(Code.UNIMPLEMENTED, detail, 404, "not_found"))


def not_served(detail: str) -> Refused:
    """Return the refusal of a question about something that is not here."""
    return Refused(Refusal(Code.NOT_FOUND, detail, 404, "not_found"))


def forbidden(detail: str) -> Refused:
    """Return the refusal of a call that no key allows."""
    return Refused(Refusal(Code.PERMISSION_DENIED, detail, 403, "forbidden"))


def refusal_of(error: Any) -> Refusal:
    """Return how a call fails with an error: one of the tree, or a :class:`Refused`."""
    if isinstance(error, Refused):
        return error.refusal
    facts = tuple((name, ", ".join(fact) if isinstance(fact, list) else str(fact)) for name, fact in error.facts.items())
    retry_after_s = NOT_READY_RETRY_S if isinstance(error, NotReady) else error.facts.get("retry_after_s")
    return Refusal(CODES[type(error)], error.message, KINDS[type(error)].status, error.code, facts, retry_after_s)
