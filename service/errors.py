"""Every error that this project raises on purpose.

::

    ServiceError
    ├── EmptyBody              no bytes where an image was expected
    ├── BodyTooLarge           more bytes than allowed                       limit, actual, unit
    ├── ImageTooLarge          more pixels or a longer side than allowed     limit, actual, unit
    ├── UnsupportedImage       not an image of a format that we read
    ├── CorruptImage           such an image, but it cannot be decoded
    ├── BadParameter           a field or query parameter makes no sense     parameter, allowed
    ├── UnsupportedFormat      no such output format, or not for this image  allowed
    ├── UnknownModel           no artifact of that name                      allowed
    ├── UnknownClass           no class of that name or id                   allowed
    ├── Unauthorized           keys are set, and the caller has none of them
    ├── Overloaded             shed: the queue is full                       retry_after_s
    ├── DeadlineExceeded       not finished in the time that was given       deadline_ms
    ├── NotReady               starting, draining, or broken beyond repair
    ├── InferenceFailed        the network cannot run, or its answer is unusable
    ├── BadArtifact            an ONNX file that cannot be served            cause
    ├── ProviderUnavailable    the execution provider asked for does not run
    └── BadSetting             a setting that makes no sense

An error of one of several images also has the facts ``image``, its number from 1, and ``file``, its name if it has one.

``code`` is stable and public: replies carry it, and the client finds the class by it (:data:`BY_CODE`).
The message is for people and names the remedy; the facts are for programs. Nothing here knows HTTP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

Fact = int | float | str | list[str]
"""Types of facts: what JSON represents without loss."""

_LONGEST_NAME = 100
"""Characters of a file's name that a message repeats."""


class ServiceError(Exception):
    """Is the root of the service's errors: catch it to catch all of them, and no others.

    Takes:
        message: one sentence for a person
        facts: by name; those that are None are left out. Each is also an attribute of the error
    """

    code: ClassVar[str] = "service_error"
    message: str
    facts: dict[str, Fact]

    def __init__(self, message: str = "", **facts: Fact | None) -> None:
        super().__init__(message)
        self.message = message
        self.facts = {name: value for name, value in facts.items() if value is not None}

    def of_image(self, number: int, count: int, name: str | None = None) -> Self:
        """Return the same error, told of one of several images.

        Takes:
            number: of the image, from 1
            count: of the images
            name: of the image's file, as the caller sent it
        Gives:
            another error of this class: an error may be that of several images at once
        """
        file = name[:_LONGEST_NAME] if name else None
        named = f"image {number} of {count}" if file is None else f"image {number} of {count}, {file!r}"
        return type(self)(f"{named}: {self.message}", **{**self.facts, "image": number, "file": file})

    if not TYPE_CHECKING:  # so that a mistyped attribute stays a type error

        def __getattr__(self, name: str) -> Fact:
            try:
                return self.__dict__["facts"][name]
            except KeyError:
                raise AttributeError(f"{type(self).__name__} has no fact {name!r}") from None


class EmptyBody(ServiceError):
    """No bytes where an image was expected."""

    code = "empty_body"


class BodyTooLarge(ServiceError):
    """More bytes than allowed; ``actual`` is absent where the upload was cut off before its length was known."""

    code = "body_too_large"
    limit: int
    actual: int
    unit: str


class ImageTooLarge(ServiceError):
    """More pixels, or a longer side, than allowed: found in the image's header, before decoding."""

    code = "image_too_large"
    limit: int
    actual: int
    unit: str
    """``pixels`` for the whole image, ``pixels a side`` for its longer side."""


class UnsupportedImage(ServiceError):
    """Not an image, or not one of a format that we read."""

    code = "unsupported_image"


class CorruptImage(ServiceError):
    """The format is known, but the image is truncated, damaged or has no pixels."""

    code = "corrupt_image"


class BadParameter(ServiceError):
    """A field or a query parameter is missing, unknown, out of range or not for the format."""

    code = "bad_parameter"
    parameter: str
    allowed: list[str]
    """The formats that take it; absent where the format is not the reason."""


class UnsupportedFormat(ServiceError):
    """An output format that does not exist, or that does not hold what was sent or what Accept allows."""

    code = "unsupported_format"
    allowed: list[str]


class UnknownModel(ServiceError):
    """No artifact of that name."""

    code = "unknown_model"
    allowed: list[str]


class UnknownClass(ServiceError):
    """No class of that name or id in the model's table."""

    code = "unknown_class"
    allowed: list[str]


class Unauthorized(ServiceError):
    """Keys are set, and the caller offers none of them."""

    code = "unauthorized"


class Overloaded(ServiceError):
    """Shed before any work because the queue is full; the same call may succeed after ``retry_after_s``."""

    code = "overloaded"
    retry_after_s: float


class DeadlineExceeded(ServiceError):
    """Not finished before the deadline."""

    code = "deadline_exceeded"
    deadline_ms: float

    @classmethod
    def after(cls, deadline_ms: float) -> Self:
        """Return the error of work that had ``deadline_ms`` milliseconds."""
        return cls(f"not finished within {deadline_ms:g} ms", deadline_ms=deadline_ms)


class NotReady(ServiceError):
    """Starting, draining, or broken beyond repair."""

    code = "not_ready"


class InferenceFailed(ServiceError):
    """The network could not run, or its answer is unusable."""

    code = "inference_failed"


class BadArtifact(ServiceError):
    """An ONNX file that cannot be served."""

    code = "bad_artifact"
    cause: str
    """``unreadable``, ``truncated``, ``damaged``, ``data`` (of its weights beside it), ``manifest``, ``graph`` (it is not what
    the manifest says), ``runtime`` (ONNX Runtime cannot run it), ``name`` (taken) or ``changed`` (while it was opened)."""


class ProviderUnavailable(ServiceError):
    """The execution provider that was asked for does not run here."""

    code = "provider_unavailable"


class BadSetting(ServiceError):
    """A setting that makes no sense."""

    code = "bad_setting"


LEAVES: tuple[type[ServiceError], ...] = tuple(ServiceError.__subclasses__())
"""All errors above, in the order of the tree."""

BY_CODE: dict[str, type[ServiceError]] = {leaf.code: leaf for leaf in LEAVES}
"""The class of each code, for readers of replies."""
