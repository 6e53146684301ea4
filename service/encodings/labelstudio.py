"""Label Studio's brush masks, one a class present (or a thing), as a prediction that it imports.

``{"size": [H, W], "classes": [...], "model_version": "...", "result": [{"type": "brushlabels", "value": {"format": "rle",
"rle": [...], "brushlabels": ["road"]}, "original_width": W, "original_height": H, ...}]}``

``rle`` is the thi.ng rle-pack of the mask as an RGBA image, of which Label Studio uses the alpha: a bit stream, most
significant bit first, as a list of bytes. A header says how many values there are (32 bits), how many bits a value has less
one (5), and four sizes of a run's length in bits less one (4 each). Each run is a flag (1: repeated, 0: spelt out), which of
the four sizes its length has (2), its length less one, and its value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.encodings.document import reading, size_of
from service.encodings.format import json_format
from service.encodings.runs import (
    UNLABELLED,
    ClassRow,
    ValueMap,
    all_runs,
    find_runs,
    masks_present,
    rows_present,
    value_of,
)

CHANNELS = 4
"""Red, green, blue, alpha: Label Studio's masks are canvases."""

_INSIDE = 255
_WORD = 8
_SIZES = (3, 4, 8, 16)
"""Bits of a run's length: those that Label Studio's own tools write."""
_HEADER = 32 + 5 + 4 * len(_SIZES)


def encode(
    labels: ValueMap, classes: Iterable[ClassRow], *, from_name: str = "brush", to_name: str = "image"
) -> dict[str, Any]:
    """Encode each class that has a pixel as a brush region of its own.

    Takes:
        labels: H x W, H and W at least 1
        classes: the class table, or the masks that ``things.split`` made of it
        from_name, to_name: the names of ``<BrushLabels>`` and ``<Image>`` in the labelling configuration
    Gives:
        the document, ready for JSON; regions in the order of ``classes``
    """
    height, width = labels.shape
    values, lengths = find_runs(labels.reshape(-1))
    rows = rows_present(values, classes)
    runs = all_runs(values, lengths).by_value()
    regions = []
    for number, row in enumerate(rows):
        regions.append(
            {
                "id": f"mask{number}",
                "type": "brushlabels",
                "from_name": from_name,
                "to_name": to_name,
                "image_rotation": 0,
                "original_width": width,
                "original_height": height,
                "value": {
                    "format": "rle",
                    "rle": pack(runs[value_of(row)]).tolist(),
                    "brushlabels": [row.name],
                },
            }
        )
    return {"size": [height, width], "classes": masks_present(values, lengths, rows), "result": regions}


def decode(document: Mapping[str, Any]) -> NDArray[np.uint8]:
    """Decode a document back into its label map.

    Takes:
        document: as ``encode`` gives it
    Gives:
        H x W uint8; 255 where no class is
    Raises:
        ValueError: if a field is missing or makes no sense, or if a region's runs do not fill the size exactly
    """
    with reading("Label Studio's brush masks"):
        height, width = size_of(document)
        labels = np.full(height * width, UNLABELLED, np.uint8)
        for entry, region in zip(document["classes"], document["result"], strict=True):
            alpha = unpack(region["value"]["rle"], height * width * CHANNELS)[CHANNELS - 1 :: CHANNELS]
            labels[alpha > 0] = entry["id"]
    return labels.reshape(height, width)


def pack(runs: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Write a mask as thi.ng's bit stream.

    Takes:
        runs: int64, the mask's pixels outside, inside, outside, ...
    Gives:
        uint8, the bytes; the same as ``label_studio_sdk.converter.brush.mask2rle`` gives for the mask
    """
    values = np.where(np.arange(runs.size) % 2 == 1, _INSIDE, 0)[runs > 0]
    lengths = runs[runs > 0] * CHANNELS
    # A run of more than the longest length is several of it and the rest.
    longest = 1 << _SIZES[-1]
    pieces = -(-lengths // longest)
    last = np.cumsum(pieces) - 1
    part = np.full(int(pieces.sum()), longest)
    part[last] = lengths - (pieces - 1) * longest
    size = np.repeat(np.minimum(np.searchsorted(1 << np.array(_SIZES), lengths), len(_SIZES) - 1), pieces)
    width = np.array(_SIZES)[size]
    words = ((((0b100 | size) << width) | (part - 1)) << _WORD) | np.repeat(values, pieces)
    header = int(lengths.sum())
    for value, bits in ((_WORD - 1, 5), *((each - 1, 4) for each in _SIZES)):
        header = (header << bits) | value
    return np.packbits(_bits(np.append(header, words), np.append(_HEADER, 1 + 2 + width + _WORD)))


def unpack(rle: Sequence[int], expected: int) -> NDArray[np.uint8]:
    """Read thi.ng's bit stream.

    Takes:
        rle: the bytes
        expected: how many values there must be: the stream may not ask for more memory than its image needs
    Gives:
        ``expected`` uint8
    Raises:
        ValueError: if it holds another number of values, or values of more than 8 bits, or ends early
    """
    bits = np.unpackbits(np.asarray(rle, np.uint8))
    text = bits.tobytes().translate(_DIGITS).decode("ascii")

    def read(start: int, end: int) -> int:
        if end > len(text):
            raise ValueError("the bit stream ends within a run")
        return int(text[start:end], 2)

    total, word = read(0, 32), read(32, 37) + 1
    sizes = [read(at, at + 4) + 1 for at in range(37, _HEADER, 4)]
    if total != expected or word > _WORD:
        raise ValueError(f"the bit stream holds {total} values of {word} bits, not {expected} of up to {_WORD}")
    values = np.empty(total, np.uint8)
    at, done = _HEADER, 0
    while done < total:
        repeated, size = read(at, at + 1), sizes[read(at + 1, at + 3)]
        end = done + read(at + 3, at + 3 + size) + 1
        at += 3 + size
        if end > total:
            raise ValueError(f"the bit stream holds more than the {total} values that it says")
        spelt = 1 if repeated else end - done
        read(at, at + word * spelt)
        digits = bits[at : at + word * spelt].reshape(spelt, word)
        values[done:end] = np.packbits(digits, axis=1)[:, 0] >> (_WORD - word)
        at, done = at + word * spelt, end
    return values


_DIGITS = bytes((ord("0"), ord("1"))) + bytes(254)


def _bits(words: NDArray[np.int64], widths: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Words of various widths one after another, most significant bit first, then 1 to 8 zeros up to a whole byte."""
    ends = np.cumsum(widths)
    total = int(ends[-1])
    bits = np.zeros(total + 8 - total % 8, np.uint8)
    shift = np.repeat(ends, widths) - 1 - np.arange(total)
    bits[:total] = (np.repeat(words, widths) >> shift) & 1
    return bits


FORMAT = json_format(
    "labelstudio",
    "Label Studio's brush masks, as a prediction that it imports.",
    lambda labels, rows, view: encode(labels, rows) | {"model_version": f"{view.model.name}@{view.model.version}"},
    decode,
    "instances",
    "min_area",
)
