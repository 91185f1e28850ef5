"""The output of `serve run`: kept in a file, shown when asked, searched for what it tells."""

from __future__ import annotations

import re
import sys
from pathlib import Path

OVERLOADED = "The current node timed out during startup"
"""Ray gives its own processes 30 s to start, which a busy machine, or one with a cold disk, may exceed."""


class ServeLog:
    """The output of `serve run`, in a file; shown as it grows when asked to."""

    def __init__(self, path: Path, show: bool) -> None:
        self.path = path
        self._show = show
        self._shown_bytes = 0

    @property
    def text(self) -> str:
        return self.path.read_text(errors="replace") if self.path.exists() else ""

    def dashboard_url(self) -> str | None:
        """Address of Ray's dashboard once it is named; its port is not fixed, others may run a Ray beside ours."""
        found = re.search(r"dashboard at.*?(\d+\.\d+\.\d+\.\d+:\d+)", self.text)
        return f"http://{found[1]}" if found else None

    def show_new(self) -> None:
        """Copy what is new to the terminal, if that was asked for."""
        if self._show and self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self._shown_bytes)
                new = file.read()
            self._shown_bytes += len(new)
            sys.stdout.write(new.decode(errors="replace"))
            sys.stdout.flush()

    def tail(self, lines: int) -> str:
        """The last `lines` lines."""
        return "\n".join(self.text.splitlines()[-lines:])

    @property
    def ray_was_too_slow(self) -> bool:
        """Whether Ray gave up on its own processes: worth another try."""
        return OVERLOADED in self.text
