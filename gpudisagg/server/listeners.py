"""The sockets that a daemon listens on, and how a client that asks can reach it otherwise."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from transport import address, bootstrap, ways, wire
from transport.address import Address


@dataclass
class Listener:
    """A listening socket. `schemes`: what is served there; tcp:// and rdma:// of one port share it."""

    socket: socket.socket
    asked: Address
    bound: Address
    inode: int
    schemes: list[str]

    @property
    def is_unix(self) -> bool:
        return self.asked.scheme == "unix"


class Listeners:
    """All of a daemon's.

    addresses: where it listens, in the order given, with the ports that the kernel chose.
    """

    def __init__(self) -> None:
        self._all: list[Listener] = []
        self._server = ways.server_id()
        self.addresses: list[Address] = []

    def __iter__(self) -> Iterator[Listener]:
        return iter(self._all)

    def open(self, addresses: Iterable[str], mode: int, backlog: int) -> None:
        """Listens on all of them. OSError: on one it cannot; then close()."""
        for text in addresses:
            place = address.parse(text, listening=True)
            listener = self._of_port(place)
            if listener is None:
                listener = self._bind(place, mode, backlog)
            else:
                bootstrap.require(place)
                listener.schemes.append(place.scheme)
            self.addresses.append(listener.bound._replace(scheme=place.scheme))

    def _of_port(self, place: Address) -> Listener | None:
        """The one that listens for the other scheme on that port."""
        if place.port == 0:
            return None
        same = (one for one in self._all if one.asked[1:] == place[1:] and place.scheme not in one.schemes)
        return next(same, None)

    def _bind(self, place: Address, mode: int, backlog: int) -> Listener:
        listening = bootstrap.bind(place, mode, backlog)
        try:
            listening.setblocking(False)
            bound = bootstrap.bound_to(listening, place)
            listener = Listener(listening, place, bound, bootstrap.inode_of(place), [place.scheme])
        except BaseException:
            listening.close()
            raise
        self._all.append(listener)
        return listener

    def ways(self, client: socket.socket) -> wire.Ways:
        """What to answer a client that asks."""
        return ways.ways_for(client, self._server, self.addresses)

    def close(self) -> None:
        """Stops listening and removes the sockets' files. Twice is fine."""
        for listener in self._all:
            bootstrap.unbind(listener.socket, listener.asked, listener.inode)
        self._all, self.addresses = [], []
