"""The frames on the bootstrap socket: HELLO, WELCOME, REFUSED, ASK, WAYS."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from transport import layout
from transport._transport import ffi, lib
from transport.constants import (
    FRAME_ASK,
    FRAME_HELLO,
    FRAME_REFUSED,
    FRAME_WAYS,
    FRAME_WELCOME,
    MAX_FRAME,
    VERSION,
)
from transport.errors import ProtocolError
from transport.layout import Triple, pack, text_bytes, text_of


class Hello(NamedTuple):
    """The client's first word. `deadline_ms`: how long it waits for a worker; memory in bytes, 0 for the
    server's default.
    """

    version_min: int = VERSION
    version_max: int = VERSION
    deadline_ms: int = 0
    features: int = 0
    memory: int = 0
    host_memory: int = 0
    name: str = ""


class Welcome(NamedTuple):
    """What the session got: limits in bytes unless they say otherwise, `window_base` 0 where there is no
    device.
    """

    version: int = VERSION
    warp_size: int = 0
    command_slots: int = 0
    reply_slots: int = 0
    granularity: int = 0
    features: int = 0
    session: int = 0
    window_base: int = 0
    window_size: int = 0
    memory: int = 0
    host_memory: int = 0
    max_grid: Triple = (0, 0, 0)
    max_block: Triple = (0, 0, 0)
    max_block_threads: int = 0
    max_shared: int = 0
    multiprocessors: int = 0
    compute_capability: int = 0
    name: str = ""


class RefusedFrame(NamedTuple):
    """Why not: a STATUS_*, when to try again (ms, 0: do not), and the reason with what to do next."""

    status: int
    retry_ms: int = 0
    reason: str = ""


class Ways(NamedTuple):
    """How a server can be reached. `host`: 16 bytes, the same on two sides of one running kernel, zeros
    where unknown; `server`: the same wherever this server is asked; `addresses`: as the asking client may
    use them.
    """

    host: bytes
    server: str = ""
    addresses: tuple[str, ...] = ()


_SERVER = "server:"  # what the line begins with that says which server this is; the others are addresses


def _encode_frame(kind: int, body: bytes, text: str) -> bytes:
    out = ffi.new("unsigned char[]", MAX_FRAME)
    data = text_bytes(text, MAX_FRAME - 16 - len(body))
    size: int = lib.gpud_frame_encode(out, MAX_FRAME, kind, body, data, len(data))
    if size < 0:
        raise ValueError(f"frame {kind} with {len(data)} bytes of text cannot be encoded ({size})")
    return bytes(ffi.buffer(out, size))


def _decode_frame(frame: bytes, kind: int, fixed: struct.Struct) -> tuple[tuple[Any, ...], str]:
    data = bytes(frame)
    body = ffi.new("unsigned char[]", fixed.size)
    text = ffi.new("const char **")
    size: int = lib.gpud_frame_decode(ffi.from_buffer(data), len(data), kind, body, text)
    if size < 0:
        raise ProtocolError(
            f"{len(data)} bytes are no frame of type {kind}; is the other side a gpudisagg peer?"
        )
    return fixed.unpack(ffi.buffer(body)), text_of(bytes(ffi.buffer(text[0], size)) if size else b"")


def frame_size(data: bytes) -> int:
    """How long the frame is that begins with `data`: 0 while fewer than 16 bytes are there; ProtocolError:
    none does.
    """
    size: int = lib.gpud_frame_size(data, len(data))
    if size < 0:
        raise ProtocolError("no frame begins so; is the other side a gpudisagg peer?")
    return size


def frame_type(frame: bytes) -> int:
    """FRAME_* of a whole frame, or of its head."""
    kind: int = struct.unpack_from("<H", frame, 4)[0]
    return kind


def encode_ask() -> bytes:
    return _encode_frame(FRAME_ASK, pack(layout.ASK, 0), "")


def decode_ask(frame: bytes) -> None:
    """ProtocolError: it is none."""
    (reserved,), text = _decode_frame(frame, FRAME_ASK, layout.ASK)
    if reserved or text:
        raise ProtocolError("ASK with more than this version knows of")


def encode_ways(ways: Ways) -> bytes:
    """Addresses for which there is no room are left out, the last ones first."""
    lines = [f"{_SERVER}{ways.server}", *ways.addresses]
    while sum(len(line.encode()) + 1 for line in lines) > MAX_FRAME - 16 - layout.WAYS.size:
        lines.pop()
    return _encode_frame(FRAME_WAYS, layout.WAYS.pack(ways.host), "\n".join(lines))


def decode_ways(frame: bytes) -> Ways:
    (host,), text = _decode_frame(frame, FRAME_WAYS, layout.WAYS)
    lines = text.split("\n")
    server = next((line[len(_SERVER) :] for line in lines if line.startswith(_SERVER)), "")
    return Ways(host, server, tuple(line for line in lines if line and not line.startswith(_SERVER)))


def encode_hello(hello: Hello) -> bytes:
    return _encode_frame(FRAME_HELLO, pack_hello(hello), hello.name)


def decode_hello(frame: bytes) -> Hello:
    values, text = _decode_frame(frame, FRAME_HELLO, layout.HELLO)
    return Hello._make((*values, text))


def encode_welcome(welcome: Welcome) -> bytes:
    return _encode_frame(FRAME_WELCOME, pack_welcome(welcome), welcome.name)


def decode_welcome(frame: bytes) -> Welcome:
    values, text = _decode_frame(frame, FRAME_WELCOME, layout.WELCOME)
    return _welcome(values, text)


def encode_refused(refused: RefusedFrame) -> bytes:
    return _encode_frame(
        FRAME_REFUSED, pack(layout.REFUSED, refused.status, refused.retry_ms), refused.reason
    )


def decode_refused(frame: bytes) -> RefusedFrame:
    values, text = _decode_frame(frame, FRAME_REFUSED, layout.REFUSED)
    return RefusedFrame._make((*values, text))


def pack_hello(hello: Hello) -> bytes:
    """The fixed part, as a gpud_hello."""
    return pack(layout.HELLO, *hello[:-1])


def pack_welcome(welcome: Welcome) -> bytes:
    """The fixed part, as a gpud_welcome."""
    return pack(layout.WELCOME, *welcome[:11], *welcome.max_grid, *welcome.max_block, *welcome[13:-1])


def unpack_welcome(body: bytes, text: str) -> Welcome:
    """From the bytes of a gpud_welcome."""
    return _welcome(layout.WELCOME.unpack(body), text)


def unpack_hello(body: bytes, text: str) -> Hello:
    """From the bytes of a gpud_hello."""
    return Hello._make((*layout.HELLO.unpack(body), text))


def _welcome(v: tuple[int, ...], text: str) -> Welcome:
    return Welcome._make((*v[:11], (v[11], v[12], v[13]), (v[14], v[15], v[16]), *v[17:], text))
