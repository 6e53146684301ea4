"""``fcn-serve cluster serve``: the application itself on Ray Serve.

Each replica builds the application in its own process: models, scheduler and data plane are made there, and only the settings
travel. Ray's proxies receive the connections, choose a replica and pass ASGI messages on, streams too. Replicas keep the
admission: a replica takes all requests that its queue may admit, and answers 429 by itself.
"""

from __future__ import annotations

import contextlib
import logging
import logging.config
import math
import pickle
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from service import process
from service.api.app import create_app
from service.cluster.session import places
from service.compose import open_predictor
from service.errors import BadSetting, ServiceError
from service.log import log_config
from service.pipeline.workload import Workload
from service.settings import Settings

APPLICATION = "fcn-serve"
MOST_CPUS = 8
"""Processors of a replica, at the most: beyond that, one process gains little."""
SPARE_REQUESTS = 64
"""Requests of a replica beside admitted images and streams: probes, and those that are about to be rejected."""
WAITING_A_CPU = 2.0
"""Requests for each processor at which Ray adds replicas: the images in work, and as many that wait."""

Message = MutableMapping[str, Any]
Asgi = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]

log = logging.getLogger(__name__)


def check(settings: Settings) -> None:
    """Check that no setting is for something that Ray does instead.

    Raises:
        BadSetting: naming the setting and the reason
    """
    refused = {
        "FCN_UDS": (settings.uds is not None, "Ray's proxies listen on TCP"),
        "FCN_ADMIN_PORT": (settings.admin_port is not None, "replicas have no ports of their own"),
        "FCN_GRPC_PORT": (getattr(settings, "grpc_port", None) is not None, "replicas have no ports of their own"),
        "FCN_CAPTURE_DIR": (settings.capture_dir is not None, "one process may write into that folder"),
        "FCN_ADMIN_KEYS": (bool(settings.admin_keys), "a call reaches one replica; change the files of FCN_MODELS_DIR"),
    }
    for name, (is_set, why) in refused.items():
        if is_set:
            raise BadSetting(f"{name}: not on a cluster: {why}")


def share(ray: Any, settings: Settings, replicas: int | None) -> tuple[int, int, int]:
    """Return how many processors and GPUs a replica gets, and how many replicas there may be.

    Takes:
        replicas: a fixed number; None lets Ray choose by the load
    Raises:
        BadSetting: if they do not fit into the cluster
    """
    has_gpus = bool(ray.cluster_resources().get("GPU"))
    gpus = int(settings.provider == "cuda" or (settings.provider == "auto" and has_gpus))
    sizes = [settings.threads] if settings.threads else range(MOST_CPUS, 0, -1)
    for cpus in sizes:
        most = places(ray, cpus, gpus)
        if most >= (replicas or 1):
            return cpus, gpus, replicas or most
    wanted = f"{sizes[-1]} processors" + (" and a GPU" if gpus else "")
    raise BadSetting(f"--replicas: the cluster cannot hold {replicas or 1} of {wanted} each (FCN_THREADS)")


def ongoing(settings: Settings) -> int:
    """Return how many requests a replica takes at the same time: more than its admission lets in. So the admission decides.

    Raises:
        BadSetting, UnknownModel, ProviderUnavailable: as ``open_predictor``
    """
    on_cpu = settings.model_copy(update={"provider": "cpu"})  # this machine may have no GPU
    with contextlib.closing(open_predictor(on_cpu)) as predictor:
        least = min(Workload.least(engine.manifest).cost for engine in predictor.repository.engines())
    return math.ceil(settings.queue_megapixels / least) + settings.max_streams + SPARE_REQUESTS


def deployment(settings: Settings, replicas: int | None, cpus: int, gpus: int, most: int) -> Any:
    """Return the application of Ray Serve.

    Takes:
        replicas: a fixed number; None lets Ray choose by the load, up to ``most``
        cpus, gpus: of each replica
    """
    from ray import serve  # noqa: PLC0415 - only when it is asked for

    of_replica = settings.model_copy(update={"threads": cpus, "provider": "cuda" if gpus else "cpu"})
    pickled = pickle.dumps(of_replica)

    def build() -> Asgi:
        return build_app(pickled)

    number: dict[str, Any] = {"num_replicas": replicas}
    if replicas is None:
        target = WAITING_A_CPU * cpus
        number = {"autoscaling_config": {"min_replicas": 1, "max_replicas": most, "target_ongoing_requests": target}}
    served = serve.deployment(
        name=APPLICATION,
        max_ongoing_requests=ongoing(settings),
        graceful_shutdown_timeout_s=settings.drain_s,
        graceful_shutdown_wait_loop_s=0.5,
        health_check_period_s=5.0,
        ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
        **number,
    )
    return served(serve.ingress(build)(Replica)).bind()


class Replica:
    """What Ray Serve asks of a replica beside its application."""

    app: App

    def check_health(self) -> None:
        """Raise an error if this replica can never serve again, so that Ray replaces it."""
        self.app.check_health()


class App:
    """The application as Ray calls it.

    Ray's proxy gives every request an id and adds it to the reply; the application's own header of the same value is left out
    there, so that a reply has one.
    """

    def __init__(self, settings: Settings) -> None:
        self._app = create_app(settings)

    def check_health(self) -> None:
        """Raise an error if the pipeline cannot serve, or if no application was started."""
        self._app.state.services.plane.check_ready()

    async def __call__(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        """Serve one request, or pass on any other call of ASGI."""
        given = [value for name, value in scope.get("headers", ()) if name == b"x-request-id"]

        async def send_one_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    (name, value)
                    for name, value in message.get("headers", ())
                    if name.lower() != b"x-request-id" or value not in given
                ]
            await send(message)

        await self._app(scope, receive, send_one_id)


def build_app(settings: bytes) -> App:
    """Build the application in the process of a replica.

    Takes:
        settings: pickled
    """
    process.configure_process()
    read: Settings = pickle.loads(settings)  # noqa: S301 - from the command that deployed this
    logging.config.dictConfig(log_config(read.log_format, read.log_level))
    return App(read)


def deploy(ray: Any, settings: Settings, replicas: int | None) -> None:
    """Start the application, or replace the one that runs, replica by replica. Return when it is ready.

    Raises:
        BadSetting: if a setting does not fit this cluster, or its proxies listen at another address already
        ServiceError: if it does not become ready
    """
    from ray import serve  # noqa: PLC0415
    from ray.serve.context import _get_global_client  # noqa: PLC0415 - Ray 2.60 has no public way to the proxies' address

    check(settings)
    cpus, gpus, most = share(ray, settings, replicas)
    app = deployment(settings, replicas, cpus, gpus, most)
    serve.start(
        proxy_location="EveryNode",
        http_options={
            "host": settings.host,
            "port": settings.port,
            "keep_alive_timeout_s": math.ceil(settings.keep_alive_s),
        },
    )
    proxies = _get_global_client().http_config
    if (proxies.host, proxies.port) != (settings.host, settings.port):  # Ray keeps the first address, and only logs that
        there = f"{proxies.host}:{proxies.port}"
        raise BadSetting(f"the cluster serves on {there} already: use that, or run `serve shutdown` first")
    try:
        serve.run(app, name=APPLICATION, route_prefix=settings.root_path or "/", blocking=False)
    except RuntimeError as error:
        raise ServiceError(f"the replicas do not start: {error}; see Ray's logs of {APPLICATION}") from error


def shut_down() -> None:
    """End the application: replicas finish their requests, within ``FCN_DRAIN_S``."""
    from ray import serve  # noqa: PLC0415

    serve.shutdown()
