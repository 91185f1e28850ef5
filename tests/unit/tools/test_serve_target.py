from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.demo_model import ROOT
from tools.serve_target import LOCAL_HOSTS, StartError, behind_haproxy, read_target, require_free_port, with_port

CONFIG: dict[str, Any] = {
    "http_options": {"host": "127.0.0.1", "port": 8000},
    "applications": [
        {
            "name": "serve_app",
            "import_path": "serve_app.app:build_app",
            "route_prefix": "/",
            "args": {
                "models": [
                    {"id": "a", "engine": {"kind": "vllm", "model": "models/a"}},
                    {"id": "b", "engine": {"kind": "simulated"}},
                ]
            },
        }
    ],
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "app.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return path


def test_target_names_models_folders_and_address(config: Path) -> None:
    target = read_target(config)
    assert target.url == "http://127.0.0.1:8000"
    assert target.model_ids == ("a", "b")
    assert target.model_folders == ("models/a",)


def test_a_server_on_all_interfaces_is_reached_by_loopback_under_its_prefix(tmp_path: Path) -> None:
    document = {"applications": [{**CONFIG["applications"][0], "route_prefix": "/llm/"}]}
    path = tmp_path / "app.yaml"
    path.write_text(yaml.safe_dump(document))
    target = read_target(path)
    assert target.host == "0.0.0.0"
    assert target.url == "http://127.0.0.1:8000/llm"


def test_another_port_leaves_everything_else_as_it_was(config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "scratch"
    folder.mkdir()
    moved = with_port(read_target(config), 8765, folder)
    assert moved.url == "http://127.0.0.1:8765"
    assert yaml.safe_load(moved.config.read_text())["applications"] == CONFIG["applications"]
    assert read_target(config).port == 8000


@pytest.mark.parametrize("name", ["local", "open"])
def test_grpc_for_this_machine_only_is_known_by_its_services(tmp_path: Path, name: str) -> None:
    functions = [f"serve_app.ingress.grpc.server:add_{'local_' if name == 'local' else ''}services"]
    path = tmp_path / "app.yaml"
    path.write_text(yaml.safe_dump({**CONFIG, "grpc_options": {"grpc_servicer_functions": functions}}))
    assert read_target(path).grpc_is_local == (name == "local")
    for shown in (ROOT / "configs").glob("*.yaml"):
        assert read_target(shown).grpc_is_local == (read_target(shown).host in LOCAL_HOSTS), shown


def test_behind_haproxy_serve_itself_is_on_loopback(config: Path, tmp_path: Path) -> None:
    assert behind_haproxy(read_target(config), tmp_path) == read_target(config)
    config.write_text(yaml.safe_dump({**CONFIG, "http_options": {"host": "192.0.2.7", "port": 8000}}))
    behind = behind_haproxy(read_target(config), tmp_path)
    assert behind.url == "http://192.0.2.7:8000"
    assert yaml.safe_load(behind.config.read_text()) == CONFIG


@pytest.mark.parametrize("text", ["", "[]", "applications: []", "a: [", "applications: [{args: {models: [{}]}}]"])
def test_what_is_no_serve_config_is_told_by_its_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    with pytest.raises(StartError, match=r"odd\.yaml is not a Serve config file"):
        read_target(path)


def test_a_missing_file_is_told_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"cannot read .*none\.yaml"):
        read_target(tmp_path / "none.yaml")


def test_a_taken_port_is_refused_with_the_way_out() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=f"port {port} .* in use.*PORT={port + 1}"):
            require_free_port("127.0.0.1", port)


def test_the_way_out_of_another_taken_port_is_another_http_port() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=r"PORT=8124\b"):
            require_free_port("127.0.0.1", port, 8123)


def test_the_port_for_grpc_moves_with_the_other(tmp_path: Path) -> None:
    path = tmp_path / "app.yaml"
    path.write_text(yaml.safe_dump({**CONFIG, "grpc_options": {"port": 9000, "grpc_servicer_functions": ["a:b"]}}))
    folder = tmp_path / "scratch"
    folder.mkdir()
    target = read_target(path)
    assert target.grpc_port == 9000
    assert with_port(target, 8007, folder).grpc_port == 9007


def test_without_services_grpc_is_not_served(config: Path) -> None:
    assert read_target(config).grpc_port is None


def test_a_free_port_passes() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    require_free_port("127.0.0.1", port)
