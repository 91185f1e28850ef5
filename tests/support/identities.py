"""Authenticators for tests."""

from __future__ import annotations

from serve_app.core.errors import NotAuthenticated
from serve_app.ingress.identity import Identity


class Nobody:
    """Knows nobody, whatever they present."""

    def identify(self, token: str | None) -> Identity:
        raise NotAuthenticated("Incorrect API key provided.")


class Known:
    """Knows the owners of these tokens, and nobody without one."""

    def __init__(self, **identities: Identity) -> None:
        self.identities = identities
        self.asked: list[str | None] = []

    def identify(self, token: str | None) -> Identity:
        self.asked.append(token)
        if token not in self.identities:
            raise NotAuthenticated("Incorrect API key provided.")
        return self.identities[token]
