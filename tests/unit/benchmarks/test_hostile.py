from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator

import orjson
import pytest

from benchmarks.harness.load import LoadOutcome
from benchmarks.harness.stream_record import StreamResult
from benchmarks.hostile import bodies, grpc_attacks, http_attacks, socket_attacks
from benchmarks.hostile.__main__ import _line
from benchmarks.hostile.client import HostilePlan, attack
from benchmarks.hostile.http_attacks import request, send
from benchmarks.hostile.outcomes import Outcomes, Target, server_errors
from serve_app.ingress.config import IngressConfig


@pytest.fixture
async def refuses_at_once() -> AsyncIterator[Target]:
    """A server that answers 413 to the first bytes and closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        await reader.read()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield Target(server.sockets[0].getsockname()[1], 1, "m")


async def test_an_answer_before_the_body_is_sent_is_taken(refuses_at_once: Target) -> None:
    assert await send(refuses_at_once, request("/", b"x" * (4 * bodies.MIB))) == "413"


async def test_what_becomes_of_attempts_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = Outcomes()
    monkeypatch.setattr("benchmarks.hostile.outcomes.TRY_S", 0.0)
    target = Target(1, 1, "m")

    async def answered(_target: Target) -> str:
        return "500"

    async def hangs(_target: Target) -> str:
        await asyncio.Event().wait()
        return ""

    async def refused(_target: Target) -> str:
        raise ConnectionRefusedError

    async def cut(_target: Target) -> str:
        raise ConnectionResetError

    async def odd(_target: Target) -> str:
        raise ValueError

    for each in (answered, hangs, refused, cut, odd):
        await outcomes.attempt(each.__name__, each, target)
    counts = {name: dict(each) for name, each in outcomes.counts.items()}
    assert counts == {
        "answered": {"500": 1},
        "hangs": {"no answer": 1},
        "refused": {"refused": 1},
        "cut": {"cut": 1},
        "odd": {"client: ValueError": 1},
    }
    assert server_errors(counts) == {"answered": 1, "refused": 1}


async def test_the_client_stops_by_itself() -> None:
    assert not (await attack(HostilePlan(1, 1, "m", seconds=0.0))).counts


def test_attacks_have_names_of_their_own() -> None:
    found = [http_attacks.attacks(), socket_attacks.attacks(), grpc_attacks.attacks()]
    assert len({name for each in found for name in each}) == sum(map(len, found)) > 60


@pytest.mark.parametrize(("name", "path"), bodies.all_bodies())
def test_bodies_are_within_the_limit_and_valid_where_they_say_so(name: str, path: str) -> None:
    body = bodies.body.__wrapped__(name, "m")
    assert path.startswith("/v1/")
    assert (len(body) <= IngressConfig().max_body_bytes) == (name != "twice the limit")
    if name.startswith("valid") or name == "n of 128":
        assert orjson.loads(body)["model"] == "m"


def test_the_bomb_is_small_and_valid() -> None:
    bomb = bodies.gzip_bomb.__wrapped__("m")
    assert len(bomb) < bodies.MIB / 4
    assert len(gzip.decompress(bomb)) > 60 * bodies.MIB


def outcome(*gaps_s: float, lost: int = 0) -> LoadOutcome:
    streams = [StreamResult(2, 2, 0.1, 1.0, list(gaps_s))] if gaps_s else []
    return LoadOutcome(1.0, streams, ["cut"] * lost)


def met(beside: LoadOutcome, counts: dict[str, dict[str, int]], after_kb: float = 104.0) -> list[bool]:
    """Whether each bound holds: gaps, lost streams, 5xx, memory."""
    found = _line(outcome(0.02, 0.02), beside, counts, (90.0, 100.0, 300.0, after_kb))
    json.dumps(found, allow_nan=False)
    return list(found["met"].values())


def test_each_bound_is_judged_by_itself() -> None:
    fine = {"h2c": {"200": 3}}
    assert met(outcome(0.02, 0.06), fine) == [True, True, True, True]
    assert met(outcome(0.02, 0.08), fine) == [False, True, True, True]
    assert met(outcome(0.02, lost=1), fine) == [True, False, True, True]
    assert met(outcome(0.02), {"h2c": {"503": 1}}) == [True, True, False, True]
    assert met(outcome(0.02), fine, after_kb=106.0) == [True, True, True, False]
    assert met(outcome(lost=50), fine) == [False, False, True, True], "no stream was whole"
