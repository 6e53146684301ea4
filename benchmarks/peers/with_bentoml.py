"""The artifact behind BentoML: ``bentoml serve benchmarks.peers.with_bentoml:Segmenter --port PORT``."""

from pathlib import Path
from typing import Annotated

import bentoml
from bentoml.validators import ContentType

from benchmarks.peers.network import WORKERS, Network


@bentoml.service(workers=WORKERS, logging={"access": {"enabled": False}})
class Segmenter:
    """A JPEG in, a PNG out."""

    def __init__(self) -> None:
        self.network = Network()

    @bentoml.api
    def segment(self, image: Annotated[Path, ContentType("image/jpeg")], /) -> Annotated[bytes, ContentType("image/png")]:
        """BentoML lays a body into a file, and hands over its path."""
        return self.network.segment(image.read_bytes())
