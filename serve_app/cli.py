"""The command `serve-app`: talks to a running server from the terminal."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NoReturn, TextIO

import typer
from rich.console import Console

from serve_app.client.async_client import AsyncClient
from serve_app.client.chat import Chat
from serve_app.client.chat_request import AskOptions
from serve_app.client.config import ClientConfig
from serve_app.client.endpoint import DEFAULT_URL
from serve_app.client.errors import ClientError, Unreachable
from serve_app.client.events import Answer
from serve_app.client.streaming_map import Result, Source
from serve_app.client.sync_client import Client
from serve_app.resilience.retry import RetryConfig

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

_FIRST_LOOK = ClientConfig(retry=RetryConfig(max_retries=1, base_delay_s=0.2))
"""A server that is not there should be told at once; later, interruptions are waited out."""

Url = Annotated[str, typer.Option(envvar="SERVE_APP_URL", help="Where the server listens.")]
ApiKey = Annotated[str | None, typer.Option(envvar="SERVE_APP_API_KEY", help="Bearer key; names the tenant.")]
Model = Annotated[str | None, typer.Option(help="Model to ask; the server's first one if not given.")]
System = Annotated[str | None, typer.Option(help="System message put before the conversation.")]
MaxTokens = Annotated[int | None, typer.Option(min=1, help="Longest answer in tokens.")]
Temperature = Annotated[float | None, typer.Option(min=0.0, max=2.0, help="0 always takes the likeliest token.")]


@app.callback()
def serve_app() -> None:
    """Talk to a running serve_app server. Answers survive broken connections."""


@app.command()
def chat(
    prompt: Annotated[str | None, typer.Argument(help="Ask this once, instead of a conversation.")] = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    model: Model = None,
    system: System = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
) -> None:
    """Converse with a model. Ctrl-C ends an answer, Ctrl-D the conversation.

    Reads from a pipe too, and then writes nothing but the answer.

    echo "Why is the sky blue?" | serve-app chat

    serve-app chat "Sum this up:" < report.txt
    """
    piped = None if sys.stdin.isatty() else sys.stdin.read().strip()
    asked = "\n\n".join(part for part in (prompt, piped) if part)
    if piped is not None and not asked:
        _fail("Nothing to ask: standard input is empty.")
    options: AskOptions = {"system": system, "max_tokens": max_tokens, "temperature": temperature}
    options["model"] = model or _first_model(url, api_key)
    with Client(url, api_key) as client:
        if asked:
            _answer_once(client, asked, options)
            return
        console = Console(highlight=False)
        console.print(f"{options['model']} at {url}. Ctrl-C ends an answer, Ctrl-D leaves.", style="dim", markup=False)
        _edit_lines()
        Chat(client, options, console, lambda: input("> ")).run()


@app.command(name="map")
def map_prompts(
    prompts: Annotated[Path, typer.Argument(help="File with one prompt on each line; - reads standard input.")],
    parallelism: Annotated[int, typer.Option(min=1, help="Prompts that are asked at once.")] = 8,
    rate: Annotated[float | None, typer.Option(help="Most prompts begun in a second.")] = None,
    unordered: Annotated[
        bool, typer.Option("--unordered", help="Write answers as they come, not in the order of prompts.")
    ] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    model: Model = None,
    system: System = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
) -> None:
    """Ask many prompts, and write one JSON line for each to standard output.

    serve-app map prompts.txt --parallelism 8 > answers.jsonl

    A prompt that fails has "error" instead of "text"; the exit status is then 1. Empty lines are left out.
    """
    if rate is not None and rate <= 0:
        raise typer.BadParameter("must be above 0", param_hint="--rate")
    options: AskOptions = {"system": system, "max_tokens": max_tokens, "temperature": temperature, "priority": "batch"}
    options["model"] = model or _first_model(url, api_key)
    try:
        lines = sys.stdin if str(prompts) == "-" else prompts.open(encoding="utf-8")
    except OSError as error:
        _fail(f"{prompts} cannot be read: {error.strerror}")
    with lines:
        failed = asyncio.run(_map(lines, url, api_key, options, parallelism, rate, not unordered))
    if failed:
        _fail(f"{failed} prompt{'s' if failed > 1 else ''} failed.")


async def _map(
    lines: TextIO,
    url: str,
    api_key: str | None,
    options: AskOptions,
    parallelism: int,
    rate: float | None,
    ordered: bool,
) -> int:
    """Write a line for each prompt; the number of those that failed."""
    failed = 0
    async with AsyncClient(url, api_key) as client:

        async def ask(prompt: str) -> Answer:
            return await client.ask(prompt, **options)

        source = Source(_prompts(lines))
        if rate is not None:
            source = source.throttle(rate)
        async for result in source.map_async(ask, parallelism, ordered=ordered):
            failed += result.error is not None
            sys.stdout.write(json.dumps(_document(result), ensure_ascii=False) + "\n")
            sys.stdout.flush()
    return failed


async def _prompts(lines: TextIO) -> AsyncIterator[str]:
    """In a thread: standard input may be another program's, and slow."""
    while line := await asyncio.to_thread(lines.readline):
        if prompt := line.strip():
            yield prompt


def _document(result: Result[str, Answer]) -> dict[str, Any]:
    document: dict[str, Any] = {"index": result.index, "prompt": result.item}
    answer = result.value
    if answer is None:
        return {**document, "error": str(result.error)}
    usage = answer.usage
    counts = None if usage is None else {"prompt": usage.prompt_tokens, "completion": usage.completion_tokens}
    return {**document, "text": answer.text, "finish_reason": answer.finish_reason, "tokens": counts}


def _answer_once(client: Client, prompt: str, options: AskOptions) -> None:
    ended = False
    try:
        with client.stream(prompt, **options) as stream:
            for token in stream:
                sys.stdout.write(token.text)
                sys.stdout.flush()
                ended = token.text.endswith("\n") if token.text else ended
    except ClientError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    if not ended:
        sys.stdout.write("\n")


def _first_model(url: str, api_key: str | None) -> str:
    try:
        with Client(url, api_key, config=_FIRST_LOOK) as client:
            models = client.models()
    except Unreachable as error:
        _fail(f"{error}\nIs the server running? `make run` starts it; --url names another one.")
    except ClientError as error:
        _fail(str(error))
    if not models:
        _fail(f"{url} serves no model.")
    return models[0]


def _edit_lines() -> None:
    """Give `input` history and editing keys, where Python has them."""
    with suppress(ImportError):
        import readline  # noqa: F401  # importing it is what changes `input`


def _fail(message: str) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(1)


def main() -> None:
    """Entry point of `serve-app`."""
    app(prog_name="serve-app")


if __name__ == "__main__":
    main()
