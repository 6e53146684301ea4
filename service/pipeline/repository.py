"""The artifacts of a folder.

May import: the pipeline's ``engine``, ``service.errors``.
"""

from __future__ import annotations

import logging
from pathlib import Path

from service.errors import BadArtifact, NotReady, UnknownModel
from service.pipeline.engine import ON_CPU, Engine, EngineOptions

log = logging.getLogger(__name__)


class Repository:
    """Opens every ``*.onnx`` of a folder. A broken one is listed with its reason and harms no other.

    Takes:
        folder: where the artifacts lie, or one artifact; they are known by the names in their manifests, not by their files'
        options: how each is opened
        default: the name of the model that answers when none is named; the first by name if None
    Raises:
        UnknownModel: if there is no ``default``
        ProviderUnavailable: if ``cuda`` was asked for and does not run here: no artifact would do better
    """

    def __init__(self, folder: Path, options: EngineOptions = ON_CPU, default: str | None = None) -> None:
        self.folder = folder
        self.broken: dict[str, str] = {}
        """Why a file cannot be served, by the file's name."""
        self._engines: dict[str, Engine] = {}
        for path in [folder] if folder.is_file() else sorted(folder.glob("*.onnx")):
            try:
                self._add(Engine.open(path, options))
            except BadArtifact as error:
                log.warning("artifact refused: %s", error.message)
                self.broken[path.name] = error.message
        if default is not None:
            self.get(default)
        self._default = default

    def _add(self, engine: Engine) -> None:
        name = engine.manifest.name
        if name in self._engines:
            engine.close()
            raise BadArtifact(f"{engine.path.name}: the name {name} is taken by {self._engines[name].path.name}")
        self._engines[name] = engine

    @property
    def default(self) -> str:
        """The name of the model that answers when none is named.

        Raises:
            NotReady: if there is no model at all
        """
        if self._default is None and not self._engines:
            reasons = "; ".join(self.broken.values()) or "there is no *.onnx in the models folder"
            raise NotReady(f"no model can be served: {reasons}")
        return self._default or self.names()[0]

    def names(self) -> list[str]:
        """The models that can be served, sorted."""
        return sorted(self._engines)

    def get(self, name: str | None = None) -> Engine:
        """Find a model.

        Takes:
            name: as in its manifest; None is the default
        Raises:
            UnknownModel: if there is none of that name
            NotReady: if there is no model at all
        """
        engine = self._engines.get(self.default if name is None else name)
        if engine is None:
            raise UnknownModel(f"no model '{name}'; there are: {', '.join(self.names()) or 'none'}", allowed=self.names())
        return engine

    def close(self) -> None:
        """Close every engine."""
        for engine in self._engines.values():
            engine.close()
