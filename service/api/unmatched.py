"""Paths that no route matches: 404, or a redirect where only a slash at the end is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send


class Unmatched:
    """The default of a router.

    Takes:
        routes: those of the router
    """

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Redirect, or raise.

        Raises:
            HTTPException: 404, for requests and for openings of WebSockets
        """
        location = self._location(scope) if scope["type"] == "http" else None
        if location is None:
            raise HTTPException(404, "there is no such path; /docs lists the paths of this service")
        await Response(status_code=307, headers={"Location": location})(scope, receive, send)

    def _location(self, scope: Scope) -> str | None:
        """Return the address that is meant, as a relative reference; None if no route matches it.

        An absolute address would be wrong behind a proxy that serves this under a prefix or by TLS.
        """
        path, prefix = scope["path"], scope.get("root_path", "")
        query = scope["query_string"].decode("latin-1")
        question = f"?{query}" if query else ""
        if prefix and path == prefix + prefix:  # the prefix alone: the addresses in the page are relative to the slash
            return f"{quote(prefix.rpartition('/')[2])}/{question}"
        stripped = path.removesuffix("/")
        if stripped in (path, prefix) or stripped.endswith("/"):
            return None
        if all(route.matches({**scope, "path": stripped})[0] is Match.NONE for route in self._routes):
            return None
        return f"../{quote(stripped.rpartition('/')[2])}{question}"
