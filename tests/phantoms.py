"""Heads made of nested ellipsoids, and scans of them: small, exact, and asymmetric along every axis."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from service.pipeline.manifest import InputPolicy, Manifest, Percentiles
from tests.conftest import make_manifest, write_artifact


def phantom_map(side: int = 56) -> NDArray[np.uint8]:
    """A label map of intensity classes: scalp, skull, fluid, cortex, white matter, ventricle, nucleus and vessel.

    Gives:
        side x side+6 x side-4 uint8
    """
    shape = (side, side + 6, side - 4)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    radius = np.sqrt((x / 0.88) ** 2 + ((y + 0.05) / 0.9) ** 2 + ((z - 0.05) / 0.92) ** 2)
    classes = np.zeros(shape, np.uint8)
    for limit, value in ((1.0, 16), (0.92, 19), (0.84, 1), (0.76, 3), (0.6, 2)):
        classes[radius < limit] = value
    classes[(np.abs(x) < 0.12) & (np.abs(y) < 0.25) & (np.abs(z) < 0.2)] = 1
    classes[(np.hypot(x - 0.3, y - 0.1) < 0.12) & (np.abs(z) < 0.15)] = 7
    classes[(np.hypot(x + 0.3, y - 0.3) < 0.05) & (np.abs(z) < 0.1)] = 11
    return classes


def nifti_bytes(
    values: NDArray[Any],
    affine: NDArray[np.float64] | None = None,
    *,
    version: int = 1,
    big_endian: bool = False,
    compressed: bool = True,
    **fields: Any,
) -> bytes:
    """A NIfTI file in memory; ``fields`` are set in its header as they are."""
    kind = nibabel.Nifti1Image if version == 1 else nibabel.Nifti2Image
    header = kind.header_class(endianness=">" if big_endian else "<")
    header.set_data_dtype(values.dtype)
    image = kind(values, np.eye(4) if affine is None else affine, header)
    for name, value in fields.items():
        image.header[name] = value
    data = bytes(image.to_bytes())
    return gzip.compress(data, 1, mtime=0) if compressed else data


def dicom_bytes(
    pixels: NDArray[Any], position: Any = (0, 0, 0), syntax: str = ExplicitVRLittleEndian, **elements: Any
) -> bytes:
    """A DICOM file of one slice, rows x columns of integers, axial unless ``elements`` say so.

    Takes:
        elements: by DICOM's keyword, beside or in the place of the usual ones; None leaves one out
    """
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(syntax)
    meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.4")
    meta.MediaStorageSOPInstanceUID = UID("1.2.3.4")
    slice_ = Dataset()
    usual = {
        "SeriesInstanceUID": "1.2.3",
        "ImagePositionPatient": [float(value) for value in position],
        "ImageOrientationPatient": [1.0, 0, 0, 0, 1, 0],
        "PixelSpacing": [1.0, 1.0],
        "SliceThickness": 1.0,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "BitsAllocated": 8 * pixels.dtype.itemsize,
        "BitsStored": 8 * pixels.dtype.itemsize,
        "HighBit": 8 * pixels.dtype.itemsize - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
    }
    for name, value in (usual | elements).items():
        if value is not None:
            setattr(slice_, name, value)
    little, implicit = syntax != ExplicitVRBigEndian, syntax == ImplicitVRLittleEndian
    if "PixelData" not in elements:
        slice_.add_new(0x7FE00010, "OW", pixels.astype(pixels.dtype.newbyteorder("<" if little else ">")).tobytes())
        if pixels.nbytes % 2:
            slice_[0x7FE00010].value += b"\0"
    file = io.BytesIO()
    slice_.file_meta = meta
    pydicom.dcmwrite(file, slice_, implicit_vr=implicit, little_endian=little, enforce_file_format=True)
    return file.getvalue()


def series(volume: NDArray[Any], step: Any = (0, 0, 1.0), origin: Any = (0, 0, 0), **elements: Any) -> list[bytes]:
    """The slices of a volume X x Y x Z as DICOM files, each a ``step`` in mm from the last one."""
    places = np.asarray(origin, float) + np.arange(volume.shape[2])[:, None] * np.asarray(step, float)
    return [
        dicom_bytes(np.ascontiguousarray(volume[:, :, k].T), place, InstanceNumber=k + 1, **elements)
        for k, place in enumerate(places)
    ]


def zipped(files: Iterable[bytes] | Mapping[str, bytes]) -> bytes:
    """A zip of files, which are called by their number where they have no names."""
    named = files if isinstance(files, Mapping) else {f"IM{number:04d}": data for number, data in enumerate(files)}
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in named.items():
            archive.writestr(name, data)
    return made.getvalue()


LEVELS = (0.0, 0.5, 1.0)
"""Normalised intensities of the three classes of :func:`scan_artifact`."""


def scan_manifest(**changes: Any) -> Manifest:
    """Three classes by intensity, on slices of three planes at 1 mm."""
    policy = {
        "working_size": (32, 32),
        "multiple": 8,
        "channels": 3,
        "color_order": None,
        "dtype": "float32",
        "fit": "native",
        "intensity": Percentiles(lower=1, upper=99, scope="volume"),
        "spacing_mm": (1, 1, 1),
        "orientation": "RAS",
        "planes": ("axial", "coronal", "sagittal"),
        **changes,
    }
    classes = [{"id": k, "name": name, "color": (90 * k, 60, 200 - 90 * k)} for k, name in enumerate(("air", "grey", "white"))]
    return make_manifest(name="levels", classes=classes, input=InputPolicy.model_validate(policy), stride=1, halo=8)


def scan_artifact(path: Path, manifest: Manifest | None = None) -> Path:
    """Write a real artifact: float32 N x H x W x 3 ``image`` to scores -40 (middle channel - level)^2, one plane a level."""
    middle = helper.make_node("Gather", ["image", "one"], ["middle"], axis=3)
    levels = numpy_helper.from_array(np.array(LEVELS, np.float32).reshape(1, 3, 1, 1), "levels")
    nodes = [
        middle,
        helper.make_node("Unsqueeze", ["middle", "axis"], ["plane"]),
        helper.make_node("Sub", ["plane", "levels"], ["apart"]),
        helper.make_node("Mul", ["apart", "apart"], ["squared"]),
        helper.make_node("Mul", ["squared", "sharp"], ["scores"]),
    ]
    constants = [
        numpy_helper.from_array(np.array(1, np.int64), "one"),
        numpy_helper.from_array(np.array([1], np.int64), "axis"),
        numpy_helper.from_array(np.array(-40, np.float32), "sharp"),
        levels,
    ]
    graph = helper.make_graph(
        nodes,
        "levels",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", "height", "width", 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 3, "score_rows", "score_columns"])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return write_artifact(path, manifest or scan_manifest(), model)
