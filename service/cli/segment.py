"""``fcn-serve segment``: reads the command line, has the run done, and prints what came of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from service.batch.config import RunConfig
from service.batch.inputs import Inputs, gather, is_scan
from service.batch.run import Plan, Report, run
from service.batch.sources import Source
from service.batch.sources.bag import BAG_FORMAT, BAG_THINGS, is_mcap, plan_bags
from service.batch.sources.images import plan_images
from service.batch.sources.video import plan_videos
from service.batch.targets import Write, spoken
from service.cli import FAILED, INTERRUPTED
from service.cli.opened import opened
from service.cli.options import (
    Beams,
    CameraHeight,
    CameraPitch,
    Classes,
    Cx,
    Cy,
    Drivable,
    EgoRows,
    Fx,
    Fy,
    Ids,
    MinConfidence,
    RangeMax,
)
from service.cli.progress import progress
from service.cluster.session import ADDRESS
from service.encodings import DEFAULT_FORMAT, FORMATS, VOLUME_FORMAT, understood, understood_together
from service.encodings.palettes import MODEL, PALETTES
from service.errors import BadSetting
from service.pipeline.tiling import Halo, Resolution, check_native
from service.settings import Settings

OFFLINE_FORMATS = ("png", "overlay", "rle", BAG_FORMAT)
"""The formats of videos and bags."""
OF_IMAGES, OF_VIDEOS = (Write.MASKS, Write.OVERLAYS), (Write.RLE, Write.OVERLAYS)
"""What is written if nothing is asked for."""


THIS_MACHINE = "local"
"""What stands for the address of ``--cluster`` where none is given."""


class Command(TyperCommand):
    """``--cluster`` takes a value or none: the next word is its address only if it has the form of one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line."""
        options = args[: args.index("--")] if "--" in args else args
        words = [
            f"--cluster={THIS_MACHINE}" if word == "--cluster" and not ADDRESS.fullmatch(following) else word
            for word, following in zip(options, [*options[1:], ""], strict=False)  # one more than none, where there is none
        ]
        return super().parse_args(ctx, [*words, *args[len(options) :]])


def _able(option: str) -> str:
    return ", ".join(name for name, form in FORMATS.items() if option in form.takes)


def segment(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH...", help="Images, scans, videos, bags of ROS 2 or 1, folders, or patterns."),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results, or the .mcap of a bag; beside each file by default.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model's name; the default one if left out.")] = None,
    name: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help=f"Of images' masks: {', '.join(FORMATS)}.",
            autocompletion=lambda incomplete: [each for each in FORMATS if each.startswith(incomplete)],
        ),
    ] = DEFAULT_FORMAT,
    classes: Classes = None,
    min_confidence: MinConfidence = 0.0,
    ids: Ids = None,
    statistics: Annotated[
        bool, typer.Option("--statistics", help="JSON: the bounding box and the mean confidence of each mask.")
    ] = False,
    legend: Annotated[bool, typer.Option("--legend", help="Overlays: names and colours of the classes present.")] = False,
    instances: Annotated[
        bool,
        typer.Option(
            "--instances",
            help=f"{_able('instances')}: a mask for each thing of the countable classes. Bags: bounding boxes as a topic.",
        ),
    ] = False,
    min_area: Annotated[
        int, typer.Option(min=0, help="With --instances: smaller things, in pixels, are dropped.", show_default=False)
    ] = 0,
    tolerance: Annotated[
        float,
        typer.Option(
            min=0,
            max=100,
            help=f"{_able('tolerance')}: how far outlines may stray, in pixels; 0 is exact.",
            show_default=False,
        ),
    ] = 0.0,
    palette: Annotated[
        str,
        typer.Option(
            help=f"{_able('palette')}: the class table's own colours, or bright ones that can be told apart.",
            autocompletion=lambda incomplete: [each for each in PALETTES if each.startswith(incomplete)],
        ),
    ] = MODEL,
    resolution: Annotated[
        Resolution,
        typer.Option(help="The size that the network sees: that of its training, or the picture's own, in exact tiles."),
    ] = "working",
    halo: Annotated[
        Halo,
        typer.Option(help="Of tiles: the labels of one run, or the model's measured reach, which is faster; see its card."),
    ] = "exact",
    drivable: Drivable = None,
    ego_rows: EgoRows = None,
    fx: Fx = None,
    fy: Fy = None,
    cx: Cx = None,
    cy: Cy = None,
    camera_height: CameraHeight = None,
    camera_pitch: CameraPitch = None,
    range_max: RangeMax = None,
    beams: Beams = None,
    write: Annotated[
        list[Write] | None,
        typer.Option(help="What to write; may be repeated. Left out: masks and overlays, of videos rle and overlays."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Do again what is finished.")] = False,
    topic: Annotated[list[str] | None, typer.Option(help="Image topic of a bag; may be repeated. All by default.")] = None,
    copy: Annotated[bool, typer.Option("--copy", help="Copy a bag's other topics beside its masks.")] = False,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="[ADDRESS]",
            help="Work on a Ray cluster: HOST:PORT of its head, or auto on a node; without an address on one of this machine.",
        ),
    ] = None,
) -> None:
    """Segment image files, videos and bags without a server. Run again, it goes on where it stopped.

    The options of the masks have the names of the query of POST /segment.
    """
    settings = Settings.load()
    found = gather(paths, out)
    scans = [entry for entry in found.images if is_scan(entry.path)]
    if scans and name == DEFAULT_FORMAT:
        name = VOLUME_FORMAT
    _check(found, out=out, name=name, write=write, topic=topic, copy=copy)
    if scans and (len(scans) < len(found.images) or found.videos or found.bags):
        raise BadSetting("scans and pictures need different models: segment them one after the other")
    query: dict[str, Any] = {"classes": classes or (), "min_confidence": min_confidence, "ids": ids}
    more: dict[str, Any] = {
        "statistics": statistics,
        "legend": legend,
        "instances": instances,
        "min_area": min_area,
        "tolerance": tolerance,
        "palette": palette,
        "drivable": drivable or (),
        "ego_rows": ego_rows,
        "fx": fx,
        "fy": fy,
        "cx": cx,
        "cy": cy,
        "camera_height": camera_height,
        "camera_pitch": camera_pitch,
        "range_max": range_max,
        "beams": beams,
    }
    # On a cluster the workers run the network: this machine may have no GPU.
    with opened(settings if cluster is None else settings.model_copy(update={"provider": "cpu"})) as predictor:
        engine = (predictor.scan_engine() if scans and model is None else None) or predictor.repository.get(model)
        check_native(engine.manifest, resolution, halo)
        table = engine.manifest.classes
        options = understood_together(OFFLINE_FORMATS, table, **query)
        if found.bags and (instances or min_area):  # the other formats that may stand beside a bag have no things
            of_things = {option: more.pop(option) for option in ("instances", "min_area")}
            options[BAG_THINGS] = understood(BAG_THINGS, table, **query, **of_things)
        options |= understood_together(sorted(_written(found, write, name)), table, **query, **more)
        begun = time.monotonic()
        with Plan(RunConfig(engine, options, predictor.limits, resolution, halo, overwrite)) as plan:
            plan.report.failures += found.failures
            plan.report.total += len(found.failures)
            plan.targets.spare(entry.path for entry in (*found.videos, *found.bags))
            try:
                plan.hold(found.roots)
                sources = list(_sources(plan, found, out, write, name, topic or [], copy=copy))
                for sentence in plan.again():
                    typer.echo(sentence)
                with progress() as bar:
                    if cluster is None:
                        run(sources, predictor, plan, bar)
                    else:
                        from service.cluster.segment import run as run_on_cluster  # noqa: PLC0415

                        head = None if cluster == THIS_MACHINE else cluster
                        relative = not all(path.is_absolute() for path in (*paths, out or Path("/")))
                        run_on_cluster(sources, plan, settings, bar, head, Path.cwd() if relative else None)
            except KeyboardInterrupt:
                how_far = plan.report.progress()
                typer.echo(
                    f"interrupted after {how_far}; what was written is whole, and the same command goes on from here", err=True
                )
                raise typer.Exit(INTERRUPTED) from None
    if plan.report.missing and not (plan.report.done or plan.report.skipped):
        raise BadSetting(plan.report.missing)
    _summarise(plan.report, f"{engine.manifest.name}@{engine.manifest.version}", time.monotonic() - begun, found.roots)


def _check(
    found: Inputs,
    *,
    out: Path | None,
    name: str,
    write: Sequence[Write] | None,
    topic: Sequence[str] | None,
    copy: bool,
) -> None:
    """Refuse options that would do nothing.

    Raises:
        BadSetting: naming the option and what it is for
    """
    if name != DEFAULT_FORMAT and (found.videos or found.bags):
        raise BadSetting("--format is for images: the masks of videos are PNGs or run lengths, those of bags messages")
    if write and not (found.images or found.videos):
        raise BadSetting("--write is for images and videos: a bag becomes a bag")
    if (topic or copy) and not found.bags:
        raise BadSetting("--topic and --copy are for bags, and none is named")
    if out is not None and is_mcap(out) and (found.images or found.videos or len(found.bags) > 1):
        raise BadSetting(f"--out {out} is a file, for the masks of one bag alone: name a folder")


def _written(found: Inputs, write: Sequence[Write] | None, name: str) -> set[str]:
    """Return the formats that are written."""
    formats: set[str] = set()
    for inputs, default, masks in ((found.images, OF_IMAGES, name), (found.videos, OF_VIDEOS, DEFAULT_FORMAT)):
        names = {Write.MASKS: masks, Write.OVERLAYS: "overlay", Write.RLE: "rle"}
        formats |= {names[each] for each in write or default} if inputs else set()
    return formats | ({BAG_FORMAT} if found.bags else set())


def _sources(
    plan: Plan,
    found: Inputs,
    out: Path | None,
    write: Sequence[Write] | None,
    name: str,
    topics: Sequence[str],
    *,
    copy: bool,
) -> Iterator[Source[Any]]:
    """Give what there is to do: images together, then one video and one bag after the other."""
    if found.images:
        images = plan_images(plan, found.images, out, write or OF_IMAGES, name)
        if images.jobs:
            yield images
    yield from plan_videos(plan, found.videos, write or OF_VIDEOS)
    yield from plan_bags(plan, found.bags, out, topics, copy=copy)


def _summarise(report: Report, model: str, seconds: float, roots: Sequence[Path]) -> None:
    """Print what came of a run, and end with its exit code."""
    rate = f" in {seconds:.1f} s, {report.done / seconds:.1f} frames/s" if report.done else ""
    skipped = f"; {report.skipped} were finished before" if report.skipped else ""
    typer.echo(f"{report.done} of {report.total} segmented with {model}{rate}{skipped}")
    if report.done or report.skipped:
        more = f" and {len(roots) - 3} more" if len(roots) > 3 else ""
        typer.echo(f"  the results are in {', '.join(spoken(root) for root in roots[:3])}{more}")
    for note in report.notes:
        typer.echo(f"  {note}")
    for path, why in report.failures:
        typer.echo(f"  {spoken(path)}: {why}", err=True)
    if report.failures:
        raise typer.Exit(FAILED)
