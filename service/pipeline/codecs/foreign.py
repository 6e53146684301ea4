"""Names of files that are not read, by their first bytes: a refusal says what was sent, and what to do."""

from __future__ import annotations

import re

_CONVERT = "convert it to JPEG or PNG"
_AS_BYTES = "send the bytes of the file: read it in binary mode, and convert it to no text"
_DECODED = "send the bytes themselves, decoded"

_STARTS: tuple[tuple[bytes, str, str], ...] = (
    (b"\0\0\0\x0cJXL \r\n", "a JPEG XL image", _CONVERT),
    (b"\xff\x0a", "a JPEG XL image", _CONVERT),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 image", _CONVERT),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 image", _CONVERT),
    (b"II\xbc", "a JPEG XR image", _CONVERT),
    (b"%PDF", "a PDF document", "send its pages as images, PNG or JPEG"),
    (b"%!PS", "a PostScript document", "send its pages as images, PNG or JPEG"),
    (b"8BPS", "a Photoshop document", "export it as PNG or JPEG"),
    (b"\0\0\1\0", "a Windows icon", _CONVERT),
    (b"\x76\x2f\x31\x01", "an OpenEXR image", _CONVERT),
    (b"#?RADIANCE", "a Radiance HDR image", _CONVERT),
    (b"DDS ", "a DDS texture", _CONVERT),
    (b"qoif", "a QOI image", _CONVERT),
    (b"P7", "a PAM image", _CONVERT),
    (b"PF", "a PFM image of floats", _CONVERT),
    (b"Pf", "a PFM image of floats", _CONVERT),
    (b"PH", "a PHM image of half floats", _CONVERT),
    (b"Ph", "a PHM image of half floats", _CONVERT),
    (b"SDPX", "a DPX frame of film", _CONVERT),
    (b"XPDS", "a DPX frame of film", _CONVERT),
    (b"\x01\xda\0", "an SGI image", _CONVERT),
    (b"\x01\xda\1", "an SGI image", _CONVERT),
    (b"\x0a\5\1", "a PCX image", _CONVERT),
    (b"\x59\xa6\x6a\x95", "a Sun raster image", _CONVERT),
    (b"gimp xcf", "a GIMP document", "export it as PNG or JPEG"),
    (b"farbfeld", "a farbfeld image", _CONVERT),
    (b"SIMPLE  =", "a FITS image", _CONVERT),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", "send the picture in it as PNG"),
    (b"\xabKTX", "a KTX texture", _CONVERT),
    (b"#define ", "C source, or an XBM image", _CONVERT),
    (b"\x93NUMPY", "a NumPy array", "send the picture as PNG; the client takes arrays themselves"),
    (b"FUJIFILMCCD-RAW", "a camera's raw picture (RAF)", "develop it, and send a JPEG, PNG or TIFF image"),
    (b"IIU\0", "a camera's raw picture (RW2)", "develop it, and send a JPEG, PNG or TIFF image"),
    (b"IIR", "a camera's raw picture (ORF)", "develop it, and send a JPEG, PNG or TIFF image"),
    (b"MMOR", "a camera's raw picture (ORF)", "develop it, and send a JPEG, PNG or TIFF image"),
    (b"FOVb", "a camera's raw picture (X3F)", "develop it, and send a JPEG, PNG or TIFF image"),
    (b"\x1f\x8b", "compressed with gzip", "send the image itself, or say Content-Encoding: gzip"),
    (b"PK\3\4", "a zip archive", "send the images in it one by one"),
    (b"BZh", "compressed with bzip2", "send the image itself"),
    (b"\xfd7zXZ", "compressed with xz", "send the image itself"),
    (b"\x28\xb5\x2f\xfd", "compressed with Zstandard", "send the image itself"),
    (b"7z\xbc\xaf", "a 7z archive", "send the images in it one by one"),
    (b"\x1a\x45\xdf\xa3", "a video (Matroska or WebM)", "send single frames, or run `fcn-serve segment` on the file"),
    (b"\0\0\0\1", "a raw video stream (H.264 or H.265)", "send single frames, or run `fcn-serve segment` on the file"),
    (b"\0\0\1\xba", "a video (MPEG)", "send single frames, or run `fcn-serve segment` on the file"),
    (b"\x89MCAP0\r\n", "an MCAP bag", "run `fcn-serve segment` on the file"),
    (b"#ROSBAG", "a ROS bag", "run `fcn-serve segment` on the file"),
    (b"SQLite format 3\0", "a database (a rosbag2 bag?)", "run `fcn-serve segment` on the file"),
    (b"ID3", "an audio file", "send an image"),
    (b"OggS", "an Ogg file", "send an image"),
    (b"Rar!\x1a\7", "a RAR archive", "send the images in it one by one"),
    (b"version https://git-lfs.github.com/spec/", "a pointer of Git LFS", "run `git lfs pull`, and send the file itself"),
    (b"\x89PNG\n\x1a\n", "a PNG image whose line ends were changed", "transfer it as binary data, not as text"),
    (b"\x89PNG\r\n\x1a\r\n", "a PNG image whose line ends were changed", "transfer it as binary data, not as text"),
    (b"\x89PNG\r\r\n\x1a", "a PNG image whose line ends were changed", "transfer it as binary data, not as text"),
    (b"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd", "bytes that were decoded as text", _AS_BYTES),
    (b"\xef\xbf\xbdPNG", "a PNG image that was decoded as text", _AS_BYTES),
    (b"\xc2\x89PNG", "a PNG image that was decoded as text", _AS_BYTES),
    (b"\xc3\xbf\xc3\x98\xc3\xbf", "a JPEG image that was decoded as text", _AS_BYTES),
    (b"b'\\x", "the repr of Python bytes", _AS_BYTES),
    (b'b"\\x', "the repr of Python bytes", _AS_BYTES),
    (
        b"--",
        "a multipart form without its Content-Type",
        "send Content-Type: multipart/form-data with its boundary, or the bytes",
    ),
)
"""(first bytes, what was sent, what to do)."""
_BY_FIRST_BYTE = {key: [row for row in _STARTS if row[0][:1] == key] for key in {start[:1] for start, _, _ in _STARTS}}
"""The same: a rejection is to be cheap."""

_BRANDS: tuple[tuple[re.Pattern[bytes], str, str], ...] = (
    (re.compile(rb"crx "), "a camera's raw picture (CR3)", "develop it, and send a JPEG, PNG or TIFF image"),
    (re.compile(rb"jxl "), "a JPEG XL image", _CONVERT),
    (re.compile(rb"jp2 |jpx |jpm "), "a JPEG 2000 image", _CONVERT),
    (re.compile(rb"M4A "), "an audio file (M4A)", "send an image"),
    (
        re.compile(rb"....", re.DOTALL),
        "a video (MP4 or QuickTime)",
        "send single frames, or run `fcn-serve segment` on the file",
    ),
)
"""Files of ISO 14496-12 by their major brand, HEIF's apart."""

_TEXTS: tuple[tuple[bytes, str, str], ...] = (
    (b"%PDF", "a PDF document", "send its pages as images, PNG or JPEG"),
    (b"/9j/", "a JPEG image as base64", _DECODED),
    (b"iVBORw0KGgo", "a PNG image as base64", _DECODED),
    (b"UklGR", "a WebP image as base64", _DECODED),
    (b"R0lGOD", "a GIF image as base64", _DECODED),
    (b"Qk0", "a BMP image as base64", _DECODED),
    (b"SUkqA", "a TIFF image as base64", _DECODED),
    (b"TU0AK", "a TIFF image as base64", _DECODED),
)
"""Texts by their first characters, behind white space and quotes."""
_ADDRESS = re.compile(rb"(data:)|(?:https?|ftp|file|s3|gs|az|abfss?)://", re.IGNORECASE)
_QUICKTIME = (b"wide", b"mdat", b"moov", b"free", b"skip", b"pnot")
"""First atoms of QuickTime files that are older than ISO 14496-12."""
_UTF16 = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}

_TEXT_FORM = re.compile(rb"[\w.%-]{1,40}=[\x20-\x7e]*\Z")
_JSON = re.compile(rb"\s*[\[{]")
_BASE64_INSIDE = re.compile(rb"/9j/|iVBORw0KGgo|UklGR|R0lGOD|;base64,")
_MARKUP = re.compile(
    rb"\s*<(!doctype\s+html|html|head|body|\?xml|svg|!--|(?:div|p|h[1-6]|title|meta|table|span|pre|center|script)\b)",
    re.IGNORECASE,
)


def name(data: bytes) -> str:
    """Name what was sent and what to do, in the middle of a sentence; empty if the bytes are of no known kind."""
    head = _head(data)
    if head[4:8] in _QUICKTIME:
        return "a video (QuickTime); send single frames, or run `fcn-serve segment` on the file"
    for start, what, remedy in _BY_FIRST_BYTE.get(head[:1], ()):
        if head.startswith(start):
            return f"{what}; {remedy}"
    if head[4:8] == b"ftyp":
        return next(f"{what}; {remedy}" for brand, what, remedy in _BRANDS if brand.match(head[8:12].ljust(4)))
    text = head.lstrip(b" \t\r\n\"'")
    for start, what, remedy in _TEXTS:
        if text.startswith(start):
            return f"{what}; {remedy}"
    if (address := _ADDRESS.match(text)) is not None:
        if address[1]:
            return "a data: URL; send the bytes themselves, decoded from base64"
        return "an address; send the bytes of the image: no address is opened"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "a video (AVI); send single frames, or run `fcn-serve segment` on the file"
    if head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] == b"n+2\0":
        return "a NIfTI scan; ask for a model of scans"
    if head[128:132] == b"DICM":
        return "a DICOM file; export its slices as PNG, or convert it to NIfTI"
    if (markup := _MARKUP.match(head)) is not None:
        if b"svg" in head[:1024].lower() and b"html" not in markup[0].lower():
            return "an SVG drawing; draw it, and send a PNG image"
        return "an HTML or XML page; send the bytes of the image (an error page of another server?)"
    if _TEXT_FORM.match(head[:256]):
        return "a form of texts; send the bytes of the image as the body, or as the field `image` of multipart/form-data"
    if _JSON.match(head):
        inside = " with an image as base64" if _BASE64_INSIDE.search(head) else ""
        return f"JSON{inside}; send the bytes of the image themselves, as the body or as a form's field `image`"
    return ""


def _head(data: bytes) -> bytes:
    """Return the first bytes without the mark of UTF-8, and UTF-16 as UTF-8."""
    head = data[:4096]
    encoding = _UTF16.get(head[:2])
    if encoding is None:
        return head.removeprefix(b"\xef\xbb\xbf")
    return head[2:].decode(encoding, "ignore").encode()
