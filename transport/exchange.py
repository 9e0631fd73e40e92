"""Prepared round trips: what a latency-bound caller uses instead of send() and recv()."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from transport._transport import ffi, lib
from transport.calls import CLOSED, State
from transport.constants import MAX_MESSAGE, OP_DATA
from transport.deadline import SLICE_NS, sliced
from transport.errors import Closed, ProtocolError, check
from transport.layout import HEAD
from transport.messages import op_name

__all__ = ["Exchange"]

_OP = 6  # where a message's op stands


class Exchange:
    """A request and its answer, over and over: fill `request`, call `run()`, read `reply`.

    For one thread at a time. Closed with its connection.
    """

    request: memoryview
    """uint8, writable: what run() sends."""

    reply: memoryview
    """uint8: the answer, as many of its bytes as run() says; the next run overwrites it."""

    run: Callable[[], int]
    """run() -> bytes in `reply`. Sends `request` and waits for the other side's next `send`.

    DeadlineExceeded after the connection's timeout (where the request had gone out, its answer is still to
    come: recv() it); ProtocolError where something else comes; PeerGone; Closed.
    """

    def __init__(self, connection: Any, size: int, state: State) -> None:
        if not 0 <= size <= MAX_MESSAGE - HEAD.size:
            raise ValueError(f"{size} bytes: a message carries up to {MAX_MESSAGE - HEAD.size}")
        exchange = ffi.new("gpud_exchange *", {"connection": connection, "slice": SLICE_NS})
        data = ffi.new("unsigned char[]", max(size, 1))
        self.request = memoryview(ffi.buffer(data, size)).cast("B")
        self.reply = memoryview(ffi.buffer(exchange.reply)).cast("B")[HEAD.size :].toreadonly()
        self.run, self.close = _make_run(connection, exchange, data, size, state)
        self.close.__doc__ = "From here on run() raises Closed."


def _make_run(
    connection: Any, exchange: Any, data: Any, size: int, state: State
) -> tuple[Callable[[], int], Callable[[], None]]:
    call = lib.gpud_exchange_run
    head = HEAD.size

    def run() -> int:
        held = connection  # so that another thread's close() frees nothing under the call
        got: int = call(exchange, data, size)
        return got - head if got > 0 else finish(held, got)

    def finish(held: Any, rc: int) -> int:
        if rc == -errno.ETIMEDOUT and not exchange.posted:
            post = lib.gpud_connection_post
            sent = sliced(lambda end: int(post(held, OP_DATA, 0, data, size, end)), state.timeout)
            check(sent, "run")
        if rc == -errno.ETIMEDOUT:
            receive = lib.gpud_connection_receive
            rc = sliced(lambda end: int(receive(held, exchange.reply, end)), state.timeout)
        got = check(rc, "run")
        if exchange.reply[_OP] != OP_DATA:
            raise ProtocolError(f"run: a {op_name(exchange.reply[_OP])} message came instead of an answer")
        return got - head

    def closed(*_: Any) -> int:
        raise Closed(f"run: {CLOSED}")

    def close() -> None:
        nonlocal call, connection
        call, connection = closed, None

    return run, close
