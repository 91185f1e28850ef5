"""The import contracts in pyproject.toml hold, and would notice a breach."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def imported_modules(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return found


def test_import_contracts_hold() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_events_are_read_in_one_place_for_all_wire_formats() -> None:
    """Others only pass events on, or write plain text faster than `EventReader`'s hooks."""
    readers = {
        path.relative_to(ROOT / "serve_app").as_posix()
        for folder in ("openai_api", "ingress")
        for path in (ROOT / "serve_app" / folder).rglob("*.py")
        if any(_looks_at(node, "Finished") for node in ast.walk(ast.parse(path.read_text())))
    }
    passing_on = {"ingress/delivery/merged_prompts.py", "ingress/delivery/skipping_reader.py"}
    assert readers == {"openai_api/event_reader.py"} | passing_on


def _looks_at(node: ast.AST, event: str) -> bool:
    """Whether it asks if something is such an event."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
        return event in ast.unparse(node.args[1])
    return isinstance(node, ast.MatchClass) and ast.unparse(node.cls) == event


def test_core_uses_the_standard_library_only() -> None:
    for path in (ROOT / "serve_app" / "core").glob("*.py"):
        roots = {name.partition(".")[0] for name in imported_modules(path)}
        assert roots <= sys.stdlib_module_names | {"serve_app"}, path


def test_vllm_is_imported_by_its_own_engine_only() -> None:
    modules = (ROOT / "serve_app").rglob("*.py")
    users = {
        path.relative_to(ROOT / "serve_app" / "engine" / "vllm").as_posix()
        for path in modules
        if any(name.split(".")[0] == "vllm" for name in imported_modules(path))
    }
    by_vllm_itself = {"prior_penalties.py", "prior_penalties_v2.py"}
    assert users == {"engine.py", "loading.py"} | by_vllm_itself


@pytest.mark.parametrize(
    ("folder", "never"),
    [
        ("serve_app", {"tests", "benchmarks", "tools"}),
        ("tools", {"tests", "benchmarks"}),
        ("benchmarks", {"tests"}),
        ("tests/support", {"benchmarks"}),
        ("tests/integration", {"benchmarks"}),
        ("tests/contract", {"benchmarks"}),
    ],
)
def test_folders_around_the_package_depend_on_each_other_in_one_direction(folder: str, never: set[str]) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        roots = {name.partition(".")[0] for name in imported_modules(path)}
        assert not roots & never, path


def test_importing_the_application_loads_no_engine_library() -> None:
    code = "import sys, serve_app.app; print(*({'vllm', 'torch', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_init_files_are_empty() -> None:
    for path in (ROOT / "serve_app").rglob("__init__.py"):
        assert path.read_text() == "", path
