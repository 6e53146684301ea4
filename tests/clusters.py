"""Real clusters of Ray, in network namespaces of their own, and the end of every process that they have started.

In a namespace with only ``lo`` Ray takes 127.0.0.1; elsewhere it may take the address of any interface of the machine. A second
namespace, joined by a pair of virtual interfaces, is a second machine as far as Ray can tell.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.waiting import wait_until

MARK = "FCN_TEST_CLUSTER"
"""The variable by which the processes of a test's cluster are found, those of commands too."""
HEAD, OTHER = "10.213.0.1", "10.213.0.2"
PORTS = {"metrics-export": 20001, "dashboard-agent-grpc": 20002, "dashboard-agent-listen": 20003, "runtime-env-agent": 20004}
_CLONE_NEWNET = 0x40000000


@contextlib.contextmanager
def own_network() -> Iterator[None]:
    """Give this thread, and the processes that it starts, a network of their own; skip the test where that is not allowed."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        if libc.unshare(_CLONE_NEWNET):
            pytest.skip("a network namespace cannot be made here")
        try:
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True, capture_output=True)
            yield
        finally:
            assert not libc.setns(before, _CLONE_NEWNET), os.strerror(ctypes.get_errno())
    finally:
        os.close(before)


@dataclass
class Cluster:
    """A cluster that runs."""

    address: str
    environment: dict[str, str]
    """Of the head, of nodes that join, and of commands that use the cluster."""
    folder: Path
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def command(self, *words: str | Path) -> list[str]:
        """Return a command line of ours."""
        return [sys.executable, "-m", "service", *map(str, words)]

    def run(self, *words: str | Path, **settings: object) -> subprocess.CompletedProcess[str]:
        """Run a command of ours to its end.

        Takes:
            settings: by their names, without the prefix
        """
        environment = self.environment | {f"FCN_{name.upper()}": str(value) for name, value in settings.items()}
        return subprocess.run(self.command(*words), env=environment, capture_output=True, text=True, check=False, timeout=600)

    def processes(self, title: str) -> list[int]:
        """Return the ids of those processes whose command line holds a text."""
        return [number for number in _marked(self.environment[MARK]) if title in _command_line(number)]

    def join(self, host: str, enter: list[str], cpus: int = 1) -> subprocess.Popen[bytes]:
        """Add a node.

        Takes:
            host: its address
            enter: the words that enter its network
        """
        words = [f"--address={self.address}", f"--node-ip-address={host}", f"--num-cpus={cpus}"]
        node = _start(words, self.environment, self.folder, enter)
        self.nodes.append(node)
        return node


@contextlib.contextmanager
def cluster(cpus: int = 2, host: str = "127.0.0.1", environment: Mapping[str, str] | None = None) -> Iterator[Cluster]:
    """Start a head, and end all of its processes after the block, those that commands and nodes have started too.

    Takes:
        cpus: of the head
        host: its address, within :func:`own_network`
        environment: variables of Ray
    """
    folder = Path(tempfile.mkdtemp(prefix="fcn-"))  # short: a path of a Unix socket has 107 bytes
    variables = {
        **os.environ,
        **(environment or {}),
        MARK: secrets.token_hex(8),
        "RAY_AUTH_MODE": "disabled",  # it would write a token into the home folder
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
    }
    made = Cluster(f"{host}:6379", variables, folder)
    try:
        words = ["--head", "--port=6379", f"--node-ip-address={host}", f"--num-cpus={cpus}", f"--temp-dir={folder}"]
        made.nodes.append(_start([*words, "--include-dashboard=false"], variables, folder, []))
        yield made
    finally:
        _end_all(variables[MARK])
        for node in made.nodes:
            node.wait()
        shutil.rmtree(folder, ignore_errors=True)


def kill_tree(number: int) -> None:
    """Kill a process and all below it, as a machine that loses its power does."""
    children = Path(f"/proc/{number}/task/{number}/children").read_text().split()
    os.kill(number, signal.SIGSTOP)
    for child in children:
        kill_tree(int(child))
    os.kill(number, signal.SIGKILL)


@contextlib.contextmanager
def two_machines() -> Iterator[tuple[Cluster, subprocess.Popen[bytes]]]:
    """A cluster of two nodes in two networks, joined by a cable; the head has one processor, and so has the other."""
    with own_network(), subprocess.Popen(["unshare", "--net", "sleep", "infinity"]) as holder:
        try:
            enter = ["nsenter", f"--net=/proc/{holder.pid}/ns/net"]
            here = Path("/proc/thread-self/ns/net").stat().st_ino
            wait_until(lambda: Path(f"/proc/{holder.pid}/ns/net").stat().st_ino != here, "the second network")
            for words in (
                f"ip link add near type veth peer name far netns {holder.pid}",
                f"ip addr add {HEAD}/24 dev near",
                "ip link set near up",
                f"{' '.join(enter)} ip addr add {OTHER}/24 dev far",
                f"{' '.join(enter)} ip link set far up",
                f"{' '.join(enter)} ip link set lo up",
            ):
                subprocess.run(words.split(), check=True, capture_output=True)
            with cluster(cpus=1, host=HEAD, environment={"RAY_health_check_period_ms": "1000"}) as running:
                yield running, running.join(OTHER, enter)
        finally:
            holder.kill()


def _start(words: list[str], variables: dict[str, str], folder: Path, enter: list[str]) -> subprocess.Popen[bytes]:
    """Start a node, and wait until it is there.

    The node waits 15 s for the port of its dashboard's agent, and dies of it: too short for a busy machine (Ray 2.60). The port
    is fixed here, so the file that it waits for is written beforehand.
    """
    node_id, log = secrets.token_hex(28), folder / f"node-{secrets.token_hex(4)}.log"
    ports = [f"--{name}-port={port}" for name, port in PORTS.items()]
    memory = "--object-store-memory=100000000"
    command = [*enter, sys.executable, "-m", "ray.scripts.scripts", "start", "--block", memory, *words, *ports]
    with log.open("wb") as sink:
        node = subprocess.Popen(
            command, env=variables | {"RAY_OVERRIDE_NODE_ID_FOR_TESTING": node_id}, stdout=sink, stderr=subprocess.STDOUT
        )
    stop = threading.Event()

    def write_port() -> None:
        while not stop.wait(0.1):
            for session in folder.glob("session_2*"):
                port = session / f"dashboard_agent_listen_port_{node_id}"
                if not port.exists():
                    port.write_text(str(PORTS["dashboard-agent-listen"]))
                    return

    writer = threading.Thread(target=write_port)
    writer.start()
    try:
        started = "block forever"
        wait_until(lambda: started in log.read_text("utf-8", "replace"), "Ray to start", deadline_s=180, alive=_alive(node))
    finally:
        stop.set()
        writer.join()
    return node


def _alive(process: subprocess.Popen[bytes]) -> Callable[[], bool]:
    return lambda: process.poll() is None


def _marked(mark: str) -> list[int]:
    wanted = f"{MARK}={mark}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def _command_line(number: int) -> str:
    try:
        return Path(f"/proc/{number}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return ""


def _end_all(mark: str) -> None:
    """Kill every process that has the mark, and those that these start meanwhile."""

    def none_left() -> bool:
        left = [number for number in _marked(mark) if number != os.getpid()]
        for number in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        return not left

    wait_until(none_left, "the cluster's processes to end")
