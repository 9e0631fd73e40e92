"""Hypothesis strategies for every message and frame of the wire, from one table."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from transport import wire

u16 = st.integers(0, 2**16 - 1)
u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
triple32 = st.tuples(u32, u32, u32)
triple16 = st.tuples(u16, u16, u16)
# Text as the wire can carry it: no NUL, no lone surrogate, within MAX_TEXT bytes.
text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=wire.MAX_TEXT // 4)
status = st.integers(wire.STATUS_OK, wire.STATUS_DEADLINE)

# op -> (class, struct of wire.h, strategy of the fields)
COMMANDS: dict[int, tuple[Any, str, tuple[st.SearchStrategy[Any], ...]]] = {
    wire.OP_DATA: (wire.Data, "", (st.binary(max_size=300),)),
    wire.OP_REGION_ADD: (wire.RegionAdd, "region_add", (u32, st.integers(0, 3), u64, u64)),
    wire.OP_REGION_DROP: (wire.RegionDrop, "region_drop", (u32,)),
    wire.OP_MAP: (wire.Map, "map", (u64, u64)),
    wire.OP_UNMAP: (wire.Map, "map", (u64, u64)),
    wire.OP_COPY_IN: (wire.CopyHost, "copy_host", (u64, u64, u64, u32)),
    wire.OP_COPY_OUT: (wire.CopyHost, "copy_host", (u64, u64, u64, u32)),
    wire.OP_COPY: (wire.Copy, "copy", (u64, u64, u64)),
    wire.OP_FILL: (wire.Fill, "fill", (u64, u64, u64, st.sampled_from([1, 2, 4, 8]))),
    wire.OP_WRITE: (wire.Write, "write", (u64, st.binary(max_size=300))),
    wire.OP_ARRAY_ADD: (
        wire.ArrayAdd,
        "array_add",
        (u64, u64, u64, text.filter(lambda t: len(t.encode()) <= wire.MAX_LABEL)),
    ),
    wire.OP_ARRAY_DROP: (wire.ArrayDrop, "array_drop", (u64,)),
    wire.OP_MODULE_LOAD: (
        wire.ModuleLoad,
        "module_load",
        (u32, u32, u64, u64, st.lists(text.filter(lambda t: len(t) < 100), max_size=4).map(tuple)),
    ),
    wire.OP_MODULE_UNLOAD: (wire.ModuleRef, "module_ref", (u32,)),
    wire.OP_LAUNCH: (
        wire.Launch,
        "launch",
        (
            *(u32, u16, triple32, triple16, u32, st.binary(max_size=wire.MAX_PARAMS)),
            st.sampled_from([0, wire.LAUNCH_COOPERATIVE]),
        ),
    ),
    wire.OP_EVENT_RECORD: (wire.EventRef, "event_ref", (u32,)),
    wire.OP_EVENT_WAIT: (wire.EventRef, "event_ref", (u32,)),
    wire.OP_EVENT_QUERY: (wire.EventRef, "event_ref", (u32,)),
    wire.OP_EVENT_DESTROY: (wire.EventRef, "event_ref", (u32,)),
}
REPLIES: dict[int, tuple[Any, str, tuple[st.SearchStrategy[Any], ...]]] = {
    wire.OP_DATA: COMMANDS[wire.OP_DATA],
    wire.OP_KERNEL_INFO: (
        wire.KernelInfo,
        "kernel_info",
        (
            u32,
            u16,
            u32,
            u32,
            u32,
            st.lists(st.builds(wire.Param, u16, u16, st.integers(0, 2)), max_size=40).map(tuple),
            text,
        ),
    ),
    wire.OP_GLOBAL_INFO: (wire.GlobalInfo, "global_info", (u32, u64, u64, text)),
    wire.OP_MODULE_STATUS: (wire.ModuleStatus, "module_status", (u32, u32, u32, u32, text)),
    wire.OP_EVENT_TIME: (wire.EventTime, "event_time", (u32, u32, u64)),
    wire.OP_FAULT: (wire.Fault, "fault", (u64, u32, u32, u64, u32, u32, triple32, u32, text)),
    wire.OP_OUTPUT: (wire.Output, "", (st.binary(max_size=300),)),
    wire.OP_BYE: (wire.Bye, "bye", (u32, text)),
    wire.OP_DIRECT: (wire.Direct, "direct", (u32, text)),
}
BODILESS = (wire.OP_STREAM_CREATE, wire.OP_STREAM_DESTROY, wire.OP_SYNCHRONIZE, wire.OP_CLOSE)


def bodies(table: dict[int, Any]) -> st.SearchStrategy[tuple[int, Any]]:
    """(op, body) of any message in the table."""
    return st.sampled_from(sorted(table)).flatmap(
        lambda op: st.tuples(st.just(op), st.builds(table[op][0], *table[op][2]))
    )


@st.composite
def messages(draw: st.DrawFn) -> tuple[bytes, bool, wire.Message]:
    """A whole well-formed message, its direction, and the value it must decode to."""
    from_client = draw(st.booleans())
    stream, sequence = draw(u32), draw(u32)
    if from_client and draw(st.integers(0, 9)) == 0:
        op, body = draw(st.sampled_from(BODILESS)), None
    else:
        op, body = draw(bodies(COMMANDS if from_client else REPLIES))
    data = wire.encode(op, stream, sequence, body.pack() if body is not None else b"")
    return data, from_client, wire.Message(op, stream, sequence, body)


hellos = st.builds(wire.Hello, u16, u16, u32, u64, u64, u64, text.filter(lambda t: len(t.encode()) < 4000))
welcomes = st.builds(
    wire.Welcome,
    *[u16] * 2,
    *[u32] * 3,
    *[u64] * 6,
    triple32,
    triple32,
    *[u32] * 4,
    text.filter(lambda t: len(t.encode()) < 3900),
)
refusals = st.builds(wire.RefusedFrame, u32, u32, text.filter(lambda t: len(t.encode()) < 4000))


@st.composite
def mutated(draw: st.DrawFn, original: st.SearchStrategy[bytes]) -> bytes:
    """A well-formed thing after a few blows: bytes changed, bits flipped, cut, grown, spliced."""
    data = bytearray(draw(original))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        blow = draw(st.sampled_from(("byte", "bit", "cut", "grow", "word", "splice")))
        if blow == "byte" and data:
            data[at] = draw(st.integers(0, 255))
        elif blow == "bit" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif blow == "cut":
            del data[at:]
        elif blow == "grow":
            data += draw(st.binary(min_size=1, max_size=80))
        elif blow == "word":
            extreme = draw(
                st.sampled_from((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\0\0", b"\0\0\0\x80"))
            )
            data[at : at + 4] = extreme
        else:
            other = draw(original)
            data[at:] = other[at:]
    return bytes(data)
