"""One ONNX Runtime session: uint8 images in, float32 scores out.

May import: numpy, onnxruntime, ``service.errors``, and the pipeline's ``manifest``, ``memory``, ``onnx_file`` and ``cpus``.
"""

from __future__ import annotations

import functools
import logging
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from service import process
from service.errors import BadArtifact, InferenceFailed, ProviderUnavailable
from service.pipeline import onnx_file
from service.pipeline.cpus import available_cpus
from service.pipeline.manifest import INPUT, OUTPUT, Manifest, read_manifest
from service.pipeline.onnx_file import OnnxFile

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"

CUDA_OPTIONS = {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}
"""An exhaustive search costs half a second for each new shape; an arena that doubles never shrinks again."""

SAME_AS_REQUESTED = 1
"""How the arena grows: by what is asked for. ONNX Runtime's default doubles it."""

PROOFS, PROOF_PAUSE_S = 3, 0.5
"""How often, and after which pauses, an engine that failed on the GPU must fail on a black image too until it is given up: a
GPU whose memory is full for a moment recovers, a context that an error has broken never does."""

ORT_FATAL = 4
"""ONNX Runtime writes to stderr by itself; everything that matters also reaches us as an exception."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineOptions:
    """How a session is opened."""

    provider: Literal["cpu", "cuda", "auto"] = "cpu"
    """``cuda`` is strict: no GPU, no engine. ``auto`` falls back to the CPU and logs why."""
    threads: int = 0
    """Of a lone inference on the CPU; 0 counts the CPUs that this process may use."""
    lanes: int = 1
    """Inferences at the same time, which share the threads among them. Convolutions lose a fifth of their pace to each doubling
    of threads: two frames on a thread each are through sooner than one after the other on two."""

    @property
    def threads_alone(self) -> int:
        """Of an inference that has the processors to itself."""
        return self.threads or available_cpus()  # by default ONNX Runtime counts the host's

    @property
    def threads_in_lane(self) -> int:
        """Of one among several."""
        return max(1, self.threads_alone // self.lanes)


ON_CPU = EngineOptions()


class Engine:
    """A network, opened, checked against its manifest, and proven to run where it was asked to. Thread-safe."""

    def __init__(
        self, session: ort.InferenceSession, lane: ort.InferenceSession, manifest: Manifest, path: Path, sha256: str
    ) -> None:
        self._sessions = [session, lane]
        """The network with all threads, and with a lane's; one session twice where these are as many. In a box of their own,
        which may outlive the engine: see :meth:`when_released`. Empty when closed."""
        self.manifest = manifest
        self.path = path
        self.sha256 = sha256
        """Of the file, followed by its data files if it keeps its weights in some."""
        self.fault: str | None = None
        """Why this engine will never run again, once that is proven: only a new process helps."""
        self._opened = False
        self._one_by_one = session.get_inputs()[0].shape[0] == 1
        self.provider: Literal["cpu", "cuda"] = "cuda" if session.get_providers()[0] == CUDA else "cpu"

    @classmethod
    def open(cls, path: Path, options: EngineOptions = ON_CPU) -> Self:
        """Open an artifact and run it once.

        Takes:
            path: an ONNX file with a manifest inside, its data files beside it if it has any
        Raises:
            BadArtifact: if it is no ONNX file, or incomplete, or has no good manifest, or its graph contradicts the manifest
            ProviderUnavailable: if ``cuda`` was asked for and the network does not run there
        """
        file = onnx_file.read(path)
        sha256 = file.sha256()
        if options.provider == "cpu":
            return cls._open(file, sha256, options, on_cuda=False)
        try:
            return cls._open(file, sha256, options, on_cuda=True)
        except ProviderUnavailable as error:
            engine = cls._open(file, sha256, options, on_cuda=False)  # if this fails too, it is the artifact's fault
            if options.provider == "cuda":
                engine.close()
                raise
            log.warning("%s; falling back to the CPU", error.message)
            return engine

    @classmethod
    def _open(cls, file: OnnxFile, sha256: str, options: EngineOptions, *, on_cuda: bool) -> Self:
        """Compiled-in providers say nothing of what runs here: only the session itself does, and only once it has run."""
        if on_cuda and CUDA not in ort.get_available_providers():
            raise ProviderUnavailable("CUDA was asked for, but this ONNX Runtime has none; install onnxruntime-gpu")
        if on_cuda:
            ort.preload_dlls()  # the wheels bring CUDA's libraries where the dynamic linker does not look
        path = file.path
        session = _session(file, options.threads_alone, on_cuda=on_cuda)
        if on_cuda and session.get_providers()[0] != CUDA:
            raise ProviderUnavailable("CUDA was asked for, but ONNX Runtime left it out; check driver, CUDA and cuDNN")
        manifest = read_manifest(session.get_modelmeta().custom_metadata_map, source=path.name)
        check_graph(session, manifest, path.name)
        bounded = manifest.input.fit != "native"
        if not (bounded or on_cuda):
            session = _session(file, options.threads_alone, arena=False)
        process.give_back()  # what loading took, before the next load takes as much
        in_lanes = not on_cuda and options.threads_in_lane < options.threads_alone
        lane = _session(file, options.threads_in_lane, arena=bounded, alone=False) if in_lanes else session
        engine = cls(session, lane, manifest, path, sha256)
        try:
            engine._check_multiple(options.lanes if in_lanes else 0)
            if on_cuda:  # which looks for its algorithms anew for every shape
                engine.warm_up()
        except InferenceFailed as error:
            raise _refusal(path, error.message, on_cuda=on_cuda) from error
        engine._opened = True
        return engine

    def run(self, batch: NDArray[np.uint8], *, alone: bool = True) -> NDArray[np.float32]:
        """Run the network.

        Takes:
            batch: N x h x w x 3 uint8 RGB, 0..255; h and w multiples of ``manifest.input.multiple``
            alone: whether it has the processors to itself, and not just a lane
        Gives:
            N x K x h/stride x w/stride float32 scores
        Raises:
            InferenceFailed: if ONNX Runtime fails, or gives another shape, or the engine is closed
        """
        sessions = self._sessions[:]
        if not sessions:
            raise InferenceFailed(f"{self.manifest.name} is closed")
        if self.fault is not None:
            raise InferenceFailed(self.fault)
        if self._one_by_one and len(batch) > 1:
            return np.concatenate([self.run(image[None], alone=alone) for image in batch])
        try:
            (scores,) = sessions[0 if alone else 1].run([OUTPUT], {INPUT: batch})
        except Exception as error:
            if self.provider == "cuda" and self._opened:
                self._prove(sessions[0])
            raise InferenceFailed(f"{self.manifest.name} failed on {batch.shape}: {_one_line(error)}") from error
        n, h, w, _ = batch.shape
        stride = self.manifest.stride
        expected = (n, len(self.manifest.classes), h // stride, w // stride)
        if scores.shape != expected:
            raise InferenceFailed(f"{self.manifest.name} gave scores of {scores.shape} instead of {expected}")
        return np.asarray(scores, np.float32)

    def warm_up(self) -> None:
        """Run one black image of the working size, so that no caller pays for first allocations.

        Raises:
            InferenceFailed: if the network does not run
        """
        h, w = self._cells()
        self._run_black(h, w)

    def _prove(self, session: ort.InferenceSession) -> None:
        """After a failure: was it that image's, or will every other fail from now on?"""
        reason = ""
        multiple = self.manifest.input.multiple
        h, w = self._cells()
        black = np.zeros((1, h * multiple, w * multiple, 3), np.uint8)
        for _ in range(PROOFS):
            time.sleep(PROOF_PAUSE_S)
            try:
                session.run([OUTPUT], {INPUT: black})
            except Exception as error:  # noqa: BLE001 - as in run
                reason = _one_line(error)
            else:
                return
        self.fault = f"{self.manifest.name} fails on the GPU whatever it is given; restart the service: {reason}"
        log.critical(self.fault)

    def _check_multiple(self, lanes: int) -> None:
        """Run black images both of whose sides are odd in multiples: a network that needs larger ones fails here, and not on
        the first image of another shape. They are a little larger than any image of a bounded size will be, and fill all lanes
        at once: what the arena then has is all that it will ever need.

        Raises:
            InferenceFailed: if the network does not run at every multiple that its manifest claims
        """
        more = 0 if self.manifest.input.fit == "stretch" else 1
        h, w = ((side + more) | more for side in self._cells())
        self._run_black(h, w)
        with ThreadPoolExecutor(max(1, lanes)) as pool:
            list(pool.map(lambda _: self._run_black(h, w, alone=False), range(lanes)))

    def _cells(self) -> tuple[int, int]:
        """The working size in multiples, rounded up."""
        policy = self.manifest.input
        h, w = (-(-side // policy.multiple) for side in policy.working_size)
        return h, w

    def _run_black(self, h: int, w: int, *, alone: bool = True) -> None:
        multiple = self.manifest.input.multiple
        self.run(np.zeros((1, h * multiple, w * multiple, 3), np.uint8), alone=alone)

    def close(self) -> None:
        """Give the memory back; runs under way end first."""
        self._sessions.clear()

    def when_released(self, tell: Callable[[Callable[[], None]], None]) -> None:
        """Have somebody else give the memory back, once nobody holds this engine any more.

        Takes:
            tell: called then, on the thread of the last holder, with what gives the memory back
        """
        weakref.finalize(self, tell, self._sessions.clear).atexit = False


def _session(
    file: OnnxFile, threads: int, *, on_cuda: bool = False, arena: bool = True, alone: bool = True
) -> ort.InferenceSession:
    """Load an ONNX file.

    Takes:
        threads: of one run on the CPU
        alone: whether nobody else computes while it runs. Then its threads may spin between two operators, 0.9 of the time;
            where others do, spinning takes the processors from them: 0.65 of the time without
        arena: whether freed memory is kept for the next run. Without, the system hands out every page anew, zeroed: 9,000 page
            faults a frame and 1.4 times the time. But it keeps the peak of all that ever ran; so only where sizes are bounded
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL  # NCHWc convolutions: 2.3 times as fast
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(alone)))
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.add_session_config_entry("session.force_spinning_stop", "1")  # with the run: labels and encoding follow
    options.enable_cpu_mem_arena = arena
    options.add_session_config_entry("session.use_env_allocators", str(int(arena and _arena_is_shared())))
    options.enable_mem_pattern = False  # a plan for each shape, laid out in one block of its own: 40 MB more, no faster
    options.log_severity_level = ORT_FATAL
    if file.data_files:  # ONNX Runtime would map them, and whoever writes into one would end this process, or change its masks
        weights = [np.fromfile(data_file, np.uint8) for data_file in file.data_files]
        options.add_external_initializers_from_files_in_memory(file.locations, weights, [len(part) for part in weights])
    providers = [(CUDA, CUDA_OPTIONS), CPU] if on_cuda else [CPU]
    try:
        return ort.InferenceSession(file.path, options, providers=providers, enable_fallback=0)
    except Exception as error:  # ONNX Runtime's errors have no class in common
        raise _refusal(file.path, _one_line(error), on_cuda=on_cuda) from error


@functools.cache
def _arena_is_shared() -> bool:
    """Register one arena for all sessions of the process, where its entry point allows that.

    Gives:
        whether there is one; otherwise each session has its own
    """
    if process.is_configured():
        ort.create_and_register_allocator(
            ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT),
            ort.OrtArenaCfg(0, SAME_AS_REQUESTED, -1, -1),
        )
    return process.is_configured()


def load(path: Path) -> ort.InferenceSession:
    """Load any ONNX file on the CPU, as it is, to look at or to compare with.

    Raises:
        BadArtifact: if ONNX Runtime cannot
    """
    return _session(onnx_file.read(path), ON_CPU.threads_alone, arena=False)


def check_graph(session: ort.InferenceSession, manifest: Manifest, source: str) -> None:
    """Nothing, if a graph's inputs and outputs are as its manifest says.

    Raises:
        BadArtifact: naming what contradicts
    """

    def contradiction(what: str) -> BadArtifact:
        return BadArtifact(f"{source}: {what}", cause="graph")

    inputs, outputs = session.get_inputs(), session.get_outputs()
    classes = len(manifest.classes)
    if [node.name for node in inputs] != [INPUT]:
        raise contradiction(f"needs one input '{INPUT}'; has {[node.name for node in inputs]}")
    if inputs[0].type != "tensor(uint8)" or len(inputs[0].shape) != 4 or inputs[0].shape[3] != 3:
        raise contradiction(f"input must be uint8 N x H x W x 3; is {inputs[0].type} {inputs[0].shape}")
    batch, *sides, _ = inputs[0].shape
    if isinstance(batch, int) and batch != 1:
        raise contradiction(f"takes batches of exactly {batch} images; export it with a free batch, or with 1")
    policy = manifest.input
    for fixed, side in zip(sides, policy.working_size, strict=True):
        if isinstance(fixed, int) and not (policy.fit == "stretch" and fixed == side and fixed % policy.multiple == 0):
            wanted = "x".join(map(str, policy.working_size))
            problem = f"its manifest says '{policy.fit}' of {wanted} in multiples of {policy.multiple}"
            raise contradiction(f"takes {inputs[0].shape} images only, but {problem}")
    if OUTPUT not in [node.name for node in outputs]:
        raise contradiction(f"needs an output '{OUTPUT}'; has {[node.name for node in outputs]}")
    scores = next(node for node in outputs if node.name == OUTPUT)
    planes = scores.shape[1] if len(scores.shape) == 4 else 0
    if scores.type != "tensor(float)" or (isinstance(planes, int) and planes != classes):
        problem = f"must be float32 N x {classes} x h x w, one plane a class; is {scores.type} {scores.shape}"
        raise contradiction(f"output '{OUTPUT}' {problem}")


def _refusal(path: Path, reason: str, *, on_cuda: bool) -> BadArtifact | ProviderUnavailable:
    reason = reason.replace(str(path), path.name)  # callers may read it, and the folder is none of their business
    if on_cuda:
        return ProviderUnavailable(f"CUDA was asked for, but {path.name} does not run there: {reason}")
    return BadArtifact(f"{path.name}: ONNX Runtime cannot run it: {reason}", cause="runtime")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
