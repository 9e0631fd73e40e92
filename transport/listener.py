"""`listen`: the accepting side of a connection, for those who use the transport alone."""

from __future__ import annotations

import collections
import os
import socket as sockets
import time
from collections.abc import Callable
from typing import Any

from transport import address as addresses
from transport.bootstrap import (
    Peer,
    accept_on,
    bind,
    bound_to,
    check_transport,
    check_version,
    inode_of,
    peer_of,
    receive_hello,
    refuse,
    unbind,
)
from transport.connection import Connection
from transport.constants import STATUS_DENIED, STATUS_PROTOCOL, STATUS_UNSUPPORTED
from transport.errors import DeadlineExceeded, PeerGone, ProtocolError, Refused, TransportError
from transport.frames import Ways, Welcome
from transport.ways import server_id, ways_for

__all__ = ["Listener", "listen"]

_HELLO_TIMEOUT = 2.0


def listen(
    address: str, *, allow: Callable[[Peer], bool] | None = None, mode: int = 0o600, backlog: int = 64
) -> Listener:
    """Listens for connections on unix://, tcp:// or rdma://. OSError (EADDRINUSE) where a live server
    listens; a stale socket file is replaced.

    `allow`: who may connect; by default root and the user of this process, which over TCP only processes of
    this host can be known to be. `mode`: permissions of a Unix socket's file.
    """
    return Listener(addresses.parse(address, listening=True), allow, mode, backlog)


class Listener:
    """A listening socket; a context manager. Made by `listen`.

    address: where it listens, the port included that was left to the kernel.
    """

    def __init__(
        self, address: addresses.Address, allow: Callable[[Peer], bool] | None, mode: int, backlog: int
    ) -> None:
        self.refused: collections.Counter[int] = collections.Counter()
        """How many clients were turned away, by STATUS_*."""
        self._allow = allow or _same_user
        self._socket = bind(address, mode, backlog)
        self.address = bound_to(self._socket, address)
        self._inode = inode_of(address)
        self._server = server_id()
        self._sessions = 0

    def fileno(self) -> int:
        return self._socket.fileno()

    def accept(self, timeout: float = 30.0, **granted: Any) -> Connection:
        """The next connection whose client passes: right user, well-formed HELLO in time, common version.

        Others are told why not, counted in `refused`, and waited past. `granted`: fields of Welcome for the
        client to see. DeadlineExceeded.
        """
        end = time.monotonic() + timeout
        while True:
            self._socket.settimeout(max(end - time.monotonic(), 0.001))
            try:
                socket, _ = self._socket.accept()
            except TimeoutError:
                raise DeadlineExceeded(f"nobody connected to {self.address} within {timeout:g} s") from None
            with socket:
                socket.setblocking(True)
                connection = self._admit(socket, granted)
            if connection is not None:
                return connection

    def _admit(self, socket: sockets.socket, granted: dict[str, Any]) -> Connection | None:
        try:
            peer = peer_of(socket)
            hello = receive_hello(socket, _HELLO_TIMEOUT, lambda: self._ways(socket, peer))
            # Not before: a client told earlier would find the socket closed before it reads why.
            self._check_allowed(peer)
            check_version(hello)
            check_transport(hello, [self.address.scheme])
            self._sessions += 1
            welcome = Welcome(session=self._sessions, **granted)
            connection = accept_on(socket, hello, welcome, _HELLO_TIMEOUT)
        except Refused as refusal:
            refuse(socket, refusal.status, refusal.reason, refusal.retry_ms)
            self.refused[refusal.status] += 1
            return None
        except (ProtocolError, DeadlineExceeded) as error:
            refuse(socket, STATUS_PROTOCOL, f"no well-formed HELLO: {error}")
            self.refused[STATUS_PROTOCOL] += 1
            return None
        except (PeerGone, OSError):
            return None
        except TransportError as error:
            refuse(socket, STATUS_UNSUPPORTED, f"the server cannot serve {self.address.scheme}://: {error}")
            self.refused[STATUS_UNSUPPORTED] += 1
            return None
        connection.peer = peer
        return connection

    def _check_allowed(self, peer: Peer) -> None:
        if not self._allow(peer):
            raise Refused(STATUS_DENIED, f"{peer} may not connect here; ask whoever runs the server")

    def _ways(self, socket: sockets.socket, peer: Peer) -> Ways:
        self._check_allowed(peer)
        return ways_for(socket, self._server, [self.address])

    def close(self) -> None:
        """Stops listening and removes the socket's file; connections go on. Twice is fine."""
        if self._socket.fileno() >= 0:
            unbind(self._socket, self.address, self._inode)

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _same_user(peer: Peer) -> bool:
    return peer.uid in (0, os.geteuid())
