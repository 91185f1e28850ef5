"""What one router knows of the engine replicas of one model: who lives, how much is outstanding, who is leaving."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from serve_app.core.engine_status import EngineStatus


@dataclass(slots=True)
class EngineView:
    """One engine replica as this router sees it."""

    status: EngineStatus
    stepped_at: float
    """Clock reading (seconds) of the last heartbeat that told of new steps, or of the first one."""
    group: str = ""
    """Its deployment. Replicas of one group run the same model in the same way: they can go on with each other's
    streams. Empty until Serve has listed it."""
    in_flight: int = 0
    """Choices of the streams that this router has dispatched to it and not settled."""
    outstanding_tokens: int = 0
    """Tokens that this router still expects it to compute: prompts plus expected output, less what has come."""
    awaiting_tokens: int = 0
    """Prompt tokens of those streams that have no first token yet: the prefill that is queued there."""
    silent: bool = False
    refused: bool = False
    """It said no since its last report: its room is less than its report lets us think."""
    leaving_since: float | None = None
    """Clock reading at which Serve took it off its list; its streams go on."""

    @property
    def engine_id(self) -> str:
        """Unique id of the Serve replica."""
        return self.status.engine_id

    @property
    def warm(self) -> bool:
        """It has generated tokens since it started."""
        return self.status.load.generated_tokens > 0


class EnginePool:
    """The engine replicas of one model. Pure and single-threaded."""

    def __init__(self, on_forget: Callable[[str], None]) -> None:
        """`on_forget` is told the id of each replica that is forgotten for good."""
        self._engines: dict[str, EngineView] = {}
        self._listed: dict[str, frozenset[str]] = {}
        """Serve's lists, by group."""
        self._on_forget = on_forget

    def report(self, status: EngineStatus, now: float) -> None:
        """Take a heartbeat: the replica is known, and no longer silent."""
        view = self._engines.get(status.engine_id)
        if view is None:
            group = self._group_of(status.engine_id)
            leaving = now if group is None else None
            self._engines[status.engine_id] = EngineView(status, now, group or "", leaving_since=leaving)
            return
        if status.load.steps != view.status.load.steps:
            view.stepped_at = now
        view.status = status
        view.silent = False
        view.refused = False

    def list_replicas(self, engine_ids: frozenset[str], now: float, group: str = "") -> None:
        """Take Serve's list of one group: replicas that are on no group's list get no new work, and are forgotten once
        idle."""
        self._listed[group] = engine_ids
        for engine_id, view in list(self._engines.items()):
            if engine_id in engine_ids:
                view.leaving_since = None
                view.group = group
            elif self._group_of(engine_id) is not None:
                continue  # another group's
            elif view.in_flight == 0:
                self._forget(engine_id)
            elif view.leaving_since is None:
                view.leaving_since = now

    def gone(self, engine_id: str) -> None:
        """Stop using a replica until it reports again; forget it if Serve does not list it and nothing runs there.

        A replica that shuts down still reports for a while after it left Serve's list: its silence is its end.
        """
        view = self._engines.get(engine_id)
        if view is None:
            return
        view.silent = True
        if self._group_of(engine_id) is None and view.in_flight == 0:
            self._forget(engine_id)

    def refused(self, engine_id: str) -> None:
        """The replica did not take a stream: send it nothing before its next report."""
        view = self._engines.get(engine_id)
        if view is not None:
            view.refused = True

    def lease(self, engine_id: str, tokens: int, choices: int = 1) -> None:
        """Count one stream of `tokens` expected tokens to the replica; `release` gives it back."""
        view = self._engines[engine_id]
        view.in_flight += choices
        view.outstanding_tokens += tokens

    def release(self, engine_id: str, tokens: int, choices: int = 1) -> None:
        """Give a lease back with the tokens of it that are still outstanding."""
        view = self._engines.get(engine_id)
        if view is None:
            return
        view.in_flight -= choices
        view.outstanding_tokens -= tokens
        if view.in_flight == 0:
            view.outstanding_tokens = 0
            if self._group_of(engine_id) is None:
                self._forget(engine_id)

    def adjust(self, engine_id: str, tokens: int) -> None:
        """Add `tokens` (negative: remove) to what is outstanding at the replica."""
        view = self._engines.get(engine_id)
        if view is not None:
            view.outstanding_tokens += tokens

    def ready(self) -> list[EngineView]:
        """Replicas that could serve, with room or without."""
        return [
            view
            for view in self._engines.values()
            if view.status.ready and not view.silent and view.leaving_since is None
        ]

    def is_empty(self) -> bool:
        """Whether Serve lists no replica at all: the model sleeps."""
        return not any(self._listed.values())

    @property
    def has_several_groups(self) -> bool:
        """Whether not every replica can go on with what another one began."""
        return len(self._listed) > 1

    def unheard(self) -> list[tuple[str, str]]:
        """Replicas that Serve lists but that do not report to this router, each with its group."""
        return [
            (engine_id, group)
            for group, engine_ids in self._listed.items()
            for engine_id in engine_ids
            if engine_id not in self._engines or self._engines[engine_id].silent
        ]

    def view(self, engine_id: str) -> EngineView | None:
        """One replica; None when it is not known."""
        return self._engines.get(engine_id)

    def views(self) -> list[EngineView]:
        """All known replicas."""
        return list(self._engines.values())

    def max_model_len(self) -> int | None:
        """Context window in tokens; None until a replica has said so."""
        return max((view.status.max_model_len for view in self._engines.values()), default=0) or None

    def max_token_bytes(self) -> int:
        """Bytes of text that a token covers at most at any replica; 0 when one of them does not know."""
        sizes = [view.status.max_token_bytes for view in self._engines.values()]
        return max(sizes) if sizes and min(sizes) > 0 else 0

    def _group_of(self, engine_id: str) -> str | None:
        """The group on whose list the replica is; None: on none."""
        for group, engine_ids in self._listed.items():
            if engine_id in engine_ids:
                return group
        return None

    def _forget(self, engine_id: str) -> None:
        del self._engines[engine_id]
        self._on_forget(engine_id)
