from __future__ import annotations

import os

from tools import procfs

_TAIL = "S 12 1 1 0 -1 4194560 1 0 0 0 150 50 30 20 20 0 1 0 9876 1 1"


def test_cpu_seconds_are_user_plus_system_time() -> None:
    process = procfs.parse_stat(f"34 (python) {_TAIL}")
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    assert process.own_s == 200 * tick_s
    assert process.ended_children_s == 50 * tick_s


def test_process_name_may_hold_blanks_and_parentheses() -> None:
    process = procfs.parse_stat(f"34 (a) b (c)) {_TAIL}")
    assert (process.pid, process.name, process.parent, process.started) == (34, "a) b (c)", 12, 9876)


def test_a_process_that_is_gone_reads_as_none() -> None:
    assert procfs.read(2**22 + 1) is None
    assert procfs.command_line(2**22 + 1) == ""


def test_this_process_is_a_descendant_of_its_parent() -> None:
    assert os.getpid() in {process.pid for process in procfs.descendants(os.getppid())}
