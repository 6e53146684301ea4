"""A refusal says what was sent, and what to do."""

from __future__ import annotations

import base64
import json

import pytest

from service.errors import UnsupportedImage
from service.pipeline.codecs.decoding import FORMATS, Limits, probe
from tests.conftest import encode_image, make_image

JPEG = encode_image(make_image(8, 8), "JPEG")
PNG = encode_image(make_image(8, 8), "PNG")


def brand(name: bytes, *compatible: bytes) -> bytes:
    """The first box of a file of ISO 14496-12."""
    body = name + bytes(4) + b"".join(compatible)
    return (8 + len(body)).to_bytes(4, "big") + b"ftyp" + body + bytes(40)


SENT = {
    "JPEG XL": (b"\xff\x0a" + bytes(20), "a JPEG XL image"),
    "JPEG XL in boxes": (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(20), "a JPEG XL image"),
    "JPEG 2000": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(20), "a JPEG 2000 image"),
    "JPEG 2000 codestream": (b"\xff\x4f\xff\x51" + bytes(20), "a JPEG 2000 image"),
    "JPEG XR": (b"II\xbc\1" + bytes(20), "a JPEG XR image"),
    "PDF": (b"%PDF-1.7\n%" + bytes(20), "a PDF document"),
    "PostScript": (b"%!PS-Adobe-3.0\n", "a PostScript document"),
    "Photoshop": (b"8BPS\0\1" + bytes(20), "a Photoshop document"),
    "MP4": (brand(b"isom", b"iso2", b"avc1", b"mp41"), "a video"),
    "QuickTime": (brand(b"qt  "), "a video"),
    "CR3": (brand(b"crx "), "raw picture"),
    "AVI": (b"RIFF\0\0\0\0AVI LIST", "a video"),
    "Matroska": (b"\x1a\x45\xdf\xa3" + bytes(20), "a video"),
    "H.264": (b"\0\0\0\1\x67" + bytes(20), "a raw video stream"),
    "MCAP": (b"\x89MCAP0\r\n" + bytes(20), "an MCAP bag"),
    "gzip": (b"\x1f\x8b\x08" + bytes(20), "compressed with gzip"),
    "zip": (b"PK\3\4" + bytes(20), "a zip archive"),
    "HTML": (b"<!DOCTYPE html><html><body>404</body></html>", "an HTML or XML page"),
    "HTML with a mark of UTF-8": (b"\xef\xbb\xbf\n <HTML>", "an HTML or XML page"),
    "XML": (b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>', "an HTML or XML page"),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
    "SVG as XML": (b'<?xml version="1.0"?>\n<svg/>', "an SVG drawing"),
    "JPEG as base64": (base64.b64encode(JPEG), "a JPEG image as base64"),
    "PNG as base64": (base64.b64encode(PNG), "a PNG image as base64"),
    "WebP as base64": (base64.b64encode(encode_image(make_image(8, 8), "WEBP")), "a WebP image as base64"),
    "GIF as base64": (base64.b64encode(encode_image(make_image(8, 8), "GIF")), "a GIF image as base64"),
    "a data URL": (b"data:image/jpeg;base64," + base64.b64encode(JPEG), "a data: URL"),
    "JSON": (json.dumps({"image": "street.jpg"}).encode(), "JSON; send the bytes"),
    "JSON with base64": (json.dumps({"image": base64.b64encode(JPEG).decode()}).encode(), "JSON with an image as base64"),
    "JSON with a data URL": (json.dumps([{"url": "data:image/webp;base64,UklG"}]).encode(), "JSON with an image as base64"),
    "an address": (b"https://example.com/street.jpg", "an address"),
    "a form": (b'--frontier\r\nContent-Disposition: form-data; name="image"\r\n\r\n' + JPEG, "multipart form"),
    "a NumPy array": (b"\x93NUMPY\1\0", "a NumPy array"),
    "DICOM": (bytes(128) + b"DICM" + bytes(20), "a DICOM file"),
    "NIfTI": (bytes(344) + b"n+1\0", "a NIfTI scan"),
    "RAF": (b"FUJIFILMCCD-RAW 0201", "raw picture"),
    "RW2": (b"IIU\0\x18\0\0\0", "raw picture"),
    "ORF": (b"IIRO\x08\0\0\0", "raw picture"),
    "PAM": (b"P7\nWIDTH 4\n", "a PAM image"),
    "PFM": (b"PF\n4 4\n-1.0\n", "a PFM image"),
    "OpenEXR": (b"\x76\x2f\x31\x01" + bytes(20), "an OpenEXR image"),
    "QOI": (b"qoif" + bytes(20), "a QOI image"),
    "PHM": (b"PH\n97 61\n-1\n" + bytes(20), "a PHM image"),
    "DPX": (b"SDPX" + bytes(20), "a DPX frame"),
    "SGI": (b"\x01\xda\1\1" + bytes(20), "an SGI image"),
    "PCX": (b"\x0a\5\1\x08" + bytes(20), "a PCX image"),
    "Sun raster": (b"\x59\xa6\x6a\x95" + bytes(20), "a Sun raster image"),
    "XCF": (b"gimp xcf v011\0" + bytes(20), "a GIMP document"),
    "farbfeld": (b"farbfeld" + bytes(20), "a farbfeld image"),
    "FITS": (b"SIMPLE  =                    T", "a FITS image"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(20), "an HDF5 file"),
    "XBM": (b"#define im_width 16\n", "XBM"),
    "base64 behind a line end": (b"\r\n " + base64.b64encode(JPEG), "a JPEG image as base64"),
    "base64 in quotes": (b'"' + base64.b64encode(PNG) + b'"', "a PNG image as base64"),
    "TIFF as base64": (base64.b64encode(encode_image(make_image(8, 8), "TIFF")), "a TIFF image as base64"),
    "a data URL in capitals": (b"DATA:IMAGE/PNG;BASE64,iVBOR", "a data: URL"),
    "a data URL in quotes": (b'"data:image/png;base64,iVBOR"', "a data: URL"),
    "the address of a file": (b"file:///photos/street.jpg", "an address"),
    "the address of an object": (b"s3://bucket/street.jpg\n", "an address"),
    "a JPEG as UTF-8 with replacements": (JPEG.decode("utf-8", "replace").encode(), "decoded as text"),
    "a PNG as UTF-8 with replacements": (PNG.decode("utf-8", "replace").encode(), "decoded as text"),
    "a JPEG as Latin-1": (JPEG.decode("latin-1").encode(), "decoded as text"),
    "a PNG as Latin-1": (PNG.decode("latin-1").encode(), "decoded as text"),
    "the repr of a JPEG": (repr(JPEG).encode(), "the repr of Python bytes"),
    "a PNG with line ends of Unix": (PNG.replace(b"\r\n", b"\n"), "line ends"),
    "a PNG with line ends of DOS": (PNG.replace(b"\n", b"\r\n"), "line ends"),
    "PDF behind line ends": (b"\n\r\n%PDF-1.7\n%" + bytes(20), "a PDF document"),
    "a fragment of HTML": (b'<div class="error">not found</div>', "an HTML or XML page"),
    "HTML as UTF-16": ("<html><body>404".encode("utf-16"), "an HTML or XML page"),
    "HTML as UTF-16, big-endian": (b"\xfe\xff" + "<!DOCTYPE html>".encode("utf-16-be"), "an HTML or XML page"),
    "a pointer of Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "Git LFS"),
    "old QuickTime": (b"\0\0\0\x08wide\0\0\1\0mdat" + bytes(20), "a video"),
    "QuickTime with its index first": (b"\0\0\1\0moov\0\0\0\x6cmvhd" + bytes(20), "a video"),
    "RAR": (b"Rar!\x1a\7\0" + bytes(20), "a RAR archive"),
    "lossless JPEG": (b"\xff\xd8\xff\xc3\0\x0b\x08\0\x08\0\x08\1\1\x11\0" + bytes(20), "a lossless JPEG"),
    "JPEG of 12 bits": (b"\xff\xd8\xff\xc1\0\x0b\x0c\0\x08\0\x08\1\1\x11\0" + bytes(20), "a JPEG image of 12 bits"),
    "JPEG-LS": (b"\xff\xd8\xff\xf7\0\x0b\x08\0\x08\0\x08\1\1\x11\0" + bytes(20), "a JPEG-LS image"),
}


@pytest.mark.parametrize("name", SENT)
def test_a_refusal_names_what_was_sent(name: str) -> None:
    """415 with the kind of the bytes and a remedy, and not one text for all."""
    data, words = SENT[name]
    with pytest.raises(UnsupportedImage, match=words) as caught:
        probe(data, Limits())
    assert ";" in caught.value.message


@pytest.mark.parametrize("data", [b"some words", bytes(100), b"\xff\xd8", b"ftyp", b"P9 1 1", b"{", b"\xff"])
def test_bytes_of_no_known_kind_get_the_list_of_formats(data: bytes) -> None:
    """Where nothing is known of the bytes, the refusal says which formats are read."""
    with pytest.raises(UnsupportedImage, match=r"known format|JSON") as caught:
        probe(data, Limits())
    assert data == b"{" or all(kind in caught.value.message for kind in FORMATS)
