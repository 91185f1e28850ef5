"""The shipped proxies, run as they are but for addresses: a real nginx and a real workerd."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.polling import eventually
from tools.node_packages import find_workerd
from tools.private_ray import free_ports
from tools.system_packages import find

PROXIES = Path(__file__).resolve().parents[2] / "proxies"
_START_TIMEOUT_S = 20.0
_STOP_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Nginx:
    """A running nginx; addresses as `127.0.0.1:8080`."""

    http: str
    grpc: str
    tls: str
    """Listens only with nginx/tls.conf."""
    folder: Path
    """Its logs, and with TLS `certificate.pem`."""

    @property
    def access_log(self) -> str:
        """What it has logged of requests."""
        return (self.folder / "access.log").read_text()


@contextmanager
def nginx(
    http: str, grpc: str, includes: Sequence[str] = (), without: str = "", replaced: Sequence[tuple[str, str]] = ()
) -> Iterator[Nginx]:
    """proxies/nginx.conf in front of the servers at `http` and `grpc` (`host:port`).

    The commented includes whose file names are in `includes` are turned on. Directives whose name matches the regular
    expression `without` are left out, so that nginx's own defaults hold; `replaced` are texts to replace.
    """
    program = find("nginx")
    assert program is not None, "nginx is missing: make system-packages"
    ports = free_ports(3)
    own_http, own_grpc, own_tls = (f"127.0.0.1:{port}" for port in ports)
    changes = [
        ("127.0.0.1:8000", http),
        ("127.0.0.1:9000", grpc),
        ("127.0.0.1:8080", own_http),
        ("127.0.0.1:9080", own_grpc),
        ("127.0.0.1:8443", own_tls),
        *((f"# include nginx/{name};", f"include nginx/{name};") for name in includes),
        *replaced,
    ]
    # Its worker processes have another user than root, and must reach the folder.
    folder = Path(tempfile.mkdtemp(prefix="sa-nginx-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        shutil.copytree(PROXIES / "nginx", folder / "nginx")
        shutil.copy(PROXIES / "nginx.conf", folder)
        for path in [folder / "nginx.conf", *(folder / "nginx").iterdir()]:
            text = path.read_text()
            for old, new in changes:
                text = text.replace(old, new)
            if without:
                text = re.sub(rf"^\s*(?:{without})\s[^;]*;", "", text, flags=re.MULTILINE)
            path.write_text(text)
        if "tls.conf" in includes:
            _certificate(folder / "nginx")
        command = [program, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-g", "daemon off;"]
        with _running(command, folder, ports[:2]):
            yield Nginx(own_http, own_grpc, own_tls, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


_LIMITER = """
import { WorkerEntrypoint } from "cloudflare:workers";
const seen = new Map();
export default class extends WorkerEntrypoint {
  async limit({ key }) {
    if (!/^[0-9a-f]{32}$/.test(key)) throw new Error("the key is no hash");
    seen.set(key, (seen.get(key) ?? 0) + 1);
    return { success: seen.get(key) <= LIMIT };
  }
}
"""
"""Stands in for Cloudflare's rate limiter, which workerd does not have: it allows each key so many requests."""


@contextmanager
def workerd(http: str, limit: int | None = None) -> Iterator[str]:
    """proxies/cloudflare-worker in front of the server at `http` (`host:port`); the URL where it listens. With `limit`
    it has a rate limiter that allows each tenant so many requests."""
    program = find_workerd()
    assert program is not None, "workerd is missing: make node-packages"
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory(prefix="sa-workerd-", dir="/tmp") as name:
        folder = Path(name)
        shutil.copy(PROXIES / "cloudflare-worker" / "worker.js", folder)
        config = (PROXIES / "cloudflare-worker" / "config.capnp").read_text()
        for old, new in (("127.0.0.1:8000", http), ("127.0.0.1:8081", f"127.0.0.1:{port}")):
            assert old in config
            config = config.replace(old, new)
        if limit is not None:
            (folder / "limiter.js").write_text(_LIMITER.replace("LIMIT", str(limit)))
            limiter = '(modules = [(name = "l", esModule = embed "limiter.js")], compatibilityDate = "2026-10-01")'
            config = config.replace("services = [", f'services = [(name = "limiter", worker = {limiter}),')
            config = config.replace("bindings = [", 'bindings = [(name = "RATE_LIMITER", service = "limiter"),')
        (folder / "config.capnp").write_text(config)
        with _running([str(program), "serve", str(folder / "config.capnp")], folder, [port]):
            yield f"http://127.0.0.1:{port}"


@contextmanager
def _running(command: Sequence[str], folder: Path, ports: Sequence[int]) -> Iterator[None]:
    output = folder / "output.log"
    with output.open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder)

    def listening() -> bool:
        assert process.poll() is None, output.read_text(errors="replace")
        for port in ports:
            with contextlib.closing(socket.socket()) as probe:
                if probe.connect_ex(("127.0.0.1", port)) != 0:
                    return False
        return True

    try:
        eventually(listening, _START_TIMEOUT_S, f"{Path(command[0]).name} listens")
        yield
    finally:
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _certificate(folder: Path) -> None:
    """A certificate for this machine that signs itself."""
    openssl = find("openssl")
    assert openssl is not None, "openssl is missing"
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")]
    subprocess.run(command, check=True, capture_output=True)
