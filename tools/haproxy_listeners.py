"""Starts HAProxy with every listener on one host; stands between Ray Serve and HAProxy, see `haproxy_wrapper`.

python haproxy_listeners.py BINARY HOST GRPC_HOST FAILURE_FILE [arguments of HAProxy]

Ray writes HAProxy's configuration before each start and each reload. It puts statistics and metrics on all interfaces,
whatever host the config file of Serve names. This rewrites the `bind` lines in place and becomes HAProxy. A
configuration of a form that it does not know is refused: nothing is served rather than something served openly.

Runs often and alone: standard library only, no import of this project.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

AS_HTTP = "-"
"""In place of HOST: the host on which Ray lets HTTP listen."""
LOOPBACK = "127.0.0.1"
_HTTP = "http_frontend"
_GRPC = "grpc_frontend"
_SECTIONS = {"global", "defaults", "frontend", "backend", "listen"}
_OTHER_SECTIONS = {"cache", "crt-store", "fcgi-app", "http-errors", "log-forward", "mailers", "peers", "program"} | {
    *("resolvers", "ring", "traces", "userlist")
}
"""Ray writes none of these, and some listen in ways of their own."""
_BIND = re.compile(r"(?P<start>\s*bind\s+)(?P<host>[0-9A-Za-z.:*\-\[\]]*):(?P<port>\d+)(?P<rest>(?:\s.*)?)")


class UnknownForm(Exception):
    """The configuration is not of the form that Ray Serve 2.60 writes; the message has the line."""


def with_hosts(configuration: str, host: str, grpc_host: str) -> str:
    """`configuration` with all `bind` lines on `host`, that of gRPC on `grpc_host`. Raises `UnknownForm`.

    `AS_HTTP` for either means the host that `configuration` has for HTTP, loopback if it has none.
    """
    lines = configuration.splitlines(keepends=True)
    binds = dict(_binds(lines))
    http = next((found["host"] for name, found in binds.values() if name == _HTTP), LOOPBACK)
    for number, (name, found) in binds.items():
        chosen = grpc_host if name == _GRPC else host
        end = lines[number][len(lines[number].rstrip("\r\n")) :]
        address = f"{http if chosen == AS_HTTP else chosen}:{found['port']}"
        lines[number] = f"{found['start']}{address}{found['rest']}{end}"
    return "".join(lines)


def _binds(lines: list[str]) -> list[tuple[int, tuple[str, re.Match[str]]]]:
    """Of each `bind` line its number, the name of its section, and its parts."""
    binds = []
    section = name = ""
    for number, line in enumerate(lines):
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        if words[0] in _OTHER_SECTIONS or words[0].startswith("."):
            raise UnknownForm(f"line {number + 1}: {line.strip()}")
        if words[0] in _SECTIONS:
            section, name = words[0], " ".join(words[1:2])
            if section in ("frontend", "listen") and len(words) != 2:  # an address may follow the name
                raise UnknownForm(f"line {number + 1}: {line.strip()}")
        elif "bind" in words[0]:
            found = _BIND.fullmatch(line.rstrip("\r\n"))
            if found is None or section not in ("frontend", "listen"):
                raise UnknownForm(f"line {number + 1}: {line.strip()}")
            binds.append((number, (name, found)))
        elif words[:2] == ["stats", "socket"] and not (len(words) > 2 and words[2].startswith("/")):
            raise UnknownForm(f"line {number + 1}: {line.strip()}")
    if not binds:
        raise UnknownForm("it has no `bind` line")
    return binds


def main(arguments: list[str]) -> int:
    """Become HAProxy; returns, with a reason on standard error, only if that cannot be."""
    binary, host, grpc_host, failure_file, *options = arguments
    try:
        if "-f" in options:
            path = Path(options[options.index("-f") + 1])
            _rewrite(path, host, grpc_host)
            if "-sf" not in options:  # the first start: later failures leave the running HAProxy in place
                checked = subprocess.run([binary, "-c", "-f", str(path)], capture_output=True, text=True, check=False)
                if checked.returncode:
                    raise OSError(checked.stderr.strip() or f"it ended with status {checked.returncode}")
        os.execv(binary, [binary, "-dS", *options])
    except UnknownForm as error:
        reason = f"its configuration has a form that is not known: {error}"
    except OSError as error:
        reason = str(error)
    if failure_file:
        Path(failure_file).write_text(reason)
    print(f"HAProxy is not started: {reason}", file=sys.stderr)
    return 1


def _rewrite(path: Path, host: str, grpc_host: str) -> None:
    new = path.with_name(f"{path.name}.{os.getpid()}")
    new.write_text(with_hosts(path.read_text(), host, grpc_host))
    new.replace(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
