"""A connection: messages in both directions with sequence numbers, and memory that both sides reach.

Lifetime: the C object is freed when the last Python reference to its pointer goes, so a call that another
thread is in keeps it alive; `close()` ends such calls and lets go. Children (regions, stages) are closed
before their connection.
"""

from __future__ import annotations

import errno
import os
import threading
import weakref
from collections.abc import Callable
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, Protocol

from transport._transport import ffi, lib
from transport.calls import CLOSED as _CLOSED
from transport.calls import State, make_post
from transport.constants import (
    ACCESS_READ,
    ACCESS_WRITE,
    MAX_MESSAGE,
    MAX_REGIONS,
    MAX_TEXT,
    OP_DATA,
    OP_REGION_ADD,
    OP_REGION_DROP,
)
from transport.deadline import SLICE, SLICE_NS, deadline_ns, sliced
from transport.errors import Closed, ProtocolError, TransportError, check
from transport.exchange import Exchange
from transport.frames import Hello, Welcome
from transport.layout import HEAD, text_of
from transport.messages import op_name
from transport.region import MemoryRegion

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from transport.bootstrap import Peer
    from transport.ways import Way

__all__ = ["Connection", "loop"]


# Looked up once: these are called for every message.
_receive = lib.gpud_connection_receive
_wait = lib.gpud_connection_wait
_NOTHING = (-errno.EAGAIN, -errno.ETIMEDOUT)


class _Child(Protocol):
    def close(self) -> None: ...


def _first_deadline(seconds: float) -> int:
    return deadline_ns(seconds) if seconds > 0 else 0


class Connection:
    """One end of a connection; made by `transport.connect`, `Listener.accept` and `loop`.

    Any thread may post and receive. Every wait has a deadline (`timeout`, seconds, where a call gives none)
    and lets Ctrl-C through. A context manager: leaving it closes.

    Raises, besides what a method says: PeerGone, ProtocolError, Closed.
    """

    post: Callable[[int, int, bytes], int]
    """post(op, stream, body) -> the message's sequence number (> 0).

    Does not wait for the peer unless the ring is full; then up to `timeout` seconds (DeadlineExceeded). After
    close() it raises Closed. Bind it to a local for the fastest path: it is a closure, not a method.
    """

    def __init__(self, endpoint: Any, *, client: bool, timeout: float = 30.0) -> None:
        pointer = lib.gpud_connection_new(endpoint, 1 if client else 0)
        if pointer == ffi.NULL:
            raise MemoryError("no memory for a connection")
        self._pointer: Any = ffi.gc(pointer, lib.gpud_connection_free)
        self._state = State(timeout)
        self.post, self._retire = make_post(self._pointer, self._state)
        self.client = client
        self.pid = os.getpid()
        self.welcome: Welcome | None = None
        """What the server granted; on both sides of a bootstrapped connection, None on a loop."""
        self.hello: Hello | None = None
        """What the client asked for; accepting side only."""
        self.peer: Peer | None = None
        """Who is at the other end; accepting side only."""
        self.ways: tuple[Way, ...] = ()
        """By which transports it was tried, in order, and what became of each; connecting side only."""
        self._lock = threading.Lock()
        self._children: weakref.WeakSet[_Child] = weakref.WeakSet()
        self._numbers: set[int] = set()
        # Buffers for received messages: each call takes one, so several threads may receive.
        self._buffers: list[tuple[Any, Any]] = []
        _all.add(self)

    # ------------------------------------------------------------ messages

    @property
    def timeout(self) -> float:
        """Seconds that a call waits where it is given no timeout of its own."""
        return self._state.timeout

    @timeout.setter
    def timeout(self, seconds: float) -> None:
        self._state.timeout = seconds

    def receive(self, timeout: float | None = None) -> bytes:
        """The next message, whole and checked. DeadlineExceeded when none came; `timeout` 0 only looks."""
        pointer = self._pointer
        if pointer is None:
            raise Closed(f"receive: {_CLOSED}")
        try:
            into, view = pair = self._buffers.pop()
        except IndexError:
            into = ffi.new("unsigned char[]", MAX_MESSAGE)
            view = ffi.buffer(into)
            pair = (into, view)
        seconds = self._state.timeout if timeout is None else timeout
        size: int = _receive(
            pointer, into, _first_deadline(seconds) if seconds < SLICE else monotonic_ns() + SLICE_NS
        )
        if size == -errno.ETIMEDOUT and seconds > SLICE:
            size = sliced(lambda end: int(_receive(pointer, into, end)), seconds - SLICE)
        if size > 0:
            message: bytes = view[:size]
            self._buffers.append(pair)
            return message
        self._buffers.append(pair)
        check(size, "receive")
        raise ProtocolError("receive: an empty message")

    def poll(self) -> bytes | None:
        """The next message if one has come, else None; at the least cost."""
        pointer = self._pointer
        if pointer is None:
            raise Closed(f"receive: {_CLOSED}")
        try:
            pair = self._buffers.pop()
        except IndexError:
            into = ffi.new("unsigned char[]", MAX_MESSAGE)
            pair = (into, ffi.buffer(into))
        size: int = _receive(pointer, pair[0], 0)
        message: bytes | None = pair[1][:size] if size > 0 else None
        self._buffers.append(pair)
        if size not in _NOTHING and message is None:
            check(size, "receive")
        return message

    def wait(self, sequence: int, timeout: float | None = None) -> None:
        """Returns once `sequence` and all before it are complete.

        DeadlineExceeded; SessionFaulted as soon as any command has failed.
        """
        pointer = self._pointer
        if pointer is None:
            raise Closed(f"wait: {_CLOSED}")
        seconds = self._state.timeout if timeout is None else timeout
        rc: int = _wait(
            pointer, sequence, _first_deadline(seconds) if seconds < SLICE else monotonic_ns() + SLICE_NS
        )
        if rc == -errno.ETIMEDOUT and seconds > SLICE:
            rc = sliced(lambda end: int(_wait(pointer, sequence, end)), seconds - SLICE)
        if rc:
            check(rc, f"wait for command {sequence}")

    @property
    def reason(self) -> str:
        """In words, why the link ended or refused a call, where the error does not say all; else ""."""
        text = ffi.new("char[]", MAX_TEXT)
        lib.gpud_connection_reason(self._live("reason"), text, MAX_TEXT)
        return text_of(bytes(ffi.string(text)))

    @property
    def posted(self) -> int:
        """The sequence number of the last message posted here; 0 before the first."""
        return int(lib.gpud_connection_posted(self._live("posted")))

    @property
    def received(self) -> int:
        """The sequence number of the last message received here."""
        return int(lib.gpud_connection_received(self._live("received")))

    @property
    def completed(self) -> int:
        """Client: the sequence number up to which all commands are complete."""
        return int(lib.gpud_connection_completed(self._live("completed")))

    def publish(self, sequence: int | None = None, *, faulted: bool = False) -> None:
        """Accepting side: tells the client that commands up to `sequence` (default: all received) are
        complete.

        `faulted`: one of them failed; a FAULT message must have been posted before.
        """
        pointer = self._live("publish")
        done = lib.gpud_connection_received(pointer) if sequence is None else sequence
        lib.gpud_connection_publish(pointer, done, 1 if faulted else 0)

    def send(self, data: bytes) -> int:
        """Sends opaque bytes, at most MAX_MESSAGE - 16 of them, as one message; its sequence number."""
        if len(data) > MAX_MESSAGE - HEAD.size:
            raise ValueError(
                f"{len(data)} bytes: a message carries {MAX_MESSAGE - HEAD.size}; split it, or share a region"
            )
        return self.post(OP_DATA, 0, bytes(data))

    def recv(self, timeout: float | None = None) -> bytes:
        """The bytes of the next `send` of the other side. DeadlineExceeded.

        On the accepting side it also takes in and drops the client's regions as they are announced, and tells
        the client that what an earlier recv returned is complete.
        """
        end = deadline_ns(self._state.timeout if timeout is None else timeout)
        if not self.client:
            self.publish()
        while True:
            message = self.receive(max(0.0, (end - monotonic_ns()) / 1e9))
            op = message[6]
            if op == OP_DATA:
                return message[16:]
            if self.client or op not in (OP_REGION_ADD, OP_REGION_DROP):
                raise ProtocolError(
                    f"recv: a {op_name(op)} message, which only a session understands: use receive()"
                )
            self.handle_region(message)
            self.publish()

    def exchange(self, size: int) -> Exchange:
        """Prepares round trips of `size` bytes each, for a peer that answers every message: one crossing into
        C instead of two, and no bytes object made. The connection's timeout holds.
        """
        exchange = Exchange(self._live("exchange"), size, self._state)
        self._children.add(exchange)
        return exchange

    # ------------------------------------------------------------ memory

    def create_region(
        self,
        size: int,
        number: int | None = None,
        access: int = ACCESS_READ | ACCESS_WRITE,
        address: int = 0,
        prefault: bool = False,
        timeout: float | None = None,
    ) -> MemoryRegion:
        """Client: `size` bytes (rounded up to the page), zeroed, that the worker reaches too.

        `number`: its id on the wire, the lowest free one where None. `access`: what the worker may do,
        ACCESS_*. `address`: where in the window kernels see it, 0: nowhere. `prefault`: touch its pages now.
        """
        number = self.take_number(number)
        try:
            region = MemoryRegion(self, number, size, access, address, prefault, timeout)
        except BaseException:
            self.return_number(number)
            raise
        self._children.add(region)
        return region

    def handle_region(self, message: bytes) -> None:
        """Accepting side: carries out a REGION_ADD or REGION_DROP message."""
        pointer = self._live("region")
        if message[6] == OP_REGION_DROP:
            rc = lib.gpud_connection_region_drop(pointer, message)
        else:
            rc = lib.gpud_connection_region_add(pointer, message, deadline_ns(min(self._state.timeout, 5.0)))
        if rc in (-errno.EEXIST, -errno.EPERM, -errno.EINVAL, -errno.ENOENT, -errno.ENOTSUP):
            raise ProtocolError(
                f"{op_name(message[6])}: the client's region is not acceptable ({os.strerror(-rc)})"
            )
        check(rc, op_name(message[6]))

    def read(self, region: int, offset: int, into: Buffer) -> None:
        """Accepting side: copies len(into) bytes from `offset` of the client's region; `into` is writable and
        contiguous.

        IndexError past the region's end, KeyError where there is no such region, PermissionError without
        ACCESS_READ; TransportError over tcp, where bytes come with the COPY_IN that names them and at no
        other time.
        """
        target = ffi.from_buffer("unsigned char[]", into, require_writable=True)
        rc = lib.gpud_connection_rma_read(self._live("read"), region, offset, target, len(target))
        self._check_access(rc, "read", region, offset, len(target))

    def write(self, region: int, offset: int, data: Buffer) -> None:
        """Accepting side: copies `data` (contiguous) to `offset` of the client's region. Errors as read()."""
        source = ffi.from_buffer("unsigned char[]", data)
        rc = lib.gpud_connection_rma_write(self._live("write"), region, offset, source, len(source))
        self._check_access(rc, "write", region, offset, len(source))

    def _check_access(self, rc: int, what: str, region: int, offset: int, size: int) -> None:
        where = f"{what} of {size} bytes at {offset} of region {region}"
        if rc == -errno.ENOENT:
            raise KeyError(f"{where}: the client has no such region")
        if rc == -errno.ERANGE:
            raise IndexError(f"{where}: past its end")
        if rc == -errno.EACCES:
            raise PermissionError(f"{where}: the client did not grant it")
        if rc == -errno.ENOTSUP:
            raise TransportError(
                f"{where}: over {self.transport} bytes come and go with the command that copies them, "
                "at no other time; send them as messages, or use unix:// or rdma://"
            )
        check(rc, where)

    def take_number(self, number: int | None = None) -> int:
        """Marks a region number as used; the lowest free one where None. ValueError when it is taken or
        there is none.
        """
        with self._lock:
            if number is None:
                number = next((n for n in range(MAX_REGIONS) if n not in self._numbers), MAX_REGIONS)
            if number in self._numbers:
                raise ValueError(f"region number {number} is in use on this connection")
            if not 0 <= number < MAX_REGIONS:
                raise ValueError(f"a connection has at most {MAX_REGIONS} regions: drop one first")
            self._numbers.add(number)
            return number

    def return_number(self, number: int) -> None:
        """The number may be used again: the worker handles the drop before whatever is announced next."""
        with self._lock:
            self._numbers.discard(number)

    def adopt(self, child: _Child) -> None:
        """`child.close()` will be called before this connection closes."""
        self._children.add(child)

    # ------------------------------------------------------------ life

    def _live(self, what: str) -> Any:
        if self._pointer is None:
            raise Closed(f"{what}: {_CLOSED}")
        return self._pointer

    @property
    def pointer(self) -> Any:
        """The C object, for the modules of this package. Closed once it is gone."""
        return self._live("use")

    @property
    def closed(self) -> bool:
        return self._pointer is None

    @property
    def alive(self) -> bool:
        """Whether both ends are open, as far as is known here."""
        pointer = self._pointer
        return pointer is not None and bool(lib.gpud_connection_alive(pointer))

    @property
    def transport(self) -> str:
        """What carries the messages: "shm", "verbs", "tcp" or "loop"."""
        return bytes(ffi.string(lib.gpud_connection_transport(self._live("transport")))).decode()

    def stats(self) -> dict[str, int]:
        """Counts since the connection was made: messages_sent, messages_received, bytes_copied_in,
        bytes_copied_out, credit_waits.
        """
        stats = ffi.new("gpud_connection_stats *")
        lib.gpud_connection_get_stats(self._live("stats"), stats)
        return {name: int(getattr(stats, name)) for name in dir(stats)}

    def interrupt(self) -> None:
        """Ends every wait on this side with PeerGone, now and from now on. Any thread."""
        pointer = self._pointer
        if pointer is not None:
            lib.gpud_connection_interrupt(pointer)

    def forget(self) -> None:
        """In a forked child: lets go of the connection without a word to the peer; the parent's goes on."""
        pointer = self._pointer
        if pointer is not None:
            lib.gpud_connection_forget(pointer)
            self._let_go()

    def close(self) -> None:
        """Ends waits in other threads (PeerGone), closes the children, hangs up. Twice is fine."""
        if self._pointer is None:
            return
        if os.getpid() != self.pid:
            self.forget()
            return
        for child in list(self._children):
            child.close()
        self.interrupt()
        self._let_go()

    def _let_go(self) -> None:
        self._retire()
        self._pointer = None

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        side = "client" if self.client else "worker"
        return f"<Connection {side} {'closed' if self._pointer is None else self.transport}>"


_all: weakref.WeakSet[Connection] = weakref.WeakSet()


def _forget_all() -> None:
    for connection in list(_all):
        connection.forget()


os.register_at_fork(after_in_child=_forget_all)


def loop(
    command_slots: int = 4096, reply_slots: int = 1024, *, timeout: float = 30.0
) -> tuple[Connection, Connection]:
    """A (client, worker) pair within this process; ring sizes in 64-byte slots, powers of two from 256 on."""
    ends = ffi.new("gpud_endpoint *[2]")
    check(lib.gpud_endpoint_loop(command_slots, reply_slots, ends, ends + 1), "loop")
    return Connection(ends[0], client=True, timeout=timeout), Connection(
        ends[1], client=False, timeout=timeout
    )
