"""The calls made for every message, as closures: all they need is one load away, so each is one C call and little
else.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from transport._transport import ffi, lib
from transport.constants import OP_DATA
from transport.deadline import SLICE_NS, sliced
from transport.errors import Closed, ProtocolError, check
from transport.layout import HEAD
from transport.messages import op_name

__all__ = ["CLOSED", "State", "make_post", "make_request"]

CLOSED = "this connection is closed on this side; open a new one"
_OP = 6  # where a message's op stands


class State:
    """What a connection shares with its closures, which must not hold the connection: a cycle."""

    __slots__ = ("timeout",)

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout


def make_post(pointer: Any, state: State) -> tuple[Callable[[int, int, bytes], int], Callable[[], None]]:
    """The `post` of a connection, and what makes it raise Closed from then on.

    A closure, because everything it needs is then one load away: a post is one C call and little else.
    """
    call = lib.gpud_connection_post

    def post(op: int, stream: int, body: bytes) -> int:
        try:
            sequence: int = call(pointer, op, stream, body, len(body), 0)
        except TypeError:
            if pointer is None:
                raise Closed(f"post {op_name(op)}: {CLOSED}") from None
            raise
        return sequence if sequence > 0 else wait_for_credit(op, stream, body, sequence)

    def wait_for_credit(op: int, stream: int, body: bytes, rc: int) -> int:
        held = pointer  # another thread may close meanwhile
        if held is None:
            raise Closed(f"post {op_name(op)}: {CLOSED}")
        if rc == -errno.ETIMEDOUT:
            rc = sliced(lambda end: int(call(held, op, stream, body, len(body), end)), state.timeout)
        return check(rc, f"post {op_name(op)}")

    def retire() -> None:
        nonlocal pointer
        pointer = None

    return post, retire


def make_request(pointer: Any, state: State) -> tuple[Callable[[bytes], bytes], Callable[[], None]]:
    """The `request` of a connection, and what makes it raise Closed from then on."""
    run, post, receive = lib.gpud_exchange_run, lib.gpud_connection_post, lib.gpud_connection_receive
    head = HEAD.size
    # Each call takes an exchange of its own, so several threads may be in here.
    free: list[tuple[Any, Any, Any]] = []

    def request(data: bytes) -> bytes:
        exchange, reply, _ = one = free.pop() if free else new()
        size: int = run(exchange, data, len(data))
        if size <= 0:
            size = finish(exchange, data, size)
        answer: bytes = reply[head:size]
        free.append(one)
        return answer

    def new() -> tuple[Any, Any, Any]:
        if pointer is None:
            raise Closed(f"request: {CLOSED}")
        exchange = ffi.new("gpud_exchange *", {"connection": pointer, "slice": SLICE_NS})
        # With the pointer, so that whoever is in a call keeps the connection from being freed.
        return exchange, ffi.buffer(exchange.reply), pointer

    def finish(exchange: Any, data: bytes, rc: int) -> int:
        held = pointer  # another thread may close meanwhile
        if held is None:
            raise Closed(f"request: {CLOSED}")
        if rc == -errno.ETIMEDOUT and not exchange.posted:
            check(sliced(lambda end: int(post(held, OP_DATA, 0, data, len(data), end)), state.timeout), "request")
        if rc == -errno.ETIMEDOUT:
            rc = sliced(lambda end: int(receive(held, exchange.reply, end)), state.timeout)
        size = check(rc, "request")
        if exchange.reply[_OP] != OP_DATA:
            raise ProtocolError(f"request: a {op_name(exchange.reply[_OP])} message came instead of an answer")
        return size

    def retire() -> None:
        nonlocal pointer
        pointer = None
        free.clear()

    return request, retire
