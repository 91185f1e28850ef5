"""A progress bar on stderr for work whose items come one by one."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class ProgressBar:
    """Counts what is done and what failed. Does nothing unless it is `wanted`; None: when stderr is a terminal."""

    def __init__(self, total: int | None, wanted: bool | None = None, console: Console | None = None) -> None:
        console = console or Console(stderr=True)
        self._progress: Progress | None = None
        self._failed = 0
        if console.is_terminal if wanted is None else wanted:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=console,
                # Through the console goes only what the same terminal would show anyway: stdout may be a file.
                redirect_stdout=sys.stdout.isatty(),
            )
            self._task = self._progress.add_task("", total=total)

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def advance(self, failed: bool) -> None:
        """One more item is done."""
        self._failed += failed
        if self._progress is not None:
            description = f"[red]{self._failed} failed[/red]" if self._failed else ""
            self._progress.update(self._task, advance=1, description=description)
