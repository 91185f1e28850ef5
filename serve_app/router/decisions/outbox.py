"""Collects what the decision core orders while it handles one thing that happened."""

from __future__ import annotations

from serve_app.core.errors import ServeAppError
from serve_app.router.decisions.messages import Command, Fail
from serve_app.router.decisions.stream_ledger import StreamLedger
from serve_app.telemetry.reasons import RefusalReason


class Outbox:
    """Commands in the order in which they were given. One for the whole core, so that the order holds across models.

    Single-threaded. `RouterCore.handle` drains it each time. What was ordered before an unexpected error stays for the
    next event: the core has booked it, so it must be carried out.
    """

    __slots__ = ("_commands",)

    def __init__(self) -> None:
        self._commands: list[Command] = []

    def order(self, command: Command) -> None:
        """Add a command behind those given before."""
        self._commands.append(command)

    def fail(self, stream: StreamLedger, error: ServeAppError, refusal: RefusalReason | None = None) -> None:
        """Order the end of a stream, once. Its place is given back when the shell reports `Ended`."""
        if not stream.failed:
            stream.failed = True
            self._commands.append(Fail(stream.stream_id, error, refusal))

    def drain(self) -> list[Command]:
        """Take all commands out, oldest first."""
        commands, self._commands = self._commands, []
        return commands
