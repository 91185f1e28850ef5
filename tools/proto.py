"""Generates the Python code of the .proto files in serve_app/ingress/grpc/proto, next to them.

The compiler lives in a throw-away environment: it pins an older protobuf than the application, on purpose, since
generated code runs with its own protobuf, newer ones, and those of the next major version.

    make proto
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path("serve_app/ingress/grpc/proto")
COMPILER = "grpcio-tools==1.76.0"


def commands(python: str, protos: Sequence[Path]) -> list[list[str]]:
    """What to run in the repository's root: `python` is one that has the compiler."""
    services = [path for path in protos if "\nservice " in (ROOT / path).read_text()]
    protoc = [python, "-m", "grpc_tools.protoc", "-I."]
    return [
        [*protoc, "--python_out=.", "--pyi_out=.", *map(str, protos)],
        [*protoc, "--grpc_python_out=.", *map(str, services)],
    ]


def main() -> int:
    protos = [path.relative_to(ROOT) for path in sorted((ROOT / FOLDER).glob("*.proto"))]
    with tempfile.TemporaryDirectory() as scratch:
        venv.create(scratch, with_pip=True)
        python = str(Path(scratch, "bin", "python"))
        subprocess.run([python, "-m", "pip", "install", "--quiet", COMPILER], check=True)
        for command in commands(python, protos):
            subprocess.run(command, cwd=ROOT, check=True)
    print(f"{FOLDER}: {len(protos)} files compiled with {COMPILER}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
