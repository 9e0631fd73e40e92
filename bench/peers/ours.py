"""This project: messages by `transport`, bulk by a session of a daemon of its own.

Variants: SCHEME or SCHEME-c or SCHEME-sleepy, SCHEME being shm or tcp. Messages go from Python to Python;
with -c and -sleepy from C to C, with the latter between ends that do not poll, but sleep. Bulk goes from
numpy to device memory.
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from time import perf_counter_ns
from typing import Any

from bench import emulate, measure, server
from bench.peers.end import MESSAGE, End, WrongBytes, let_sleep

_HEAD = 16  # bytes of a message that are the protocol's: 48 are ours
_PATIENCE = 30.0


class Peer(End):
    pinned = False  # see meet; and the daemon of the server's end must not be

    def meet(self, exchange: Callable[[str], str]) -> None:
        import transport
        from transport.constants import OP_DATA

        scheme, _, how = self.variant.partition("-")
        self._op, self._in_c = OP_DATA, how in ("c", "sleepy")
        self._open = ExitStack()
        self._cpu = measure.two_cpus()[0 if self.client else 1]
        # A process that may run on one CPU only when it connects does not poll; later it may be bound to one.
        with measure.pinned(self._cpu if how == "sleepy" else None):
            if self.client:
                where = self._open.enter_context(emulate.reached(exchange("")))
                self._connection = transport.connect(where, timeout=_PATIENCE)
            else:
                folder = self._open.enter_context(tempfile.TemporaryDirectory(prefix="gpudisagg-bench-"))
                wanted = f"unix://{folder}/s.sock" if scheme == "shm" else f"{scheme}://127.0.0.1:0"
                with transport.listen(wanted) as listener:
                    exchange(str(listener.address))
                    self._connection = listener.accept(timeout=_PATIENCE)
        self._open.enter_context(self._connection)
        if self._in_c:
            return
        if self.client:
            self._exchange = self._connection.exchange(MESSAGE - _HEAD)
            self._daemon = self._open.enter_context(emulate.reached(exchange("")))
            self._session: Any = None
        else:
            served = self._open.enter_context(server.running(listen=scheme))
            served.settle()
            exchange(served.address)

    # ------------------------------------------------------------ messages

    def prepare(self, message: bytes) -> Any:
        return message[_HEAD:]

    def _send(self, message: Any) -> None:
        self._connection.post(self._op, 0, message)

    def _receive(self) -> int:
        return self._connection.receive()[_HEAD]

    def _c(self, name: str, *arguments: Any) -> None:
        from transport._transport import lib
        from transport.errors import check

        check(getattr(lib, name)(self._connection.pointer, *arguments), name)

    def round_trips(self, count: int) -> list[int]:
        with measure.pinned(self._cpu):
            if not self._in_c:
                return self._python_round_trips(count)
            from transport._transport import ffi

            ns = ffi.new("uint64_t[]", count)
            if not self.variant.endswith("sleepy"):
                self._c("gpud_connection_pingpong", MESSAGE, count, ns)
                return list(ns)
            for i in range(count):
                let_sleep()
                self._c("gpud_connection_pingpong", MESSAGE, 1, ns + i)
            return list(ns)

    def _python_round_trips(self, count: int) -> list[int]:
        run, request, reply = self._exchange.run, self._exchange.request, self._exchange.reply
        times = []
        for i in range(count):
            request[0] = i & 255
            begin = perf_counter_ns()
            run()
            times.append(perf_counter_ns() - begin)
            if reply[0] != i & 255:
                raise WrongBytes(f"round trip {i}: message {reply[0]} came back")
        return times

    def echo(self, count: int) -> None:
        with measure.pinned(self._cpu):
            if self._in_c:
                self._echo_in_c(count)
                return
            post, receive, op = self._connection.post, self._connection.receive, self._op
            for _ in range(count):
                post(op, 0, receive()[_HEAD:])

    def _echo_in_c(self, count: int) -> None:
        self._c("gpud_connection_answer", count)

    def one_way(self, count: int) -> None:
        with measure.pinned(self._cpu):
            if self._in_c:
                self._c("gpud_connection_flood", MESSAGE, count)
            else:
                super().one_way(count)

    def sink(self, count: int) -> None:
        with measure.pinned(self._cpu):
            if self._in_c:
                self._c("gpud_connection_sink", count)
            else:
                super().sink(count)

    # ------------------------------------------------------------ bulk

    def bulk(self, count: int, size: int) -> tuple[int, int | None]:
        import gpudisagg

        if self._session is None:  # not for those who only measure messages
            session = gpudisagg.connect(self._daemon, memory="1GiB", host_memory="1GiB")
            self._session = self._open.enter_context(session)
        array = self._session.empty((size,), "u1")
        source = self.source[:size]
        self.stamp(size)

        def put() -> None:
            array.set(source)
            self._session.synchronize()

        put()
        begin = perf_counter_ns()
        for _ in range(count):
            put()
        spent = perf_counter_ns() - begin
        if zlib.crc32(array.get()) != zlib.crc32(source):
            raise WrongBytes(f"the device has other bytes than were sent ({size} bytes)")
        return spent, None

    def forget(self, size: int) -> None:
        """The device's memory is not this process's."""

    def bulk_sink(self, count: int, size: int) -> None:
        """The daemon's worker does it."""

    def checksum(self, size: int) -> int | None:
        return None

    def close(self) -> None:
        self._open.close()
