"""The artifact behind Ray Serve: ``python -m benchmarks.peers.with_ray PORT``."""

import signal
import sys

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from benchmarks.peers.network import WORKERS, Network


@serve.deployment(num_replicas=WORKERS, ray_actor_options={"num_cpus": 1})
class Segmenter:
    """A JPEG in, a PNG out."""

    def __init__(self) -> None:
        self.network = Network()

    async def __call__(self, request: Request) -> Response:
        """Of a GET, that it is up."""
        if request.method == "GET":
            return Response("ok")
        return Response(self.network.segment(await request.body()), media_type="image/png")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that Ray ends its own processes
    ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, logging_level="warning")
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Segmenter.bind(), blocking=True)
