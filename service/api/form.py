"""Forms: the parts of ``multipart/form-data`` named ``image``, read as they come."""

from __future__ import annotations

from dataclasses import dataclass, field
from io import BytesIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.errors import BadParameter, BodyTooLarge, EmptyBody

FIELD = "image"
"""The only form field. Parameters are part of the query or of the headers."""

MAX_PARTS = 64
"""Images in one request."""

MULTIPART_ALLOWANCE = 64 * 1024
"""Bytes that boundaries and part headers may add to the images of a form: 1 KiB for each of the parts allowed."""


@dataclass(frozen=True)
class ImageFile:
    """One image of a request."""

    data: bytes = field(repr=False)
    name: str | None = None
    """Its file name, as the form has it: any text."""


class Form:
    """Collects the images of a form from the callbacks of a push parser.

    Takes:
        boundary: as the Content-Type names it
        max_bytes: limit for all images together
    Raises:
        BadParameter: if the boundary is too long
    """

    def __init__(self, boundary: bytes, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._parts: list[BytesIO] = []
        self._file_names: list[str | None] = []
        self._size = 0
        self._header = self._value = b""
        self._name: bytes | None = None
        self._ended = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin_part,
                    "on_header_field": self._add_to_header,
                    "on_header_value": self._add_to_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._check_name,
                    "on_part_data": self._add_data,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise _unreadable(error) from error

    def write(self, chunk: bytes) -> None:
        """Parse the next bytes.

        Raises:
            BadParameter: if the form is broken, has another field, or too many parts
            BodyTooLarge: if its images are
        """
        if not chunk:
            return
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise _unreadable(error) from error

    def images(self) -> list[ImageFile]:
        """Return the images of a form that has ended.

        Raises:
            BadParameter: if it has not ended, or has no image
            EmptyBody: if an image has no bytes
        """
        if not self._ended:
            raise BadParameter("the form ends before its closing boundary", parameter=FIELD)
        if not self._parts:
            raise BadParameter(f"the form has no field '{FIELD}': send an image's bytes in it", parameter=FIELD)
        images = [ImageFile(part.getvalue(), name) for part, name in zip(self._parts, self._file_names, strict=True)]
        for number, image in enumerate(images, 1):
            if not image.data:
                empty = EmptyBody(f"a form field '{FIELD}' is empty: send an image's bytes in it")
                raise empty if len(images) == 1 else empty.of_image(number, len(images), image.name)
        return images

    def _begin_part(self) -> None:
        if len(self._parts) == MAX_PARTS:
            raise BadParameter(f"more than {MAX_PARTS} parts in a form: send the rest in another request", parameter=FIELD)
        self._parts.append(BytesIO())
        self._file_names.append(None)
        self._name = None

    def _add_to_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _add_to_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            options = parse_options_header(self._value)[1]
            self._name = options.get(b"name")
            if b"filename" in options:
                self._file_names[-1] = options[b"filename"].decode("utf-8", "replace")
        self._header = self._value = b""

    def _check_name(self) -> None:
        if self._name != FIELD.encode():
            found = "a part without a name" if self._name is None else repr(self._name[:64].decode(errors="replace"))
            raise BadParameter(
                f"the form field with the image must be named '{FIELD}', found {found}; parameters belong in the query",
                parameter=FIELD,
            )

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        self._size += end - start
        if self._size > self._max_bytes:
            raise too_large(self._max_bytes)
        self._parts[-1].write(memoryview(data)[start:end])

    def _end(self) -> None:
        self._ended = True


def too_large(limit: int, actual: int | None = None) -> BodyTooLarge:
    """Return the error of a body that has too many bytes.

    Takes:
        limit: bytes allowed
        actual: bytes that the sender announces; None if more came than allowed
    """
    found = "more came" if actual is None else f"{actual} are announced"
    return BodyTooLarge(
        f"at most {limit} bytes of image a request, {found}; compress it harder or scale it down",
        limit=limit,
        actual=actual,
        unit="bytes",
    )


def _unreadable(error: FormParserError) -> BadParameter:
    return BadParameter(f"the form cannot be read: {error}", parameter=FIELD)
