"""One function a parser, each with good inputs to begin with. A target raises an error that its parser must not raise."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import zipfile
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import cv2
import nibabel
import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID
from starlette.requests import Request
from starlette.types import Message

from service.api.negotiation import chosen_format
from service.api.upload import read_images
from service.api.v2 import tensors
from service.encodings import (
    autoware,
    coco,
    coco_dataset,
    cvat,
    labelme,
    labelstudio,
    npy,
    panoptic,
    png,
    polygons,
    rle,
    yolo,
)
from service.errors import BadArtifact, ServiceError, UnsupportedFormat
from service.pipeline import manifest, onnx_file
from service.pipeline.codecs import decoding, scans

LIMITS = decoding.Limits(max_bytes=1 << 20, max_pixels=1 << 20, max_side=4096, max_scan_bytes=1 << 20, max_voxels=1 << 20)
PICTURE = (np.arange(9 * 11 * 3).reshape(9, 11, 3) * 7 % 256).astype(np.uint8)
LABELS = np.array([[0, 0, 1], [2, 1, 1]], np.uint8)
CLASSES = [
    manifest.ClassEntry(id=number, name=name, color=(number, 0, 0)) for number, name in enumerate(("sky", "car", "road"))
]
BOUNDARY = b"frontier"
NO_SIZE = 0xFFFF


@dataclass(frozen=True)
class Target:
    """A parser and its seeds."""

    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]


def _images() -> list[bytes]:
    """The same small picture in every format and in several modes."""
    files = []
    picture = Image.fromarray(PICTURE)
    ways: list[tuple[str, str, dict[str, Any]]] = [(kind, "RGB", {}) for kind in decoding.FORMATS]
    ways += [("PNG", mode, {}) for mode in ("L", "LA", "P", "RGBA", "1", "I;16")]
    ways += [("TIFF", mode, {}) for mode in ("L", "I;16", "F", "CMYK", "1")]
    ways += [
        ("JPEG", "CMYK", {}),
        ("JPEG", "RGB", {"progressive": True}),
        ("JPEG", "L", {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"}),
    ]
    ways += [("WEBP", "RGBA", {"lossless": True}), ("TIFF", "RGB", {"compression": "tiff_lzw"})]
    ways += [("TIFF", "RGB", {"compression": "jpeg"}), ("AVIF", "RGBA", {})]
    for kind, mode, options in ways:
        buffer = io.BytesIO()
        converted = Image.fromarray(np.uint16(PICTURE[..., 0]) << 8) if mode == "I;16" else picture.convert(mode)
        converted.save(buffer, "PPM" if kind == "PNM" else kind, **options)
        files.append(buffer.getvalue())
    jpeg = next(file for file in files if file.startswith(b"\xff\xd8"))
    files += [jpeg[:-2], jpeg[:-2] + bytes(20) + jpeg[-2:], jpeg[:-2] + b"a camera's settings" + jpeg[-2:]]
    for wide in (PICTURE.astype(np.uint16) * 257, PICTURE.astype(np.float32) / 255, PICTURE.astype(np.uint16) * 16):
        files.append(cv2.imencode(".tiff", wide)[1].tobytes())
    files.append(cv2.imencode(".png", PICTURE.astype(np.uint16) * 16)[1].tobytes())
    files += [b"P3 2 1 9 1 2 3 4 5 6 ", b"P2 2 1 4095 1 4095 ", b"P1 2 2 0101", b"P5 1 2 4095 \1\2\3\4"]
    return files


def _decode(data: bytes) -> None:
    try:
        image = decoding.decode(data, LIMITS)
    except ServiceError:
        return
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image[..., 0].size > LIMITS.max_pixels:
        raise AssertionError(f"{image.dtype} {image.shape}")


def _probe(data: bytes) -> None:
    try:
        header = decoding.probe(data, LIMITS)
    except ServiceError:
        return
    if not 0 < header.width * header.height <= LIMITS.max_pixels:
        raise AssertionError(str(header))


def _scan(data: bytes) -> None:
    try:
        header = decoding.probe(data, LIMITS)
        if header.scan is None:
            return
        scan = scans.read(data, LIMITS, header.scan)
    except ServiceError:
        return
    if scan.values.shape != scan.grid.shape or scan.values.size > LIMITS.max_voxels:
        raise AssertionError(f"{scan.values.shape} {scan.grid.shape}")


def _nifti_scans() -> list[bytes]:
    """Both versions, plain and compressed."""
    values = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    plain = [kind(values, np.diag([1.0, 2, 3, 1])).to_bytes() for kind in (nibabel.Nifti1Image, nibabel.Nifti2Image)]
    return [*plain, *(gzip.compress(data) for data in plain)]


def _dicom_scans() -> list[bytes]:
    """A slice in each byte order, implicit and explicit, and a zip of a series."""
    syntaxes = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
    files = [_dicom_slice(syntax, place) for syntax in syntaxes for place in range(2)]
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, data in enumerate(files[2:4]):
            archive.writestr(str(number), data)
    return [*files[::2], made.getvalue()]


def _dicom_slice(syntax: str, place: int) -> bytes:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(syntax)
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID("1.2.840.10008.5.1.4.1.1.4"), UID("1.2.3")
    one = Dataset()
    one.file_meta = meta
    one.SeriesInstanceUID, one.PhotometricInterpretation, one.SamplesPerPixel = "1.2", "MONOCHROME2", 1
    one.ImagePositionPatient, one.ImageOrientationPatient = [0.0, 0, place], [1.0, 0, 0, 0, 1, 0]
    one.PixelSpacing, one.Rows, one.Columns, one.PixelRepresentation = [1.0, 1.0], 3, 4, 0
    one.BitsAllocated, one.BitsStored, one.HighBit = 16, 12, 11
    one.add_new(0x7FE00010, "OW", bytes(range(24)))
    file = io.BytesIO()
    little, implicit = not syntax.endswith(".2.2"), syntax.endswith("1.2")
    pydicom.dcmwrite(file, one, implicit_vr=implicit, little_endian=little, enforce_file_format=True)
    return file.getvalue()


def _form(data: bytes) -> None:
    """A form, cut into pieces as long as its first byte says."""
    piece = 1 + data[0] if data else 1
    pieces = [data[at : at + piece] for at in range(1, len(data), piece)] or [b""]

    async def receive() -> Message:
        if not pieces:
            return {"type": "http.disconnect"}
        body = pieces.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(pieces)}

    content_type = b"multipart/form-data; boundary=" + BOUNDARY
    request = Request({"type": "http", "method": "POST", "headers": [(b"content-type", content_type)]}, receive)
    try:
        images = asyncio.run(read_images(request, 1 << 16))
    except ServiceError:
        return
    if not all(image.data for image in images):
        raise AssertionError("an empty image")


def _forms() -> list[bytes]:
    part = b'--frontier\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    return [size + part + b"first\r\n" + part + bytes(40) + b"\r\n--frontier--\r\n" for size in (b"\0", b"\x10", b"\xff")]


def _content_type(data: bytes) -> None:
    """The header that says what a body is."""

    async def receive() -> Message:
        return {"type": "http.request", "body": b"x", "more_body": False}

    value = data.replace(b"\r", b"").replace(b"\n", b"")
    try:
        asyncio.run(
            read_images(Request({"type": "http", "method": "POST", "headers": [(b"content-type", value)]}, receive), 99)
        )
    except ServiceError:
        return


def _accept(data: bytes) -> None:
    try:
        chosen_format(None, data.decode("latin-1"))
    except UnsupportedFormat:
        return


def _document(read: Callable[[dict[str, object]], object]) -> Callable[[bytes], None]:
    """A mask's document, as a client reads it: any JSON object may come from a server that is not ours."""

    def run(data: bytes) -> None:
        try:
            document = json.loads(data)
        except (ValueError, RecursionError):
            return
        if isinstance(document, dict) and not _is_huge(document):
            try:
                read(document)
            except ValueError:
                return

    return run


def _is_huge(document: dict[str, object]) -> bool:
    """Return whether a document is a well-formed mask of more pixels than fit into this process: not a fault of the parser."""
    size = document.get("size")
    sides = [side for side in size if isinstance(side, int | float)] if isinstance(size, list) else []
    return any(abs(side) > 4096 for side in sides)


def _labels(read: Callable[[bytes], object]) -> Callable[[bytes], None]:
    """Read a mask that is not a JSON document."""

    def run(data: bytes) -> None:
        try:
            read(data)
        except ValueError:
            return

    return run


def _tensors(data: bytes) -> None:
    """A body of the Open Inference Protocol, behind two bytes that say how much of it is JSON."""
    size = int.from_bytes(data[:2], "little")
    try:
        tensors.read(data[2:], None if size == NO_SIZE else size)
    except ServiceError:
        return


def _inference_requests() -> list[bytes]:
    """Two elements of BYTES behind the JSON and in it, pixels in JSON, one file."""
    files: dict[str, Any] = {"name": "image", "shape": [2], "datatype": "BYTES"}
    pixels = {"name": "image", "shape": [1, 2, 3], "datatype": "UINT8", "data": [[[1, 2, 3], [4, 5, 6]]]}
    elements = b"".join(len(file).to_bytes(4, "little") + file for file in (b"one", b"three"))
    head = json.dumps({"inputs": [files | {"parameters": {"binary_data_size": len(elements)}}]}).encode()
    texts = json.dumps({"id": "7", "inputs": [files | {"data": ["b25l", "dGhyZWU="]}], "outputs": [{"name": "labels"}]})
    none = NO_SIZE.to_bytes(2, "little")
    return [
        len(head).to_bytes(2, "little") + head + elements,
        none + texts.encode(),
        none + json.dumps({"inputs": [pixels]}).encode(),
        b"\0\0one file",
    ]


def _manifest(data: bytes) -> None:
    try:
        manifest.read_manifest({manifest.METADATA_KEY: data.decode("utf-8", "replace")})
    except BadArtifact:
        return


def _onnx(data: bytes) -> None:
    with NamedTemporaryFile(suffix=".onnx") as file:
        file.write(data)
        file.flush()
        try:
            onnx_file.read(Path(file.name))
        except BadArtifact:
            return


def _panoptic() -> list[bytes]:
    numbers = np.where(LABELS == 255, 0, LABELS.astype(np.uint32) + 1)
    picture = png.encode_rgb(panoptic.to_rgb(numbers))
    segments = [{"id": row.id + 1, "category_id": row.id} for row in CLASSES]
    document = {"size": [*LABELS.shape], "png_string": b64encode(picture).decode(), "segments_info": segments}
    return [json.dumps(document).encode()]


TARGETS: dict[str, Target] = {
    "decode": Target(_decode, _images),
    "probe": Target(_probe, _images),
    "nifti": Target(_scan, _nifti_scans),
    "dicom": Target(_scan, _dicom_scans),
    "form": Target(_form, _forms),
    "content-type": Target(
        _content_type, lambda: [b"multipart/form-data; boundary=frontier", b"multipart/mixed; a=b; c*=utf-8''x"]
    ),
    "accept": Target(_accept, lambda: [b"image/png;q=0.5, application/json, */*;q=0.1"]),
    "rle": Target(_document(rle.decode), lambda: [json.dumps(rle.encode(LABELS, CLASSES)).encode()]),
    "coco": Target(_document(coco.decode), lambda: [json.dumps(coco.encode(LABELS, CLASSES)).encode()]),
    "coco-uncompressed": Target(
        _document(coco.decode), lambda: [json.dumps(coco.encode(LABELS, CLASSES, compressed=False)).encode()]
    ),
    "labelstudio": Target(_document(labelstudio.decode), lambda: [json.dumps(labelstudio.encode(LABELS, CLASSES)).encode()]),
    "cvat": Target(_document(cvat.decode), lambda: [json.dumps(cvat.encode(LABELS, CLASSES)).encode()]),
    "coco-dataset": Target(
        _document(coco_dataset.decode), lambda: [json.dumps(coco_dataset.encode(LABELS, CLASSES, CLASSES)).encode()]
    ),
    "labelme": Target(_document(labelme.decode), lambda: [json.dumps(labelme.encode(LABELS, CLASSES)).encode()]),
    "yolo": Target(
        _labels(lambda data: yolo.decode(data, (LABELS.shape[0], LABELS.shape[1]))), lambda: [yolo.encode(LABELS, CLASSES)]
    ),
    "panoptic": Target(_document(panoptic.decode), _panoptic),
    "polygons": Target(_document(polygons.decode), lambda: [json.dumps(polygons.encode(LABELS, CLASSES)).encode()]),
    "autoware": Target(
        _labels(lambda data: autoware.decode(data, (LABELS.shape[0], LABELS.shape[1]))), lambda: [autoware.encode(LABELS)]
    ),
    "png": Target(_labels(png.decode), lambda: [png.encode_gray(LABELS)]),
    "npy": Target(_labels(npy.decode), lambda: [npy.encode(LABELS)]),
    "tensors": Target(_tensors, _inference_requests),
    "manifest": Target(
        _manifest, lambda: [b'{"name": "a", "version": "1", "classes": [{"id": 0, "name": "b", "color": [1, 2, 3]}]}']
    ),
    "onnx": Target(_onnx, lambda: [b"\x08\x0a\x12\x04fuzz\x3a\x02\x12\x00\x42\x04\x0a\x00\x10\x12"]),
}
"""By name."""
