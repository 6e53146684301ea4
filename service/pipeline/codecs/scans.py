"""Scans by their first bytes: NIfTI, a DICOM slice, or a zip of a DICOM series."""

from __future__ import annotations

from typing import Protocol

from service.pipeline.codecs import dicom_series, nifti
from service.pipeline.codecs.limits import Limits
from service.pipeline.volume import Grid, Scan, Shape

FORMATS = ("NIFTI", "DICOM")
"""Names of the formats of scans, as headers and messages tell them."""

_PICTURES = (b"\xff\xd8", b"\x89PNG", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""The first bytes of JPEG, PNG and TIFF, never a scan: most requests end here. DICOM may begin with any other 128 bytes."""


class Header(Protocol):
    """What is known of a scan before its voxels are read."""

    @property
    def shape(self) -> Shape:
        """Voxels along each axis."""

    @property
    def grid(self) -> Grid:
        """Where the voxels lie."""


def takes_time(data: bytes) -> bool:
    """Return whether :func:`kind` and :func:`probe` may take milliseconds, and so belong on a thread: zips, and DICOM."""
    return dicom_series.may_be_series(data)


def kind(data: bytes) -> str | None:
    """The name of a scan's format; None for anything else.

    A file that begins as a TIFF and has DICOM's mark as well is a picture for both kinds of readers (PS3.10, section 7.1).
    """
    if data.startswith(_PICTURES):
        return None
    if nifti.is_nifti(data):
        return "NIFTI"
    return "DICOM" if dicom_series.is_series(data) else None


def probe(data: bytes, limits: Limits, found: str) -> Header:
    """Read the header of a scan.

    Takes:
        found: what :func:`kind` returned for these bytes
    Raises:
        as :func:`nifti.probe` and :func:`dicom_series.probe`
    """
    return nifti.probe(data, limits) if found == "NIFTI" else dicom_series.probe(data, limits)


def read(data: bytes, limits: Limits, header: Header) -> Scan:
    """Read a scan.

    Takes:
        header: what :func:`probe` returned for these bytes and limits
    Raises:
        as :func:`nifti.read` and :func:`dicom_series.read`
    """
    if isinstance(header, nifti.Header):
        return nifti.read(data, limits, header)
    return dicom_series.read(data, limits)
