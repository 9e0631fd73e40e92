"""A man in the middle of a tcp session: it knows where frames, messages and payloads begin, and does one
thing wrong, once, exactly where it is told to.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from transport import layout, wire

KINDS = ("reset", "hang_up", "stall", "delay", "duplicate", "reorder", "truncate", "corrupt")
_LINGER_NOT = struct.pack("ii", 1, 0)
_PAUSE = 0.05  # seconds
_LOOK = 0.02
_COPY_IN_SIZE = struct.Struct("<16xQ")  # where the size stands in COPY_IN's and MODULE_LOAD's body
_HEAD = layout.HEAD.size
_FRAME_HEAD = 16


@dataclass(frozen=True)
class Fault:
    """In the stream from the client (`upward`) or to it, at the unit of this index, at byte `at` of it.

    reset, hang_up: the bytes before, then the connection's end, with RST or in order. stall: nothing more is
    let through this way, and nobody is told. delay: a pause. duplicate: the unit goes twice. reorder: it goes
    after the next one. truncate: its bytes from `at` on are missing. corrupt: the byte at `at` is inverted,
    but not in a payload: those bytes are the link's to protect (checksums, TLS).
    """

    kind: str
    upward: bool
    unit: int
    at: int = 0


class Splitter:
    """Cuts one direction's bytes where its frames, messages and payloads end."""

    def __init__(self, upward: bool) -> None:
        self._upward = upward
        self._buffer = bytearray()
        self._payload = 0
        self._ring = False  # frames are over
        self.in_payload = False  # the unit yielded last was one

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The units that are whole now."""
        self._buffer += data
        while size := self._next():
            if len(self._buffer) < size:
                return
            unit = bytes(self._buffer[:size])
            del self._buffer[:size]
            self._passed(unit)
            yield unit

    def rest(self) -> bytes:
        """What is left of a unit that never became whole."""
        return bytes(self._buffer)

    def _next(self) -> int:
        """How long the next unit is; 0 while that cannot be known."""
        if self._payload:
            return self._payload
        if not self._ring:
            return wire.frame_size(bytes(self._buffer[:_FRAME_HEAD]))
        if len(self._buffer) < _HEAD:
            return 0
        return int(layout.HEAD.unpack_from(self._buffer)[1])

    def _passed(self, unit: bytes) -> None:
        self.in_payload = self._payload != 0
        if self._payload:
            self._payload = 0
        elif not self._ring:
            kind = int.from_bytes(unit[4:6], "little")
            self._ring = kind in (wire.FRAME_HELLO, wire.FRAME_WELCOME)
        else:
            self._payload = payload_of(unit)


def payload_of(message: bytes) -> int:
    """How many bytes follow a message on the stream."""
    op = layout.HEAD.unpack_from(message)[2]
    if op in (wire.OP_COPY_IN, wire.OP_MODULE_LOAD):
        return int(_COPY_IN_SIZE.unpack_from(message, _HEAD)[0])
    if op == wire.OP_BYTES:
        return int(layout.BYTES.unpack_from(message, _HEAD)[0])
    return 0


class Proxy:
    """Listens on `address`; the first connection gets the fault (None: none), later ones pass as they are.

    `units`: sizes of what passed, by direction (True: from the client).
    """

    def __init__(self, upstream: tuple[str, int], fault: Fault | None = None) -> None:
        self._upstream = upstream
        self._fault = fault
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._ends: list[_Ends] = []
        self._over = threading.Event()
        self.units: dict[bool, list[int]] = {True: [], False: []}
        self.happened = threading.Event()
        """The fault's place was reached."""
        self._start(self._accept)

    @property
    def address(self) -> str:
        host, port = self._listener.getsockname()
        return f"tcp://{host}:{port}"

    def close(self) -> None:
        self._over.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for ends in self._ends:
            ends.end("hang_up")
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _start(self, run: object, *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._upstream)
                for one in (client, server):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                ends = _Ends(client, server)
                self._ends.append(ends)
                fault, self._fault = self._fault, None
                for upward in (True, False):
                    mine = fault if fault is not None and fault.upward == upward else None
                    self._start(_Way(self, ends, upward, mine).run)


@dataclass
class _Ends:
    client: socket.socket
    server: socket.socket
    over: threading.Event = field(default_factory=threading.Event)
    resetting: bool = False
    users: int = 2
    lock: threading.Lock = field(default_factory=threading.Lock)

    def end(self, how: str) -> None:
        """Ends both connections. A reset goes out with the last use of the sockets, so both ways stop."""
        if not self.over.is_set():
            self.resetting = how == "reset"
        self.over.set()
        if not self.resetting:
            for one in (self.client, self.server):
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def receive(self, source: socket.socket) -> bytes:
        """What comes next; b"" at the end."""
        while not self.over.is_set():
            if select.select([source], [], [], _LOOK)[0]:
                return source.recv(1 << 16)
        return b""

    def leave(self) -> None:
        """One way is done; the second closes."""
        with self.lock:
            self.users -= 1
            if self.users == 0:
                for one in (self.client, self.server):
                    with contextlib.suppress(OSError):
                        if self.resetting:
                            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
                        one.close()


class _Way:
    """One direction."""

    def __init__(self, proxy: Proxy, ends: _Ends, upward: bool, fault: Fault | None) -> None:
        self._proxy = proxy
        self._ends = ends
        self._source, self._sink = (ends.client, ends.server) if upward else (ends.server, ends.client)
        self._upward = upward
        self._fault = fault
        self._held = b""
        self._stalled = False

    def run(self) -> None:
        splitter = Splitter(self._upward)
        raw = False  # a stream that makes no sense any more is passed on as it is
        with contextlib.suppress(OSError, ValueError):  # ValueError: select of what is closed
            while data := self._ends.receive(self._source):
                if raw:
                    self._send(data)
                    continue
                try:
                    for unit in splitter.feed(data):
                        if not self._pass(unit, splitter.in_payload):
                            raise OSError
                except Exception:
                    raw = True
                    self._send(splitter.rest())
            self._send(self._held + splitter.rest())
        if not self._ends.resetting:
            with contextlib.suppress(OSError):
                self._sink.shutdown(socket.SHUT_WR)
        self._ends.leave()

    def _pass(self, unit: bytes, payload: bool) -> bool:
        """Sends it on, or does what is to be done wrong. Whether there is more to do."""
        sizes = self._proxy.units[self._upward]
        sizes.append(len(unit))
        fault = self._fault
        if fault is None or fault.unit != len(sizes) - 1:
            self._send(unit)
            if self._held:
                held, self._held = self._held, b""
                self._send(held)
            return True
        self._proxy.happened.set()
        at = min(fault.at, len(unit))
        if fault.kind in ("reset", "hang_up"):
            self._send(unit[:at])
            self._ends.end(fault.kind)
            return False
        if fault.kind == "stall":
            self._send(unit[:at])
            self._stalled = True
        elif fault.kind == "delay":
            self._send(unit[:at])
            self._proxy._over.wait(_PAUSE)
            self._send(unit[at:])
        elif fault.kind == "duplicate":
            self._send(unit + unit)
        elif fault.kind == "reorder":
            self._held = unit
        elif fault.kind == "truncate":
            self._send(unit[:at])
        elif payload:
            self._send(unit)
        else:
            at = min(at, len(unit) - 1)
            self._send(unit[:at] + bytes([unit[at] ^ 0xFF]) + unit[at + 1 :])
        return True

    def _send(self, data: bytes) -> None:
        if data and not self._stalled:
            self._sink.sendall(data)
