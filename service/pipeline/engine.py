"""One network in ONNX Runtime: a batch of images or volumes in, named float32 outputs out."""

from __future__ import annotations

import functools
import logging
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from service import process
from service.errors import BadArtifact, InferenceFailed, ProviderUnavailable
from service.pipeline import onnx_file
from service.pipeline.binding import Device, RecordedRuns, Values, run_bound
from service.pipeline.cpus import available_cpus
from service.pipeline.lanes import Lanes
from service.pipeline.manifest import INPUT, OUTPUT, Manifest, read_manifest
from service.pipeline.onnx_file import Halves, OnnxFile
from service.pipeline.providers import CPU, CUDA, RECORD, TENSORRT, GpuOptions, gpu_providers, nodes_elsewhere

SAME_AS_REQUESTED = 1
"""How the arena grows: by what is asked for. ONNX Runtime's default doubles it."""

LOADS_AT_ONCE = 2
"""Sessions that are loaded at the same time: while it is loaded, each has its weights twice."""

if TYPE_CHECKING:
    from service.pipeline.device_labels import Labeller, OnDevice

PROOFS, PROOF_PAUSE_S = 3, 0.5
"""How often, and after which pauses, an engine that failed on the GPU must fail on a black image too until it is given up: a
GPU whose memory is full for a moment recovers, a context that an error has broken never does."""

MOST_NAMED = 5
"""Operators that an error names."""

ORT_FATAL = 4
"""ONNX Runtime writes to stderr by itself; everything that matters also reaches us as an exception."""

_TENSORS = {"uint8": "tensor(uint8)", "uint16": "tensor(uint16)", "float32": "tensor(float)"}
"""ONNX Runtime's words for the dtypes of a manifest."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineOptions:
    """How a session is opened."""

    provider: Literal["cpu", "cuda", "auto"] = "cpu"
    """``cuda`` is strict: no GPU, no engine. ``auto`` falls back to the CPU and logs why."""
    threads: int = 0
    """Threads of a lone inference on the CPU; 0 counts the CPUs that this process may use."""
    lanes: int = 1
    """Inferences at the same time, which share the threads among them. Convolutions lose a fifth of their pace to each doubling
    of threads: two frames on a thread each are through sooner than one after the other on two."""
    gpu: GpuOptions = field(default_factory=GpuOptions)
    """How it runs on a GPU; without effect on the CPU."""
    on_device: bool | None = None
    """Whether outputs stay where the network ran and labels are made there; None: on a GPU."""

    @property
    def threads_alone(self) -> int:
        """Threads of an inference that has the processors to itself."""
        return self.threads or available_cpus()  # by default ONNX Runtime counts the host's

    @property
    def threads_in_lane(self) -> int:
        """Threads of one inference among several."""
        return max(1, self.threads_alone // self.lanes)


ON_CPU = EngineOptions()


@dataclass(frozen=True, eq=False)
class Network:
    """One session, and the runs of it that are recorded in CUDA graphs."""

    session: ort.InferenceSession
    device: Device
    """Where it runs."""
    recorded: RecordedRuns | None = None
    """None: no run is recorded."""

    @classmethod
    def of(cls, session: ort.InferenceSession, graphs: int) -> Self:
        """Prepare a session.

        Takes:
            graphs: shapes whose runs are recorded
        """
        device: Device = "cuda" if session.get_providers()[0] in (CUDA, TENSORRT) else "cpu"
        return cls(session, device, RecordedRuns(session, device, graphs) if graphs else None)

    def run(self, batch: NDArray[Any], outputs: Mapping[str, tuple[int, ...]], *, record: bool) -> Values:
        """Run it.

        Takes:
            outputs: the shape of each wanted output, by name
            record: whether the run may be recorded
        """
        if record and self.recorded is not None:
            return self.recorded.run(batch, outputs)
        return run_bound(self.session, {INPUT: batch}, list(outputs), self.device)


@dataclass(frozen=True)
class Sessions:
    """One network, loaded for a number of threads.

    ONNX Runtime runs every operator of a graph, whatever outputs a run asks for. Its option ``only_execute_path_to_fetches``
    has an effect in training builds only (microsoft/onnxruntime#16013; measured with 1.32). So the heads that only some
    requests need are a session of their own, which goes on from where the scores' session ends. Each weight is loaded once.
    """

    scores: Network
    """The operators that the scores need; all of them where :attr:`heads` is None."""
    heads: ort.InferenceSession | None = None
    """All further operators."""
    between: tuple[str, ...] = ()
    """What the heads read of the scores' session."""

    def run(self, batch: NDArray[Any], outputs: Mapping[str, tuple[int, ...]], *, record: bool) -> Values:
        """Run what some outputs need.

        Takes:
            outputs: the shape of each wanted output, by name
            record: whether the run may be recorded; a run of the heads is not
        """
        if self.heads is None or set(outputs) == {OUTPUT}:
            return self.scores.run(batch, outputs, record=record)
        of_heads = [node.name for node in self.heads.get_outputs() if node.name in outputs]
        others = [name for name in outputs if name not in of_heads]
        session, device = self.scores.session, self.scores.device
        first = run_bound(session, {INPUT: batch}, list(dict.fromkeys([*others, *self.between])), device).on_device
        inputs = {node.name: first.get(node.name, batch) for node in self.heads.get_inputs()}
        rest = run_bound(self.heads, inputs, of_heads, device).on_device if of_heads else {}
        return Values({name: rest[name] if name in rest else first[name] for name in outputs})


class Engine:
    """A network, opened, checked against its manifest, and proven to run where it was asked to. Thread-safe."""

    def __init__(
        self,
        whole: Lanes[Sessions],
        lanes: Lanes[Sessions],
        manifest: Manifest,
        path: Path,
        sha256: str,
        labeller: Labeller | None = None,
    ) -> None:
        self._sessions = [whole, lanes]
        """One with all threads, and one a lane; twice the same where these are as many. A list, so that it can be cleared
        after the engine is garbage-collected: see :meth:`when_released`. Empty when closed."""
        self.manifest = manifest
        self.path = path
        self.sha256 = sha256
        """The hash of the file, followed by its data files if it keeps its weights in some."""
        self.fault: str | None = None
        """Why this engine will never run again, once that is proven: only a new process helps."""
        self.lanes = 1
        """Inferences that share the processors where each takes a lane; 1 where there is one lane."""
        self._opened = False
        self.filled = whole is lanes
        """Whether each lane has the memory of its runs: see :meth:`fill_lanes`."""
        self._one_by_one = whole.sessions[0].scores.session.get_inputs()[0].shape[0] == 1
        self._labeller = labeller
        """Makes labels where the network runs; None: they are made by the processor."""
        self.provider: Literal["cpu", "cuda"] = whole.sessions[0].scores.device

    @classmethod
    def open(cls, path: Path, options: EngineOptions = ON_CPU) -> Self:
        """Open an artifact and run it once.

        Takes:
            path: an ONNX file with a manifest inside, its data files beside it if it has any
        Raises:
            BadArtifact: if it is not an ONNX file, is incomplete, has no good manifest, or its graph contradicts the manifest
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
        """Open sessions and prove them: a compiled-in provider says nothing; only a session that has run does."""
        if on_cuda and CUDA not in ort.get_available_providers():
            raise ProviderUnavailable("CUDA was asked for, but this ONNX Runtime has none; install onnxruntime-gpu")
        if on_cuda:
            ort.preload_dlls()  # the wheels keep CUDA's libraries outside of the dynamic linker's paths
        path = file.path
        gpu = options.gpu if on_cuda else None
        on_device = on_cuda if options.on_device is None else options.on_device
        session = _session(file, options.threads_alone, gpu=gpu)
        manifest = read_manifest(session.get_modelmeta().custom_metadata_map, source=path.name)
        check_graph(session, manifest, path.name)
        arena = on_cuda or manifest.input.fit != "native" or manifest.input.takes_scans  # their batches are bounded
        halves = onnx_file.halves(path, (OUTPUT,)) if len(manifest.outputs) > 1 and not file.data_files else None
        load = partial(_session, file, gpu=gpu, arena=arena)
        if not arena or halves is not None:
            del session
        process.give_back()  # release the memory of loading before the next load needs as much
        graphs = options.gpu.graphs if on_device else 0
        if arena and halves is None:
            whole = lanes = Lanes([Sessions(Network.of(session, graphs))])
        else:
            whole = lanes = Lanes([_sessions(partial(load, options.threads_alone), halves, graphs)])
        in_lanes = not on_cuda and options.threads_in_lane < options.threads_alone
        if in_lanes:
            load_lane = partial(_sessions, partial(load, options.threads_in_lane, alone=False), halves, 0)
            with ThreadPoolExecutor(LOADS_AT_ONCE) as pool:
                lanes = Lanes([lane.result() for lane in [pool.submit(load_lane) for _ in range(options.lanes)]])
        labeller = _labeller(options.gpu, on_cuda=on_cuda) if on_device and manifest.input.dimensions == 2 else None
        engine = cls(whole, lanes, manifest, path, sha256, labeller)
        engine.lanes = options.lanes if in_lanes else 1
        try:
            engine._check_multiple()
            if on_cuda:  # CUDA chooses its algorithms for each shape
                engine.warm_up()
        except InferenceFailed as error:
            raise _refusal(path, error.message, on_cuda=on_cuda) from error
        engine._opened = True
        if graphs:
            engine.warm_up()  # records the working size
        return engine

    def run(
        self, batch: NDArray[Any], outputs: Sequence[str] = (OUTPUT,), *, alone: bool = True
    ) -> dict[str, NDArray[np.float32]]:
        """Run the network. The operators of further heads are skipped where only the scores are wanted.

        Takes:
            batch: N x h x w x channels, or N x d x h x w x channels, of the manifest's dtype; colours are RGB. All sides are
                multiples of ``manifest.input.multiple``
            outputs: names of the wanted outputs, as in the manifest
            alone: whether all threads may be used; False runs on the threads of one lane
        Gives:
            by name, in the order of ``outputs``: N x planes x h/stride x w/stride float32, or with d/stride for volumes
        Raises:
            InferenceFailed: if ONNX Runtime fails, or an output is unknown or of another shape, or the engine is closed
        """
        found = self._values(batch, outputs, alone=alone)
        arrays = {name: [values.host(name) for values in found] for name in outputs}
        return {name: parts[0] if len(parts) == 1 else np.concatenate(parts) for name, parts in arrays.items()}

    @property
    def labels_on_device(self) -> bool:
        """Whether :meth:`run_on_device` may be called: labels are made where the network runs."""
        return self._labeller is not None

    def run_on_device(self, batch: NDArray[Any], outputs: Sequence[str] = (OUTPUT,), *, alone: bool = True) -> list[OnDevice]:
        """Run the network and leave its outputs where they are. Only where :attr:`labels_on_device`.

        Takes:
            as :meth:`run`
        Gives:
            one entry an image
        Raises:
            InferenceFailed: as :meth:`run`
        """
        from service.pipeline.device_labels import OnDevice  # noqa: PLC0415 - with it come the image libraries

        if self._labeller is None:
            raise InferenceFailed(f"{self.manifest.name} makes its labels on the processor")
        found = self._values(batch, outputs, alone=alone)
        images = [(values, k) for values in found for k in range(len(batch) // len(found))]
        return [OnDevice(values, k, self._labeller) for values, k in images]

    def _values(self, batch: NDArray[Any], outputs: Sequence[str], *, alone: bool) -> list[Values]:
        """Run the network.

        Gives:
            the outputs of the batch; or of each image, where the graph takes one at a time
        """
        kind = self._kind(alone=alone)
        if self.fault is not None:
            raise InferenceFailed(self.fault)
        known = [output.name for output in self.manifest.outputs]
        for name in outputs:
            if name not in known:
                raise InferenceFailed(f"{self.manifest.name} has no output '{name}'; it has {', '.join(known)}")
        if self._one_by_one and len(batch) > 1:
            return [values for image in batch for values in self._values(image[None], outputs, alone=alone)]
        with kind.taken() as sessions:
            return [self._run_on(sessions, batch, outputs)]

    def _kind(self, *, alone: bool) -> Lanes[Sessions]:
        kinds = self._sessions[:]
        if not kinds:
            raise InferenceFailed(f"{self.manifest.name} is closed")
        return kinds[0 if alone else 1]

    def _run_on(self, sessions: Sessions, batch: NDArray[Any], outputs: Sequence[str]) -> Values:
        wanted = {output.name: output for output in self.manifest.outputs}
        expected = {
            name: (
                len(batch),
                self.manifest.planes(wanted[name]),
                *(side // wanted[name].stride for side in batch.shape[1:-1]),
            )
            for name in outputs
        }
        try:
            found = sessions.run(batch, expected, record=self._opened)
        except Exception as error:
            if self.provider == "cuda" and self._opened:
                self._prove(sessions.scores)
            raise InferenceFailed(f"{self.manifest.name} failed on {batch.shape}: {_one_line(error)}") from error
        for name, value in found.on_device.items():
            if tuple(value.shape()) != expected[name]:
                shape = tuple(value.shape())
                raise InferenceFailed(f"{self.manifest.name} gave {name} of {shape} instead of {expected[name]}")
        return found

    def warm_up(self) -> None:
        """Run a black image of the working size with all threads, so that the first request does not pay for first allocations.

        Raises:
            InferenceFailed: if the network does not run
        """
        with self._kind(alone=True).taken() as sessions:
            self._run_black(sessions, self._cells())

    def fill_lanes(self) -> None:
        """Run a black image in each lane, so that the first requests do not pay for the lanes' memory. Once is enough.

        Until then a lane has no memory but its weights: only models that are asked for take more.

        Raises:
            InferenceFailed: if the network does not run
        """
        if self.filled:
            return
        lanes = self._kind(alone=False).sessions
        with ThreadPoolExecutor(len(lanes)) as pool:
            list(pool.map(partial(self._run_black, cells=self._largest_cells()), lanes))
        self.filled = True

    def _prove(self, network: Network) -> None:
        """Set :attr:`fault` if, after a failure, a black image fails too."""
        reason = ""
        black = self._black(self._cells())
        for _ in range(PROOFS):
            time.sleep(PROOF_PAUSE_S)
            try:
                run_bound(network.session, {INPUT: black}, [OUTPUT], network.device)
            except Exception as error:  # noqa: BLE001 - as in _values
                reason = _one_line(error)
            else:
                return
        self.fault = f"{self.manifest.name} fails on the GPU whatever it is given; restart the service: {reason}"
        log.critical(self.fault)

    def _check_multiple(self) -> None:
        """Run a black image whose sides are odd numbers of multiples. A network that needs larger multiples fails here, and not
        on the first image of another shape.

        Raises:
            InferenceFailed: if the network does not run at every multiple that its manifest claims
        """
        with self._kind(alone=True).taken() as sessions:
            self._run_black(sessions, self._largest_cells())

    def _largest_cells(self) -> tuple[int, ...]:
        """Return odd numbers of multiples, a little more than any image of a bounded size has.

        After a run of that size an arena has all the memory that it will ever need.
        """
        more = 0 if self.manifest.input.fit == "stretch" else 1
        return tuple((side + more) | more for side in self._cells())

    def _cells(self) -> tuple[int, ...]:
        """Return the working size in multiples, rounded up."""
        policy = self.manifest.input
        return tuple(-(-side // policy.multiple) for side in policy.sides)

    def _black(self, cells: tuple[int, ...]) -> NDArray[Any]:
        """Return a black image of so many multiples on each side."""
        policy = self.manifest.input
        return np.zeros((1, *(side * policy.multiple for side in cells), policy.channels), policy.dtype)

    def _run_black(self, sessions: Sessions, cells: tuple[int, ...]) -> None:
        black = self._black(cells)
        self._run_on(sessions, black, (OUTPUT,))
        if len(self.manifest.outputs) > 1:
            self._run_on(sessions, black, [output.name for output in self.manifest.outputs])

    def close(self) -> None:
        """Give the memory back; runs under way end first."""
        self._sessions.clear()

    def when_released(self, tell: Callable[[Callable[[], None]], None]) -> None:
        """Call ``tell`` when the last reference to this engine is gone.

        Takes:
            tell: called on the thread of the last holder, with a function that releases the memory
        """
        weakref.finalize(self, tell, self._sessions.clear).atexit = False


def _sessions(load: Callable[..., ort.InferenceSession], halves: Halves | None, graphs: int) -> Sessions:
    """Load a network for a number of threads.

    Takes:
        load: :func:`_session` with everything but ``model``
        halves: its graph in two; None: it is loaded whole
        graphs: shapes whose runs are recorded
    """
    if halves is None:
        return Sessions(Network.of(load(), graphs))
    scores = load(model=halves.first)
    rest = halves.rest({node.name: (node.type, node.shape) for node in scores.get_outputs()})
    if rest is None:
        del scores
        return Sessions(Network.of(load(), graphs))
    return Sessions(Network.of(scores, graphs), load(model=rest), halves.between)


def _session(
    file: OnnxFile,
    threads: int,
    *,
    gpu: GpuOptions | None = None,
    arena: bool = True,
    alone: bool = True,
    model: bytes | None = None,
) -> ort.InferenceSession:
    """Load an ONNX file, or a part of it.

    Takes:
        threads: of one run on the CPU
        gpu: how it runs on a GPU; None is the CPU
        alone: whether the run has all processors. Its threads then spin between two operators, which takes 0.9 of the time.
            Beside other runs, spinning takes the processors from them; without it a run takes 0.65 of the time
        arena: whether freed memory is kept for the next run. Without, the system zeroes every page again: 9,000 page faults a
            frame and 1.4 times the time. The arena keeps the peak of all runs, so it is used where sizes are bounded
        model: a part of the file, to be loaded in its place
    Raises:
        BadArtifact: if ONNX Runtime cannot run it on the CPU
        ProviderUnavailable: if it does not run on the GPU, all of it
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL  # NCHWc convolutions: 2.3 times as fast
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(alone)))
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.add_session_config_entry("session.force_spinning_stop", "1")  # with the run: labels and encoding follow
    options.enable_cpu_mem_arena = arena
    shared = arena and alone and _arena_is_shared()
    options.add_session_config_entry("session.use_env_allocators", str(int(shared)))
    options.enable_mem_pattern = False  # a plan for each shape, laid out in one block of its own: 40 MB more, no faster
    options.log_severity_level = ORT_FATAL
    if file.data_files:  # ONNX Runtime would map them: a write into one would end this process, or change its masks
        weights = [np.fromfile(data_file, np.uint8) for data_file in file.data_files]
        options.add_external_initializers_from_files_in_memory(file.locations, weights, [len(part) for part in weights])
    if gpu is not None:
        options.add_session_config_entry(RECORD, "1")
    providers = [CPU] if gpu is None else [*gpu_providers(gpu), CPU]
    try:
        session = ort.InferenceSession(file.path if model is None else model, options, providers=providers, enable_fallback=0)
    except Exception as error:  # ONNX Runtime's errors have no class in common
        raise _refusal(file.path, _one_line(error), on_cuda=gpu is not None) from error
    if model is not None:
        vars(session)["_model_bytes"] = None  # it would keep them for a change of providers, which never comes
    if gpu is not None:
        _check_placement(session, file, gpu)
    return session


def _check_placement(session: ort.InferenceSession, file: OnnxFile, gpu: GpuOptions) -> None:
    """Check that a session runs where it was asked to, all of it.

    Raises:
        ProviderUnavailable: naming the operators that would run on the CPU
    """
    wanted = [name for name, _ in gpu_providers(gpu)]
    found = session.get_providers()
    if found[: len(wanted)] != wanted:
        missing = ", ".join(name for name in wanted if name not in found)
        raise ProviderUnavailable(f"{missing} was asked for, but ONNX Runtime left it out; check driver, CUDA and cuDNN")
    elsewhere = nodes_elsewhere(session, wanted, onnx_file.shape_arithmetic(file.path))
    if elsewhere:
        named = ", ".join(elsewhere[:MOST_NAMED]) + (
            f" and {len(elsewhere) - MOST_NAMED} more" if len(elsewhere) > MOST_NAMED else ""
        )
        raise ProviderUnavailable(
            f"CUDA was asked for, but of {file.path.name} ONNX Runtime {ort.__version__} would run {named} on the processor; "
            "take a newer onnxruntime-gpu, or export the model with operators that it runs on CUDA"
        )


def _labeller(gpu: GpuOptions, *, on_cuda: bool) -> Labeller | None:
    """Return what makes labels where a network runs; None, with a line in the log, if ONNX Runtime cannot do it there."""
    from service.pipeline.device_labels import Labeller  # noqa: PLC0415 - with it come the image libraries

    try:
        return Labeller(gpu_providers(replace(gpu, tensorrt="off", graphs=0)) if on_cuda else ())
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors have no class in common
        log.warning("labels are made on the processor, because ONNX Runtime cannot make them on the GPU: %s", _one_line(error))
        return None


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
    """Load any ONNX file on the CPU, as it is, to inspect or to compare with.

    Raises:
        BadArtifact: if ONNX Runtime cannot
    """
    return _session(onnx_file.read(path), ON_CPU.threads_alone, arena=False)


def check_graph(session: ort.InferenceSession, manifest: Manifest, source: str) -> None:
    """Check that the names, types, ranks and planes of a graph's input and outputs are as its manifest says.

    Raises:
        BadArtifact: naming the contradiction
    """

    def contradiction(what: str) -> BadArtifact:
        return BadArtifact(f"{source}: {what}", cause="graph")

    inputs, policy = session.get_inputs(), manifest.input
    if [node.name for node in inputs] != [INPUT]:
        raise contradiction(f"needs one input '{INPUT}'; has {[node.name for node in inputs]}")
    axes = "D x H x W" if policy.dimensions == 3 else "H x W"
    shape, channels = inputs[0].shape, policy.channels
    if inputs[0].type != _TENSORS[policy.dtype] or len(shape) != policy.dimensions + 2 or shape[-1] != channels:
        raise contradiction(f"input must be {policy.dtype} N x {axes} x {channels}; is {inputs[0].type} {shape}")
    batch, *sides, _ = shape
    if isinstance(batch, int) and batch != 1:
        raise contradiction(f"takes batches of exactly {batch} images; export it with a free batch, or with 1")
    for fixed, side in zip(sides, policy.sides, strict=True):
        if isinstance(fixed, int) and not (policy.fit == "stretch" and fixed == side and fixed % policy.multiple == 0):
            wanted = "x".join(map(str, policy.sides))
            problem = f"its manifest says '{policy.fit}' of {wanted} in multiples of {policy.multiple}"
            raise contradiction(f"takes {shape} images only, but {problem}")
    given = {node.name: node for node in session.get_outputs()}
    for output in manifest.outputs:
        if output.name not in given:
            raise contradiction(f"needs an output '{output.name}'; has {list(given)}")
        node, planes = given[output.name], manifest.planes(output)
        rank_differs = len(node.shape) != policy.dimensions + 2
        if node.type != "tensor(float)" or rank_differs or (isinstance(node.shape[1], int) and node.shape[1] != planes):
            a_class = ", one plane a class" if output.kind == "scores" else ""
            problem = f"must be float32 N x {planes} x {axes.lower()}{a_class}; is {node.type} {node.shape}"
            raise contradiction(f"output '{output.name}' {problem}")


def _refusal(path: Path, reason: str, *, on_cuda: bool) -> BadArtifact | ProviderUnavailable:
    reason = reason.replace(str(path), path.name)  # callers may read it, and must not learn the folder
    if on_cuda:
        return ProviderUnavailable(f"CUDA was asked for, but {path.name} does not run there: {reason}")
    return BadArtifact(f"{path.name}: ONNX Runtime cannot run it: {reason}", cause="runtime")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
