"""The pinned requirement files: complete, host-free, and what pyproject.toml asks for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PINNED = sorted((ROOT / "requirements").glob("*.txt"))


def pins(name: str) -> dict[str, Version]:
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    found = (line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    return {canonicalize_name(package): Version(version.split()[0]) for package, version in found}


@pytest.mark.parametrize("path", PINNED, ids=lambda path: path.name)
def test_every_line_is_an_exact_pin_without_a_host(path: Path) -> None:
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            assert re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.!+-]+( --hash=sha256:[0-9a-f]{64})?", line), line
        assert "://" not in line


@pytest.mark.parametrize(("extra", "files"), [("cpu", ["cpu"]), ("gpu", ["gpu"]), ("dev", ["cpu", "dev"])])
def test_pins_satisfy_what_the_project_declares(extra: str, files: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {name: version for file in files for name, version in pins(file).items()}
    for text in [*project["dependencies"], *project["optional-dependencies"][extra]]:
        requirement = Requirement(text)
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version, prereleases=True), (text, version)


def test_development_pins_agree_with_both_devices() -> None:
    development = pins("dev")
    for device in ("cpu", "gpu"):
        both = {name: version for name, version in pins(device).items() if name in development}
        assert both == {name: development[name] for name in both}


def test_cpu_pins_leave_out_what_is_for_gpus_only() -> None:
    assert not {"torchvision", "torchaudio", "torchcodec", "triton"} & set(pins("cpu"))
    assert not [name for name in pins("cpu") if name.startswith("nvidia")]
    assert pins("cpu")["torch"].local == "cpu"
