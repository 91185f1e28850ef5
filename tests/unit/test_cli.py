"""The command line, against a server on loopback."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from typer.testing import CliRunner, Result

from serve_app.cli import app
from tests.support.resumable_server import Break, Refuse, ResumableServer, Whole, listening

NOBODY = "http://127.0.0.1:9"
"""The discard port: nothing listens there."""


@contextmanager
def served(server: ResumableServer) -> Iterator[str]:
    """The server's URL, while it listens in a thread of its own."""
    ready, url = threading.Event(), ""
    loop = asyncio.new_event_loop()
    over = asyncio.Event()

    async def serve() -> None:
        nonlocal url
        async with listening(server) as url:
            ready.set()
            await over.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert ready.wait(10.0)
    try:
        yield url
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(10.0)
        loop.close()


def run(*arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(app, list(arguments), input=stdin)


def test_a_pipe_gets_the_answer_and_nothing_else() -> None:
    server = ResumableServer(tokens=["It ", "is [b]blue[/b]."], treatments=[Whole(upto=1, then=[Break()]), Whole()])
    with served(server) as url:
        done = run("chat", "--url", url, "--system", "Be brief.", "--max-tokens", "9", stdin="Why?\n")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "It is [b]blue[/b].\n", "")
    (body, again) = server.bodies
    assert body == again
    assert [message["content"] for message in body["messages"]] == ["Be brief.", "Why?"]
    assert (body["max_tokens"], body["model"]) == (9, "first-model")
    assert "temperature" not in body


def test_a_prompt_comes_before_what_is_piped() -> None:
    server = ResumableServer(tokens=["ends in a line break\n"])
    with served(server) as url:
        done = run("chat", "Sum up:", "--url", url, "--model", "other", stdin="a\nb\n")
    assert done.stdout == "ends in a line break\n"
    assert server.bodies[0]["messages"] == [{"role": "user", "content": "Sum up:\n\na\nb"}]
    assert server.bodies[0]["model"] == "other"


def test_a_server_that_does_not_run_is_told_with_what_to_do() -> None:
    for command in (["chat"], ["map", "-"]):
        done = run(*command, "--url", NOBODY, stdin="Hello")
        assert done.exit_code == 1
        assert f"{NOBODY} cannot be reached" in done.stderr
        assert "make run" in done.stderr
        assert done.stdout == ""


def test_the_servers_own_words_are_shown_when_it_says_no() -> None:
    with served(ResumableServer(treatments=[Refuse(400, code="context_length_exceeded")])) as url:
        done = run("chat", "--url", url, stdin="Hello")
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", "No. (400, context_length_exceeded)\n")


def test_an_empty_pipe_is_an_error() -> None:
    done = run("chat", stdin=" \n")
    assert (done.exit_code, done.stderr) == (1, "Nothing to ask: standard input is empty.\n")


def test_map_writes_a_line_for_each_prompt_in_order(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("one\n\n  two \nthree é\n")
    server = ResumableServer(tokens=["x", "y"])
    with served(server) as url:
        done = run("map", str(prompts), "--url", url, "--parallelism", "2", "--rate", "1000")
    assert done.exit_code == 0
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {
            "index": index,
            "prompt": prompt,
            "text": "xy",
            "finish_reason": "stop",
            "tokens": {"prompt": 7, "completion": 2},
        }
        for index, prompt in enumerate(["one", "two", "three é"])
    ]
    assert all(headers["x-priority"] == "batch" for headers in server.requests)


def test_map_keeps_the_others_when_a_prompt_fails_and_says_so() -> None:
    server = ResumableServer(treatments=[Refuse(400, code="invalid_value"), Whole()])
    with served(server) as url:
        done = run("map", "-", "--url", url, "--parallelism", "1", stdin="one\ntwo\n")
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert first == {"index": 0, "prompt": "one", "error": "No. (400, invalid_value)"}
    assert second["text"] == server.text
    assert done.exit_code == 1
    assert "1 prompt failed." in done.stderr


def test_a_file_that_is_not_there_is_named() -> None:
    done = run("map", "/nowhere/prompts.txt", "--model", "m")
    assert (done.exit_code, done.stderr) == (1, "/nowhere/prompts.txt cannot be read: No such file or directory\n")


def test_a_senseless_rate_is_refused() -> None:
    assert run("map", "-", "--rate", "0").exit_code == 2


def test_each_command_explains_itself() -> None:
    assert "chat" in run("--help").stdout
    for command in ("chat", "map"):
        text = run(command, "--help").stdout
        assert "SERVE_APP_URL" in text
        assert "--model" in text
