"""The codec under the sanitizers: any bytes are a message, or -EPROTO, and never anything else."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator

import pytest
import sanitized
from driver import Driver
from hypothesis import given
from hypothesis import strategies as st

from tests.transport.messages import messages
from transport import wire

WIRE = [path for path in sanitized.TRANSPORT if path.name in ("wire.c", "wait.c")]
FIXED = {1: 32, 2: 104, 3: 8}  # bytes of HELLO, WELCOME, REFUSED after the head
REPLY, COMMAND, SIZE = 0, 1, 2
PROTOCOL = -errno.EPROTO


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    binary = sanitized.build("wire_check", "address", WIRE, tmp_path_factory.mktemp("wire"))
    with Driver(binary) as driver:
        yield driver


def check(codec: Driver, kind: int, data: bytes) -> int:
    return codec.ask(struct.pack("<II", kind, len(data)) + data)


@st.composite
def frames(draw: st.DrawFn) -> tuple[int, bytes]:
    kind = draw(st.sampled_from(sorted(FIXED)))
    text = draw(st.binary(max_size=200)).replace(b"\0", b"n")
    fixed = draw(st.binary(min_size=FIXED[kind], max_size=FIXED[kind]))
    head = struct.pack("<4sHHII", b"GPUD", kind, 0, 16 + len(fixed) + len(text), len(text))
    return kind, head + fixed + text


@st.composite
def mutated(draw: st.DrawFn, data: bytes) -> bytes:
    """`data` with a few bytes changed, cut short or grown."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        changed[draw(st.integers(0, len(changed) - 1))] = draw(st.integers(0, 255))
    return bytes(changed[: draw(st.integers(1, len(changed)))]) + draw(st.binary(max_size=20))


def sized(data: bytes) -> bytes:
    """`data` with the true size in its head, so that what is judged next is the body."""
    return data[:4] + struct.pack("<H", len(data) & 0xFFFF) + data[6:]


@given(case=messages())
def test_a_well_formed_message_passes_one_way(codec: Driver, case: tuple[bytes, bool, object]) -> None:
    data, from_client, _ = case
    assert check(codec, COMMAND if from_client else REPLY, data) == 0
    if data[6] != wire.OP_DATA:  # the one that goes both ways
        assert check(codec, REPLY if from_client else COMMAND, data) == PROTOCOL


@given(case=messages(), data=st.data())
def test_a_mutated_message_passes_or_is_refused(
    codec: Driver, case: tuple[bytes, bool, object], data: st.DataObject
) -> None:
    changed = data.draw(mutated(case[0]))
    for bytes_ in (changed, sized(changed)):
        for kind in (REPLY, COMMAND):
            assert check(codec, kind, bytes_) in (0, PROTOCOL)


@given(case=messages(), cut=st.integers(1, 8192))
def test_a_message_whose_size_is_not_its_own_is_refused(
    codec: Driver, case: tuple[bytes, bool, object], cut: int
) -> None:
    data, from_client, _ = case
    kind = COMMAND if from_client else REPLY
    assert check(codec, kind, data[: max(0, len(data) - cut)]) == PROTOCOL
    assert check(codec, kind, data + bytes(cut)) == PROTOCOL


def message(op: int, body: bytes) -> bytes:
    return struct.pack("<IHBBII", 0, 16 + len(body), op, 0, 0, 1) + body


def kernel_info(count: int, name_size: int, rest: bytes) -> bytes:
    return struct.pack("<IHHIIII", 1, 0, count, 8, 0, 1024, name_size) + rest


PARAM = struct.pack("<HHHH", 0, 8, 0, 0)
LAUNCH = struct.pack("<IHH3I3HHI", 1, 0, 4, 1, 1, 1, 32, 1, 1, 0, 0)
FLAGGED = [struct.pack("<IHH3I3HHI", 1, 0, 0, 1, 1, 1, 32, 1, 1, flags, 0) for flags in (1, 2)]
LOAD = struct.pack("<IIQQ", 1, 1, 0, 100)
NEAR_MISSES: dict[str, tuple[int, int, bytes, bytes]] = {
    # name: (direction, op, a body that passes, one that must not)
    "a parameter more than fits": (
        REPLY,
        wire.OP_KERNEL_INFO,
        kernel_info(1, 2, PARAM + b"ab"),
        kernel_info(2, 2, PARAM + b"ab"),
    ),
    "more parameters than a message holds": (
        REPLY,
        wire.OP_KERNEL_INFO,
        kernel_info(1, 0, PARAM),
        kernel_info(65535, 0, PARAM),
    ),
    "a name longer than what is left": (
        REPLY,
        wire.OP_KERNEL_INFO,
        kernel_info(1, 2, PARAM + b"ab"),
        kernel_info(1, 3, PARAM + b"ab"),
    ),
    "a name whose size wraps": (
        REPLY,
        wire.OP_KERNEL_INFO,
        kernel_info(0, 0, b""),
        kernel_info(1, 2**32 - 8, b""),
    ),
    "a name longer than any text": (
        REPLY,
        wire.OP_KERNEL_INFO,
        kernel_info(0, wire.MAX_TEXT, b"n" * wire.MAX_TEXT),
        kernel_info(0, wire.MAX_TEXT + 1, b"n" * (wire.MAX_TEXT + 1)),
    ),
    "a NUL in a name": (REPLY, wire.OP_KERNEL_INFO, kernel_info(0, 2, b"ab"), kernel_info(0, 2, b"a\0")),
    "a parameter of no known kind": (
        REPLY,
        wire.OP_KERNEL_INFO,
        kernel_info(1, 0, struct.pack("<HHHH", 0, 8, 2, 0)),
        kernel_info(1, 0, struct.pack("<HHHH", 0, 8, 3, 0)),
    ),
    "a reserved field of a parameter": (
        REPLY,
        wire.OP_KERNEL_INFO,
        kernel_info(1, 0, PARAM),
        kernel_info(1, 0, struct.pack("<HHHH", 0, 8, 0, 1)),
    ),
    "a log longer than any text": (
        REPLY,
        wire.OP_MODULE_STATUS,
        bytes(16) + b"n" * wire.MAX_TEXT,
        bytes(16) + b"n" * (wire.MAX_TEXT + 1),
    ),
    "a NUL in a reason": (REPLY, wire.OP_FAULT, bytes(48) + b"why", bytes(48) + b"w\0y"),
    "parameters shorter than said": (COMMAND, wire.OP_LAUNCH, LAUNCH + b"1234", LAUNCH + b"123"),
    "parameters longer than said": (COMMAND, wire.OP_LAUNCH, LAUNCH + b"1234", LAUNCH + b"12345"),
    "a launch's flag nobody defined": (COMMAND, wire.OP_LAUNCH, *FLAGGED),
    "options without an end": (COMMAND, wire.OP_MODULE_LOAD, LOAD + b"-O3\0", LOAD + b"-O3"),
    "options longer than any": (
        COMMAND,
        wire.OP_MODULE_LOAD,
        LOAD + b"x" * 2047 + b"\0",
        LOAD + b"x" * 2048 + b"\0",
    ),
    "a width that is no element's": (
        COMMAND,
        wire.OP_FILL,
        struct.pack("<QQQII", 0, 1, 0, 4, 0),
        struct.pack("<QQQII", 0, 1, 0, 3, 0),
    ),
    "an access bit nobody defined": (
        COMMAND,
        wire.OP_REGION_ADD,
        struct.pack("<IIQQ", 1, 3, 4096, 0),
        struct.pack("<IIQQ", 1, 4, 4096, 0),
    ),
    "a reserved field of a copy": (
        COMMAND,
        wire.OP_COPY_IN,
        struct.pack("<QQQII", 0, 0, 1, 1, 0),
        struct.pack("<QQQII", 0, 0, 1, 1, 1),
    ),
    "a body where there is none": (COMMAND, wire.OP_SYNCHRONIZE, b"", b"x"),
    "a write without an address": (COMMAND, wire.OP_WRITE, bytes(8), bytes(7)),
}


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_a_near_miss_is_refused(codec: Driver, name: str) -> None:
    kind, op, passes, refused = NEAR_MISSES[name]
    assert check(codec, kind, message(op, passes)) == 0
    assert check(codec, kind, message(op, refused)) == PROTOCOL


@given(case=messages(), flags=st.integers(1, 255))
def test_flags_that_nobody_defined_are_refused(
    codec: Driver, case: tuple[bytes, bool, object], flags: int
) -> None:
    data, from_client, _ = case
    assert check(codec, COMMAND if from_client else REPLY, data[:7] + bytes([flags]) + data[8:]) == PROTOCOL


@given(data=st.binary(max_size=400), kind=st.integers(0, 5))
def test_random_bytes_give_an_answer(codec: Driver, data: bytes, kind: int) -> None:
    answer = check(codec, kind, data)
    assert answer == PROTOCOL or 0 <= answer <= wire.MAX_FRAME


@given(op=st.integers(0, 255), body=st.binary(max_size=200))
def test_random_bodies_of_every_op_give_an_answer(codec: Driver, op: int, body: bytes) -> None:
    data = message(op, body)
    for kind in (REPLY, COMMAND):
        assert check(codec, kind, data) in (0, PROTOCOL)


@given(case=frames())
def test_a_well_formed_frame_decodes_to_its_text(codec: Driver, case: tuple[int, bytes]) -> None:
    kind, data = case
    assert check(codec, SIZE, data) == len(data)
    assert check(codec, kind + 2, data) == len(data) - 16 - FIXED[kind]
    for other in FIXED:
        if other != kind:
            assert check(codec, other + 2, data) == PROTOCOL


@given(case=frames(), data=st.data())
def test_a_mutated_frame_decodes_or_is_refused(
    codec: Driver, case: tuple[int, bytes], data: st.DataObject
) -> None:
    changed = data.draw(mutated(case[1]))
    for kind in FIXED:
        answer = check(codec, kind + 2, changed)
        assert answer == PROTOCOL or 0 <= answer <= len(changed)


@given(case=frames(), at=st.integers(0, 199))
def test_text_with_a_nul_is_refused(codec: Driver, case: tuple[int, bytes], at: int) -> None:
    kind, data = case
    begin = 16 + FIXED[kind]
    if len(data) > begin:
        place = begin + at % (len(data) - begin)
        assert check(codec, kind + 2, data[:place] + b"\0" + data[place + 1 :]) == PROTOCOL


@given(case=frames())
def test_the_head_alone_tells_the_size(codec: Driver, case: tuple[int, bytes]) -> None:
    _, data = case
    assert check(codec, SIZE, data[:16]) == len(data)
    assert check(codec, SIZE, data[:15]) == 0
    assert check(codec, SIZE, b"HTTP" + data[4:16]) == PROTOCOL
