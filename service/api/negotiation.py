"""Which format a reply has: the query's, or else the best that ``Accept`` allows."""

from __future__ import annotations

from service.encodings import DEFAULT_FORMAT, FORMATS, VOLUME_FORMAT, check_volume
from service.errors import UnsupportedFormat


def chosen_format(wanted: str | None, accept: str | None, *, volume: bool = False) -> str:
    """Choose a format.

    Takes:
        wanted: its name, as the query says it; wins over ``accept``
        accept: the header: media ranges with weights (RFC 9110, section 12.5.1)
        volume: whether the labels are those of a scan
    Gives:
        a name in ``FORMATS``; the first of those with the same weight; PNG if nothing is asked for, NIfTI of a scan
    Raises:
        UnsupportedFormat: if there is no such format, or if none is acceptable
    """
    if wanted is not None:
        check_volume(wanted, volume=volume)
        return wanted
    first = VOLUME_FORMAT if volume else DEFAULT_FORMAT
    if not accept:
        return first
    ranges = dict(_weighted(media_range) for media_range in accept.split(","))
    able = [first, *(name for name, form in FORMATS.items() if form.volumes != ("no" if volume else "only"))]
    best = max(able, key=lambda name: _weight(FORMATS[name].media_type, ranges))
    if not _weight(FORMATS[best].media_type, ranges):
        offered = list(dict.fromkeys(FORMATS[name].media_type for name in able))
        raise UnsupportedFormat(f"Accept allows none of {', '.join(offered)}", allowed=list(dict.fromkeys(able)))
    return best


def accepts_zip(accept: str | None) -> bool:
    """Return whether ``Accept`` names ``application/zip``, which several masks come back as."""
    return dict(_weighted(media_range) for media_range in (accept or "").split(",")).get("application/zip", 0.0) > 0


def _weighted(media_range: str) -> tuple[str, float]:
    name, *parameters = (word.strip().lower() for word in media_range.split(";"))
    weights = [parameter.removeprefix("q=") for parameter in parameters if parameter.startswith("q=")]
    try:
        return name, min(max(float(weights[0]), 0.0), 1.0) if weights else 1.0
    except ValueError:
        return name, 1.0


def _weight(media_type: str, ranges: dict[str, float]) -> float:
    """The weight of the most specific range that covers a media type; 0 if none does."""
    for media_range in (media_type, media_type.partition("/")[0] + "/*", "*/*"):
        if media_range in ranges:
            return ranges[media_range]
    return 0.0
