"""The artifact behind LitServe: ``python -m benchmarks.peers.with_litserve PORT``."""

import sys
from typing import Annotated

import litserve
from fastapi import File, Response

from benchmarks.peers.network import WORKERS, Network


class Segmenter(litserve.LitAPI):
    """A form in, a PNG out."""

    def setup(self, device: str) -> None:
        """Once a worker."""
        self.device = device
        self.network = Network()

    def decode_request(self, request: Annotated[bytes, File(alias="image")]) -> bytes:
        """The file of the form."""
        return request

    def predict(self, x: bytes) -> bytes:
        """The whole of the work."""
        return self.network.segment(x)

    def encode_response(self, output: bytes) -> Response:
        """As an image."""
        return Response(output, media_type="image/png")


if __name__ == "__main__":
    server = litserve.LitServer(Segmenter(), accelerator="cpu", workers_per_device=WORKERS)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", generate_client_file=False)
