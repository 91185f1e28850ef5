"""No body up to the limit, valid or not, holds up the streams of others, or costs a multiple of its size."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from serve_app.ingress.api import build_api
from serve_app.ingress.config import IngressConfig
from tests.support.asgi_post import post
from tests.support.fake_router import FakeRouter, speak
from tests.support.hostile_bodies import SHAPES
from tests.support.loop_hold import LoopHold

_LIMIT = IngressConfig().max_body_bytes
_LONGEST_HOLD_S = 0.05
_ATTEMPTS = 3
"""The best counts: what holds the loop each time is the code, what does so once is the machine."""


@pytest.mark.parametrize("size", [256 * 1024, 2 * 1024 * 1024, _LIMIT], ids=["256 KiB", "2 MiB", "limit"])
@pytest.mark.parametrize("shape", SHAPES)
async def test_no_body_holds_the_event_loop_for_long(shape: str, size: int) -> None:
    path, make = SHAPES[shape]
    body = make(size)
    holds: list[float] = []
    for _ in range(_ATTEMPTS):
        api = build_api(lambda: FakeRouter([speak("a")]), IngressConfig())
        async with LoopHold() as hold:
            status, answer = await post(api, path, body)
        assert status in (200, 400, 404, 413)
        assert len(answer) < 2048
        holds.append(hold.longest_s)
        if hold.longest_s < _LONGEST_HOLD_S:
            return
    pytest.fail(f"the loop was held for {min(holds):.3f} s")


def test_no_body_costs_a_multiple_of_its_size() -> None:
    # In a process of its own: the peak of a process is of its whole life.
    script = "import asyncio; from tests.unit.ingress.http.test_hostile_sizes import peak_bytes; "
    script += f"print(asyncio.run(peak_bytes({_LIMIT})))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert int(done.stdout) < 16 * _LIMIT


async def peak_bytes(size: int) -> int:
    """Memory of this process at its highest while it answers each shape, beyond what it took before."""
    api = build_api(lambda: FakeRouter([speak("a")]), IngressConfig())
    path, make = SHAPES["one text"]
    await post(api, path, make(1024))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for path, make in SHAPES.values():
        await post(api, path, make(size))
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
