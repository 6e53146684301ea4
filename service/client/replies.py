"""Read replies: a mask, the models, or an error. No function here touches the network."""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import httpx

from service.client.budget import OUT_OF_TIME, ConnectionFailed, TimedOut
from service.client.results import Catalogue, ClassEntry, ClassPresent, Instance, LabelVolume, Mask, ModelIdentity, ServedModel
from service.encodings import Encoded, coco, freespace_binary, nifti, rle
from service.encodings.freespace import Freespace
from service.errors import BY_CODE, ServiceError

_PROSE = frozenset(("type", "title", "detail", "error"))


@dataclass(frozen=True)
class Reply:
    """An answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    content: bytes = field(repr=False)


def parse_mask(reply: Reply) -> Mask:
    """Read a mask from a good reply.

    Raises:
        ServiceError: if the reply holds none
    """
    try:
        return mask_of(
            reply.content,
            parse_server_timing(reply.headers.get("Server-Timing", "")),
            reply.headers.get("X-Request-ID", ""),
            reply.headers.get("X-Frame-Id"),
            reply.headers.get("X-Frame-Stamp"),
            tuple(word.strip() for word in reply.headers.get("X-Converted", "").split(",") if word.strip()),
        )
    except (ValueError, LookupError, TypeError) as error:
        raise _misunderstood(reply) from error


def mask_of(
    body: bytes,
    timing: dict[str, float],
    request_id: str,
    frame_id: str | None,
    frame_stamp: str | None,
    converted: tuple[str, ...] = (),
) -> Mask:
    """A mask, of the document that holds it and of what came beside.

    Raises:
        ValueError, LookupError, TypeError: if the document is not a mask
    """
    document = json.loads(body)
    model, entries = document["model"], document["classes"]
    things = [entry for entry in entries if "instance" in entry or "component" in entry]
    return Mask(
        labels=rle.decode(document) if "lengths" in document else coco.decode(document),
        classes=tuple(_class_present(alike) for alike in _by_class(entries)),
        model=ModelIdentity(model["name"], model["version"], model["sha256"]),
        timing=timing,
        request_id=request_id,
        frame_id=frame_id,
        frame_stamp=frame_stamp,
        instances=tuple(_instance(entry) for entry in things),
        converted=converted,
    )


def _by_class(entries: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Put the entries of one class together: a class is one entry, or one for each thing."""
    return [list(alike) for _, alike in groupby(entries, lambda entry: entry["id"])]


def _class_present(entries: list[dict[str, Any]]) -> ClassPresent:
    pixels = sum(entry["pixels"] for entry in entries)
    boxes = [entry["bbox"] for entry in entries if "bbox" in entry]
    sure = [entry["confidence"] * entry["pixels"] for entry in entries if "confidence" in entry]
    return ClassPresent(
        id=entries[0]["id"],
        name=entries[0]["name"],
        pixels=pixels,
        share=sum(entry["share"] for entry in entries),
        bbox=_around(boxes) if boxes else None,
        confidence=sum(sure) / pixels if sure else None,
    )


def _around(boxes: list[list[int]]) -> tuple[int, int, int, int]:
    """The bounding box of several, each (x, y, width, height)."""
    left, top = min(one[0] for one in boxes), min(one[1] for one in boxes)
    right, bottom = max(one[0] + one[2] for one in boxes), max(one[1] + one[3] for one in boxes)
    return left, top, right - left, bottom - top


def _instance(entry: dict[str, Any]) -> Instance:
    height, width = entry["segmentation"]["size"]
    return Instance(
        id=entry["id"],
        name=entry["name"],
        number=entry.get("instance", entry.get("component", 0)),
        score=entry.get("score"),
        pixels=entry["pixels"],
        share=entry["share"],
        confidence=entry.get("confidence"),
        size=(height, width),
        counts=entry["segmentation"]["counts"],
    )


def parse_volume(reply: Reply) -> LabelVolume:
    """Read a label volume from a good reply.

    Raises:
        ServiceError: if the reply holds none
    """
    try:
        return LabelVolume(
            labels=nifti.decode(reply.content),
            nifti=reply.content,
            model=reply.headers["X-Model"],
            timing=parse_server_timing(reply.headers.get("Server-Timing", "")),
            request_id=reply.headers.get("X-Request-ID", ""),
        )
    except (ValueError, LookupError) as error:
        raise _misunderstood(reply) from error


def parse_encoded(reply: Reply) -> Encoded:
    """Return the body of a good reply as it came."""
    return Encoded(reply.content, reply.headers.get("Content-Type", "application/octet-stream").partition(";")[0])


def parse_freespace(reply: Reply) -> Freespace:
    """Read free space from a good reply.

    Raises:
        ServiceError: if the reply holds none
    """
    try:
        return freespace_binary.read(reply.content)
    except ValueError as error:
        raise _misunderstood(reply) from error


def parse_catalogue(reply: Reply) -> Catalogue:
    """Read the list of models from a good reply.

    Raises:
        ServiceError: if the reply holds none
    """
    try:
        document = json.loads(reply.content)
        return Catalogue(
            default=document["default"],
            models=tuple(
                ServedModel(
                    name=manifest["name"],
                    version=manifest["version"],
                    classes=tuple(
                        ClassEntry(row["id"], row["name"], (row["color"][0], row["color"][1], row["color"][2]))
                        for row in manifest["classes"]
                    ),
                    manifest=manifest,
                )
                for manifest in document["models"]
            ),
        )
    except (ValueError, LookupError, TypeError) as error:
        raise _misunderstood(reply) from error


def parse_server_timing(header: str) -> dict[str, float]:
    """Read ``decode;dur=1.2, infer;dur=30.5`` into milliseconds by name; an entry without a duration is left out."""
    timing = {}
    for entry in header.split(","):
        name, *parameters = (part.strip() for part in entry.split(";"))
        for parameter in parameters:
            if parameter.startswith("dur="):
                timing[name] = float(parameter.removeprefix("dur="))
    return timing


def raise_for_problem(reply: Reply) -> None:
    """Raise what a reply other than 200 says went wrong.

    Raises:
        ServiceError: of the class that the problem's code names
    """
    if reply.status == httpx.codes.OK:
        return
    try:
        error = error_of(json.loads(reply.content))
    except (ValueError, LookupError, TypeError):
        error = _misunderstood(reply)  # a proxy's page, or another server's
    error.facts["status"] = reply.status
    wait_s = parse_retry_after(reply.headers.get("Retry-After", ""))
    if wait_s is not None:
        error.facts.setdefault("retry_after_s", wait_s)  # the body's figure is not rounded to whole seconds
    raise error


def error_of(problem: Mapping[str, Any]) -> ServiceError:
    """The error that a problem document tells of, by its code; a plain ``ServiceError`` where the code is not known."""
    error = BY_CODE.get(problem["code"], ServiceError)(problem["detail"])
    error.facts.update({name: fact for name, fact in problem.items() if name not in _PROSE})
    return error


def parse_retry_after(header: str) -> float | None:
    """Read ``Retry-After``, either form of it.

    Gives:
        seconds from now, at least 0; None if it says nothing that can be understood
    """
    if header.strip().isdecimal():
        return float(header)
    try:
        moment = email.utils.parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, moment.timestamp() - time.time())


def wire_error(error: httpx.RequestError) -> ServiceError:
    """The transport's error as one of ours."""
    if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
        return TimedOut(OUT_OF_TIME)
    where = f"{error.request.url.scheme}://{error.request.url.netloc.decode('ascii')}"
    return ConnectionFailed(f"no answer from {where}: {str(error) or type(error).__name__}")


def _misunderstood(reply: Reply) -> ServiceError:
    kind = reply.headers.get("Content-Type", "no type")
    return ServiceError(f"HTTP {reply.status} ({kind}) that is not fcn-serve's: is the address right?", status=reply.status)
