"""Each member of uvicorn that the service uses, with its signature: pyproject.toml pins the minor version that has them.

After a change of the pin, this file says what to compare in ``service/api/transport`` and ``service/server.py``.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import inspect
import re
import tomllib
from pathlib import Path
from typing import Any

import httptools
import pytest
import uvicorn
from packaging.requirements import Requirement
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import Server, ServerState
from uvicorn.supervisors import multiprocess

from service import server as service_server
from service.api.transport.connection import Connection, StreamConnection
from service.workers import _Worker

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"

METHODS: dict[type, dict[str, str]] = {
    HttpToolsProtocol: {
        # overridden
        "connection_made": "(self, transport)",
        "connection_lost": "(self, exc)",
        "data_received": "(self, data)",
        "eof_received": "(self)",
        "pause_writing": "(self)",
        "resume_writing": "(self)",
        "on_message_begin": "(self)",
        "on_header": "(self, name, value)",
        "on_headers_complete": "(self)",
        "on_body": "(self, body)",
        "on_message_complete": "(self)",
        "on_response_complete": "(self)",
        "send_400_response": "(self, msg)",
        # called
        "_unset_keepalive_if_required": "(self)",
        "_get_upgrade": "(self)",
        "_should_upgrade": "(self)",
        "handle_websocket_upgrade": "(self)",
    },
    WebSocketsSansIOProtocol: {
        "connection_made": "(self, transport)",
        "send": "(self, message)",
        "on_task_complete": "(self, task)",
    },
    Server: {
        "startup": "(self, sockets)",
        "shutdown": "(self, sockets)",
        "handle_exit": "(self, sig, frame)",
        "run": "(self, sockets)",
    },
}
"""Methods by their parameters."""

ATTRIBUTES: dict[type, set[str]] = {
    HttpToolsProtocol: {
        "app",
        "app_state",
        "config",
        "connections",
        "cycle",
        "headers",
        "loop",
        "parser",
        "pipeline",
        "root_path",
        "scope",
        "timeout_keep_alive",
        "transport",
        "url",
    },
    WebSocketsSansIOProtocol: {"app_state", "close_sent", "conn", "handshake_complete", "logger", "loop", "transport"},
    RequestResponseCycle: {
        "body",
        "disconnected",
        "keep_alive",
        "message_event",
        "response_complete",
        "response_started",
        "transport",
    },
}
"""Attributes of their instances."""

CONFIG = {
    "access_log",
    "backlog",
    "http",
    "lifespan",
    "log_config",
    "root_path",
    "server_header",
    "timeout_graceful_shutdown",
    "ws",
    "ws_max_size",
    "ws_per_message_deflate",
}
"""Arguments of ``uvicorn.Config``."""


def test_uvicorn_is_pinned_to_the_minor_that_is_installed() -> None:
    """A later minor may change any of the members below, and is not installed by itself."""
    project = tomllib.loads(PYPROJECT.read_text("utf-8"))["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    pins = [
        requirement for requirement in (Requirement(line) for lines in lists for line in lines) if requirement.name == "uvicorn"
    ]
    installed = importlib.metadata.version("uvicorn")
    major, minor = map(int, installed.split(".")[:2])
    assert pins
    for pin in pins:
        assert pin.specifier.contains(installed)
        assert pin.specifier.contains(f"{major}.{minor}.999")
        assert not pin.specifier.contains(f"{major}.{minor + 1}.0")
        assert not pin.specifier.contains(f"{major}.{minor - 1}.999")


@pytest.mark.parametrize(
    ("owner", "name", "parameters"),
    [(owner, name, parameters) for owner, methods in METHODS.items() for name, parameters in methods.items()],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_method_has_the_parameters_that_the_service_relies_on(owner: type, name: str, parameters: str) -> None:
    """Overridden methods are called by uvicorn with these, and called ones take these."""
    method = vars(owner)[name]
    found = [parameter for parameter in inspect.signature(method).parameters if parameter != "_loop"]
    assert f"({', '.join(found)})" == parameters


def test_every_override_is_named_above() -> None:
    """An override that is not in the contract would break in silence."""
    for ours, theirs in ((Connection, HttpToolsProtocol), (StreamConnection, WebSocketsSansIOProtocol)):
        inherited = {name for base in theirs.__mro__[:-1] for name in vars(base)}
        overridden = {name for name in vars(ours) if name in inherited and not name.startswith("__")}
        assert overridden <= set(METHODS[theirs])
    of_server = {name for name in vars(service_server._Server) if name in vars(Server) and not name.startswith("__")}
    assert of_server <= set(METHODS[Server])


def attributes_of(owner: type) -> set[str]:
    """The attributes of a fresh instance."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        """Serve nothing."""

    config = uvicorn.Config(application, log_config=None)
    state, loop = ServerState(), asyncio.new_event_loop()
    try:
        if owner is not RequestResponseCycle:
            protocol = owner(config, state, {}, loop)
            if owner is HttpToolsProtocol:
                protocol.on_message_begin()  # sets the request's own
            return set(vars(protocol))
        transport = asyncio.Transport()
        cycle = RequestResponseCycle(
            scope={},  # type: ignore[typeddict-item]
            transport=transport,
            flow=FlowControl(transport),
            logger=None,  # type: ignore[arg-type]
            access_logger=None,  # type: ignore[arg-type]
            access_log=False,
            default_headers=[],
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=True,
            on_response=lambda: None,
        )
        return set(vars(cycle))
    finally:
        loop.close()


@pytest.mark.parametrize("owner", ATTRIBUTES, ids=lambda owner: owner.__name__)
def test_an_instance_has_the_attributes_that_the_service_uses(owner: type) -> None:
    """Those that uvicorn sets itself, before a connection is made or with a request's first byte."""
    assert attributes_of(owner) >= ATTRIBUTES[owner]


def test_a_server_has_what_a_worker_replaces() -> None:
    """Its set of connections, to which protocols add themselves, and its servers, which it closes and waits for."""
    server = Server(uvicorn.Config(Connection, log_config=None))
    assert type(server.server_state.connections) is set
    source = inspect.getsource(Server)
    for used in (
        "if sockets is not None",
        "self.servers",
        "server.close()",
        "await server.wait_closed()",
        "self.lifespan.state",
    ):
        assert used in source
    for protocol in (HttpToolsProtocol, WebSocketsSansIOProtocol):
        source = inspect.getsource(protocol)
        assert "self.connections = server_state.connections" in source
        assert set(re.findall(r"self\.connections\.(\w+)", source)) <= {"add", "discard", "remove"}


def test_the_configuration_takes_what_the_server_sets() -> None:
    """Every keyword of ``service.server``'s configuration."""
    assert set(inspect.signature(uvicorn.Config).parameters) >= CONFIG
    source = inspect.getsource(service_server.run)
    used = {name for name in inspect.signature(uvicorn.Config).parameters if f"        {name}=" in source}
    assert used == CONFIG


def test_a_caller_who_is_gone_is_an_os_error() -> None:
    """starlette turns it into its own ``WebSocketDisconnect`` only then."""
    assert issubclass(ClientDisconnected, OSError)


def test_the_parser_has_what_the_connection_asks_it() -> None:
    """httptools, which uvicorn gives the connection."""
    parser = httptools.HttpRequestParser(object())
    for name in ("feed_data", "get_http_version", "get_method", "should_keep_alive", "should_upgrade"):
        assert callable(getattr(parser, name))
    assert issubclass(httptools.HttpParserUpgrade, Exception)
    assert not issubclass(httptools.HttpParserUpgrade, httptools.HttpParserError)


def test_the_supervisor_makes_its_workers_by_the_name_that_ours_replaces() -> None:
    """``service/workers.py`` puts a class of its own in the place of ``Process``."""
    for method in ("init_processes", "keep_subprocess_alive", "restart_all"):
        assert "Process" in getattr(multiprocess.Multiprocess, method).__code__.co_names
    assert issubclass(_Worker, multiprocess.Process)
    assert {"parent_conn", "process"} <= set(multiprocess.Process.__init__.__code__.co_names), "of our own ping"
    assert str(inspect.signature(multiprocess.Process.target)).startswith("(self, sockets")
