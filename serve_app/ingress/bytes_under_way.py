"""What requests hold of a router's memory from their first byte until the router knows them, bounded in sum.

    with under_way.claim() as claim:
        claim.hold(len(body))   # again whenever it has grown

From there on the bounds of admission hold: queued and running requests are bounded by their tokens.
"""

from __future__ import annotations

from types import TracebackType

from serve_app.core.errors import RouterBusy

SHORT_BYTES = 64 * 1024
_SHARE_OF_LONG = 0.75
"""Of the bound; the rest is for short requests, so that a few that are long and slow to come do not lock them out."""
_RETRY_AFTER_S = 1.0


class BytesUnderWay:
    """The account of one router, for all protocols. Used on one event loop; it pickles."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held_bytes = 0

    @property
    def held_bytes(self) -> int:
        """What all claims hold now."""
        return self._held_bytes

    def claim(self) -> Claim:
        """A new claim that holds nothing yet."""
        return Claim(self)

    def _change(self, before_bytes: int, after_bytes: int) -> None:
        held = self._held_bytes + after_bytes - before_bytes
        limit = self._limit_bytes if after_bytes <= SHORT_BYTES else int(self._limit_bytes * _SHARE_OF_LONG)
        if after_bytes > before_bytes and held > limit:
            raise RouterBusy("The router is reading as many requests as it has memory for.", _RETRY_AFTER_S)
        self._held_bytes = held


class Claim:
    """The bytes of one request; leaving the block, or `release`, gives them back, once."""

    __slots__ = ("_account", "_bytes")

    def __init__(self, account: BytesUnderWay) -> None:
        self._account = account
        self._bytes = 0

    def hold(self, total_bytes: int) -> None:
        """Hold `total_bytes`. Raises `RouterBusy` when that is more than before and too much: nothing has changed."""
        self._account._change(self._bytes, total_bytes)
        self._bytes = total_bytes

    def handed_on(self) -> Claim:
        """A claim for whoever goes on with the request; this one then holds nothing."""
        taken = Claim(self._account)
        taken._bytes, self._bytes = self._bytes, 0
        return taken

    def release(self) -> None:
        """Hold nothing more. Idempotent."""
        self.hold(0)

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
