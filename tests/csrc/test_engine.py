"""The engine under sanitizers: sessions, refusals, faults, tables, and a fuzzer of its commands."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from . import sanitized

SOURCES = [*sanitized.TRANSPORT, *sanitized.ENGINE]
MIB = 1 << 20
CHUNK = 2 * MIB

REGION_ADD, REGION_DROP = 2, 3
MAP, UNMAP, COPY_IN, COPY_OUT, COPY, FILL, WRITE = 16, 17, 18, 19, 20, 21, 22
MODULE_LOAD, MODULE_UNLOAD, LAUNCH = 32, 33, 34
STREAM_CREATE, STREAM_DESTROY = 48, 49
EVENT_RECORD, EVENT_WAIT, EVENT_QUERY, EVENT_DESTROY = 50, 51, 52, 53
SYNCHRONIZE, CLOSE = 54, 63
OPS = [
    *(REGION_ADD, REGION_DROP, MAP, UNMAP, COPY_IN, COPY_OUT, COPY, FILL, WRITE, MODULE_LOAD, MODULE_UNLOAD, LAUNCH),
    *(STREAM_CREATE, STREAM_DESTROY, EVENT_RECORD, EVENT_WAIT, EVENT_QUERY, EVENT_DESTROY, SYNCHRONIZE),
]
FIRST_IS_OFFSET, SECOND_IS_OFFSET, OUT_OF_SEQUENCE, SEALED = 1, 2, 4, 8


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
@pytest.mark.parametrize("program", ["test_engine", "test_engine_refusals", "test_engine_tables"])
def test_sessions(program: str, sanitizer: str, tmp_path: Path) -> None:
    sanitized.run(sanitized.build(program, sanitizer, SOURCES, tmp_path))


def test_faults_and_orphans(tmp_path: Path) -> None:
    # Under the address sanitizer only: the thread sanitizer has its own idea of jumps out of signal handlers.
    sanitized.run(sanitized.build("test_engine_faults", "address", SOURCES, tmp_path))


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sanitized.build("test_engine_fuzz", "address", SOURCES, tmp_path_factory.mktemp("fuzz"))


# Values as a client would choose them, as one who errs would, and as one who means harm would.
ids = st.one_of(st.integers(0, 4), st.sampled_from([1023, 1024, 2**31, 2**32 - 1]), st.integers(0, 2**32 - 1))
streams = st.one_of(st.just(0), st.integers(0, 4), st.integers(0, 2**16 - 1))
offsets = st.one_of(
    st.integers(0, 31).map(lambda n: n * CHUNK),
    st.integers(0, 8 * CHUNK),
    st.integers(0, 31).map(lambda n: n * 4096),
    st.sampled_from([256 * MIB, 256 * MIB - CHUNK, 2**64 - CHUNK, 2**64 - 1, 2**63]),
    st.integers(0, 2**64 - 1),
)
sizes = st.one_of(
    st.integers(1, 4).map(lambda n: n * CHUNK),
    st.integers(0, 16).map(lambda n: n * 4096),
    st.integers(0, 300),
    st.sampled_from([64 * MIB, 64 * MIB + CHUNK, 2**63, 2**64 - 1, 2**64 - CHUNK]),
    st.integers(0, 2**64 - 1),
)
widths = st.one_of(st.sampled_from([1, 2, 4, 8]), st.sampled_from([0, 3, 16, 2**32 - 1]))
counts = st.one_of(st.integers(1, 300), st.sampled_from([0, 65535]))


def record(op: int, how: int, stream: int, body: bytes) -> bytes:
    return struct.pack("<BBHH", op, how, stream, len(body)) + body


@st.composite
def bodies(draw: st.DrawFn, op: int) -> bytes:
    """A body that is right in form, at least."""
    if op == REGION_ADD:
        return struct.pack("<IIQQ", draw(ids), draw(st.integers(0, 3)), draw(sizes), draw(st.just(0)))
    if op in (MAP, UNMAP):
        return struct.pack("<QQ", draw(offsets), draw(sizes))
    if op in (COPY_IN, COPY_OUT):
        return struct.pack("<QQQII", draw(offsets), draw(sizes), draw(sizes), draw(ids), 0)
    if op == COPY:
        return struct.pack("<QQQ", draw(offsets), draw(offsets), draw(sizes))
    if op == FILL:
        return struct.pack("<QQQII", draw(offsets), draw(sizes), draw(sizes), draw(widths), 0)
    if op == WRITE:
        return struct.pack("<Q", draw(offsets)) + draw(st.binary(max_size=200))
    if op == MODULE_LOAD:
        options = draw(st.sampled_from([b"", b"-G\0", b"-arch=sm_80\0-G\0"]))
        return struct.pack("<IIQQ", draw(ids), draw(st.sampled_from([0, 0, 1])), draw(sizes), draw(sizes)) + options
    if op == LAUNCH:
        params = draw(st.sampled_from([b"", bytes(8), bytes(4)]))
        grid = [draw(counts) for _ in range(3)]
        block = [draw(st.one_of(st.integers(1, 8), st.integers(0, 2**16 - 1))) for _ in range(3)]
        kernel = draw(st.sampled_from([0, 0, 1, 2, 65535]))
        shared = draw(st.sampled_from([0, 16, 166912, 2**32 - 1]))
        head = (draw(ids), kernel, len(params), *grid, *block, 0, shared)
        return struct.pack("<IHH3I3HHI", *head) + params
    if op in (STREAM_CREATE, STREAM_DESTROY, SYNCHRONIZE, CLOSE):
        return b""
    return struct.pack("<II", draw(ids), 0)


@st.composite
def commands(draw: st.DrawFn) -> bytes:
    op = draw(st.sampled_from(OPS))
    body = draw(bodies(op))
    how = SEALED
    if op in (MAP, UNMAP, COPY_IN, COPY_OUT, COPY, FILL, WRITE):
        how |= FIRST_IS_OFFSET
    if op == COPY:
        how |= SECOND_IS_OFFSET
    damage = draw(st.integers(0, 30))
    if damage == 0 and body:
        at = draw(st.integers(0, len(body) - 1))
        body = body[:at] + bytes([draw(st.integers(0, 255))]) + body[at + 1 :]
    elif damage == 1:
        body = draw(st.binary(max_size=8176))
    elif damage == 2:
        op = draw(st.integers(0, 255))
    elif damage == 3:
        how ^= draw(st.integers(0, 15))
    elif damage == 4:
        body += draw(st.binary(min_size=1, max_size=64))
    return record(op, how, draw(streams), body)


def setup(module: int = 1) -> bytes:
    """What most sessions begin with, so that the commands after it get past the first checks."""
    return (
        record(MAP, FIRST_IS_OFFSET, 0, struct.pack("<QQ", 0, 2 * CHUNK))
        + record(MODULE_LOAD, 0, 0, struct.pack("<IIQQ", module, 0, 0, 100))
        + record(STREAM_CREATE, 0, 1, b"")
    )


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(begin=st.booleans(), script=st.lists(commands(), max_size=30), close=st.booleans())
def test_whatever_a_client_posts_the_engine_stands(fuzzer: Path, begin: bool, script: list[bytes], close: bool) -> None:
    end = record(CLOSE, 0, 0, b"") if close else b""
    sanitized.run(fuzzer, stdin=(setup() if begin else b"") + b"".join(script) + end)


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(noise=st.binary(max_size=4000))
def test_noise_ends_in_an_orderly_way(fuzzer: Path, noise: bytes) -> None:
    sanitized.run(fuzzer, stdin=noise)
