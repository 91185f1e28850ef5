"""Clients that do not read hold up nobody else."""

from __future__ import annotations

import asyncio

from tests.support.served_app import ServedApp, chat
from tests.support.unread_stream import unread_stream


async def test_streams_complete_while_other_clients_do_not_read(pair: ServedApp) -> None:
    async with asyncio.TaskGroup() as tasks:
        silent = [
            tasks.create_task(unread_stream(pair.url, chat("beta", 60_000, n=2, top_logprobs=5, logprobs=True)))
            for _ in range(4)
        ]
    sockets = [task.result() for task in silent]
    try:
        await pair.until_generating(len(sockets))
        answers = await asyncio.gather(*(pair.stream(chat("beta", 100)) for _ in range(10)))
        assert all(answer.complete for answer in answers)
        assert await pair.generations() >= len(sockets), "the silent clients' generations ran all the while"
    finally:
        for one in sockets:
            one.close()
    await pair.until_idle(5.0)
