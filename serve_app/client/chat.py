"""The conversation in a terminal."""

from __future__ import annotations

import re
from collections.abc import Callable

from rich.console import Console
from rich.text import Text

from serve_app.client.chat_request import AskOptions
from serve_app.client.errors import ClientError
from serve_app.client.events import Answer
from serve_app.client.sync_client import AnswerStream, Client

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""What a model could write to change the terminal; line ends and tabs stay."""


class Chat:
    """Asks line by line, each with everything said before. For one thread."""

    def __init__(self, client: Client, options: AskOptions, console: Console, read_line: Callable[[], str]) -> None:
        """`read_line` returns what the user typed; `EOFError` ends the chat, `KeyboardInterrupt` begins a new line."""
        self._client = client
        self._options = options
        self._console = console
        self._read_line = read_line
        self._said: list[dict[str, str]] = []

    def run(self) -> None:
        """Talk until the user leaves."""
        while True:
            try:
                line = self._read_line().strip()
            except KeyboardInterrupt:
                self._console.print("\nCtrl-D leaves.", style="dim")
                continue
            except EOFError:
                self._console.print()
                return
            if line:
                self.answer(line)

    def answer(self, line: str) -> None:
        """Ask and show the answer as it comes. Ctrl-C ends the answer; what was said so far stays part of the talk."""
        self._said.append({"role": "user", "content": line})
        stream = self._client.stream(self._said, **self._options)
        note, style = "", "dim"
        try:
            with stream:
                self._show(stream)
            note = statistics(stream.answer)
        except KeyboardInterrupt:
            note = "cancelled"
        except ClientError as error:
            note, style = str(error), "red"
        text = stream.answer.text
        if text:
            self._said.append({"role": "assistant", "content": text})
            self._console.print()
        else:
            self._said.pop()
        self._console.print(Text(note, style))

    def _show(self, stream: AnswerStream) -> None:
        tokens = iter(stream)
        with self._console.status(_Waiting(stream), spinner="dots"):
            first = next(tokens)
        self._write(first.text)
        for token in tokens:
            self._write(token.text)

    def _write(self, text: str) -> None:
        shown = _CONTROL.sub("", text)
        self._console.print(shown, end="", markup=False, highlight=False, emoji=False, soft_wrap=True)


class _Waiting:
    """What stands beside the spinner, looked up whenever it is drawn."""

    def __init__(self, stream: AnswerStream) -> None:
        self._stream = stream

    def __rich__(self) -> Text:
        place = self._stream.queue_position
        return Text("waiting" if place is None else f"waiting, {place} ahead", "dim")


def statistics(answer: Answer) -> str:
    """One line on how the answer came: time to first token, speed, tokens."""
    parts = [] if answer.ttft_s is None else [f"first token {answer.ttft_s * 1000:.0f} ms"]
    tokens = 0 if answer.usage is None else answer.usage.completion_tokens
    speaking_s = answer.duration_s - (answer.ttft_s or 0.0)
    if tokens > 1 and speaking_s > 0:
        parts.append(f"{(tokens - 1) / speaking_s:.1f} tokens/s")
    if tokens:
        parts.append(f"{tokens} token{'s' if tokens > 1 else ''}")
    if answer.finish_reason == "length":
        parts.append("cut at its length")
    return " · ".join(parts)
