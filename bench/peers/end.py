"""What a peer's program is made of, and how each is measured: said once, for all of them.

A peer is two processes, each with an `End`. What they do is told them by program.py; an End of its own only
has to say how 64 bytes and how many bytes go from one to the other.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

import numpy as np
import numpy.typing as npt

MESSAGE = 64
_NUMBERS = 16  # different messages, sent in turn: one that is lost, doubled or late is noticed


_ASLEEP_NS = 150_000  # after so long a time without news, whoever sleeps at all does


def let_sleep() -> None:
    """Waits, without letting go of the CPU, until the other end sleeps."""
    end = perf_counter_ns() + _ASLEEP_NS
    while perf_counter_ns() < end:
        pass


class WrongBytes(RuntimeError):
    """Other bytes came than were sent: what was measured means nothing."""


class End:
    """One of the two ends. The client's times are the figures; the server answers.

    A subclass has send and receive, or measures messages in its own way; and put and take.
    """

    pinned = True
    """Whether each end does best on a CPU of its own: so where it polls, with no threads of its own."""

    source: npt.NDArray[np.uint8]
    target: npt.NDArray[np.uint8]

    def __init__(self, client: bool, variant: str, largest: int) -> None:
        self.client, self.variant, self.largest = client, variant, largest
        self.messages = [self.prepare(bytes([number]) * MESSAGE) for number in range(_NUMBERS)]
        memory = np.random.default_rng(0).integers(0, 256, largest, np.uint8)
        if client:
            self.source = memory
        else:
            self.target = memory
        self._stamp = 0

    # ------------------------------------------------------------ what a peer says

    def meet(self, exchange: Callable[[str], str]) -> None:
        """Connects to the other end. `exchange(mine)`, called equally often on both, gives the other's."""
        raise NotImplementedError

    def prepare(self, message: bytes) -> Any:
        """A message as `_send` wants it."""
        return message

    def _send(self, message: Any) -> None:
        raise NotImplementedError

    def _receive(self) -> int:
        """The first byte of the next message, all of which is here."""
        raise NotImplementedError

    def put(self, size: int) -> None:
        """Client: the first `size` bytes of `source` are in the server's `target`, and this end knows it."""
        raise NotImplementedError

    def take(self, size: int) -> None:
        """Server: its part in one put."""
        raise NotImplementedError

    def close(self) -> None:
        """Before the process ends."""

    # ------------------------------------------------------------ how it is measured

    def round_trips(self, count: int) -> list[int]:
        """Client: the time of each, ns."""
        send, receive, messages = self._send, self._receive, self.messages
        times = []
        for i in range(count):
            begin = perf_counter_ns()
            send(messages[i % _NUMBERS])
            number = receive()
            times.append(perf_counter_ns() - begin)
            if number != i % _NUMBERS:
                raise WrongBytes(f"round trip {i}: message {number} came back")
        return times

    def echo(self, count: int) -> None:
        send, receive, messages = self._send, self._receive, self.messages
        for _ in range(count):
            send(messages[receive()])

    def one_way(self, count: int) -> None:
        """Client: `count` messages, and the answer to the last."""
        send, messages = self._send, self.messages
        for i in range(count):
            send(messages[i % _NUMBERS])
        self._receive()

    def sink(self, count: int) -> None:
        receive = self._receive
        for i in range(count):
            number = receive()
            if number != i % _NUMBERS:
                raise WrongBytes(f"message {i}: number {number} came")
        self._send(self.messages[0])

    def stamp(self, size: int) -> None:
        """Client: other bytes at both ends of what is put next, so that it is not what was put before."""
        self._stamp += 1
        word = self._stamp.to_bytes(8, "little")
        for at in (0, size - 8):
            self.source[at : at + 8] = np.frombuffer(word, np.uint8)

    def bulk(self, count: int, size: int) -> tuple[int, int | None]:
        """Client: ns for `count` puts (one more came before, so that all is warm); checksum of what was put,
        None where this end has already looked at what arrived.
        """
        self.stamp(size)
        self.put(size)
        begin = perf_counter_ns()
        for _ in range(count):
            self.put(size)
        spent = perf_counter_ns() - begin
        return spent, zlib.crc32(self.source[:size])

    def forget(self, size: int) -> None:
        """Server, before a bulk: what came before must not pass for what comes now."""
        self.target[:size] = 0

    def bulk_sink(self, count: int, size: int) -> None:
        for _ in range(count + 1):
            self.take(size)

    def checksum(self, size: int) -> int | None:
        """Server, after a bulk: of what came."""
        return zlib.crc32(self.target[:size])
