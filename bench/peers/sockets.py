"""Raw sockets, in C. Variants: "tcp" and "unix" block in the kernel, those with " spinning" do not."""

from __future__ import annotations

import os
import socket
import struct
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from bench import emulate, floor
from bench.peers.end import End, WrongBytes

_BUFFER = 4 << 20
_PATIENCE = struct.pack("ll", 10, 0)


class Peer(End):
    def meet(self, exchange: Callable[[str], str]) -> None:
        built = floor.load()
        self._lib, self._ffi = built.lib, built.ffi
        self._link = ExitStack()
        self._spin = self.variant.endswith("spinning")
        tcp = self.variant.startswith("tcp")
        family = socket.AF_INET if tcp else socket.AF_UNIX
        path = Path(tempfile.gettempdir()) / f"bench-sockets-{os.getpid()}"
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            if not tcp:  # TCP's own sizes grow as they must
                self._socket.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
        if self.client:
            # The link, where one is emulated, is this end's: it lives until the process ends.
            where = self._link.enter_context(emulate.reached(exchange("")))
            self._socket.connect(("127.0.0.1", int(where.rpartition(":")[2])) if tcp else where)
        else:
            with self._socket as listener:
                listener.bind(("127.0.0.1", 0) if tcp else str(path))
                listener.listen(1)
                listener.settimeout(30)
                exchange(f"tcp://127.0.0.1:{listener.getsockname()[1]}" if tcp else str(path))
                self._socket, _ = listener.accept()
            path.unlink(missing_ok=True)
        self._socket.setblocking(True)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _PATIENCE)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _PATIENCE)
        if tcp:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _check(self, rc: int) -> None:
        if rc != 0:
            raise TimeoutError("the other end is silent, or sent back other bytes")

    def round_trips(self, count: int) -> list[int]:
        ns = np.zeros(count, np.uint64)
        out = self._ffi.cast("uint64_t *", self._ffi.from_buffer(ns))
        self._check(self._lib.floor_socket_pingpong(self._socket.fileno(), count, self._spin, out))
        return [int(time) for time in ns]

    def echo(self, count: int) -> None:
        self._check(self._lib.floor_socket_serve(self._socket.fileno(), count, self._spin))

    def one_way(self, count: int) -> None:
        self._check(self._lib.floor_socket_flood(self._socket.fileno(), count))

    def sink(self, count: int) -> None:
        total = self._ffi.new("uint64_t *")
        self._check(self._lib.floor_socket_drain(self._socket.fileno(), count, total))
        if total[0] != sum(range(count)):
            raise WrongBytes(f"the messages' numbers add up to {total[0]}")

    def put(self, size: int) -> None:
        source = self._ffi.from_buffer(self.source)
        self._check(self._lib.floor_socket_put(self._socket.fileno(), source, size, self._spin))

    def take(self, size: int) -> None:
        target = self._ffi.from_buffer(self.target)
        self._check(self._lib.floor_socket_take(self._socket.fileno(), target, size, self._spin))

    def close(self) -> None:
        self._socket.close()
        self._link.close()
