"""The error tree: stable codes, facts as attributes, nothing of HTTP."""

from __future__ import annotations

import copy
import pickle
import re
import subprocess
import sys

import pytest

from service import errors
from service.errors import BY_CODE, LEAVES, BodyTooLarge, EmptyBody, ServiceError


def test_every_leaf_has_a_code_of_its_own() -> None:
    """A client can find the class by the code, without ambiguity."""
    assert len(BY_CODE) == len(LEAVES)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in BY_CODE)
    assert ServiceError.code not in BY_CODE


def test_the_drawn_tree_shows_every_leaf() -> None:
    """The docstring that people read is the tree that exists."""
    drawn = re.findall(r"[├└]── (\w+)", errors.__doc__ or "")
    assert drawn == [leaf.__name__ for leaf in LEAVES]


def test_facts_are_attributes_and_absent_ones_are_absent() -> None:
    """A program reads the facts; what is not known is not there, rather than None."""
    error = BodyTooLarge("too long", limit=10, actual=None, unit="bytes")
    assert (error.limit, error.unit) == (10, "bytes")
    assert error.facts == {"limit": 10, "unit": "bytes"}
    assert not hasattr(error, "actual")
    assert str(error) == error.message == "too long"


def test_a_fact_cannot_shadow_the_error_itself() -> None:
    """Facts that came over a wire cannot replace the code."""
    facts = {"code": "forged", "facts": "forged"}
    error = EmptyBody("empty", **facts)
    assert error.code == "empty_body"
    assert error.facts["code"] == "forged"


@pytest.mark.parametrize("leaf", LEAVES)
def test_errors_survive_copying_and_pickling(leaf: type[ServiceError]) -> None:
    """An error may cross a process or be raised again elsewhere."""
    error = leaf("why", limit=3)
    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(twin) is leaf
        assert (twin.message, twin.facts) == ("why", {"limit": 3})


def test_errors_import_nothing_but_the_standard_library() -> None:
    """The client can use them with httpx and numpy alone."""
    code = "import sys, service.errors; print(*{m.split('.')[0] for m in sys.modules} - set(sys.stdlib_module_names))"
    loaded = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True).stdout
    assert set(loaded.split()) - {"__main__"} == {"service"}
