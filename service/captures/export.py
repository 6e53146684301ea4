"""Captures as one folder or zip that Label Studio and CVAT import::

images/NAME.jpg
labelstudio.json    a list of tasks with predictions; serve images/ as Label Studio's local files
annotations.xml     CVAT for images 1.1, with masks; images by their names
captures.jsonl      time, reason, mean confidence, size and model of each
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from service.captures.store import Entry
from service.encodings import to_json
from service.errors import BadSetting

LOCAL_FILES = "/data/local-files/?d=images/"
"""Where Label Studio finds an image of a local storage."""


def export(captures: Iterable[Entry], out: Path) -> tuple[int, list[str]]:
    """Write captures into a new folder, or into a zip if ``out`` ends with ``.zip``. The captures stay where they are.

    Gives:
        how many were written, and a sentence for each that could not be read
    Raises:
        BadSetting: if ``out`` exists and is not an empty folder
        OSError: if it cannot be written
    """
    out = out.absolute()  # "." has no name
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadSetting(f"{out} exists: name a new folder, or a new .zip")
    partial = out.with_name(f".{out.name}.part")
    _remove(partial)
    try:
        if out.suffix == ".zip":
            with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
                told = _write(captures, archive.writestr)
        else:
            (partial / "images").mkdir(parents=True)
            told = _write(captures, lambda name, data: (partial / name).write_bytes(data))
        if out.is_dir():
            out.rmdir()
        partial.replace(out)
    except BaseException:
        _remove(partial)
        raise
    return told


def _remove(path: Path) -> None:
    """Remove a file or a folder that may be there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _write(captures: Iterable[Entry], put: Callable[[str, bytes], object]) -> tuple[int, list[str]]:
    tasks: list[Any] = []
    lines: list[bytes] = []
    unread: list[str] = []
    root = ET.Element("annotations")
    ET.SubElement(root, "version").text = "1.1"
    for entry in captures:
        try:
            facts, image = entry.facts(), entry.image()
            task, shapes = (json.loads((entry.folder / name).read_bytes()) for name in ("labelstudio.json", "cvat.json"))
            name, data = f"{entry.name}{image.suffix}", image.read_bytes()
            task["data"]["image"] = f"{LOCAL_FILES}{name}"
            _add_image(root, len(tasks), name, facts["size"], shapes["shapes"])
        except (OSError, ValueError, LookupError, TypeError) as error:
            unread.append(f"{entry.name}: {error}")
            continue
        put(f"images/{name}", data)
        tasks.append(task)
        lines.append(to_json({"image": f"images/{name}", **{key: value for key, value in facts.items() if key != "image"}}))
    put("labelstudio.json", to_json(tasks))
    put("annotations.xml", ET.tostring(root, encoding="utf-8", xml_declaration=True))
    put("captures.jsonl", b"".join(line + b"\n" for line in lines))
    return len(tasks), unread


def _add_image(root: ET.Element, number: int, name: str, size: list[int], shapes: list[dict[str, Any]]) -> None:
    """Add an image with its masks, as CVAT's XML has them."""
    height, width = size
    image = ET.SubElement(root, "image", id=str(number), name=name, width=str(width), height=str(height))
    for shape in shapes:
        *runs, left, top, right, bottom = shape["points"]
        ET.SubElement(
            image,
            "mask",
            label=shape["label"],
            source="auto",
            occluded="0",
            rle=", ".join(map(str, runs)),
            left=str(left),
            top=str(top),
            width=str(right - left + 1),
            height=str(bottom - top + 1),
            z_order="0",
        )
