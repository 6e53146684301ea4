"""The connection to Ray: a cluster that runs, or one of this machine alone for the time of a command."""

from __future__ import annotations

import contextlib
import importlib
import logging
import math
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

from service.errors import BadSetting
from service.extras import needs
from service.pipeline.cpus import available_cpus

ADDRESS = re.compile(r"auto|\[?[A-Za-z0-9.:-]*[A-Za-z0-9]\]?:[0-9]{1,5}")
"""An address of a cluster: ``auto``, or HOST:PORT of its head."""
STORE_BYTES = 100 * 2**20
"""Memory of the object store of a cluster of this machine. It holds paths and records, no images."""


def load_ray() -> Any:
    """Import Ray. It sends no usage reports, unless ``RAY_USAGE_STATS_ENABLED`` says otherwise.

    Raises:
        BadSetting: naming the extra to install
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # silences a warning about a default of later versions
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # of this process: it would write to the standard error
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        raise BadSetting(needs("clusters need", "ray")) from error


@contextlib.contextmanager
def connected(address: str | None, *, logs: bool = False) -> Iterator[Any]:
    """Connect to a cluster for as long as the block lasts; a cluster of this machine ends with the block.

    Takes:
        address: ``auto`` or HOST:PORT of a cluster that runs; None starts one on this machine
        logs: whether lines of the workers' logs are shown here
    Gives:
        the module ``ray``
    Raises:
        BadSetting: if Ray is not installed, the address makes no sense, or no cluster answers there
    """
    ray = load_ray()
    if address is not None and not ADDRESS.fullmatch(address):
        raise BadSetting(f"{address!r} is not the address of a cluster: HOST:PORT of its head, or auto on one of its nodes")
    options: dict[str, Any] = {"log_to_driver": logs, "logging_level": logging.ERROR}
    if address is None:
        cpus = available_cpus()  # Ray would count the host's
        options |= {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": STORE_BYTES}
        options |= {"_node_ip_address": "127.0.0.1"}  # Ray would listen for other machines
    try:
        with _silent():
            ray.init(address or "local", **options)
    except Exception as error:  # Ray raises many kinds, Exception itself among them
        where = "a cluster on this machine cannot start" if address is None else f"no cluster can be joined at {address}"
        told = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise BadSetting(f"{where}: {told}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Send the standard error nowhere: Ray's C++ half writes there before it has read its log level."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def places(ray: Any, cpus: float, gpus: float) -> int:
    """Return how many workers of this share fit into the cluster, node by node."""

    def fit(resources: dict[str, float]) -> float:
        of_gpus = resources.get("GPU", 0.0) // gpus if gpus else math.inf
        return min(resources.get("CPU", 0.0) // cpus, of_gpus)

    return int(sum(fit(node["Resources"]) for node in ray.nodes() if node["Alive"]))
