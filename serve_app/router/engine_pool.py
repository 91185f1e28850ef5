"""What one router knows of the engine replicas of one model: who lives, who has room, how much is outstanding."""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.core.engine_status import EngineStatus


@dataclass(slots=True)
class EngineView:
    """One engine replica as this router sees it."""

    status: EngineStatus
    in_flight: int = 0
    """Streams that this router has dispatched to it and not settled."""
    outstanding_tokens: int = 0
    """Tokens that this router still expects it to compute: prompts plus expected output, less what has come."""
    silent: bool = False
    refused: bool = False
    """It said no since its last report: its room is less than its report lets us think."""

    @property
    def engine_id(self) -> str:
        """Unique id of the Serve replica."""
        return self.status.engine_id

    @property
    def room(self) -> int:
        """Streams that this router may still send: the replica's capacity is divided among its live routers.

        At least one place is offered, since the engine has the last word.
        """
        share = max(1, self.status.capacity // max(1, self.status.routers))
        return share - self.in_flight


class EnginePool:
    """The engine replicas of one model. Pure and single-threaded."""

    def __init__(self) -> None:
        self._engines: dict[str, EngineView] = {}
        self._listed: frozenset[str] = frozenset()

    def report(self, status: EngineStatus) -> None:
        """Take a heartbeat: the replica is known, and no longer silent."""
        view = self._engines.get(status.engine_id)
        if view is None:
            self._engines[status.engine_id] = EngineView(status)
        else:
            view.status = status
            view.silent = False
            view.refused = False

    def list_replicas(self, engine_ids: frozenset[str]) -> None:
        """Take Serve's list: replicas that are not on it get no new work, and are forgotten once idle."""
        self._listed = engine_ids
        for engine_id in [e for e, v in self._engines.items() if e not in engine_ids and v.in_flight == 0]:
            del self._engines[engine_id]

    def gone(self, engine_id: str) -> None:
        """Stop using a replica until it reports again; forget it if Serve does not list it and nothing runs there.

        A replica that shuts down still reports for a while after it left Serve's list: its silence is its end.
        """
        view = self._engines.get(engine_id)
        if view is None:
            return
        view.silent = True
        if engine_id not in self._listed and view.in_flight == 0:
            del self._engines[engine_id]

    def refused(self, engine_id: str) -> None:
        """The replica did not take a stream: send it nothing before its next report."""
        view = self._engines.get(engine_id)
        if view is not None:
            view.refused = True

    def lease(self, engine_id: str, tokens: int) -> None:
        """Count one stream of `tokens` expected tokens to the replica; `release` gives it back."""
        view = self._engines[engine_id]
        view.in_flight += 1
        view.outstanding_tokens += tokens

    def release(self, engine_id: str, tokens: int) -> None:
        """Give a lease back with the tokens of it that are still outstanding."""
        view = self._engines.get(engine_id)
        if view is None:
            return
        view.in_flight -= 1
        view.outstanding_tokens -= tokens
        if view.in_flight == 0:
            view.outstanding_tokens = 0
            if engine_id not in self._listed:
                del self._engines[engine_id]

    def adjust(self, engine_id: str, tokens: int) -> None:
        """Add `tokens` (negative: remove) to what is outstanding at the replica."""
        view = self._engines.get(engine_id)
        if view is not None:
            view.outstanding_tokens += tokens

    def candidates(self, avoid: frozenset[str] = frozenset()) -> list[EngineView]:
        """Replicas that may be sent a stream now; those in `avoid` only when there is no other."""
        usable = [view for view in self._ready() if view.room > 0 and not view.refused]
        preferred = [view for view in usable if view.engine_id not in avoid]
        return preferred or usable

    def has_ready(self) -> bool:
        """Whether any replica could serve, with room or without."""
        return any(True for _ in self._ready())

    def is_empty(self) -> bool:
        """Whether Serve lists no replica at all: the model sleeps."""
        return not self._listed

    def unheard(self) -> list[str]:
        """Replicas that Serve lists but that do not report to this router."""
        return [e for e in self._listed if e not in self._engines or self._engines[e].silent]

    def views(self) -> list[EngineView]:
        """All known replicas."""
        return list(self._engines.values())

    def max_model_len(self) -> int | None:
        """Context window in tokens; None until a replica has said so."""
        return max((view.status.max_model_len for view in self._engines.values()), default=0) or None

    def _ready(self) -> list[EngineView]:
        return [
            view
            for view in self._engines.values()
            if view.status.ready and not view.silent and view.engine_id in self._listed
        ]
