"""The call made for every message, as a closure: all it needs is one load away, so it is one C call and
little else.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from transport._transport import lib
from transport.deadline import sliced
from transport.errors import Closed, check
from transport.messages import op_name

__all__ = ["CLOSED", "State", "make_post"]

CLOSED = "this connection is closed on this side; open a new one"


class State:
    """What a connection shares with its `post`, which must not hold the connection: a cycle."""

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
