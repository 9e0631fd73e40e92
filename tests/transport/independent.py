"""A client written from docs/protocol.md alone: nothing of `transport` or `gpudisagg` is used, so that what a
server does is what the page says. The numbers of sections are the page's.
"""

from __future__ import annotations

import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

PATIENCE = 120.0  # seconds: it ends what hangs
PAGE = 4096

# 1. From a socket to a session
MAGIC = 0x44555047
HELLO, WELCOME, REFUSED, QUEUE_PAIR = 1, 2, 3, 6
FRAME_HEAD = struct.Struct("<IHHII")
HELLO_FIXED = struct.Struct("<HHIQQQ")
WELCOME_FIXED = struct.Struct("<HHIIIQQQQQQ3I3I4I")
REFUSED_FIXED = struct.Struct("<II")

# 5. Messages
MESSAGE_HEAD = struct.Struct("<IHBBII")
MAX_MESSAGE = 8192
REGION_ADD, REGION_DROP, MAP, UNMAP, COPY_IN, COPY_OUT = 2, 3, 16, 17, 18, 19
MODULE_LOAD, MODULE_UNLOAD, LAUNCH, EVENT_QUERY, SYNCHRONIZE, CLOSE = 32, 33, 34, 52, 54, 63
KERNEL_INFO, GLOBAL_INFO, MODULE_STATUS, EVENT_TIME, FAULT, BYE = 128, 129, 130, 131, 132, 133
DIRECT = 135  # answers nothing
COMPLETED, BYTES, REGION_KEY, CREDIT = 192, 193, 194, 195
READ, WRITE = 1, 2  # what the worker may do with a region

# 9. Errors
PROTOCOL, INVALID, NOT_FOUND = 1, 6, 7

# 11. Features
DEVICE, VERBS = 4, 8


class Gone(Exception):
    """The worker hung up."""


class Refused(Exception):
    """The server said no."""


class Welcome(NamedTuple):
    version: int
    granularity: int
    features: int
    window_base: int
    window_size: int
    memory: int
    device: str


class Reply(NamedTuple):
    op: int
    stream: int
    body: bytes


class Fault(NamedTuple):
    sequence: int
    status: int
    op: int
    reason: str


class Kernel(NamedTuple):
    module: int
    number: int
    offsets: tuple[int, ...]
    params_size: int
    name: str


def read_exactly(end: socket.socket, size: int) -> bytes:
    """Not one byte more."""
    data = bytearray()
    while len(data) < size:
        part = end.recv(size - len(data))
        if not part:
            raise Gone
        data += part
    return bytes(data)


def frame(kind: int, fixed: bytes, text: bytes = b"") -> bytes:
    return FRAME_HEAD.pack(MAGIC, kind, 0, 16 + len(fixed) + len(text), len(text)) + fixed + text


def read_frame(end: socket.socket) -> tuple[int, bytes, str]:
    """Its type, fixed part and text."""
    magic, kind, reserved, size, text = FRAME_HEAD.unpack(read_exactly(end, 16))
    assert (magic, reserved) == (MAGIC, 0)
    assert 16 + text <= size <= 4096
    rest = read_exactly(end, size - 16)
    split = len(rest) - text
    return kind, rest[:split], rest[split:].decode()


def shake_hands(end: socket.socket, features: int) -> Welcome:
    wanted = HELLO_FIXED.pack(1, 1, int(PATIENCE * 1000), features, 0, 0)
    end.sendall(frame(HELLO, wanted, b"written from the page"))
    kind, fixed, text = read_frame(end)
    if kind == REFUSED:
        raise Refused(REFUSED_FIXED.unpack(fixed), text)
    assert kind == WELCOME
    (version, _, _, _, granularity, granted, _, base, size, memory, _, *_) = WELCOME_FIXED.unpack(fixed)
    assert version == 1 and granted & ~features == 0
    return Welcome(version, granularity, granted, base, size, memory, text)


class Client:
    """A session: what is the same over every transport (5 to 10). A transport has `send` and `receive`."""

    def __init__(self) -> None:
        self.posted = 0
        self.completed = 0
        self.faulted = False
        self.replies: deque[Reply] = deque()
        self.way: tuple[int, str] | None = None  # what DIRECT said
        self._taken = 0

    # ------------------------------------------------------------ what a transport does

    def send(self, message: bytes, payload: bytes = b"") -> None:
        raise NotImplementedError

    def receive(self, limit: float) -> None:
        """Takes one thing that came, within `limit` seconds if there is one. Gone."""
        raise NotImplementedError

    # ------------------------------------------------------------ messages

    def post(self, op: int, body: bytes = b"", payload: bytes = b"", stream: int = 0) -> int:
        """The command's number. `payload`: the bytes that it copies, where they travel behind it."""
        self.posted += 1
        head = MESSAGE_HEAD.pack(0, 16 + len(body), op, 0, stream, self.posted & 0xFFFFFFFF)
        self.send(head + body, payload)
        return self.posted

    def take(self, message: bytes) -> int:
        """Judges a message that came whole; keeps replies and what COMPLETED says. Its op."""
        op: int
        tag, size, op, flags, stream, sequence = MESSAGE_HEAD.unpack_from(message)
        assert (tag, flags, size) == (0, 0, len(message))
        body = message[16:]
        if op >= COMPLETED:
            assert (stream, sequence) == (0, 0)
        else:
            self._taken += 1
            assert sequence == self._taken & 0xFFFFFFFF
            self._take_reply(Reply(op, stream, body))
        if op == COMPLETED:
            completed, faulted, reserved = struct.unpack("<QII", body)
            assert reserved == 0 and faulted in (0, 1)
            assert self.completed <= completed <= self.posted
            assert faulted or not self.faulted
            self.completed, self.faulted = completed, bool(faulted)
        return op

    def _take_reply(self, reply: Reply) -> None:
        if reply.op == DIRECT:
            way, reserved = struct.unpack_from("<II", reply.body)
            assert self.way is None and way in (1, 2, 3, 4) and reserved == 0
            self.way = way, reply.body[8:].decode()
            return
        assert KERNEL_INFO <= reply.op <= BYE
        self.replies.append(reply)

    def until(self, condition: Callable[[], object], limit: float = PATIENCE) -> None:
        end = time.monotonic() + limit
        while not condition():
            left = end - time.monotonic()
            assert left > 0, f"not within {limit} s"
            self.receive(left)

    def wait(self, sequence: int) -> None:
        self.until(lambda: self.completed >= sequence or self.faulted)

    def reply(self, op: int) -> bytes:
        """The body of the next one, which must be of this kind."""
        self.until(lambda: self.replies)
        reply = self.replies.popleft()
        assert reply.op == op, reply
        return reply.body

    def fault(self) -> Fault:
        body = self.reply(FAULT)
        sequence, status, op = struct.unpack_from("<QII", body)
        return Fault(sequence, status, op, body[48:].decode())

    # ------------------------------------------------------------ commands

    def add_region(self, number: int, size: int, access: int = READ | WRITE) -> int:
        return self.post(REGION_ADD, struct.pack("<IIQQ", number, access, size, 0))

    def drop_region(self, number: int) -> int:
        return self.post(REGION_DROP, struct.pack("<II", number, 0))

    def map(self, address: int, size: int) -> int:
        return self.post(MAP, struct.pack("<QQ", address, size))

    def copy(self, op: int, address: int, region: int, offset: int, size: int, payload: bytes = b"") -> int:
        """COPY_IN or COPY_OUT."""
        return self.post(op, struct.pack("<QQQII", address, offset, size, region, 0), payload)

    def load(self, number: int, region: int, offset: int, size: int, payload: bytes = b"") -> list[Kernel]:
        self.post(MODULE_LOAD, struct.pack("<IIQQ", number, region, offset, size), payload)
        kernels = []
        self.until(lambda: self.replies)
        while self.replies and self.replies[0].op == KERNEL_INFO:
            kernels.append(kernel_of(self.reply(KERNEL_INFO)))
            self.until(lambda: self.replies)
        body = self.reply(MODULE_STATUS)
        assert struct.unpack_from("<IIII", body) == (number, 0, len(kernels), 0), body
        return kernels

    def launch(self, kernel: Kernel, grid: int, block: int, params: tuple[bytes, ...]) -> int:
        packed = bytearray(kernel.params_size)
        for offset, value in zip(kernel.offsets, params, strict=True):
            packed[offset : offset + len(value)] = value
        head = struct.pack("<IHH", kernel.module, kernel.number, len(packed))
        shape = struct.pack("<III HHH HI", grid, 1, 1, block, 1, 1, 0, 0)
        return self.post(LAUNCH, head + shape + bytes(packed))

    def finish(self) -> None:
        """CLOSE, and its completion."""
        sequence = self.post(CLOSE)
        self.until(lambda: self.completed >= sequence)


def kernel_of(body: bytes) -> Kernel:
    module, index, count, params_size, _, _, name_size = struct.unpack_from("<IHHIIII", body)
    params = [struct.unpack_from("<HHHH", body, 24 + 8 * number) for number in range(count)]
    name = body[24 + 8 * count :]
    assert len(name) == name_size
    return Kernel(module, index, tuple(offset for offset, *_ in params), params_size, name.decode())


class Tcp(Client):
    """12. Over TCP."""

    STREAM = 0xFFFFFFFF

    def __init__(self, host: str, port: int) -> None:
        super().__init__()
        self.socket = socket.create_connection((host, port), PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.welcome = shake_hands(self.socket, DEVICE)
        self.due: deque[tuple[int, bytearray]] = deque()  # COPY_OUTs: how many bytes, and those that came

    def send(self, message: bytes, payload: bytes = b"") -> None:
        try:
            self.socket.sendall(message + payload)
        except OSError as error:
            raise Gone from error

    def receive(self, limit: float) -> None:
        self.socket.settimeout(limit)
        try:
            head = read_exactly(self.socket, 16)
            message = head + read_exactly(self.socket, MESSAGE_HEAD.unpack(head)[1] - 16)
            if self.take(message) == BYTES:
                (size,) = struct.unpack("<Q", message[16:])
                wanted, got = next(one for one in self.due if len(one[1]) < one[0])
                assert 0 < size <= wanted - len(got)
                got += read_exactly(self.socket, size)
        except OSError as error:
            raise Gone from error

    def copy_in(self, address: int, data: bytes) -> int:
        return self.copy(COPY_IN, address, self.STREAM, 0, len(data), data)

    def copy_out(self, address: int, size: int, region: int = STREAM, offset: int = 0) -> bytes:
        self.due.append((size, bytearray()))
        self.wait(self.copy(COPY_OUT, address, region, offset, size))
        return bytes(self.due.popleft()[1])

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Tcp:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


# Multiplies `count` u32 by a factor, a thread each.
PTX = b"""
.version 8.0
.target sm_80
.address_size 64
.visible .entry scale(.param .u64 values, .param .u32 factor)
{
  .reg .u64 %a, %o;
  .reg .u32 %b, %n, %t, %v, %f;
  ld.param.u64 %a, [values];
  ld.param.u32 %f, [factor];
  mov.u32 %b, %ctaid.x;
  mov.u32 %n, %ntid.x;
  mov.u32 %t, %tid.x;
  mad.lo.u32 %t, %b, %n, %t;
  mul.wide.u32 %o, %t, 4;
  add.u64 %a, %a, %o;
  ld.global.u32 %v, [%a];
  mul.lo.u32 %v, %v, %f;
  st.global.u32 [%a], %v;
  ret;
}
"""
CUDA = b"""
extern "C" __global__ void scale(unsigned *values, unsigned factor)
{
  values[blockIdx.x * blockDim.x + threadIdx.x] *= factor;
}
"""


def numbers(count: int) -> bytes:
    return struct.pack(f"<{count}I", *range(count))


def scaled(count: int, factor: int) -> bytes:
    return struct.pack(f"<{count}I", *(factor * number for number in range(count)))


def scale_params(address: int, factor: int) -> tuple[bytes, bytes]:
    return struct.pack("<Q", address), struct.pack("<I", factor)
