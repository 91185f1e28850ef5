"""Who lacks the keys, or does not keep to the protocol, gets nothing through."""

from __future__ import annotations

import msgspec
import pytest
import zmq

from serve_app.token_channel.codec import PROTOCOL_VERSION, Batch, encode_batch
from serve_app.token_channel.endpoint import ChannelEndpoint
from tests.unit.token_channel.conftest import Side
from tests.unit.token_channel.raw_peer import raw_engine, raw_router, raw_socket, until_refused
from tests.unit.token_channel.recorder import QUIET, Recorder, delta, status, until

GOOD = encode_batch(Batch(0, [(1, 1, 0, delta(0))]))


async def assert_only_a_real_engine_gets_through(side: Side, recorder: Recorder, endpoint: ChannelEndpoint) -> None:
    """What was sent before has had its chance once a real engine's events are there."""
    engine = side.engine("real")
    engine.attach(endpoint)
    engine.send("router-1", 7, 1, 0, delta(0))
    await recorder.until(lambda: "real" in {engine_id for engine_id, _ in recorder.batches})
    assert recorder.batches == [("real", [(7, 1, 0, delta(0))])]
    assert recorder.engines == {"real"}


async def test_who_has_the_keys_gets_through(side: Side) -> None:
    recorder = Recorder()
    _, endpoint = await side.router(recorder)

    with raw_engine(endpoint) as socket:
        socket.send(GOOD)
        await recorder.until(lambda: bool(recorder.batches))

    assert recorder.batches == [("raw", [(1, 1, 0, delta(0))])]


async def test_a_stranger_with_a_key_of_its_own_gets_nothing_through(side: Side) -> None:
    recorder = Recorder()
    receiver, endpoint = await side.router(recorder)

    with raw_engine(endpoint, client_keys=zmq.curve_keypair()) as socket:
        socket.send(GOOD)
        await until(lambda: receiver.stats.refused_connections > 0)
        await assert_only_a_real_engine_gets_through(side, recorder, endpoint)


async def test_a_stranger_without_keys_gets_nothing_through(side: Side) -> None:
    recorder = Recorder()
    _, endpoint = await side.router(recorder)

    with raw_socket(zmq.DEALER) as socket:
        socket.connect(endpoint.address)
        socket.send(GOOD)
        await until_refused(socket)
        await assert_only_a_real_engine_gets_through(side, recorder, endpoint)


async def test_who_knows_another_routers_keys_gets_nothing_through(side: Side) -> None:
    recorder = Recorder()
    _, endpoint = await side.router(recorder)
    _, other = await side.router(Recorder(), "router-2")

    with raw_engine(endpoint, client_keys=(other.client_public_key, other.client_secret_key)) as socket:
        socket.send(GOOD)
        await until_refused(socket)
        await assert_only_a_real_engine_gets_through(side, recorder, endpoint)


async def test_an_engine_sends_nothing_to_who_lacks_the_routers_key(side: Side) -> None:
    with raw_router("router-1") as (socket, endpoint), raw_router("impostor") as (_, other):
        engine = side.engine()
        engine.attach(
            ChannelEndpoint(
                PROTOCOL_VERSION,
                "router-1",
                endpoint.address,
                other.server_public_key,
                endpoint.client_public_key,
                endpoint.client_secret_key,
            )
        )
        engine.send("router-1", 1, 1, 0, delta(0))
        await until_refused(socket, attempts=2)

        assert not socket.poll(0)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 1000,
        GOOD[:-1],
        GOOD[:4] + b"\xc1",
        GOOD[:4] + msgspec.msgpack.encode({"number": 0}),
        GOOD[:2] + bytes([PROTOCOL_VERSION + 1]) + GOOD[3:],
        encode_batch(Batch(0, [(1, 1, 0, delta(0))], status("someone else"))),
    ],
    ids=["empty", "zeros", "cut", "no msgpack", "other shape", "other version", "other engine's status"],
)
async def test_messages_that_break_the_protocol_are_refused_and_counted(
    side: Side, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder()
    receiver, endpoint = await side.router(recorder)

    with raw_engine(endpoint) as socket:
        for _ in range(100):
            socket.send(data)
        await until(lambda: receiver.stats.refused_messages == 100)
        await assert_only_a_real_engine_gets_through(side, recorder, endpoint)

    refusals = [record for record in caplog.records if "refused a message" in record.message]
    assert 0 < len(refusals) < 10


async def test_an_engine_name_that_is_no_text_is_refused(side: Side) -> None:
    recorder = Recorder()
    receiver, endpoint = await side.router(recorder)

    with raw_engine(endpoint, engine_id=b"\xff\xfe") as socket:
        socket.send(GOOD)
        await until(lambda: receiver.stats.refused_messages == 1)

    assert recorder.batches == []


async def test_who_sends_too_large_a_message_is_disconnected(side: Side) -> None:
    recorder = Recorder()
    _, endpoint = await side.router(recorder, config=QUIET.model_copy(update={"max_message_bytes": 4096}))

    with raw_engine(endpoint) as socket:
        monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        socket.send(b"z" * 10_000)
        await until(lambda: bool(monitor.poll(0)))
        socket.disable_monitor()
        await assert_only_a_real_engine_gets_through(side, recorder, endpoint)


async def test_an_engine_survives_acknowledgements_that_are_none(side: Side) -> None:
    with raw_router("router-1") as (socket, endpoint):
        engine = side.engine()
        engine.attach(endpoint)
        await until(lambda: bool(socket.poll(0)))
        identity, _ = socket.recv_multipart()

        for data in (b"", b"nonsense", GOOD):
            socket.send_multipart([identity, data])
        await until(lambda: engine.stats.refused_messages == 3)

        assert engine.stats.acknowledgements == 0
