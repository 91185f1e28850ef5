"""Tests on several workers: which run together, in which order, and how long each stage took."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.stage_times import StageTimes
from tests.support.worker_groups import group_of, place_of


def pytest_configure(config: pytest.Config) -> None:
    """Show the time by stage, where one process reports of all workers."""
    if not _is_worker(config):
        config.pluginmanager.register(StageTimes(), "stage-times")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With workers, what takes longest goes first; without, what is quick."""
    of_the_rest = 1000 if _is_worker(config) else -1

    def place(item: pytest.Item) -> int:
        found = place_of(item.nodeid)
        return of_the_rest if found is None else found

    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hand whole groups to the workers.

    `--dist loadgroup` with its marks would be the same, but does nothing from pytest 9.2 on: it writes the group into a
    private attribute of each test, which pytest does not read any more.
    """
    from xdist.scheduler import LoadScopeScheduling

    scheduler = LoadScopeScheduling(config, log)
    scheduler._split_scope = group_of
    return scheduler


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")
