"""Makes `.venv` with the pinned requirements. Runs under any Python from 3.11 on, with the standard library only.

Does nothing when `.venv` already holds what the requirement files name. Progress goes to the terminal as one line,
pip's own output to `.venv/install.log`.

    python3 tools/setup_env.py [--device auto|cpu|gpu] [--dev]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = "installed.json"
LOG = "install.log"
PROJECT = "serve_app"
"""This project itself, installed in place after what it needs."""
QUIET_LINE_EVERY_S = 15.0

NO_TORCH = """\
pip found no CPU build of PyTorch ({pin}) in the package indexes that it is configured with.
Give it the index of CPU wheels that PyTorch's installation page names for "Linux, Pip, CPU":

    make {target} TORCH_INDEX_URL=<that index>

or set PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS to any place that holds the wheel."""
NO_INDEX = """\
pip reached no package index. Check the network, or point pip at a mirror (PIP_INDEX_URL), then run the command again:
it goes on where it stopped."""
NO_VENV = """\
{python} cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv."""
TOO_OLD = """\
Python 3.11 or newer is needed, this is {version}. Name a newer one: make {target} PYTHON=python3.12"""


class SetupFailed(Exception):
    """The environment could not be made; the message says what to do."""


def has_gpu() -> bool:
    """Whether an NVIDIA GPU is visible on this machine."""
    return any(re.fullmatch(r"nvidia\d+", path.name) for path in Path("/dev").glob("nvidia*"))


def pins_of(path: Path) -> list[str]:
    """The `name==version` lines of a requirements file."""
    return [line for line in path.read_text().splitlines() if "==" in line and not line.startswith("#")]


def fingerprint(pins: Iterable[str]) -> str:
    """What a requirements file asks for, as one string that changes with its pins."""
    return hashlib.sha256("\n".join([sys.version, *pins]).encode()).hexdigest()


def read_stamp(venv: Path) -> dict[str, str]:
    """What an earlier run installed: `device`, and a fingerprint per requirements file."""
    try:
        stamp = json.loads((venv / STAMP).read_text())
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def make_venv(venv: Path) -> None:
    """Create an empty environment with pip, replacing what is there."""
    shutil.rmtree(venv, ignore_errors=True)
    done = subprocess.run([sys.executable, "-m", "venv", str(venv)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        shutil.rmtree(venv, ignore_errors=True)
        raise SetupFailed(NO_VENV.format(python=sys.executable) + "\n\n" + done.stdout + done.stderr)


def installed_packages(venv: Path) -> int:
    """Packages that the environment holds at this moment."""
    return sum(1 for _ in venv.glob("lib/python*/site-packages/*.dist-info"))


class ProgressLine:
    """One line that tells how far an installation is: rewritten in a terminal, repeated now and then in a log."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._started = time.monotonic()
        self._next_plain = 0.0

    def show(self, state: str, last: bool = False) -> None:
        """Tell `state`; `last` ends the line."""
        elapsed = time.monotonic() - self._started
        text = f"{self._title}: {state}, {elapsed:.0f} s"
        if sys.stdout.isatty():
            print(f"\r\033[K{text}", end="\n" if last else "", flush=True)
        elif last or elapsed >= self._next_plain:
            self._next_plain = elapsed + QUIET_LINE_EVERY_S
            print(text, flush=True)


def pip_install(venv: Path, title: str, arguments: list[str], packages: int) -> None:
    """Run `pip install`, showing progress. Raises `SetupFailed` with the reason in words."""
    log_path = venv / LOG
    start = log_path.stat().st_size if log_path.exists() else 0
    command = [str(venv / "bin" / "python"), "-m", "pip", "install", "--no-input", "--progress-bar=off", *arguments]
    line = ProgressLine(title)
    already = installed_packages(venv)
    with log_path.open("ab") as log, subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT) as pip:
        while True:
            try:
                code = pip.wait(timeout=0.5)
                break
            except subprocess.TimeoutExpired:
                output = tail(log_path, start)
                line.show(progress_of(output, packages, installed_packages(venv) - already))
    if code != 0:
        line.show("failed", last=True)
        raise SetupFailed(reason_of(tail(log_path, start)))
    line.show(f"{packages} packages" if packages > 1 else "done", last=True)


def tail(path: Path, start: int) -> str:
    """The text of `path` from byte `start` on."""
    with path.open("rb") as file:
        file.seek(start)
        return file.read().decode(errors="replace")


def progress_of(output: str, packages: int, installed: int) -> str:
    """How far pip is, from what it has printed and how many packages have appeared."""
    collected = re.findall(r"^(?:Collecting|Requirement already satisfied:) (\S+)", output, re.MULTILINE)
    if "Installing collected packages" in output:
        return f"unpacking {min(max(installed, 0), packages)}/{packages}"
    size = re.findall(r"Downloading \S+ \(([\d.]+ [kMG]B)\)", output)
    latest = f" {collected[-1]}" if collected else ""
    return f"downloading {min(len(collected), packages)}/{packages}{latest}{f' ({size[-1]})' if size else ''}"


def reason_of(output: str) -> str:
    """Why pip failed, in words that help; its last lines otherwise."""
    if re.search(r"(NewConnectionError|NameResolutionError|ConnectTimeoutError|ProxyError)", output):
        return NO_INDEX
    missing = re.search(r"No matching distribution found for (torch==\S+\+cpu)", output)
    if missing:
        return NO_TORCH.format(pin=missing[1], target=os.environ.get("MAKE_TARGET", "setup"))
    return "pip failed:\n" + "\n".join(output.splitlines()[-15:])


def install(
    device: str,
    with_dev: bool,
    venv: Path = VENV,
    requirements: Path = ROOT / "requirements",
    project: Path = ROOT / "pyproject.toml",
) -> bool:
    """Bring `venv` to what the requirement files say. Returns whether anything had to be done."""
    wanted = [device, "dev"] if with_dev else [device]
    stamp = read_stamp(venv)
    prints = {name: fingerprint(pins_of(requirements / f"{name}.txt")) for name in wanted}
    prints[PROJECT] = fingerprint([project.read_text()])  # it names the commands to install
    missing = [name for name in (*wanted, PROJECT) if stamp.get(name) != prints[name]]
    if not missing:
        return False
    if stamp.get("device") != device or not (venv / "bin" / "python").exists():
        print(f"making {venv.name} with Python {sys.version.split()[0]} for {device.upper()}", flush=True)
        make_venv(venv)
        stamp, missing = {"device": device}, [*wanted, PROJECT]
        (venv / STAMP).write_text(json.dumps(stamp))
    for name in missing:
        if name == PROJECT:
            pip_install(venv, PROJECT, ["--no-deps", "--no-build-isolation", "-e", str(ROOT)], 1)
        else:
            _install_pins(venv, requirements / f"{name}.txt")
        stamp[name] = prints[name]
        (venv / STAMP).write_text(json.dumps(stamp))
    return True


_ALONE = ("--no-deps", "--no-compile")
"""The pins are complete. Most of some 26,000 modules are never imported: to compile them all takes more than a minute,
and Python compiles by itself what it imports."""


def _install_pins(venv: Path, path: Path) -> None:
    pins = pins_of(path)
    torch = [pin for pin in pins if pin.startswith("torch==")]
    index = os.environ.get("TORCH_INDEX_URL")
    if torch:  # by itself and first: it is the one that may be missing
        source = ["--extra-index-url", index] if index else []
        pip_install(venv, "PyTorch", [*_ALONE, *source, *torch], 1)
    pip_install(venv, path.name, [*_ALONE, "-r", str(path)], len(pins))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=["auto", "cpu", "gpu"], default="auto")
    parser.add_argument("--dev", action="store_true", help="add what tests and checks need")
    options = parser.parse_args()
    target = os.environ.get("MAKE_TARGET", "setup")
    if sys.version_info < (3, 11):  # noqa: UP036 - whatever Python the user named runs this
        print(TOO_OLD.format(version=sys.version.split()[0], target=target), file=sys.stderr)
        return 1
    device = options.device if options.device != "auto" else ("gpu" if has_gpu() else "cpu")
    try:
        install(device, options.dev)
    except SetupFailed as error:
        print(f"\n{error}\n\npip's output is in {VENV.name}/{LOG}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
