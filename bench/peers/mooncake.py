"""Mooncake's transfer engine over TCP: synchronous writes from memory to memory. It has no messages."""

from __future__ import annotations

import time
from collections.abc import Callable

from bench.peers.end import End


class Peer(End):
    pinned = False

    def meet(self, exchange: Callable[[str], str]) -> None:
        from mooncake.engine import TransferEngine

        self._engine = TransferEngine()
        self._check(self._engine.initialize("127.0.0.1", "P2PHANDSHAKE", "tcp", ""), "initialize")
        memory = self.source if self.client else self.target
        self._address = memory.ctypes.data
        self._check(self._engine.register_memory(self._address, self.largest), "register_memory")
        port, there = exchange(f"{self._engine.get_rpc_port()} {self._address}").split()
        self._other, self._there = f"127.0.0.1:{port}", int(there)

    @staticmethod
    def _check(rc: int, what: str) -> None:
        if rc != 0:
            raise RuntimeError(f"{what}: {rc}")

    def put(self, size: int) -> None:
        rc = self._engine.transfer_sync_write(self._other, self._address, self._there, size)
        self._check(rc, "transfer_sync_write")

    def take(self, size: int) -> None:
        """Its own threads take it."""

    def checksum(self, size: int) -> int | None:
        time.sleep(0.2)  # its write ends when the bytes are sent: they may still be on their way
        return super().checksum(size)
