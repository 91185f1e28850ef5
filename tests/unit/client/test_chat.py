"""The conversation in a terminal."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import httpx
import pytest
from rich.console import Console

from serve_app.client.chat import Chat, statistics
from serve_app.client.events import Answer, Usage
from serve_app.client.sync_client import Client
from tests.support.resumable_server import (
    BlockingTransport,
    Break,
    FakeTime,
    Piece,
    Refuse,
    ResumableServer,
    Whole,
)

EXCHANGE = [{"role": "user", "content": "One"}, {"role": "assistant", "content": "a b c"}]


class Interrupting(BlockingTransport):
    """Ctrl-C is pressed when the connection breaks."""

    def play(self, request: httpx.Request, pieces: list[Piece]) -> Iterator[bytes]:  # type: ignore[override]  # blocking
        try:
            yield from super().play(request, pieces)
        except httpx.ReadError:
            raise KeyboardInterrupt from None


def lines(*typed: str | type[BaseException]) -> Callable[[], str]:
    """What the user types, and then Ctrl-D."""
    each = iter(typed)

    def read() -> str:
        line = next(each, EOFError)
        if isinstance(line, str):
            return line
        raise line

    return read


def shown(server: ResumableServer, *typed: str | type[BaseException], interrupting: bool = False) -> str:
    """What the terminal shows."""
    time = FakeTime()
    transport = (Interrupting if interrupting else BlockingTransport)(server, time)
    client = Client(
        "http://test", http=httpx.Client(transport=transport, trust_env=False), clock=time, sleep=time.sleep
    )
    console = Console(file=io.StringIO(), width=100)
    Chat(client, {"model": "m"}, console, lines(*typed)).run()
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_each_line_is_asked_with_all_that_was_said() -> None:
    server = ResumableServer(tokens=["a ", "b ", "c"])
    output = shown(server, "One", "  ", "Two")
    assert output.count("a b c\n") == 2
    assert server.bodies[1]["messages"] == [*EXCHANGE, {"role": "user", "content": "Two"}]


def test_a_cut_connection_is_not_noticed() -> None:
    server = ResumableServer(tokens=["a ", "b ", "c"], treatments=[Whole(upto=1, then=[Break()]), Whole()])
    assert "a b c\n" in shown(server, "One")
    assert len(server.requests) == 2


def test_ctrl_c_ends_the_answer_on_the_server_too_but_not_the_conversation() -> None:
    server = ResumableServer(tokens=["a ", "b ", "c"], treatments=[Whole(upto=2, then=[Break()]), Whole()])
    output = shown(server, "One", "Two", interrupting=True)
    assert "a b \ncancelled" in output
    assert "a b c" in output
    assert server.cancelled == ["stream-1"]
    assert server.bodies[1]["messages"][1] == {"role": "assistant", "content": "a b "}


def test_ctrl_c_at_the_prompt_says_how_to_leave() -> None:
    assert "Ctrl-D leaves" in shown(ResumableServer(), KeyboardInterrupt)


def test_an_error_is_told_and_what_was_not_answered_is_not_repeated() -> None:
    server = ResumableServer(treatments=[Refuse(400, code="context_length_exceeded"), Whole()])
    output = shown(server, "Too long", "Two")
    assert "No. (400, context_length_exceeded)" in output
    assert server.bodies[1]["messages"] == [{"role": "user", "content": "Two"}]


def test_an_answer_cannot_change_the_terminal() -> None:
    server = ResumableServer(tokens=["\x1b[2J[bold]x[/bold]\x07 :smile:\n\ty\x9b31m"])
    output = shown(server, "One")
    assert "[2J[bold]x[/bold] :smile:\n        y31m\n" in output
    assert "\x1b" not in output


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (
            Answer("x", "stop", Usage(3, 41), "m", ttft_s=0.25, duration_s=2.25, reconnects=1),
            "first token 250 ms · 20.0 tokens/s · 41 tokens",
        ),
        (
            Answer("x", "length", Usage(3, 1), "m", ttft_s=0.25, duration_s=0.25, reconnects=0),
            "first token 250 ms · 1 token · cut at its length",
        ),
        (Answer("", "stop", None, "m", ttft_s=None, duration_s=1.0, reconnects=0), ""),
    ],
)
def test_the_line_below_an_answer_tells_how_it_came(answer: Answer, expected: str) -> None:
    assert statistics(answer) == expected
