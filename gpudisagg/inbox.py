"""Replies, each to whom it is for.

Whoever waits for a reply and finds nobody reading reads for all until his own has come: no thread of ours is
needed, and a FAULT or a BYE in between reaches everybody.
"""

from __future__ import annotations

import codecs
import sys
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from time import monotonic

from transport import wire
from transport.errors import DeadlineExceeded, ProtocolError

_MAX_PARTS = 1 << 17  # kernels and variables that one module may announce


class Reply:
    """What came in answer to one command; `done` once it is whole."""

    def __init__(self) -> None:
        self.parts: list[wire.Body] = []
        self.done = False


class Inbox:
    """The replies of one connection. Any thread may expect and collect."""

    def __init__(self, receive: Callable[[float], bytes]) -> None:
        self._receive = receive
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._reading = False
        self._expected: defaultdict[tuple[int, int], deque[Reply]] = defaultdict(deque)
        self.fault: wire.Fault | None = None
        self.bye: wire.Bye | None = None
        self.printed = 0  # bytes that kernels printed
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.direct: wire.Direct | None = None

    def expect(self, op: int, number: int) -> Reply:
        """A place for the next answer of kind `op` (MODULE_STATUS, EVENT_TIME) about `number`. Call it before
        posting.
        """
        reply = Reply()
        with self._changed:
            self._expected[op, number].append(reply)
        return reply

    def withdraw(self, op: int, number: int, reply: Reply) -> None:
        """Takes back an expectation whose command was never posted."""
        with self._changed:
            self._expected[op, number].remove(reply)

    def collect(self, reply: Reply | None, timeout: float) -> bool:
        """Waits until `reply` is whole: True; or until the session has failed or ended: False. None: for the
        latter only.

        DeadlineExceeded, and what `receive` raises.
        """
        end = monotonic() + timeout
        while True:
            with self._changed:
                while True:
                    if reply is not None and reply.done:
                        return True
                    if self.fault is not None or self.bye is not None:
                        return False
                    if not self._reading:
                        self._reading = True
                        break
                    if not self._changed.wait(end - monotonic()):
                        raise DeadlineExceeded("no reply came in the time given")
            try:
                self._route(wire.decode(self._receive(max(0.0, end - monotonic())), False).body)
            finally:
                with self._changed:
                    self._reading = False
                    self._changed.notify_all()

    def print_arrived(self, poll: Callable[[], bytes | None]) -> bool:
        """Prints what kernels printed, as far as it has arrived and nobody else is reading; whether there was
        any.
        """
        with self._lock:  # of the condition, which costs more: mostly there is nothing
            if self._reading or (message := poll()) is None:
                return False
            self._reading = True
        before = self.printed
        try:
            while message is not None:
                self._route(wire.decode(message, False).body)
                message = poll()
        finally:
            with self._changed:
                self._reading = False
                self._changed.notify_all()
        return self.printed != before

    def drain(self) -> None:
        """Takes in what has already arrived, as far as nobody else is reading."""
        with self._changed:
            if self._reading:
                return
            self._reading = True
        try:
            while True:
                self._route(wire.decode(self._receive(0), False).body)
        finally:
            with self._changed:
                self._reading = False
                self._changed.notify_all()

    def _print(self, data: bytes) -> None:
        self.printed += len(data)
        text = self._decoder.decode(data)
        if sys.stdout is not None:
            sys.stdout.write(text)

    def _route(self, body: wire.Body) -> None:
        if isinstance(body, wire.Output):
            self._print(body.data)
            return
        with self._changed:
            if isinstance(body, wire.Fault):
                self.fault = self.fault or body
            elif isinstance(body, wire.Bye):
                self.bye = self.bye or body
            elif isinstance(body, wire.Direct):
                self.direct = body
            elif isinstance(body, wire.KernelInfo | wire.GlobalInfo):
                self._add(wire.OP_MODULE_STATUS, body.module, body, last=False)
            elif isinstance(body, wire.ModuleStatus):
                self._add(wire.OP_MODULE_STATUS, body.module, body, last=True)
            elif isinstance(body, wire.EventTime):
                self._add(wire.OP_EVENT_TIME, body.event, body, last=True)
            else:
                raise ProtocolError(f"the server sent {type(body).__name__}, which answers nothing")

    def _add(self, op: int, number: int, body: wire.Body, *, last: bool) -> None:
        waiting = self._expected.get((op, number))
        if not waiting:
            raise ProtocolError(
                f"the server answered a question nobody asked: {type(body).__name__} {number}"
            )
        waiting[0].parts.append(body)
        if len(waiting[0].parts) > _MAX_PARTS:
            raise ProtocolError(f"module {number} has more parts than any module")
        if last:
            waiting.popleft().done = True
            if not waiting:
                del self._expected[op, number]
