"""What stands between clients and engines: the one interface of our router, the baselines and the oracle."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Protocol

from benchmarks.overload.cluster import Cluster
from benchmarks.overload.event_loop import EventLoop
from benchmarks.overload.jobs import Attempt, Request
from serve_app.core.engine_status import EngineStatus


@dataclass(frozen=True)
class Objective:
    """What users expect of a stream, in seconds: goodput counts only what is within both.

    Defaults: three times the p99 of the first token, and twice that of the later ones, that these engines give at 60 %
    load (about 1 s and 0.05 s).
    """

    ttft_s: float = 3.0
    tpot_s: float = 0.1


@dataclass
class Surroundings:
    """What a policy is given."""

    loop: EventLoop
    cluster: Cluster
    rng: random.Random
    objective: Objective


class Policy(Protocol):
    """All methods are called at the router, that is after the network's delay."""

    omniscient: bool
    """It knows the engines' state without delay: the oracle."""
    wants_progress: bool
    """It is told of all tokens soon, not only of first and last ones."""

    def offered(self, request: Request) -> None:
        """A client's request arrives."""

    def left(self, request: Request) -> None:
        """A client hung up."""

    def listed(self, engine_ids: frozenset[str]) -> None:
        """Serve's list of replicas changed."""

    def died(self, engine_id: str) -> None:
        """A replica is dead: calls to it fail."""

    def reported(self, status: EngineStatus) -> None:
        """A heartbeat."""

    def accepted(self, attempt: Attempt) -> None:
        """The engine took an attempt."""

    def rejected(self, attempt: Attempt) -> None:
        """The engine is full."""

    def tokens(self, attempt: Attempt, first: int, count: int) -> None:
        """Tokens of an attempt came; `first` counts from the answer's beginning."""

    def finished(self, attempt: Attempt) -> None:
        """The attempt's last token has come."""

    def failed(self, attempt: Attempt) -> None:
        """The engine failed this attempt."""
