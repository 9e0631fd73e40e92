"""Inputs written by hand, from which a corpus begins: what chance alone takes long to find."""

from __future__ import annotations

import struct


def _message(op: int, body: bytes) -> bytes:
    """For target_wire.c: a command, reply or link message, its size to be set right there."""
    kind, tag = (15, 0) if op >= 192 else (8, 1)
    return bytes([kind, 0, 0]) + struct.pack("<IHBBII", tag, 0, op, 0, 0, tag) + body


def _frame(kind: int, fixed: int, text: bytes) -> bytes:
    return bytes([8 + kind, 0, 0]) + bytes(16 + fixed) + text


_BODIES = {
    1: b"data",
    2: struct.pack("<IIQQ", 1, 3, 4096, 0),
    **dict.fromkeys((3, 33, 50, 51, 52, 53), bytes(8)),
    **dict.fromkeys((16, 17), bytes(16)),
    **dict.fromkeys((18, 19), bytes(32)),
    20: bytes(24),
    21: struct.pack("<QQQII", 0, 1, 2, 4, 0),
    22: bytes(8) + b"written",
    32: bytes(24) + b"-O3\0",
    34: struct.pack("<IHH3I3HHI", 1, 0, 4, 1, 1, 1, 1, 1, 1, 0, 0) + b"1234",
    **dict.fromkeys((48, 49, 54, 63), b""),
    128: struct.pack("<IHHIIII", 1, 0, 1, 8, 0, 1024, 4) + struct.pack("<HHHH", 0, 8, 2, 0) + b"name",
    129: bytes(24) + b"name",
    130: bytes(16) + b"log",
    131: bytes(16),
    132: bytes(48) + b"why",
    133: bytes(8) + b"why",
    **dict.fromkeys((192, 194), bytes(16)),
    193: bytes(8),
    195: struct.pack("<II", 1, 0),
}
_FRAMES = {1: 32, 2: 104, 3: 8, 4: 8, 5: 16, 6: 40}  # bytes after the head
_WIRE = [
    *(_message(op, body) for op, body in _BODIES.items()),
    *(_frame(kind, fixed, b"text") for kind, fixed in _FRAMES.items()),
    *(bytes([0x80 + kind, 0, 0]) + b"text" for kind in range(16)),
]

# For target_engine.c: how the session begins (with memory, a module and a stream) and ends, when memory runs
# out, then commands: the place of the op in OPS, a byte for the stream, and what picks each field.
_BEGUN = 128
_LAUNCH = bytes([10, 0, 0])
_LAUNCHES = [
    _LAUNCH + bytes([kernel, params, 0, 0])
    for kernel, params in ((0, 0), (3, 1), (7, 3))  # empty, tidy, trap
]
_ENGINE = [
    *(bytes([_BEGUN + end, 0]) + launch for end in range(8) for launch in _LAUNCHES),
    *(
        bytes([end, 199 + allocation, 9, 0, 1, 0, 0, 1, 0])
        for end in (0, 5, 6)
        for allocation in range(1, 24)
    ),
    *(bytes([_BEGUN, 0, op, 0]) + bytes(range(12)) for op in range(24)),
]

# For target_stream.c: which end, and how many of the acts that follow are its own; then pieces, each a kind
# (its low three bits the op, the others what is odd about it) and its fields, numbers being a byte mostly.
_ALL = 15 << 2  # sixteen acts
_ADD = bytes([0, 1, 3, 32])  # region 1, for both, 32 pages
_CUT = 64  # the piece is cut, some bytes before its end


def _worker(act: int, *pieces: bytes) -> bytes:
    return bytes([_ALL]) + bytes([act | 48]) * 16 + b"".join(pieces)


def _client(acts: bytes, *pieces: bytes, withdraws: bool = False) -> bytes:
    return bytes([_ALL | 1 | 2 * withdraws]) + acts.ljust(16, b"\0") + b"".join(pieces)


_ASKED = bytes([40, 41, 42, 43])  # 100 bytes (400, 700) to each of the four places, as commands 3 to 6
_FLAGGED = bytes([7, 17]) + struct.pack("<IHBBII", 0, 17, 1, 1, 0, 1) + b"x"  # a raw piece: DATA with a flag
_STREAM = [
    _worker(0, _FLAGGED),
    _client(_ASKED, _FLAGGED),
    *(_worker(act, _ADD, bytes([2, 1, 200, 6, 3]) + b"abc") for act in range(8)),
    *(_worker(act, bytes([2 | _CUT, 4, size, 200])) for act in range(8) for size in (100, 190, 239)),
    *(
        _worker(act, _ADD, bytes([4, region, size]))
        for act in range(4)
        for region in (1, 4)
        for size in (90, 200)
    ),
    *(_worker(act, _ADD, bytes([5, 1, 150, 1, 1, 2, 1, 50])) for act in range(8)),
    *(_worker(1, bytes([2 | 16, 4, 100, off])) for off in (1, 255)),
    *(_client(_ASKED, bytes([0, 100, 3, 3]), withdraws=withdraws) for withdraws in (False, True)),
    _client(
        _ASKED, bytes([0 | _CUT, 50, 20, 0 | 32, 50, 7, 3, 3, 6, 2]) + b"ok", bytes([5, 4, 3 | 16, 6, 1])
    ),
    _client(_ASKED, bytes([3, 2, 3, 1])),  # back
    _client(_ASKED, bytes([3, 3])),  # complete and short
    _client(_ASKED, bytes([0, 101])),
    _client(_ASKED, bytes([6 | 8 | 16, 40, 0, 100])),  # more replies than its queue holds
    _client(bytes([1, 1, 253]), bytes([0 | _CUT, 226, 200, 0, 138])),  # far more than a buffer at once
    _client(bytes([255, 255, 254, 253]), bytes([0 | _CUT, 255, 200, 240, 3, 1])),
]

SEEDS: dict[str, list[bytes]] = {"wire": _WIRE, "engine": _ENGINE, "stream": _STREAM}
