"""The list of formats, and how one is written and read by its name.

``FORMATS`` holds every value of ``format=``. To add a format: write its file, add its line here, and write its test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from service.encodings import (
    autoware,
    coco,
    coco_dataset,
    coco_uncompressed,
    color,
    confidence,
    cvat,
    freespace,
    freespace_binary,
    geojson,
    gray,
    instance_ids,
    labelme,
    labelstudio,
    nifti,
    npy,
    overlay,
    panoptic,
    png,
    polygons,
    rle,
    tiff,
    yolo,
)
from service.encodings.by_rows import ByRows
from service.encodings.format import Format, Labels
from service.encodings.options import Options
from service.encodings.several import Encoded, Named
from service.encodings.view import MaskView
from service.errors import BadParameter, UnsupportedFormat

DEFAULT_FORMAT = "png"
VOLUME_FORMAT = "nifti"
"""The default of a scan."""

FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        png.FORMAT,
        rle.FORMAT,
        coco.FORMAT,
        coco_uncompressed.FORMAT,
        coco_dataset.FORMAT,
        panoptic.FORMAT,
        instance_ids.FORMAT,
        labelstudio.FORMAT,
        cvat.FORMAT,
        labelme.FORMAT,
        yolo.FORMAT,
        polygons.FORMAT,
        geojson.FORMAT,
        autoware.FORMAT,
        overlay.FORMAT,
        color.FORMAT,
        gray.FORMAT,
        npy.FORMAT,
        tiff.FORMAT,
        confidence.FORMAT,
        freespace.FORMAT,
        freespace_binary.FORMAT,
        nifti.FORMAT,
    )
}
"""Every format by name; where several share a media type, ``Accept`` gets the first one."""


PICTURE_FORMATS = tuple(name for name, form in FORMATS.items() if form.volumes != "only")
"""Names of the formats that write the mask of an image."""


def format_named(name: str) -> Format:
    """Find a format.

    Raises:
        UnsupportedFormat: naming those that exist
    """
    chosen = FORMATS.get(name)
    if chosen is None:
        raise UnsupportedFormat(f"no format {name[:64]!r}; there are {', '.join(FORMATS)}", allowed=list(FORMATS))
    return chosen


def check_volume(name: str, *, volume: bool) -> None:
    """Check that a format writes labels of a scan, or of an image.

    Raises:
        UnsupportedFormat: naming the formats that do
    """
    unable = "no" if volume else "only"
    if format_named(name).volumes == unable:
        able = [other for other, form in FORMATS.items() if form.volumes != unable]
        raise UnsupportedFormat(f"{name} is not for {'scans' if volume else 'images'}; {', '.join(able)} are", allowed=able)


def encode(name: str, view: MaskView) -> Encoded:
    """Write a mask in the format of that name, with what the view's options ask for.

    Raises:
        UnsupportedFormat: naming those that exist
    """
    check_volume(name, volume=view.volume is not None)
    chosen = format_named(name)
    if chosen.things:
        view = replace(view, options=replace(view.options, instances=True))
    return Encoded(chosen.encode(view.selected()), chosen.media_type)


def by_rows(name: str, options: Options) -> ByRows:
    """Return how a format writes the mask of a picture that is read by rows.

    Raises:
        UnsupportedFormat: naming the formats that do
        BadParameter: if an option needs the whole mask
    """
    chosen = format_named(name)
    if chosen.by_rows is None:
        able = [other for other, form in FORMATS.items() if form.by_rows]
        raise UnsupportedFormat(
            f"{name} needs the whole mask at once, and this image is read by rows, because it is large; "
            f"{', '.join(able)} are written by rows",
            allowed=able,
        )
    asked = {"instances": options.instances, "statistics": options.statistics, "legend": options.legend}
    for option, is_asked in asked.items():
        if is_asked:
            raise BadParameter(
                f"{option} needs the whole mask at once, and this image is read by rows, because it is large; leave it out",
                parameter=option,
            )
    return chosen.by_rows


def uses_confidence(name: str, options: Options) -> bool:
    """Whether a mask in this format, with these options, needs the confidence of every pixel."""
    return format_named(name).confident or options.statistics or options.min_confidence > 0


def gather(name: str, masks: Sequence[Named]) -> Encoded:
    """Make one reply of the masks of a request's images.

    Takes:
        name: of the format
        masks: each image's mask as :func:`encode` wrote it, in the order of the images; at least one
    Gives:
        the mask itself where there is one; otherwise a list, a zip or one document, as the format says
    Raises:
        UnsupportedFormat: see :func:`check_gathers`
    """
    check_gathers(name, len(masks))
    chosen = format_named(name)
    if len(masks) == 1 or chosen.gather is None:
        return Encoded(masks[0].body, chosen.media_type)
    return Encoded(chosen.gather.join(masks), chosen.gather.media_type)


def check_gathers(name: str, images: int) -> None:
    """Reject several images where a format has no form for several masks.

    Raises:
        UnsupportedFormat: naming the formats that have one
    """
    if images > 1 and format_named(name).gather is None:
        able = [other for other, form in FORMATS.items() if form.gather]
        raise UnsupportedFormat(
            f"{name} holds one image a request; several images come back as {', '.join(able)}", allowed=able
        )


def decode(name: str, body: bytes, size: tuple[int, int] | None = None) -> Labels:
    """Read a mask back.

    Takes:
        name: of the format
        body: what was written
        size: (height, width), for a format that does not say it
    Gives:
        H x W uint8; 255 is unlabelled
    Raises:
        UnsupportedFormat: if there is no such format, or if it does not hold labels
        ValueError: if the body is not of that format
    """
    chosen = format_named(name)
    if chosen.decode is not None:
        return chosen.decode(body)
    if chosen.decode_sized is not None and size is not None:
        return chosen.decode_sized(body, size)
    able = [other for other, form in FORMATS.items() if form.decode]
    hint = "does not say its size: it needs a size" if chosen.decode_sized else "holds no labels"
    raise UnsupportedFormat(f"{name} {hint}; {', '.join(able)} hold labels and their size", allowed=able)
