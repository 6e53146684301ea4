"""``fcn-serve segment --cluster``: the work of a run by Ray Data, over paths.

The driver plans the run, holds its lock and writes its records and lines, as a run without a cluster does. Workers
(``service.cluster.worker``) read the files and write the results. A frame never leaves the machine that decoded it.
"""

from __future__ import annotations

import logging
import pickle
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from service import __version__
from service.batch.run import Plan, Progress, Report
from service.batch.sources import Source
from service.batch.sources.images import Images
from service.cluster.session import connected, places
from service.cluster.worker import Assignment, Outcome, Worker
from service.errors import BadSetting, InferenceFailed
from service.settings import Settings

MOST_FILES = 16
"""Images of one task. A task costs the driver some milliseconds; a worker that is killed repeats what it has in hand."""
TASKS_A_WORKER = 8
"""Tasks of images for each worker, at the least: the last ones end together."""
RETRIES = 3
"""Times that a task is begun again whose worker was lost."""

LOST = "its worker ended each time that it was tried: see the memory of the nodes, and the file"

Parts = dict[int, Source[Any]]
"""Tasks by rank: the place of their first file among all files of the run."""


def run(
    sources: Sequence[Source[Any]],
    plan: Plan,
    settings: Settings,
    progress: Progress,
    address: str | None,
    folder: Path | None = None,
) -> Report:
    """Work on all sources at once, on the workers of a cluster.

    Takes:
        address: of the cluster; None starts one on this machine
        folder: in which relative paths of files begin, on all machines; None if there are none
    Gives:
        what came of it, as ``batch.run.run``; records, lines, failures and notes end in the order of the sources
    Raises:
        BadSetting: if there is no cluster, or its nodes cannot do this work
    """
    report = plan.report
    if not sources:
        return report
    with connected(address) as ray:
        cpus, gpus = _share(ray, settings)
        workers = places(ray, cpus, gpus)
        if not workers:
            wanted = f"{gpus} GPU and {cpus} processors" if gpus else f"{cpus} processors (FCN_THREADS)"
            raise BadSetting(f"no node of the cluster has {wanted} for a worker")
        parts = _parts(sources, workers)
        whole = any(not isinstance(part, Images) for part in parts.values())
        report.unit = "frames" if whole else "images"
        progress.begin("cluster", None if whole else report.expected)
        assignment = _assignment(plan, settings, cpus, "cuda" if gpus else "cpu", folder)
        missing, reports = parts, dict[int, Report]()
        # A worker that is lost too often takes the tasks along that it had. Those are tried once more, file by file.
        for one_by_one in (False, True):
            size = min(workers, len(missing))
            for rank, outcome in _outcomes(ray, assignment, missing, size, cpus, gpus, one_by_one=one_by_one):
                if outcome.refusal is not None:
                    raise BadSetting(f"a node of the cluster cannot do this work: {outcome.refusal}")
                for finished in outcome.finished:
                    plan.record(finished, rank)
                _count(outcome.report, report, progress)
                reports[rank] = outcome.report
            missing = _single({rank: part for rank, part in missing.items() if rank not in reports})
            if not missing:
                break
        for rank in sorted([*reports, *missing]):
            if rank in reports:
                report.failures += reports[rank].failures
                report.notes += reports[rank].notes
            else:
                part = missing[rank]
                report.fail(part.jobs[0].source if isinstance(part, Images) else part.path, LOST)
    return report


def _share(ray: Any, settings: Settings) -> tuple[int, int]:
    """Return the processors and the GPUs of one worker."""
    has_gpus = bool(ray.cluster_resources().get("GPU"))
    on_gpu = settings.provider == "cuda" or (settings.provider == "auto" and has_gpus)
    return settings.threads or 1, int(on_gpu)


def _assignment(plan: Plan, settings: Settings, cpus: int, provider: str, folder: Path | None) -> bytes:
    config = plan.config
    of_worker = settings.model_copy(update={"threads": cpus, "provider": provider, "default_model": None})
    artifact = config.engine.path.resolve()
    return pickle.dumps(
        Assignment(
            folder,
            of_worker,
            artifact,
            config.engine.sha256,
            config.options,
            config.resolution,
            config.halo,
            config.overwrite,
        )
    )


def _parts(sources: Sequence[Source[Any]], workers: int) -> Parts:
    """Cut the images into tasks. A video or a bag is one task: its journal and its file have one writer.

    Gives:
        by the rank of the first file of each, which is its place among all files of the run
    """
    parts: Parts = {}
    rank = 0
    for source in sources:
        if isinstance(source, Images):
            size = max(1, min(MOST_FILES, len(source.jobs) // (TASKS_A_WORKER * workers)))
            for part in source.split(size):
                parts[rank] = part
                rank += len(part.jobs)
        else:
            parts[rank] = source
            rank += 1
    return parts


def _single(parts: Parts) -> Parts:
    """Cut tasks of several images into tasks of one."""
    single: Parts = {}
    for rank, part in parts.items():
        files = part.split(1) if isinstance(part, Images) else [part]
        single |= dict(enumerate(files, rank))
    return single


def _outcomes(
    ray: Any,
    assignment: bytes,
    parts: Parts,
    workers: int,
    cpus: int,
    gpus: int,
    *,
    one_by_one: bool,
) -> Iterator[tuple[int, Outcome]]:
    """Have Ray Data do the work, and give what came of each part, as it comes.

    Takes:
        parts: by rank
        one_by_one: whether a worker has one task at a time
    """
    from ray import data  # noqa: PLC0415 - takes seconds

    context = data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = -1  # the driver sees what is missing
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    # Films and bags take longest, and begin first.
    order = sorted(parts, key=lambda rank: (isinstance(parts[rank], Images), rank))
    rows = [{"rank": rank, "source": pickle.dumps(parts[rank])} for rank in order]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Ray 2.60 has no other way to bound retries
        work = data.from_items(rows, override_num_blocks=len(rows)).map(
            Worker,
            fn_constructor_args=(__version__, assignment),
            compute=data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1 if one_by_one else 2),
            num_cpus=cpus,
            num_gpus=gpus,
            max_restarts=-1,
            max_task_retries=RETRIES,
        )
    try:
        for batch in work.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for row in batch.to_pylist():
                yield row["rank"], pickle.loads(row["outcome"])  # noqa: S301 - from a worker of this cluster
    except ray.exceptions.RayError as error:
        told = str(error).strip().splitlines()
        raise InferenceFailed(f"the cluster gave up: {told[-1] if told else type(error).__name__}") from error


def _count(of_part: Report, report: Report, progress: Progress) -> None:
    report.done += of_part.done
    report.total += of_part.total
    report.missing = of_part.missing or report.missing
    for _ in range(of_part.total):
        progress.advance()
