"""What the soak's clients saw, counted."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

_NEAR_KILL_S = 20.0
"""So long after a replica was killed, errors are told apart: nobody answers for a process that is dead."""


@dataclass(slots=True)
class Tally:
    """Counts of one run; `now` readings are `time.monotonic`."""

    complete: Counter[str] = field(default_factory=Counter)
    """Whole and correct answers, by protocol."""
    left: int = 0
    """Answers that the client gave up on purpose."""
    resumed: int = 0
    """Connections made anew for the rest of an answer, after a cut on purpose or a kill."""
    refused: int = 0
    """429, after which the client tried again."""
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    """Answers of 5xx, and what means the same on other protocols."""
    errors_near_kills: Counter[str] = field(default_factory=Counter)
    kills: list[float] = field(default_factory=list)
    """When a replica was killed."""

    def failed(self, what: str) -> None:
        """An answer of 5xx came."""
        near = bool(self.kills) and time.monotonic() - self.kills[-1] < _NEAR_KILL_S
        (self.errors_near_kills if near else self.errors)[what] += 1

    def judge(self, protocol: str, name: str, text: str, wanted: str) -> None:
        """A whole answer came."""
        if text == wanted:
            self.complete[protocol] += 1
        else:
            same = next((at for at, (a, b) in enumerate(zip(text, wanted, strict=False)) if a != b), len(wanted))
            self.wrong.append(f"{protocol} {name}: {len(text)} characters for {len(wanted)}, different from {same} on")
