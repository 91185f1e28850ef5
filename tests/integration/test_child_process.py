"""Whatever a child starts is ended with it, also what has detached itself as Ray's daemons do.

Each scenario runs in a process of its own: `end_all` ends every descendant of the process that it is used in.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
START = """
import sys
from pathlib import Path
from tools.child_process import ChildProcess

output = Path(sys.argv[2]) / "output"
child = ChildProcess([sys.executable, "-c", sys.argv[1]], {}, output, Path(sys.argv[2]))
"""
END_ALL = """
assert child.wait(timeout_s=60)
print(output.read_text().strip(), child.end_all(grace_s=0.1))
"""
INTERRUPT = """
while "up" not in output.read_text():
    assert child.exit_code is None
    child.wait(timeout_s=0.05)
child.interrupt()
assert child.wait(timeout_s=60)
print(output.read_text().split(), child.exit_code, child.end_all(grace_s=0.1))
"""
DETACHED_AND_STUBBORN = """
import subprocess, sys
code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
grandchild = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE)
grandchild.stdout.readline()
print(grandchild.pid, flush=True)
"""
WAITS_FOR_INTERRUPT = """
import time
try:
    print("up", flush=True)
    time.sleep(600)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def play(scenario: str, child_code: str, folder: Path, sigint: signal.Handlers = signal.SIG_DFL) -> str:
    """What the scenario prints when it starts with this disposition of SIGINT."""
    command = [sys.executable, "-c", START + scenario, child_code, str(folder)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=120,
        preexec_fn=lambda: signal.signal(signal.SIGINT, sigint),
    )
    return done.stdout


def test_a_detached_grandchild_that_ignores_sigterm_is_ended(tmp_path: Path) -> None:
    grandchild, ended = play(END_ALL, DETACHED_AND_STUBBORN, tmp_path).split()
    assert int(ended) == 1
    assert not psutil.pid_exists(int(grandchild))


def test_an_interrupt_reaches_the_child_and_nothing_is_left(tmp_path: Path) -> None:
    assert play(INTERRUPT, WAITS_FOR_INTERRUPT, tmp_path).strip() == "['up', 'interrupted'] 0 0"


def test_a_child_of_a_shells_background_job_is_interrupted_as_well(tmp_path: Path) -> None:
    shown = play(INTERRUPT, WAITS_FOR_INTERRUPT, tmp_path, sigint=signal.SIG_IGN)
    assert shown.strip() == "['up', 'interrupted'] 0 0"
