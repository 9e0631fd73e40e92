"""Every message and frame: what is encoded is decoded, and any bytes give a value or ProtocolError."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.transport import messages as m
from transport import ProtocolError, layout, wire
from transport._transport import ffi

FRAMES = [
    (m.hellos, wire.encode_hello, wire.decode_hello),
    (m.welcomes, wire.encode_welcome, wire.decode_welcome),
    (m.refusals, wire.encode_refused, wire.decode_refused),
]


# ---------------------------------------------------------------- round trips


@given(m.messages())
def test_a_message_decodes_to_the_value_it_was_made_of(case: tuple[bytes, bool, wire.Message]) -> None:
    data, from_client, value = case
    assert wire.decode(data, from_client) == value


@pytest.mark.parametrize("op", [op for op in (*m.COMMANDS, *m.BODILESS) if op != wire.OP_DATA])
def test_a_command_is_refused_from_a_worker(op: int) -> None:
    body = zero_body(op, m.COMMANDS)
    assert wire.decode(wire.encode(op, 0, 1, body), True).op == op
    with pytest.raises(ProtocolError):
        wire.decode(wire.encode(op, 0, 1, body), False)


@pytest.mark.parametrize("op", [op for op in m.REPLIES if op != wire.OP_DATA])
def test_a_reply_is_refused_from_a_client(op: int) -> None:
    body = zero_body(op, m.REPLIES)
    assert wire.decode(wire.encode(op, 0, 1, body), False).op == op
    with pytest.raises(ProtocolError):
        wire.decode(wire.encode(op, 0, 1, body), True)


def zero_body(op: int, table: dict[int, Any]) -> bytes:
    if op not in table:
        return b""
    struct = table[op][1]
    body = bytearray(ffi.sizeof(f"gpud_msg_{struct}")) if struct else bytearray()
    if op == wire.OP_FILL:
        body[24] = 1
    return bytes(body)


def test_every_op_of_the_header_has_a_value_here() -> None:
    header = (Path(__file__).parents[2] / "csrc" / "transport" / "wire.h").read_text()
    ops = {name: getattr(wire, name) for name in re.findall(r"#define GPUD_(OP_\w+)", header)}
    between_endpoints = {wire.OP_COMPLETED, wire.OP_BYTES, wire.OP_REGION_KEY, wire.OP_CREDIT}
    assert set(ops.values()) == {*m.COMMANDS, *m.REPLIES, *m.BODILESS} | between_endpoints
    for name, op in ops.items():
        assert f"OP_{wire.op_name(op)}" == name
    for name in re.findall(r"#define GPUD_(STATUS_\w+)", header):
        assert f"STATUS_{wire.status_name(getattr(wire, name))}" == name
    assert wire.op_name(200) == wire.status_name(99) == "?"


@pytest.mark.parametrize(("values", "encode", "decode"), FRAMES, ids=["hello", "welcome", "refused"])
def test_a_frame_decodes_to_the_value_it_was_made_of(values: Any, encode: Any, decode: Any) -> None:
    @given(values)
    def round_trip(value: Any) -> None:
        frame = encode(value)
        assert wire.frame_size(frame) == len(frame)
        assert decode(frame) == value

    round_trip()


# ---------------------------------------------------------------- any bytes


def value_or_protocol_error(data: bytes, from_client: bool) -> None:
    try:
        value = wire.decode(data, from_client)
    except ProtocolError:
        return
    # What was taken for a message says the same again: nothing in it was guessed. (The tag is the ring's.)
    body = value.body.pack() if value.body is not None else b""
    again = wire.encode(value.op, value.stream, value.sequence, body)
    assert wire.decode(again, from_client) == value


@given(m.mutated(m.messages().map(lambda case: case[0])), st.booleans())
def test_a_mutated_message_gives_a_value_or_protocol_error(data: bytes, from_client: bool) -> None:
    value_or_protocol_error(data, from_client)


@given(st.binary(max_size=200), st.booleans())
@example(b"", True)
@example(bytes(15), True)
@example(bytes(16), False)
def test_random_bytes_give_a_value_or_protocol_error(data: bytes, from_client: bool) -> None:
    value_or_protocol_error(data, from_client)


@given(st.integers(0, 255), st.binary(max_size=120), st.booleans())
def test_any_op_with_any_body_gives_a_value_or_protocol_error(
    op: int, body: bytes, from_client: bool
) -> None:
    value_or_protocol_error(wire.encode(op, 0, 1, body), from_client)


def test_a_message_longer_than_any_is_refused() -> None:
    longest = wire.encode(wire.OP_DATA, 0, 1, bytes(wire.MAX_MESSAGE - 16))
    assert len(wire.decode(longest, True).body.data) == wire.MAX_MESSAGE - 16
    with pytest.raises(ProtocolError):
        wire.decode(wire.encode(wire.OP_DATA, 0, 1, bytes(wire.MAX_MESSAGE - 15)), True)


@pytest.mark.parametrize(("values", "encode", "decode"), FRAMES, ids=["hello", "welcome", "refused"])
def test_a_mutated_frame_gives_a_value_or_protocol_error(values: Any, encode: Any, decode: Any) -> None:
    @given(m.mutated(values.map(encode)))
    def mutations(frame: bytes) -> None:
        for read in (wire.decode_hello, wire.decode_welcome, wire.decode_refused):
            try:
                value = read(frame)
            except ProtocolError:
                continue
            assert type(value).__name__ in ("Hello", "Welcome", "RefusedFrame")

    mutations()


# ---------------------------------------------------------------- what may not be sent


def test_a_field_out_of_its_range_is_the_callers_error() -> None:
    for body in (wire.Map(-1, 0), wire.Map(2**64, 0), wire.RegionAdd(2**32, 0, 0), wire.EventRef(-1)):
        with pytest.raises(ValueError, match="range"):
            body.pack()


@given(st.text(max_size=3000))
def test_any_text_can_be_sent(reason: str) -> None:
    sent = wire.encode(wire.OP_BYE, 0, 1, wire.Bye(wire.STATUS_INTERNAL, reason).pack())
    received = wire.decode(sent, False).body.reason
    carried = reason.replace("\0", "\ufffd").encode(errors="replace").decode()
    assert carried.startswith(received)
    assert received == carried or len(carried.encode()) > wire.MAX_TEXT


def test_long_text_is_cut_at_a_characters_border() -> None:
    assert wire.text_bytes("é" * wire.MAX_TEXT).decode() == "é" * (wire.MAX_TEXT // 2)


# ---------------------------------------------------------------- layout

STRUCTS = {
    "HEAD": "gpud_message_head",
    "HELLO": "gpud_hello",
    "WELCOME": "gpud_welcome",
    "REFUSED": "gpud_refused",
    "REGION_ADD": "gpud_msg_region_add",
    "MAP": "gpud_msg_map",
    "COPY_HOST": "gpud_msg_copy_host",
    "COPY": "gpud_msg_copy",
    "FILL": "gpud_msg_fill",
    "WRITE": "gpud_msg_write",
    "MODULE_LOAD": "gpud_msg_module_load",
    "ID": "gpud_msg_module_ref",
    "LAUNCH_HEAD": "gpud_msg_launch",
    "PARAM": "gpud_param",
    "KERNEL_INFO": "gpud_msg_kernel_info",
    "GLOBAL_INFO": "gpud_msg_global_info",
    "MODULE_STATUS": "gpud_msg_module_status",
    "EVENT_TIME": "gpud_msg_event_time",
    "FAULT": "gpud_msg_fault",
    "BYE": "gpud_msg_bye",
    "DIRECT": "gpud_msg_direct",
    "COMPLETED": "gpud_msg_completed",
    "BYTES": "gpud_msg_bytes",
    "REGION_KEY": "gpud_msg_region_key",
    "CREDIT": "gpud_msg_credit",
}


@pytest.mark.parametrize(("name", "struct"), STRUCTS.items())
def test_each_field_lies_where_the_compiler_puts_it(name: str, struct: str) -> None:
    numbers = iter(range(1, 100))
    cdata = ffi.new(f"{struct} *")
    expected = []
    for field, described in ffi.typeof(struct).fields:
        kind = described.type
        values = [next(numbers) for _ in range(kind.length if kind.kind == "array" else 1)]
        setattr(cdata, field, values if kind.kind == "array" else values[0])
        expected += values
    assert list(getattr(layout, name).unpack(ffi.buffer(cdata))) == expected


def test_every_struct_has_a_layout() -> None:
    declared = {name for name in ffi.list_types()[0] if name.startswith(("gpud_msg_", "gpud_param"))}
    one_layout_for_three = {"gpud_msg_region_drop", "gpud_msg_event_ref"}
    assert declared - one_layout_for_three <= set(STRUCTS.values())
