"""The floor of bulk: one copy by one thread into memory that both processes have, and a cache line each way
to say so. Variants: libc, rep movsb, streaming stores.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bench import floor
from bench.peers import line


class Peer(line.Peer):
    def meet(self, exchange: Callable[[str], str]) -> None:
        super().meet(exchange)
        self._how = floor.COPIES.index(self.variant)
        shared = line.share(self.client, self.largest, exchange)
        self.target = np.frombuffer(shared, np.uint8)
        if not self.client:
            self.target[:] = 1  # its pages exist
        self._line = self._ffi.new("char[64]"), self._ffi.new("char[64]")
        exchange("open")

    def put(self, size: int) -> None:
        if not floor.copy_ns(self.target[:size], self.source[:size], self._how):
            raise RuntimeError(f"this CPU has no copy by {self.variant}")
        self._check(self._lib.floor_round_trip(self._memory, *self._line, self._first(1)))

    def take(self, size: int) -> None:
        self.echo(1)
