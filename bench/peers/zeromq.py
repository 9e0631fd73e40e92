"""ZeroMQ: PAIR sockets over ipc://, by pyzmq."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.peers.end import End


class Peer(End):
    pinned = False  # its I/O threads want the other CPU

    def meet(self, exchange: Callable[[str], str]) -> None:
        import zmq

        self._socket = zmq.Context.instance().socket(zmq.PAIR)
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._path = Path(tempfile.gettempdir()) / f"bench-zeromq-{os.getpid()}"
        if self.client:
            self._socket.connect(f"ipc://{exchange('')}")
        else:
            self._socket.bind(f"ipc://{self._path}")
            exchange(str(self._path))

    def _send(self, message: Any) -> None:
        self._socket.send(message)

    def _receive(self) -> int:
        return int(self._socket.recv()[0])

    def put(self, size: int) -> None:
        self._socket.send(self.source[:size], copy=False)
        self._socket.recv()

    def take(self, size: int) -> None:
        self._socket.recv_into(self.target[:size])
        self._socket.send(b"k")

    def close(self) -> None:
        self._socket.close(linger=0)
        if not self.client:
            self._path.unlink(missing_ok=True)
