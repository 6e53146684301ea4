"""Arguments that the commands of this package share."""

from __future__ import annotations

import argparse

from service.pipeline.manifest import InputPolicy


def size_argument(text: str) -> tuple[int, int]:
    """HEIGHTxWIDTH to (height, width), each a side that a manifest can hold."""
    try:
        policy = InputPolicy.model_validate({"working_size": tuple(text.lower().split("x"))})
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH, e.g. 360x480, not {text!r}") from error
    return policy.working_size
