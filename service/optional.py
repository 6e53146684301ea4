"""Packages of an extra, imported where a file needs them."""

from __future__ import annotations

import importlib
from typing import Any

from service.errors import BadSetting
from service.extras import extra_of, needs

_WHAT = {"video": "videos need", "bags": "bags need"}


def load(name: str) -> Any:
    """Import a module of an optional package.

    Raises:
        BadSetting: naming the extra to install
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        extra = extra_of(name)
        if extra not in _WHAT:
            raise
        raise BadSetting(needs(_WHAT[extra], extra)) from error
