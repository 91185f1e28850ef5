"""The examples in the documentation run as they stand, but for the server's address."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest

from tests.support.node import CLIENT, NODE
from tests.support.resumable_server import Break, ResumableServer, Whole, listening

ROOT = Path(__file__).parents[3]
URL = "http://127.0.0.1:8000"


def examples(path: Path, language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)
    assert found
    return found


async def output(command: list[str | Path], server: ResumableServer, source: str) -> str:
    """What the program writes on stdout; it must not fail."""
    assert URL in source
    async with listening(server) as url:
        pipe = asyncio.subprocess.PIPE
        program = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=ROOT)
        stdout, stderr = await program.communicate(source.replace(URL, url).encode())
    assert program.returncode == 0, stderr.decode()
    return stdout.decode()


def cut_once() -> ResumableServer:
    return ResumableServer(treatments=[Whole(upto=4, then=[Break()]), Whole()])


@pytest.mark.parametrize("source", examples(ROOT / "docs" / "clients.md", "python"))
async def test_python_example(source: str) -> None:
    server = cut_once()
    assert server.text in await output([sys.executable, "-"], server, source)


async def test_javascript_example() -> None:
    (source,) = examples(CLIENT.with_name("README.md"), "js")
    source = source.replace("./serve_app_client.js", CLIENT.as_uri())
    server = cut_once()
    written = await output([NODE, "--input-type=module", "-"], server, source)
    assert written.count(server.text) == 2
