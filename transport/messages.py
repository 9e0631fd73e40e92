"""The messages of the ring, as values: one class for each struct of wire.h.

`pack()` gives the body (what follows the 16-byte head, which the connection writes); ValueError where a field
is out of its range. `decode()` makes a `Message` of a whole one: C judges its bytes first
(gpud_message_check), so any bytes give a value or ProtocolError.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from transport import constants as k
from transport import layout
from transport._transport import ffi, lib
from transport.errors import ProtocolError
from transport.layout import Triple, pack, text_bytes, text_of


class Data(NamedTuple):
    """Opaque bytes, in either direction."""

    data: bytes

    def pack(self) -> bytes:
        return self.data


class RegionAdd(NamedTuple):
    """Registers client memory: `size` bytes; kernels see it at `address` (0: nowhere). `access`: ACCESS_*
    bits.
    """

    region: int
    access: int
    size: int
    address: int = 0

    def pack(self) -> bytes:
        return pack(layout.REGION_ADD, *self)


class RegionDrop(NamedTuple):
    region: int

    def pack(self) -> bytes:
        return pack(layout.ID, self.region, 0)


class Map(NamedTuple):
    """MAP and UNMAP: `size` bytes of device memory at `address`."""

    address: int
    size: int

    def pack(self) -> bytes:
        return pack(layout.MAP, *self)


class CopyHost(NamedTuple):
    """COPY_IN and COPY_OUT: `size` bytes between device `address` and `offset` in `region`."""

    address: int
    offset: int
    size: int
    region: int

    def pack(self) -> bytes:
        return pack(layout.COPY_HOST, *self, 0)


class Copy(NamedTuple):
    """Device to device, bytes; the ranges may overlap."""

    destination: int
    source: int
    size: int

    def pack(self) -> bytes:
        return pack(layout.COPY, *self)


class Fill(NamedTuple):
    """`elements` elements of `width` bytes (1, 2, 4, 8), each the low bytes of `pattern`."""

    address: int
    elements: int
    pattern: int
    width: int

    def pack(self) -> bytes:
        return pack(layout.FILL, *self, 0)


class Write(NamedTuple):
    """A few bytes into device memory, carried in the message itself."""

    address: int
    data: bytes

    def pack(self) -> bytes:
        return pack(layout.WRITE, self.address) + self.data


class ArrayAdd(NamedTuple):
    """In a checked session: kernels may touch `size` bytes at `address`, and nothing else of the `room`
    there. `label` tells people which array it is.
    """

    address: int
    size: int
    room: int
    label: str = ""

    def pack(self) -> bytes:
        return pack(layout.ARRAY_ADD, *self[:3]) + text_bytes(self.label, k.MAX_LABEL)


class ArrayDrop(NamedTuple):
    """The array at `address` is gone."""

    address: int

    def pack(self) -> bytes:
        return pack(layout.ARRAY_DROP, *self)


class ModuleLoad(NamedTuple):
    """Loads the image of `size` bytes at `offset` in `region` as `module`, compiled with `options`."""

    module: int
    region: int
    offset: int
    size: int
    options: tuple[str, ...] = ()

    def pack(self) -> bytes:
        options = b"".join(option.encode() + b"\0" for option in self.options)
        return pack(layout.MODULE_LOAD, *self[:4]) + options


class ModuleRef(NamedTuple):
    """MODULE_UNLOAD."""

    module: int

    def pack(self) -> bytes:
        return pack(layout.ID, self.module, 0)


class Launch(NamedTuple):
    """`params`: the packed parameter buffer; `shared`: dynamic shared memory, bytes; `flags`: LAUNCH_*."""

    module: int
    kernel: int
    grid: Triple
    block: Triple
    shared: int
    params: bytes
    flags: int = 0

    def pack(self) -> bytes:
        head = pack(
            layout.LAUNCH_HEAD,
            self.module,
            self.kernel,
            len(self.params),
            *self.grid,
            *self.block,
            self.flags,
            self.shared,
        )
        return head + self.params


class EventRef(NamedTuple):
    """EVENT_RECORD, EVENT_WAIT, EVENT_QUERY, EVENT_DESTROY."""

    event: int

    def pack(self) -> bytes:
        return pack(layout.ID, self.event, 0)


class Param(NamedTuple):
    """One kernel parameter: where it lies in the parameter buffer, bytes, and a PARAM_* kind."""

    offset: int
    size: int
    kind: int = k.PARAM_BITS


class KernelInfo(NamedTuple):
    """What a kernel of a loaded module takes; sizes in bytes."""

    module: int
    kernel: int
    params_size: int
    static_shared: int
    max_threads: int
    params: tuple[Param, ...]
    name: str

    def pack(self) -> bytes:
        name = text_bytes(self.name)
        head = pack(
            layout.KERNEL_INFO,
            self.module,
            self.kernel,
            len(self.params),
            self.params_size,
            self.static_shared,
            self.max_threads,
            len(name),
        )
        return head + b"".join(pack(layout.PARAM, *param, 0) for param in self.params) + name


class GlobalInfo(NamedTuple):
    """A `__device__` or `__constant__` variable of a loaded module."""

    module: int
    address: int
    size: int
    name: str

    def pack(self) -> bytes:
        return pack(layout.GLOBAL_INFO, self.module, 0, self.address, self.size) + text_bytes(self.name)


class ModuleStatus(NamedTuple):
    """The end of a MODULE_LOAD's answer. `log`: what the compiler said where it failed."""

    module: int
    status: int
    kernels: int
    globals: int
    log: str = ""

    def pack(self) -> bytes:
        return pack(layout.MODULE_STATUS, *self[:4]) + text_bytes(self.log)


class EventTime(NamedTuple):
    """`nanoseconds` on the device's clock: only differences mean anything."""

    event: int
    status: int
    nanoseconds: int

    def pack(self) -> bytes:
        return pack(layout.EVENT_TIME, *self)


class Fault(NamedTuple):
    """The first command that failed: which, why (`status`, `reason`), and where in the kernel as far as it
    is known.
    """

    sequence: int
    status: int
    op: int
    address: int
    module: int
    kernel: int
    block: Triple
    thread: int
    reason: str = ""

    def pack(self) -> bytes:
        return pack(layout.FAULT, *self[:6], *self.block, self.thread) + text_bytes(self.reason)


class Bye(NamedTuple):
    """The server ends the session."""

    status: int
    reason: str = ""

    def pack(self) -> bytes:
        return pack(layout.BYE, self.status, 0) + text_bytes(self.reason)


class Output(NamedTuple):
    """Bytes that kernels printed, in order; a character may be cut at either end."""

    data: bytes

    def pack(self) -> bytes:
        return self.data


class Direct(NamedTuple):
    """By which way bulk reaches device memory: its number, and words, with why there is no better."""

    way: int
    text: str = ""

    def pack(self) -> bytes:
        return pack(layout.DIRECT, self.way, 0) + text_bytes(self.text)


Body = (
    Data | RegionAdd | RegionDrop | Map | CopyHost | Copy | Fill | Write | ArrayAdd | ArrayDrop | ModuleLoad |
    ModuleRef | Launch | EventRef | KernelInfo | GlobalInfo | ModuleStatus | EventTime | Fault | Bye |
    Output | Direct | None
)  # fmt: skip


class Message(NamedTuple):
    """A whole message. `sequence` is the low half of its number; `body` is None where the op says all."""

    op: int
    stream: int
    sequence: int
    body: Body


def _write(b: bytes) -> Write:
    return Write._make((*layout.WRITE.unpack_from(b), b[layout.WRITE.size :]))


def _array_add(b: bytes) -> ArrayAdd:
    fixed = layout.ARRAY_ADD.unpack_from(b)
    return ArrayAdd._make((*fixed, text_of(b[layout.ARRAY_ADD.size :])))


def _module_load(b: bytes) -> ModuleLoad:
    options = b[layout.MODULE_LOAD.size :].split(b"\0")[:-1]
    fixed = layout.MODULE_LOAD.unpack_from(b)
    return ModuleLoad._make((*fixed, tuple(text_of(option) for option in options)))


def _launch(b: bytes) -> Launch:
    module, kernel, size, gx, gy, gz, bx, by, bz, flags, shared = layout.LAUNCH_HEAD.unpack_from(b)
    params = b[layout.LAUNCH_HEAD.size : layout.LAUNCH_HEAD.size + size]
    return Launch(module, kernel, (gx, gy, gz), (bx, by, bz), shared, params, flags)


def _kernel_info(b: bytes) -> KernelInfo:
    module, kernel, count, params_size, shared, threads, name_size = layout.KERNEL_INFO.unpack_from(b)
    start = layout.KERNEL_INFO.size
    names = start + count * layout.PARAM.size
    params = tuple(Param(*fields[:3]) for fields in layout.PARAM.iter_unpack(b[start:names]))
    return KernelInfo(
        module, kernel, params_size, shared, threads, params, text_of(b[names : names + name_size])
    )


def _global_info(b: bytes) -> GlobalInfo:
    module, _, address, size = layout.GLOBAL_INFO.unpack_from(b)
    return GlobalInfo(module, address, size, text_of(b[layout.GLOBAL_INFO.size :]))


def _module_status(b: bytes) -> ModuleStatus:
    fixed = layout.MODULE_STATUS.unpack_from(b)
    return ModuleStatus._make((*fixed, text_of(b[layout.MODULE_STATUS.size :])))


def _fault(b: bytes) -> Fault:
    v = layout.FAULT.unpack_from(b)
    return Fault._make((*v[:6], (v[6], v[7], v[8]), v[9], text_of(b[layout.FAULT.size :])))


def _bye(b: bytes) -> Bye:
    return Bye(layout.BYE.unpack_from(b)[0], text_of(b[layout.BYE.size :]))


def _direct(b: bytes) -> Direct:
    return Direct(layout.DIRECT.unpack_from(b)[0], text_of(b[layout.DIRECT.size :]))


def _event_ref(b: bytes) -> EventRef:
    return EventRef(layout.ID.unpack(b)[0])


def _map(b: bytes) -> Map:
    return Map(*layout.MAP.unpack(b))


def _copy_host(b: bytes) -> CopyHost:
    return CopyHost(*layout.COPY_HOST.unpack(b)[:4])


_BODIES: dict[int, Callable[[bytes], Body]] = {
    k.OP_DATA: Data,
    k.OP_REGION_ADD: lambda b: RegionAdd(*layout.REGION_ADD.unpack(b)),
    k.OP_REGION_DROP: lambda b: RegionDrop(layout.ID.unpack(b)[0]),
    k.OP_MAP: _map,
    k.OP_UNMAP: _map,
    k.OP_COPY_IN: _copy_host,
    k.OP_COPY_OUT: _copy_host,
    k.OP_COPY: lambda b: Copy(*layout.COPY.unpack(b)),
    k.OP_FILL: lambda b: Fill(*layout.FILL.unpack(b)[:4]),
    k.OP_WRITE: _write,
    k.OP_ARRAY_ADD: _array_add,
    k.OP_ARRAY_DROP: lambda b: ArrayDrop(*layout.ARRAY_DROP.unpack(b)),
    k.OP_MODULE_LOAD: _module_load,
    k.OP_MODULE_UNLOAD: lambda b: ModuleRef(layout.ID.unpack(b)[0]),
    k.OP_LAUNCH: _launch,
    k.OP_EVENT_RECORD: _event_ref,
    k.OP_EVENT_WAIT: _event_ref,
    k.OP_EVENT_QUERY: _event_ref,
    k.OP_EVENT_DESTROY: _event_ref,
    k.OP_KERNEL_INFO: _kernel_info,
    k.OP_GLOBAL_INFO: _global_info,
    k.OP_MODULE_STATUS: _module_status,
    k.OP_EVENT_TIME: lambda b: EventTime(*layout.EVENT_TIME.unpack(b)),
    k.OP_FAULT: _fault,
    k.OP_BYE: _bye,
    k.OP_OUTPUT: Output,
    k.OP_DIRECT: _direct,
}
_BODILESS = frozenset((k.OP_STREAM_CREATE, k.OP_STREAM_DESTROY, k.OP_SYNCHRONIZE, k.OP_CLOSE))


def decode(message: bytes, from_client: bool) -> Message:
    """The value of a whole message, head included; ProtocolError on anything malformed or out of place.

    `from_client`: whether it is a command (client to worker) or a reply.
    """
    if lib.gpud_message_check(message, len(message), from_client) < 0:
        raise ProtocolError(f"malformed message: op {op_of(message)}, {len(message)} bytes")
    _, size, op, _, stream, sequence = layout.HEAD.unpack_from(message)
    read = _BODIES.get(op)
    if read is None and op not in _BODILESS:
        raise ProtocolError(f"message of an op that this version cannot read: {op_name(op)} ({op})")
    return Message(op, stream, sequence, read(message[layout.HEAD.size : size]) if read else None)


def encode(op: int, stream: int, sequence: int, body: bytes) -> bytes:
    """A whole message as the ring would carry it, its tag left 0: for tests, tools and captures."""
    return pack(layout.HEAD, 0, layout.HEAD.size + len(body), op, 0, stream, sequence & 0xFFFFFFFF) + body


def op_of(message: bytes) -> int:
    """The op of a message, -1 where it is too short to have one."""
    return message[6] if len(message) >= layout.HEAD.size else -1


def op_name(op: int) -> str:
    """ "LAUNCH" for OP_LAUNCH; "?" where there is none."""
    return bytes(ffi.string(lib.gpud_op_name(op))).decode("ascii")


def status_name(status: int) -> str:
    """ "DEVICE_FAULT" for STATUS_DEVICE_FAULT; "?" where there is none."""
    return bytes(ffi.string(lib.gpud_status_name(status))).decode("ascii")
