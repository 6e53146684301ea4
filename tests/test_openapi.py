"""The OpenAPI document against a real server, by schemathesis: requests that it allows and requests that it forbids."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from service.api.app import create_app
from service.settings import Settings
from tests.live import live_server


def no_server_error(_context: object, response: schemathesis.Response, _case: object) -> None:
    """Except for the 504 that a deadline of a microsecond asks for."""
    assert response.status_code < 500 or response.status_code == 504


CHECKS = [
    no_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]

# Not schemathesis' own parametrize: its plugin for pytest does not know pytest 9.
OPERATIONS = {
    operation.label: operation
    for found in schemathesis.openapi.from_dict(create_app(Settings()).openapi()).get_all_operations()
    if isinstance(found, Ok)
    for operation in [found.ok()]
}


@pytest.fixture(scope="module")
def base_url(artifact_dir: Path) -> Iterator[str]:
    """A real server."""
    with live_server(Settings(models_dir=artifact_dir)) as url:
        yield url


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["allowed", "forbidden"])
@pytest.mark.parametrize("label", OPERATIONS)
def test_every_reply_is_one_that_the_document_describes(base_url: str, label: str, mode: GenerationMode) -> None:
    """Status, media type, headers and body: nothing comes back that a client made from the document would not know."""

    @settings(max_examples=30, suppress_health_check=list(HealthCheck))
    @given(OPERATIONS[label].as_strategy(generation_mode=mode))
    def conforms(case: Any) -> None:
        case.call_and_validate(base_url=base_url, checks=CHECKS)

    try:
        conforms()
    except Unsatisfiable:
        pytest.skip("a call without parameters cannot be wrong")
