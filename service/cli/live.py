"""``fcn-serve live``: reads the command line, has the loop run, and prints what came of it."""

from __future__ import annotations

import contextlib
import logging.config
import signal
import time
from collections.abc import Iterator, Mapping
from typing import Annotated

import typer

from service.cli import FAILED
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
from service.compose import limits_of
from service.errors import BadSetting
from service.live.counters import Counters
from service.live.loop import Bell, run
from service.live.options import LiveOptions, Qos
from service.live.registry import SINKS, SOURCES, examples, open_sink, open_source, shows_things
from service.live.segmenter import OwnNetwork, RunningService, Segmenter
from service.live.sources.addresses import without_password
from service.log import flush, log_config
from service.settings import Settings

_SERVER_WAIT_S = 1.0


def live(
    sources: Annotated[
        list[str], typer.Option("--from", metavar="SOURCE", help=f"A camera; may be repeated: {examples(SOURCES)}.")
    ],
    sinks: Annotated[
        list[str], typer.Option("--to", metavar="SINK", help=f"Where masks go; may be repeated: {examples(SINKS)}.")
    ],
    model: Annotated[str | None, typer.Option(help="The model's name; the default one if left out.")] = None,
    classes: Classes = None,
    min_confidence: MinConfidence = 0.0,
    ids: Ids = None,
    rate: Annotated[
        float | None, typer.Option(min=0.01, help="The most masks a second of each source.", show_default=False)
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="A running fcn-serve, instead of a network in this process. Its key: FCN_API_KEYS, the first."
        ),
    ] = None,
    from_qos: Annotated[
        Qos, typer.Option(help="Topics of ROS 2: the quality of service of subscriptions; sensor-data takes any publisher.")
    ] = "sensor-data",
    to_qos: Annotated[Qos, typer.Option(help="Topics of ROS 2: the quality of service of masks.")] = "sensor-data",
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
    ground_frame: Annotated[
        str, typer.Option(help="Topic freespace: its frame id, on the ground below the camera, x ahead.")
    ] = "base_footprint",
) -> None:
    """Segment cameras as their frames come, until Ctrl-C. The newest frame wins; stamps stay untouched."""
    settings = Settings.load()
    logging.config.dictConfig(log_config(settings.log_format, settings.log_level))
    driving = {
        "drivable": drivable,
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
    driving = {name: value for name, value in driving.items() if value is not None}
    if driving and not any(sink.startswith("ros2:") for sink in sinks):
        raise BadSetting(f"--{next(iter(driving)).replace('_', '-')} is for the topic freespace of --to ros2:/NAME")
    options = LiveOptions(
        limits=limits_of(settings),
        model=model,
        classes=tuple(classes or ()),
        min_confidence=min_confidence,
        ids=ids,
        rate_hz=rate,
        server=server,
        from_qos=from_qos,
        to_qos=to_qos,
        things=any(map(shows_things, sinks)),
        driving=driving,
        ground_frame=ground_frame,
    )
    for option, addresses in (("--from", sources), ("--to", sinks)):
        twice = next((each for each in addresses if addresses.count(each) > 1), None)
        if twice is not None:
            raise BadSetting(f"{option} {without_password(twice)} is named twice")
    receiving = [open_source(address, options) for address in sources]
    sending = [open_sink(address, options) for address in sinks]
    bell = Bell()
    with _stopped_by_signals(bell), _network(settings, server, options, bell) as network:
        if network is None:
            return
        begun = time.monotonic()
        counters = run(receiving, sending, network, options, bell)
    _summarise(counters, time.monotonic() - begun, stopped=bell.stopped)


@contextlib.contextmanager
def _stopped_by_signals(bell: Bell) -> Iterator[None]:
    """End the loop in order at the first Ctrl-C or SIGTERM; a second one ends the process at once."""

    def stop(number: int, _: object) -> None:
        bell.stop()
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _network(settings: Settings, server: str | None, options: LiveOptions, bell: Bell) -> Iterator[Segmenter | None]:
    """Open the network, or wait for the service; None if the run ends before it is there."""
    if server is None:
        with opened(settings) as predictor:
            yield OwnNetwork(predictor, options)
        return
    from service.client import Client, ConnectionFailed, TimedOut, Timeouts  # noqa: PLC0415

    key = next((key.get_secret_value() for key in settings.api_keys), None)
    with Client(server, api_key=key, retries=0, timeouts=Timeouts(total_s=10)) as client:
        network, told = None, False
        while network is None and not bell.stopped:
            try:
                network = RunningService(client, options)
            except (ConnectionFailed, TimedOut) as error:
                if not told:
                    logging.getLogger(__name__).warning("waiting for %s: %s", server, error.message)
                told = True
                bell.wait(_SERVER_WAIT_S)
        yield network


def _summarise(counters: Mapping[str, Counters], seconds: float, *, stopped: bool) -> None:
    """Print one line a source on the standard error, and end with status 1 if a run that ended by itself made no mask."""
    flush()
    for address, each in counters.items():
        now = each.snapshot()
        rate = now.masks / seconds if seconds else 0.0
        late = "" if now.latency_ms is None else f"; latency {now.latency_ms:.0f} ms, 99 % within {now.latency_p99_ms:.0f} ms"
        failed = f", {now.failed} failed" if now.failed else ""
        typer.echo(
            f"{address}: {now.masks} masks of {now.received} frames in {seconds:.1f} s ({rate:.1f} a second), "
            f"{now.dropped} dropped{failed}{late}",
            err=True,
        )
    if not stopped and not any(each.snapshot().masks for each in counters.values()):
        raise typer.Exit(FAILED)
