from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from serve_app.core.departure import Departure
from serve_app.router.serve import departure_watch
from tests.support.virtual_loop import run_virtual


def left_after_s(monkeypatch: pytest.MonkeyPatch, *lists: frozenset[str] | None) -> list[float]:
    """When the replica "me" is told to leave, in virtual seconds, if Serve's list is each of `lists` for a second."""
    connected: list[object] = []
    monkeypatch.setattr(departure_watch, "connect", connected.append)
    shown = iter(lists)
    monkeypatch.setattr(departure_watch, "listed_replicas", lambda _: next(shown))

    async def main() -> list[float]:
        departure, told = Departure(), []
        handle: Any = SimpleNamespace()
        with departure.told_to(lambda: told.append(asyncio.get_running_loop().time())):
            watch = asyncio.create_task(departure_watch.watch_departure(handle, "me", departure))
            await asyncio.sleep(len(lists) + 0.5)
            watch.cancel()
        assert connected == [handle]
        return told

    return run_virtual(main())


def test_a_replica_leaves_when_serve_no_longer_lists_it(monkeypatch: pytest.MonkeyPatch) -> None:
    others, both = frozenset({"other"}), frozenset({"me", "other"})
    assert left_after_s(monkeypatch, None, others, both, both, others, others) == [5.0]


def test_a_deleted_application_lists_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    assert left_after_s(monkeypatch, frozenset({"me"}), frozenset()) == [2.0]


def test_a_replica_that_starts_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    assert left_after_s(monkeypatch, None, frozenset(), frozenset({"other"})) == []


def test_a_list_that_cannot_be_read_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(departure_watch, "connect", lambda _: None)
    handle: Any = SimpleNamespace(_router=object())
    departure = Departure()
    run_virtual(departure_watch.watch_departure(handle, "me", departure))
    assert len(caplog.records) == 1
    assert not departure.leaving
