"""The artifact behind MLServer: ``python -m benchmarks.peers.with_mlserver PORT``.

By a custom handler: its standard endpoint takes an image only as base64 within JSON, which would cost it more.
"""

import asyncio
import sys
import tempfile
from typing import Annotated

from fastapi import File, Response
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.handlers import custom_handler

from benchmarks.peers.network import WORKERS, Network


class Segmenter(MLModel):
    """A form in, a PNG out."""

    async def load(self) -> bool:
        """Once a worker."""
        self.network = Network()
        return True

    @custom_handler(rest_path="/segment")
    async def segment(self, image: Annotated[bytes, File()]) -> Response:
        """On one of the workers."""
        return Response(self.network.segment(image), media_type="image/png")


async def main(port: int, metrics_dir: str) -> None:
    """Serve. Its gRPC and metrics ports follow the one of HTTP."""
    settings = Settings(
        host="127.0.0.1",
        http_port=port,
        grpc_port=port + 1,
        metrics_port=port + 2,
        parallel_workers=WORKERS,
        metrics_dir=metrics_dir,
        debug=False,
        gzip_enabled=False,
    )
    model = ModelSettings(name="fcn", implementation="benchmarks.peers.with_mlserver.Segmenter")
    await MLServer(settings).start([model])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(int(sys.argv[1]), folder))
