"""The engine under sanitizers: sessions, refusals, faults, tables, and a fuzzer of its commands."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import sanitized
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
    *(
        REGION_ADD,
        REGION_DROP,
        MAP,
        UNMAP,
        COPY_IN,
        COPY_OUT,
        COPY,
        FILL,
        WRITE,
        MODULE_LOAD,
        MODULE_UNLOAD,
        LAUNCH,
    ),
    *(STREAM_CREATE, STREAM_DESTROY, EVENT_RECORD, EVENT_WAIT, EVENT_QUERY, EVENT_DESTROY, SYNCHRONIZE),
]
FIRST_IS_OFFSET, SECOND_IS_OFFSET, OUT_OF_SEQUENCE, SEALED, THIRD_IS_OFFSET, NEXT_SESSION = (
    1,
    2,
    4,
    8,
    16,
    255,
)


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
@pytest.mark.parametrize(
    "program", ["test_engine", "test_engine_refusals", "test_engine_tables", "test_engine_transfer"]
)
def test_sessions(program: str, sanitizer: str, tmp_path: Path) -> None:
    sanitized.run(sanitized.build(program, sanitizer, SOURCES, tmp_path))


def test_faults_and_orphans(tmp_path: Path) -> None:
    # Under the address sanitizer only: the thread sanitizer has its own idea of jumps out of signal handlers.
    sanitized.run(sanitized.build("test_engine_faults", "address", SOURCES, tmp_path))


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sanitized.build("test_engine_fuzz", "address", SOURCES, tmp_path_factory.mktemp("fuzz"))


def mostly(right: st.SearchStrategy[int], *wrong: st.SearchStrategy[int]) -> st.SearchStrategy[int]:
    """Values as a client would choose them, or, seldom, as one who errs or means harm would."""
    return st.integers(0, 11).flatmap(lambda n: right if n else st.one_of(right, *wrong))


odd_ids = st.one_of(st.sampled_from([1023, 1024, 2**31, 2**32 - 1]), st.integers(0, 2**32 - 1))
odd_bytes = st.one_of(
    st.sampled_from([256 * MIB, 256 * MIB - CHUNK, 64 * MIB, 64 * MIB + CHUNK]),
    st.sampled_from([2**64 - CHUNK, 2**64 - 1, 2**63, 2**32]),
    st.integers(0, 2**64 - 1),
)
ids = mostly(st.integers(0, 3), odd_ids)
regions = mostly(st.just(0), st.integers(0, 3), odd_ids)
streams = mostly(st.sampled_from([0, 0, 0, 1]), st.integers(0, 2**16 - 1))
chunks = mostly(st.integers(0, 12).map(lambda n: n * CHUNK), st.integers(0, 9 * CHUNK), odd_bytes)
chunk_sizes = mostly(st.integers(1, 3).map(lambda n: n * CHUNK), st.integers(0, 9 * CHUNK), odd_bytes)
addresses = mostly(
    st.integers(0, 2 * CHUNK - 300).map(lambda n: n & ~7), st.integers(0, 9 * CHUNK), odd_bytes
)
lengths = mostly(st.integers(0, 300), st.integers(0, MIB), odd_bytes)
pages = mostly(st.integers(1, 16).map(lambda n: n * 4096), st.integers(0, 65536), odd_bytes)
placed = mostly(st.integers(16 * CHUNK // 4096, 20 * CHUNK // 4096).map(lambda n: n * 4096), odd_bytes)
widths = mostly(st.sampled_from([1, 2, 4, 8]), st.sampled_from([0, 3, 16, 2**32 - 1]))
blocks = mostly(st.integers(1, 300), st.sampled_from([0, 65535, 65536]))
threads = mostly(st.integers(1, 8), st.sampled_from([0, 64, 1024, 65535]))
shared = mostly(st.sampled_from([0, 16, 4096]), st.sampled_from([166912, 2**32 - 1]))
kernels = mostly(st.just(0), st.sampled_from([1, 2, 65535]))


def record(op: int, how: int, stream: int, body: bytes) -> bytes:
    return struct.pack("<BBHH", op, how, stream, len(body)) + body


@st.composite
def bodies(draw: st.DrawFn, op: int) -> bytes:
    """A body that is right in form, at least."""
    if op == REGION_ADD:
        return struct.pack(
            "<IIQQ", draw(ids), draw(st.integers(0, 3)), draw(pages), draw(st.just(0) | placed)
        )
    if op in (MAP, UNMAP):
        return struct.pack("<QQ", draw(chunks), draw(chunk_sizes))
    if op in (COPY_IN, COPY_OUT):
        return struct.pack("<QQQII", draw(addresses), draw(lengths), draw(lengths), draw(regions), 0)
    if op == COPY:
        return struct.pack("<QQQ", draw(addresses), draw(addresses), draw(lengths))
    if op == FILL:
        return struct.pack("<QQQII", draw(addresses), draw(lengths), draw(lengths), draw(widths), 0)
    if op == WRITE:
        return struct.pack("<Q", draw(addresses)) + draw(st.binary(max_size=200))
    if op == MODULE_LOAD:
        options = draw(st.sampled_from([b"", b"-G\0", b"-arch=sm_80\0-G\0"]))
        return struct.pack("<IIQQ", draw(ids), draw(regions), draw(lengths), draw(lengths)) + options
    if op == LAUNCH:
        kernel = draw(kernels)
        params = bytes(8) if kernel == 1 else draw(st.sampled_from([b"", b"", b"", bytes(4)]))
        grid = [draw(blocks), draw(st.just(1) | blocks), 1]
        block = [draw(threads), draw(st.just(1) | threads), 1]
        head = (1, kernel, len(params), *grid, *block, 0, draw(shared))
        return struct.pack("<IHH3I3HHI", *head) + params
    if op in (STREAM_CREATE, STREAM_DESTROY, SYNCHRONIZE, CLOSE):
        return b""
    return struct.pack("<II", draw(ids), 0)


@st.composite
def commands(draw: st.DrawFn) -> bytes:
    op = draw(st.sampled_from(OPS))
    body = draw(bodies(op))
    stream = draw(st.integers(1, 9)) if op == STREAM_CREATE else draw(streams)
    how = SEALED
    if op in (MAP, UNMAP, COPY_IN, COPY_OUT, COPY, FILL, WRITE):
        how |= FIRST_IS_OFFSET
    if op == COPY:
        how |= SECOND_IS_OFFSET
    if op == REGION_ADD and body[-8:] != bytes(8):
        how |= THIRD_IS_OFFSET
    damage = draw(st.integers(0, 60))
    if damage == 0 and body:
        at = draw(st.integers(0, len(body) - 1))
        body = body[:at] + bytes([draw(st.integers(0, 255))]) + body[at + 1 :]
    elif damage == 1:
        body = draw(st.binary(max_size=8176))
    elif damage == 2:
        op = draw(st.integers(0, 255))
    elif damage == 3:
        how ^= draw(st.integers(0, 31))
    elif damage == 4:
        body += draw(st.binary(min_size=1, max_size=64))
    return record(op, how, stream, body)


# What a session begins with, so that the commands after it get past the first checks.
BEGINNING = (
    record(MAP, FIRST_IS_OFFSET, 0, struct.pack("<QQ", 0, 2 * CHUNK))
    + record(MODULE_LOAD, 0, 0, struct.pack("<IIQQ", 1, 0, 0, 100))
    + record(STREAM_CREATE, 0, 1, b"")
    + record(EVENT_RECORD, 0, 1, struct.pack("<II", 1, 0))
)
ENDS = [b"", record(CLOSE, 0, 0, b"")]


@st.composite
def sessions(draw: st.DrawFn) -> bytes:
    middle = b"".join(draw(st.lists(commands(), max_size=12)))
    end = draw(st.sampled_from(ENDS)) + record(NEXT_SESSION, draw(st.sampled_from([0, 0, 0, 1])), 0, b"")
    return draw(st.sampled_from([BEGINNING, BEGINNING, b""])) + middle + end


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(scripts=st.lists(sessions(), min_size=1, max_size=12))
def test_whatever_clients_post_the_engine_stands(fuzzer: Path, scripts: list[bytes]) -> None:
    sanitized.run(fuzzer, stdin=b"".join(scripts))


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(noise=st.binary(max_size=4000))
def test_noise_ends_in_an_orderly_way(fuzzer: Path, noise: bytes) -> None:
    sanitized.run(fuzzer, stdin=noise)
