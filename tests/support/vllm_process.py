"""A process that runs a vLLM engine on the tiny model, prints the pids of its children, and waits to be killed."""

from __future__ import annotations

import asyncio
import sys

import psutil

from serve_app.engine.vllm.config import VllmEngineConfig
from serve_app.engine.vllm.engine import VllmEngine


async def _main(model: str) -> None:
    engine = VllmEngine(VllmEngineConfig(model=model, load_format="dummy", max_model_len=512, kv_cache_gib=0.25))
    await engine.start()
    print("children", *(child.pid for child in psutil.Process().children(recursive=True)), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
