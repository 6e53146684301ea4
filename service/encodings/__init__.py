"""Label map to bytes and back: one file a format, each with its ``FORMAT``, and ``registry`` with the list of them.

A format's file writes and reads label maps; its ``FORMAT`` object says its name, suffix, media type and options. OpenAPI, the
negotiation of ``Accept``, the table in docs/formats.md, the client, the command line and the page all read the registry.

numpy is enough for every format. Where isal and orjson are missing, the standard library does their work. Legends need Pillow;
components and polygons with a tolerance need OpenCV. Both are imported where they are used.
"""

from service.encodings.by_rows import RowWriter, Sheet
from service.encodings.document import to_json
from service.encodings.format import Format
from service.encodings.geo import Geo
from service.encodings.options import Options
from service.encodings.query import understood, understood_together
from service.encodings.registry import (
    DEFAULT_FORMAT,
    FORMATS,
    PICTURE_FORMATS,
    VOLUME_FORMAT,
    by_rows,
    check_gathers,
    check_volume,
    decode,
    encode,
    format_named,
    gather,
    uses_confidence,
)
from service.encodings.several import Encoded, Named
from service.encodings.shares import uncertain
from service.encodings.things import Instances
from service.encodings.view import MaskView, ModelFacts
from service.encodings.volume import VolumeFacts

__all__ = [
    "DEFAULT_FORMAT",
    "FORMATS",
    "PICTURE_FORMATS",
    "VOLUME_FORMAT",
    "Encoded",
    "Format",
    "Geo",
    "Instances",
    "MaskView",
    "ModelFacts",
    "Named",
    "Options",
    "RowWriter",
    "Sheet",
    "VolumeFacts",
    "by_rows",
    "check_gathers",
    "check_volume",
    "decode",
    "encode",
    "format_named",
    "gather",
    "to_json",
    "uncertain",
    "understood",
    "understood_together",
    "uses_confidence",
]
