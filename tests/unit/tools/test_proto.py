"""How the .proto files are compiled."""

from __future__ import annotations

from pathlib import Path

from tools.proto import FOLDER, ROOT, commands


def test_every_file_is_compiled_and_only_services_get_stubs() -> None:
    protos = [path.relative_to(ROOT) for path in sorted((ROOT / FOLDER).glob("*.proto"))]
    messages, stubs = commands("python3", protos)
    assert messages[:4] == ["python3", "-m", "grpc_tools.protoc", "-I."]
    assert set(map(str, protos)) < set(messages) and "--pyi_out=." in messages
    assert {Path(name).name for name in stubs if name.endswith(".proto")} == {"chat.proto", "llm.proto"}
