"""Names of files that are not read, by their first bytes: a refusal says what was sent, and what to do."""

from __future__ import annotations

import re

_CONVERT = "convert it to JPEG or PNG"

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
    (b"/9j/", "a JPEG image as base64", "send the bytes themselves, decoded"),
    (b"iVBORw0KGgo", "a PNG image as base64", "send the bytes themselves, decoded"),
    (b"UklGR", "a WebP image as base64", "send the bytes themselves, decoded"),
    (b"R0lGOD", "a GIF image as base64", "send the bytes themselves, decoded"),
    (b"Qk0", "a BMP image as base64", "send the bytes themselves, decoded"),
    (b"data:", "a data: URL", "send the bytes themselves, decoded from base64"),
    (b"http://", "an address", "send the bytes of the image: no address is opened"),
    (b"https://", "an address", "send the bytes of the image: no address is opened"),
    (
        b"--",
        "a multipart form without its Content-Type",
        "send Content-Type: multipart/form-data with its boundary, or the bytes",
    ),
)
"""(first bytes, what was sent, what to do)."""

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

_TEXT_FORM = re.compile(rb"[\w.%-]{1,40}=[\x20-\x7e]*\Z")
_JSON = re.compile(rb"\s*[\[{]")
_BASE64_INSIDE = re.compile(rb"/9j/|iVBORw0KGgo|UklGR|R0lGOD|;base64,")
_MARKUP = re.compile(rb"\s*<(!doctype\s+html|html|head|body|\?xml|svg|!--)", re.IGNORECASE)


def name(data: bytes) -> str:
    """Name what was sent and what to do, in the middle of a sentence; empty if the bytes are of no known kind."""
    head = data[:4096].removeprefix(b"\xef\xbb\xbf")
    for start, what, remedy in _STARTS:
        if head.startswith(start):
            return f"{what}; {remedy}"
    if head[4:8] == b"ftyp":
        return next(f"{what}; {remedy}" for brand, what, remedy in _BRANDS if brand.match(head[8:12].ljust(4)))
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
