"""The floor: bare cache lines between two processes, and nothing that a transport has to do. In C."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench import floor
from bench.peers.end import End, WrongBytes, let_sleep


def share(client: bool, size: int, exchange: Callable[[str], str]) -> mmap.mmap:
    """`size` bytes that both ends map; the server's."""
    if client:
        with Path(exchange("")).open("r+b") as file:
            return mmap.mmap(file.fileno(), size)
    fd = os.memfd_create("bench-line")
    os.ftruncate(fd, size)
    memory = mmap.mmap(fd, size)
    exchange(f"/proc/{os.getpid()}/fd/{fd}")
    return memory


class Peer(End):
    """Variants: "" polls; "sleepy" sleeps on a futex whenever it has nothing to do, and is let sleep."""

    def meet(self, exchange: Callable[[str], str]) -> None:
        built = floor.load()
        self._lib, self._ffi = built.lib, built.ffi
        self._memory: Any = self._ffi.from_buffer(share(self.client, self._lib.FLOOR_MEMORY, exchange))
        self._rounds, self._messages = 1, 0

    def _first(self, count: int) -> int:
        first, self._rounds = self._rounds, self._rounds + count
        return first

    def _check(self, rc: int) -> None:
        if rc != 0:
            raise TimeoutError("the other end is silent")

    def round_trips(self, count: int) -> list[int]:
        ns = np.zeros(count, np.uint64)
        out = self._ffi.cast("uint64_t *", self._ffi.from_buffer(ns))
        if self.variant == "sleepy":
            for i in range(count):
                let_sleep()
                self._check(self._lib.floor_sleepy_pingpong(self._memory, self._first(1), 1, out + i))
        else:
            self._check(self._lib.floor_pingpong(self._memory, self._first(count), count, out))
        return [int(time) for time in ns]

    def echo(self, count: int) -> None:
        call = self._lib.floor_sleepy_serve if self.variant == "sleepy" else self._lib.floor_serve
        self._check(call(self._memory, self._first(count), count))

    def one_way(self, count: int) -> None:
        first, self._messages = self._messages, self._messages + count
        self._check(self._lib.floor_flood(self._memory, first, count))

    def sink(self, count: int) -> None:
        first, self._messages = self._messages, self._messages + count
        total = self._ffi.new("uint64_t *")
        self._check(self._lib.floor_drain(self._memory, first, count, total))
        if total[0] != sum(range(first, first + count)):
            raise WrongBytes(f"the messages' numbers add up to {total[0]}")
