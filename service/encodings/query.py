"""The query of a request for a mask, understood and checked before anything is computed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from service.encodings import palettes, selection, tables, things
from service.encodings.driving import TAKES as OF_DRIVING
from service.encodings.driving import understood_driving
from service.encodings.options import Options
from service.encodings.registry import FORMATS, format_named
from service.encodings.runs import ClassRow
from service.errors import BadParameter


def understood(
    name: str,
    table: Sequence[ClassRow],
    *,
    classes: Iterable[str] = (),
    min_confidence: float = 0.0,
    ids: str | None = None,
    statistics: bool = False,
    legend: bool = False,
    instances: bool = False,
    min_area: int = 0,
    tolerance: float = 0.0,
    palette: str = "model",
    **driving: Any,
) -> Options:
    """Understand a caller's query.

    Takes:
        name: of the format
        table: the model's class table
        the others: as the query of ``POST /segment`` has them; ``driving`` are those of ``understood_driving``
    Raises:
        UnsupportedFormat: if there is no such format
        BadParameter: if the format does not take an option, naming the formats that do; if a table or a number makes no sense
        UnknownClass: if the model has no such class
    """
    words = list(classes)
    if unknown := driving.keys() - OF_DRIVING:
        raise TypeError(f"no such option: {', '.join(sorted(unknown))}")
    wanted = {
        "statistics": statistics,
        "legend": legend,
        "instances": instances,
        "tolerance": tolerance > 0,
        "min_area": min_area > 0,
        "palette": palettes.is_bright(palette),
        **{option: value not in (None, [], ()) for option, value in driving.items()},
    }
    chosen = format_named(name)
    for option, asked in wanted.items():
        if asked and option not in chosen.takes:
            able = [other for other, form in FORMATS.items() if option in form.takes]
            reason = f"{option} means nothing to {name}; it is for format={', '.join(able)}"
            raise BadParameter(reason, parameter=option, allowed=able)
    instances = instances or chosen.things
    if min_area and not instances:
        raise BadParameter("min_area is for the components of instances=true", parameter="min_area")
    translation = None if ids is None else tables.translation(ids, table)
    written = table if translation is None else [row for row in translation.targets if row is not None]
    if instances and not chosen.things:
        things.check_countable(written)
    if chosen.check is not None:
        chosen.check(written)
    return Options(
        min_confidence=min_confidence,
        keep=selection.class_ids(words, table) if words else None,
        translation=translation,
        statistics=statistics,
        legend=legend,
        instances=instances,
        min_area=min_area,
        tolerance=tolerance,
        bright=palettes.is_bright(palette),
        driving=understood_driving(written, **driving) if chosen.takes >= OF_DRIVING else None,
    )


def understood_together(names: Sequence[str], table: Sequence[ClassRow], **query: Any) -> dict[str, Options]:
    """Understand a caller's query for several formats at once; an option that only some of them take is for those alone.

    Takes:
        names: of the formats
        table, query: as for :func:`understood`
    Gives:
        the options of each format
    Raises:
        as :func:`understood`; BadParameter, too, if none of the formats takes an option
    """
    taken = frozenset().union(*(format_named(name).takes for name in names))
    made = {}
    for name in names:
        others = taken - format_named(name).takes
        mine = {option: value for option, value in query.items() if option not in others}
        made[name] = understood(name, table, **mine)
    return made
