"""`connect` and `listen`: a connection between two processes of one host."""

from __future__ import annotations

import collections
import os
import socket as sockets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transport import address as addresses
from transport._transport import ffi, lib
from transport.bootstrap import Peer, accept_on, bind, check_version, peer_of, receive_hello, refuse, unbind
from transport.connection import Connection
from transport.constants import (
    FEATURE_CHECK,
    FEATURE_DEVICE,
    FEATURE_HOST_MAP,
    FEATURE_MEMBARRIER,
    FEATURE_OUTPUT,
    MAX_TEXT,
    STATUS_DENIED,
    STATUS_PROTOCOL,
)
from transport.deadline import SLICE, deadline_ns
from transport.errors import DeadlineExceeded, PeerGone, ProtocolError, Refused, TransportError, check
from transport.frames import Hello, Welcome, pack_hello, unpack_welcome
from transport.layout import text_bytes, text_of

__all__ = ["Listener", "connect", "listen"]

_HELLO_TIMEOUT = 2.0


def connect(
    address: str,
    *,
    name: str = "",
    memory: int = 0,
    host_memory: int = 0,
    timeout: float = 30.0,
    check: bool = False,
) -> Connection:
    """Opens a connection; its `welcome` says what was granted.

    `address`: "unix:///path". `name`: for the server's logs. `memory`, `host_memory`: bytes of device
    memory and of shared regions asked for, 0 for the server's default. `timeout`: seconds for all of it,
    the wait for a free worker included, and then the connection's default. `check`: asks for FEATURE_CHECK.

    Refused where the server says no, PeerGone where nobody listens, DeadlineExceeded, ProtocolError;
    ValueError for an address that cannot be.
    """
    place = addresses.parse(address)
    end = time.monotonic() + timeout
    socket = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM | sockets.SOCK_CLOEXEC)
    try:
        socket.settimeout(max(timeout, 0.001))
        try:
            socket.connect(place.path)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise PeerGone(
                f"nobody listens on {place}: start a server there (gpudisagg serve --listen {place})"
            ) from error
        except TimeoutError as error:
            raise DeadlineExceeded(f"{place} did not accept within {timeout:g} s") from error
        except OSError as error:
            raise TransportError(f"cannot connect to {place}: {error.strerror}") from error
        socket.setblocking(True)
        # Less than it waits itself, so that the server can still say that no worker became free.
        patience = timeout - min(1.0, timeout / 5)
        milliseconds = int(min(max(patience, 0.0) * 1000, 0xFFFFFFFF))
        features = FEATURE_HOST_MAP | FEATURE_DEVICE | FEATURE_OUTPUT | (FEATURE_CHECK if check else 0)
        if lib.gpud_membarrier_available():
            features |= FEATURE_MEMBARRIER
        hello = Hello(
            deadline_ms=milliseconds, features=features, memory=memory, host_memory=host_memory, name=name
        )
        return _handshake(socket, hello, end - time.monotonic(), timeout)
    finally:
        socket.close()


def _handshake(socket: sockets.socket, hello: Hello, remaining: float, timeout: float) -> Connection:
    wanted = ffi.new("gpud_hello *")
    ffi.buffer(wanted)[:] = pack_hello(hello)
    welcome = ffi.new("gpud_welcome *")
    refused = ffi.new("gpud_refused *")
    text = ffi.new("char[]", MAX_TEXT + 1)
    endpoint = ffi.new("gpud_endpoint **")
    arguments = (
        socket.fileno(),
        wanted,
        text_bytes(hello.name),
        welcome,
        refused,
        text,
        deadline_ns(remaining),
        endpoint,
    )
    rc = _interruptible(lambda: int(lib.gpud_endpoint_connect(*arguments)), socket)
    words = text_of(bytes(ffi.string(text)))
    if refused.status:
        raise Refused(refused.status, words, refused.retry_ms)
    check(rc, "connect")
    socket.detach()  # the endpoint's from here on
    connection = Connection(endpoint[0], client=True, timeout=timeout)
    connection.welcome = unpack_welcome(bytes(ffi.buffer(welcome)), words)
    return connection


def _interruptible(call: Callable[[], int], socket: sockets.socket) -> int:
    """Runs `call`, which may wait long for the other side of `socket`, so that Ctrl-C gets through.

    Signal handlers run in the main thread only, between two of its bytecodes: so there another thread waits
    in C.
    """
    if threading.current_thread() is not threading.main_thread():
        return call()
    results: list[int] = []
    waiter = threading.Thread(target=lambda: results.append(call()), name="gpudisagg-connect", daemon=True)
    waiter.start()
    try:
        while waiter.is_alive():
            waiter.join(SLICE)
    except BaseException:
        socket.shutdown(sockets.SHUT_RDWR)
        waiter.join()
        raise
    return results[0]


def listen(
    address: str, *, allow: Callable[[Peer], bool] | None = None, mode: int = 0o600, backlog: int = 64
) -> Listener:
    """Listens for connections. OSError (EADDRINUSE) where a live server listens; a stale socket file is
    replaced.

    `allow`: who may connect; by default root and the user of this process. `mode`: permissions of the
    socket's file.
    """
    return Listener(addresses.parse(address), allow, mode, backlog)


class Listener:
    """A listening socket; a context manager. Made by `listen`."""

    def __init__(
        self, address: addresses.Address, allow: Callable[[Peer], bool] | None, mode: int, backlog: int
    ) -> None:
        self.address = address
        self.refused: collections.Counter[int] = collections.Counter()
        """How many clients were turned away, by STATUS_*."""
        self._allow = allow or _same_user
        self._socket = bind(address, mode, backlog)
        self._inode = Path(address.path).stat().st_ino
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
            if not self._allow(peer):
                raise Refused(
                    STATUS_DENIED, f"user {peer.uid} may not connect here; ask whoever runs the server"
                )
            hello = receive_hello(socket, _HELLO_TIMEOUT)
            check_version(hello)
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
        except PeerGone:
            return None
        connection.peer = peer
        return connection

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
