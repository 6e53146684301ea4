"""What the Open Inference Protocol tells of the server and its models, for every transport."""

from __future__ import annotations

from typing import Any

from service import __version__
from service.api.v2 import schemas as wire
from service.api.v2 import tensors
from service.api.v2.memory import Regions
from service.errors import UnknownModel
from service.pipeline.engine import Engine
from service.pipeline.repository import Repository
from service.serving.dataplane import DataPlane
from service.serving.timings import Duration, Steps

EXTENSIONS = ["binary_tensor_data", "model_configuration", "model_repository", "schedule_policy", "statistics"]
"""Extensions of the protocol that are always supported."""

PLATFORM = "onnx_onnxv1"


def server(regions: Regions) -> wire.Server:
    """Return what the server is."""
    extensions = [*EXTENSIONS, "system_shared_memory"] if regions.is_on else EXTENSIONS
    return wire.Server(name="fcn-serve", version=__version__, extensions=extensions)


def find(repository: Repository, name: str, version: str | None) -> Engine:
    """Find a model by its name and version.

    Raises:
        UnknownModel: if there is none, or none of that version
    """
    engine = repository.get(name)
    served = engine.manifest.version
    if version not in (None, served, wire.VERSION_ALIAS):
        raise UnknownModel(f"no version {str(version)[:64]!r} of the model '{name}'; there is {served}", allowed=[served])
    return engine


def metadata(engine: Engine, name: str) -> wire.ModelMetadata:
    """Return a model's inputs and outputs, under the name that the caller knows it by."""
    return wire.ModelMetadata(
        name=name or engine.manifest.name,
        versions=[engine.manifest.version],
        platform=PLATFORM,
        inputs=tensors.INPUTS,
        outputs=tensors.output_metadata(),
    )


def config(engine: Engine, name: str) -> dict[str, Any]:
    """Return the model as Triton's configuration would describe it, as far as its clients read it; the name as in
    :func:`metadata`.
    """
    kinds = {"BYTES": "TYPE_STRING", "UINT8": "TYPE_UINT8", "FP32": "TYPE_FP32"}

    def described(tensor: wire.TensorMetadata) -> dict[str, Any]:
        return {"name": tensor.name, "data_type": kinds[tensor.datatype], "dims": tensor.shape}

    return {
        "name": name or engine.manifest.name,
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "max_batch_size": 0,  # the first dimension is part of the shape, as Triton says it
        "input": [described(tensor) for tensor in tensors.INPUTS],
        "output": [described(tensor) for tensor in tensors.output_metadata()],
    }


def statistics(plane: DataPlane) -> list[wire.ModelStat]:
    """Return the statistics of every model."""
    return [statistics_of(plane, engine) for engine in plane.repository.engines()]


def statistics_of(plane: DataPlane, engine: Engine) -> wire.ModelStat:
    """Return what a model has served since the service began, over all transports."""
    manifest = engine.manifest
    counts = plane.statistics(manifest)
    steps = counts.steps
    return wire.ModelStat(
        name=manifest.name,
        version=manifest.version,
        last_inference=int(1000 * counts.last_request_s),
        inference_count=counts.images(),
        execution_count=sum(map(counts.executions, steps)),
        inference_stats=wire.InferenceStats(
            success=_stat(counts.success),
            fail=_stat(counts.fail),
            queue=_stat(counts.queue),
            compute_input=_stat(*(step.decode for step in steps.values())),
            compute_infer=_stat(*(step.infer for step in steps.values())),
            compute_output=_stat(*(step.finish for step in steps.values())),
            cache_hit=_stat(),
            cache_miss=_stat(),
        ),
        batch_stats=[_batch(batch, counts.executions(batch), steps[batch]) for batch in sorted(steps)],
    )


def _batch(batch: int, executions: int, steps: Steps) -> wire.BatchStats:
    """Count executions, not images: the network's time is that of the whole batch already."""
    infer_s = steps.infer.total_s / batch
    return wire.BatchStats(
        batch_size=batch,
        compute_input=_stat(Duration(executions, steps.decode.total_s)),
        compute_infer=_stat(Duration(executions, infer_s)),
        compute_output=_stat(Duration(executions, steps.finish.total_s)),
    )


def _stat(*durations: Duration) -> wire.DurationStat:
    count, total_s = sum(one.count for one in durations), sum(one.total_s for one in durations)
    return wire.DurationStat(count=count, ns=round(1e9 * total_s))
