"""Other Ray actors call the router by its Serve handle, without HTTP."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import pytest

from tests.support.serve_cluster import ROOT
from tests.support.served_app import ServedApp

CALLER_TIMEOUT_S = 120.0


@pytest.fixture
async def called(pair: ServedApp) -> dict[str, Any]:
    """What `tests.support.handle_caller` got."""
    cluster = pair.cluster
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.support.handle_caller",
        cluster.address,
        env=cluster.environment,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(CALLER_TIMEOUT_S):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, errors.decode()
    found: dict[str, Any] = json.loads(output)
    return found


async def test_actors_call_the_router_by_handle_streaming_and_not(pair: ServedApp, called: dict[str, Any]) -> None:
    whole, chunks = called["whole"], called["chunks"]
    assert whole["object"] == "chat.completion"
    assert whole["usage"]["completion_tokens"] == 20
    deltas = [choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]]
    assert len([delta for delta in deltas if delta]) > 1
    assert "".join(deltas) == whole["choices"][0]["message"]["content"]
    assert called["many"] == 10
    assert "'gamma' does not exist" in called["error"]
    # The caller gave up an answer of each kind: nothing of them is left running.
    await pair.until_idle(3.0)
