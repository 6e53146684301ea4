"""Who may call: any holder of one of the keys, or everybody where there are none.

May import: starlette.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from starlette.exceptions import HTTPException


class Keys:
    """The keys that open the service. Only their digests are kept.

    Takes:
        keys: none at all opens the service to everybody
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    def check(self, offered: str) -> None:
        """Nothing, if the caller may come in.

        Takes:
            offered: the caller's key; empty if there is none
        Raises:
            HTTPException: 401
        """
        # Every key is compared, each to its end and at one length: the time taken tells nothing.
        matches = [hmac.compare_digest(_digest(offered), digest) for digest in self._digests]
        if matches and not any(matches):
            detail = "this service wants a key: send it as X-API-Key, or as Authorization: Bearer"
            raise HTTPException(401, detail, headers={"WWW-Authenticate": "Bearer"})


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
