"""A peer whose server changes one byte of what came."""

from __future__ import annotations

from bench.peers import sockets


class Peer(sockets.Peer):
    def take(self, size: int) -> None:
        super().take(size)
        self.target[size // 2] ^= 1
