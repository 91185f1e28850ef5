"""Installs the programs that tests need and Python packages cannot bring: `python -m tools.system_packages`.

A real nginx stands in front of the server in tests of the proxies, and a real Chromium drives the web page. On Debian
and its kin they come by apt-get, as root or by a sudo that asks nothing; elsewhere they are to be installed by hand.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

PACKAGES: Mapping[str, str] = {"nginx": "nginx", "chromium": "chromium"}
"""Debian package by the program that it brings."""

_SEARCHED = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))
_LONGEST_S = 900


class NotInstalled(Exception):
    """A program is missing and could not be installed; the message says what to do."""


def find(program: str) -> str | None:
    """Path of `program`, also where only root looks; None when it is not installed."""
    return shutil.which(program, path=_SEARCHED)


def install(say: Callable[[str], None] = print) -> None:
    """Install what is missing. Raises `NotInstalled`."""
    missing = [package for program, package in PACKAGES.items() if find(program) is None]
    if not missing:
        return
    names = " ".join(missing)
    as_root = _as_root()
    if shutil.which("apt-get") is None or as_root is None:
        raise NotInstalled(f"these programs are missing; install them and try again: {names}")
    started = time.monotonic()
    say(f"system packages: installing {names}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update"], ["install", "--yes", "--no-install-recommends", *missing]):
        command = [*as_root, "apt-get", "--quiet", *arguments]
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=_LONGEST_S
        )
        if done.returncode != 0:
            last = "\n".join(done.stdout.splitlines()[-10:])
            raise NotInstalled(f"`{' '.join(command)}` failed:\n{last}")
    say(f"system packages: done, {time.monotonic() - started:.0f} s")


def _as_root() -> list[str] | None:
    """What a command begins with to run as root; None when it cannot."""
    if os.geteuid() == 0:
        return []
    if (
        shutil.which("sudo")
        and subprocess.run(["sudo", "--non-interactive", "true"], capture_output=True).returncode == 0
    ):
        return ["sudo", "--non-interactive"]
    return None


def main() -> int:
    """Install, or say what is missing: tests that need it then fail and say so too."""
    try:
        install()
    except (NotInstalled, subprocess.TimeoutExpired) as error:
        print(f"system packages: {error}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
