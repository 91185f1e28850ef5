"""Collects what the decision core orders while it handles one thing that happened."""

from __future__ import annotations

from serve_app.router.decisions.messages import Command


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

    def drain(self) -> list[Command]:
        """Take all commands out, oldest first."""
        commands, self._commands = self._commands, []
        return commands
