"""The package's build: compiles ``labels.c``, ``objects.c`` and ``planes.c`` of ``service/pipeline/tasks`` where there is a
compiler. Where there is none, the wheel is pure.

May import: the standard library, hatchling.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CompiledLabels(BuildHookInterface[Any]):
    """For ``[tool.hatch.build.targets.wheel.hooks.custom]``."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002  (hatchling's signature)
        """Compile, and say that the wheel is for machines such as this one."""
        script = Path(self.root, "service", "pipeline", "tasks", "compiled.py")
        if subprocess.run([sys.executable, "-P", str(script)], check=False).returncode:  # noqa: S603
            return
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
        build_data["artifacts"].append("/service/pipeline/tasks/labels-*.so")
