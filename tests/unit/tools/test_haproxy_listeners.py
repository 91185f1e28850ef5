"""The rewriting of HAProxy's configuration, on what the installed Ray Serve itself generates."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from ray.serve._private.common import RequestProtocol
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions, gRPCOptions

from tools import haproxy_listeners
from tools.haproxy_listeners import AS_HTTP, UnknownForm, with_hosts

GRPC = gRPCOptions(port=9000, grpc_servicer_functions=["serve_app.ingress.grpc.server:add_local_services"])


def generated(folder: Path, host: str, grpc: gRPCOptions | None = GRPC, applications: int = 1) -> str:
    """The configuration that Ray Serve writes."""
    config = HAProxyConfig(
        http_options=HTTPOptions(host=host, port=8000),
        grpc_options=grpc or gRPCOptions(port=0),
        socket_path=str(folder / "admin.sock"),
        server_state_base=str(folder),
        server_state_file=str(folder / "state"),
        metrics_socket_path=str(folder / "metrics.sock"),
        has_received_routes=True,
        has_received_servers=True,
        is_head=True,
    )
    server, fallback = ServerConfig("replica", "127.0.0.1", 30000), ServerConfig("fallback", "127.0.0.1", 8500)
    backends = {}
    for number in range(applications):
        for protocol in (RequestProtocol.HTTP, *([RequestProtocol.GRPC] if grpc else [])):
            name = f"{protocol.value.lower()}-app{number}"
            backends[name] = BackendConfig(
                name=name,
                app_name=f"app{number}",
                path_prefix="/" if not number else f"/bind {number}",
                servers=[server],
                fallback_server=fallback,
                protocol=protocol,
            )
    api = HAProxyApi(config, backends, str(folder / "haproxy.cfg"))
    api.grpc_fallback_server = fallback
    api.grpc_fallback_backend = BackendConfig(
        name="grpc_fallback_backend", path_prefix="", servers=[fallback], protocol=RequestProtocol.GRPC
    )
    api._generate_config_file_internal()
    return (folder / "haproxy.cfg").read_text()


def listeners(configuration: str) -> dict[str, str]:
    """Address by section."""
    found = re.findall(r"^(?:frontend|listen) (\S+)$(?:(?!^\w).*\n)*?\s+bind (\S+)", configuration, re.MULTILINE)
    assert len(found) == len(re.findall(r"^\s*bind ", configuration, re.MULTILINE))
    return dict(found)


def test_ray_opens_statistics_and_metrics_to_everyone(tmp_path: Path) -> None:
    opened = listeners(generated(tmp_path, "127.0.0.1"))
    assert opened["stats"] == "*:8404" and opened["prometheus"] == ":9101", "Ray binds as we do: drop the rewriting"


@pytest.mark.parametrize("applications", [0, 1, 3])
@pytest.mark.parametrize("grpc", [GRPC, None])
def test_everything_listens_where_http_does(tmp_path: Path, grpc: gRPCOptions | None, applications: int) -> None:
    before = generated(tmp_path, "127.0.0.1", grpc, applications)
    after = with_hosts(before, AS_HTTP, AS_HTTP)
    wanted = {"http_frontend": "127.0.0.1:8000", "stats": "127.0.0.1:8404", "prometheus": "127.0.0.1:9101"}
    assert listeners(after) == wanted | ({"grpc_frontend": "127.0.0.1:9000"} if grpc else {})
    changed = [new for old, new in zip(before.splitlines(), after.splitlines(), strict=True) if old != new]
    assert all(line.split()[0] == "bind" for line in changed)
    assert ("127.0.0.1:9000 proto h2" in after) == bool(grpc)


def test_a_host_on_all_interfaces_stays_so_but_for_grpc_that_is_local(tmp_path: Path) -> None:
    after = with_hosts(generated(tmp_path, "0.0.0.0"), AS_HTTP, "127.0.0.1")
    assert listeners(after) == {
        "http_frontend": "*:8000",
        "stats": "*:8404",
        "prometheus": "*:9101",
        "grpc_frontend": "127.0.0.1:9000",
    }


@pytest.mark.parametrize("host", ["192.0.2.7", "0.0.0.0", "::1"])
def test_a_named_host_takes_the_place_of_rays(tmp_path: Path, host: str) -> None:
    after = with_hosts(generated(tmp_path, "127.0.0.1"), host, "127.0.0.1")
    assert {address.rpartition(":")[0] for name, address in listeners(after).items() if name != "grpc_frontend"} == {
        host
    }
    assert with_hosts(after, host, "127.0.0.1") == after


@pytest.mark.parametrize(
    ("line", "after"),
    [
        ("    bind /tmp/http.sock", "frontend prometheus"),
        ("    bind fd@3", "frontend prometheus"),
        ("    bind 127.0.0.1:80,0.0.0.0:81", "frontend prometheus"),
        ("    bind :8000-8010", "frontend prometheus"),
        ('    bind "$HOST":8000', "frontend prometheus"),
        ("    bind", "frontend prometheus"),
        ("    bind :8000", "defaults"),
        ("    dgram-bind :8000", "frontend prometheus"),
        ("    stats socket ipv4@0.0.0.0:9999", "global"),
        ("    stats socket :9999", "global"),
        ("    .include more.cfg", "global"),
        ("listen everything *:1234", "    retry-on conn-failure"),
        ("peers others", "    retry-on conn-failure"),
        ("  log-forward syslog", "    retry-on conn-failure"),
    ],
)
def test_what_ray_does_not_write_today_is_refused_by_its_line(tmp_path: Path, line: str, after: str) -> None:
    odd = generated(tmp_path, "127.0.0.1").replace(f"{after}\n", f"{after}\n{line}\n", 1)
    with pytest.raises(UnknownForm, match=re.escape(line.strip())):
        with_hosts(odd, AS_HTTP, AS_HTTP)


def test_a_configuration_without_listeners_is_refused() -> None:
    with pytest.raises(UnknownForm, match="no `bind` line"):
        with_hosts("global\n    maxconn 4\n", AS_HTTP, AS_HTTP)


def start(folder: Path, configuration: str, binary: str) -> subprocess.CompletedProcess[str]:
    """What Ray does to start its HAProxy."""
    config = folder / "haproxy.cfg"
    config.write_text(configuration)
    ours = [sys.executable, "-I", "-S", haproxy_listeners.__file__, binary, AS_HTTP, AS_HTTP, str(folder / "failed")]
    command = [*ours, "-db", "-f", str(config)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_haproxy_gets_the_rewritten_file_and_rays_arguments(tmp_path: Path) -> None:
    done = start(tmp_path, generated(tmp_path, "127.0.0.1"), "/bin/echo")
    assert done.stdout.split() == ["-dS", "-db", "-f", str(tmp_path / "haproxy.cfg")]
    assert "bind 127.0.0.1:8404" in (tmp_path / "haproxy.cfg").read_text()
    assert not (tmp_path / "failed").exists()


@pytest.mark.parametrize(
    ("line", "binary", "reason"),
    [
        ("peers others", "/bin/echo", "peers others"),
        ("", "/bin/false", "status 1"),
        ("", "/no/haproxy", "No such file"),
    ],
)
def test_a_failure_serves_nothing_and_leaves_its_reason(tmp_path: Path, line: str, binary: str, reason: str) -> None:
    done = start(tmp_path, generated(tmp_path, "127.0.0.1") + line + "\n", binary)
    assert done.returncode == 1 and done.stdout == ""
    assert reason in done.stderr and reason in (tmp_path / "failed").read_text()
