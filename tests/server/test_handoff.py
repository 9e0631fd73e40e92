"""What daemon and worker say to each other: typed, checked, with descriptors that arrive and never leak."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpudisagg.server.handoff import (
    MAX_PACKET,
    Ended,
    Failed,
    HandoffError,
    Job,
    Message,
    Ready,
    Stop,
    decode,
    encode,
    receive,
    send,
)

u64 = st.integers(0, 2**64 - 1)
short = st.text(max_size=200)
messages = st.one_of(
    st.builds(Job, session=u64, memory=u64, host_memory=u64, hello=st.binary(max_size=4096).map(bytes.hex)),
    st.builds(Stop),
    st.builds(Ready, device=short),
    st.builds(Failed, reason=short),
    st.builds(
        Ended,
        session=u64,
        reason=short,
        reusable=st.booleans(),
        stats=st.dictionaries(st.text(max_size=16), u64, max_size=20),
    ),
)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    theirs.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@given(messages)
def test_every_message_survives_the_way(message: Message) -> None:
    packet = encode(message)
    assert len(packet) <= MAX_PACKET
    assert decode(packet) == message


@given(st.binary(max_size=300))
def test_any_bytes_give_a_message_or_a_handoff_error(packet: bytes) -> None:
    with contextlib.suppress(HandoffError):
        decode(packet)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


@given(messages, st.data())
def test_a_message_with_a_field_of_another_kind_is_refused_or_still_typed(
    message: Message, data: st.DataObject
) -> None:
    kind, fields = json.loads(encode(message))
    if fields:
        fields[data.draw(st.sampled_from(sorted(fields)))] = data.draw(anything)
    try:
        decoded = decode(json.dumps([kind, fields]).encode())
    except HandoffError:
        return
    for name, value in fields.items():
        assert type(getattr(decoded, name)) is type(value)


@pytest.mark.parametrize(
    "packet",
    [
        b"[" * 20000,
        b'["Job",{}]',
        b'["Nobody",{}]',
        b'["Stop",{"extra":1}]',
        b'["Ended",{"session":-1,"reason":"","reusable":true,"stats":{}}]',
        b'["Ended",{"session":1,"reason":"","reusable":1,"stats":{}}]',
        b'["Ended",{"session":true,"reason":"","reusable":true,"stats":{}}]',
        b'["Ended",{"session":1,"reason":"","reusable":true,"stats":{"a":"b"}}]',
        b'["Ready",{"device":' + b'"' + b"x" * 9000 + b'"}]',
    ],
)
def test_what_no_daemon_and_no_worker_says_is_refused(packet: bytes) -> None:
    with pytest.raises(HandoffError):
        decode(packet)


def test_a_message_too_large_is_not_sent() -> None:
    with pytest.raises(HandoffError, match="does not fit"):
        encode(Failed("x" * (MAX_PACKET + 1)))


def test_a_descriptor_travels_with_its_job(pair: tuple[socket.socket, socket.socket]) -> None:
    daemon, worker = pair
    reading, writing = os.pipe()
    job = Job(7, 1 << 30, 1 << 20, "00ff")
    send(daemon, job, writing)
    os.close(writing)
    received = receive(worker)
    assert received is not None
    message, fd = received
    assert message == job
    assert fd is not None
    os.write(fd, b"through")
    os.close(fd)
    assert os.read(reading, 16) == b"through"
    os.close(reading)


def test_messages_keep_their_borders_and_order(pair: tuple[socket.socket, socket.socket]) -> None:
    daemon, worker = pair
    sent: list[Message] = [Ready("cpu"), Ended(1, "closed", True, {"commands": 3}), Failed("why")]
    for message in sent:
        send(worker, message)
    assert [receive(daemon) for _ in sent] == [(message, None) for message in sent]
    with pytest.raises(BlockingIOError):
        receive(daemon)


def test_the_end_of_the_other_side_is_none(pair: tuple[socket.socket, socket.socket]) -> None:
    daemon, worker = pair
    worker.close()
    assert receive(daemon) is None


def test_descriptors_that_come_with_rubbish_or_in_excess_are_closed(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    daemon, worker = pair
    reading, writing = os.pipe()
    before = open_descriptors()
    socket.send_fds(daemon, [b"rubbish"], [writing])
    with pytest.raises(HandoffError):
        receive(worker)
    socket.send_fds(daemon, [encode(Stop())], [writing, writing, writing])
    with pytest.raises(HandoffError):
        receive(worker)
    assert open_descriptors() == before
    os.close(reading)
    os.close(writing)


def test_the_exit_status_of_an_orphan_is_the_engines() -> None:
    from gpudisagg.server import engine, handoff

    assert handoff.EXIT_ORPHAN == engine.EXIT_ORPHAN
