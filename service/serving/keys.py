"""The keys of the service, for every transport."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from service.errors import Unauthorized


class Keys:
    """The keys of the service. Only their digests are kept.

    Takes:
        keys: without any, every caller is accepted
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key) for key in keys]
        self.is_open = not self._digests
        """Whether every caller is accepted."""

    def check(self, offered: str) -> None:
        """Return None if the caller is accepted.

        Takes:
            offered: the caller's key; empty without one
        Raises:
            Unauthorized: if keys are set and the caller offers another one
        """
        # Every key is compared, each to its end and at one length: the time that it takes tells nothing.
        matches = [hmac.compare_digest(_digest(offered), digest) for digest in self._digests]
        if matches and not any(matches):
            raise Unauthorized("this service wants a key: send it as X-API-Key, or as Authorization: Bearer")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
