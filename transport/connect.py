"""`connect`: the client's side, from an address to a connection."""

from __future__ import annotations

import contextlib
import errno
import socket as sockets
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from transport import address as addresses
from transport import network
from transport._transport import ffi, lib
from transport.address import Address
from transport.connection import Connection
from transport.constants import (
    FEATURE_CHECK,
    FEATURE_VERBS,
    MAX_TEXT,
    STATUS_DEADLINE,
    STATUS_DENIED,
    STATUS_PROTOCOL,
    STATUS_UNSUPPORTED,
)
from transport.deadline import SLICE, deadline_ns
from transport.errors import DeadlineExceeded, PeerGone, Refused, TransportError, check
from transport.frames import Hello, Ways, pack_hello, unpack_welcome
from transport.layout import text_bytes, text_of
from transport.ways import PICKED, Way, ask, host_id, offered, probe_verbs

if TYPE_CHECKING:
    from ssl import SSLContext

__all__ = ["connect"]

# Answers that may be otherwise on another way to the same server.
_OF_THE_WAY = (STATUS_DENIED, STATUS_UNSUPPORTED)
# What a server says to a client that asked, and was silent for too long then: a daemon, a Listener.
_WAITED_LONG = (STATUS_DEADLINE, STATUS_PROTOCOL)
_ANOTHER_SERVER = "at {} another server listens: the files here are not those of the server's host"


class _Wish(NamedTuple):
    """What a client asks for, and until when it waits."""

    name: str
    memory: int
    host_memory: int
    timeout: float
    end: float
    tls: SSLContext | None
    check: bool

    def remaining(self) -> float:
        return self.end - time.monotonic()


def connect(
    address: str,
    *,
    name: str = "",
    memory: int = 0,
    host_memory: int = 0,
    timeout: float = 30.0,
    check: bool = False,
    tls: SSLContext | None = None,
) -> Connection:
    """Opens a connection; its `welcome` says what was granted, its `ways` by which transport.

    `address`: "unix:///path" (shared memory), "tcp://host:port", "rdma://host:port", or "auto://host:port":
    of what the server there offers the first that works, in this order. `name`: for the server's logs.
    `memory`, `host_memory`: bytes of device memory and of shared regions asked for, 0 for the server's
    default. `timeout`: seconds for all of it, the wait for a free worker included, and then the connection's
    default. `tls`: a context for TCP, where the kernel can carry TLS (transport/tls.py). `check`: asks for
    FEATURE_CHECK.

    Refused where the server says no, PeerGone where nobody listens, DeadlineExceeded, ProtocolError,
    TlsUnavailable; ValueError for an address that cannot be.
    """
    place = addresses.parse(address)
    wish = _Wish(name, memory, host_memory, timeout, time.monotonic() + timeout, tls, check)
    if place.scheme == "auto":
        return _Chooser(place, wish).connect()
    if tls is not None and place.scheme != "tcp":
        raise ValueError(f"{place}: TLS is for tcp://; {place.scheme}:// does not go through it")
    if place.scheme == "rdma":
        works, why = probe_verbs()
        if not works:
            raise TransportError(f"{place} cannot be reached from here: {why}; use tcp://")
    connection = _open(place, wish)
    connection.ways = (Way(connection.transport, PICKED),)
    return connection


def _open(place: Address, wish: _Wish) -> Connection:
    """By the one way that the address says."""
    socket = _reach(place, wish)
    try:
        return _handshake(socket, wish, verbs=place.scheme == "rdma")
    finally:
        socket.close()


def _reach(place: Address, wish: _Wish) -> sockets.socket:
    """A connected socket, blocking."""
    if place.scheme == "unix":
        return _reach_unix(place, wish.remaining(), wish.timeout)
    socket = network.dial(place, wish.remaining())
    if wish.tls is None:
        return socket
    from transport.tls import secure_client  # ssl is slow to load, and few need it

    return secure_client(socket, wish.tls, place.host, wish.remaining())


def _reach_unix(place: Address, remaining: float, timeout: float) -> sockets.socket:
    socket = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM | sockets.SOCK_CLOEXEC)
    try:
        socket.settimeout(max(remaining, 0.001))
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
        return socket
    except BaseException:
        socket.close()
        raise


class _Chooser:
    """The way to a server at auto://host:port: shm, verbs, tcp, the first that works; and what was wrong
    with those before.
    """

    def __init__(self, place: Address, wish: _Wish) -> None:
        self._place = place
        self._wish = wish
        self._tried: list[Way] = []

    def connect(self) -> Connection:
        """Only what is a matter of the way leads to the next: a server that is busy is busy by all."""
        with contextlib.ExitStack() as stack:
            socket = stack.enter_context(contextlib.closing(_reach(self._place, self._wish)))
            ways = ask(socket, self._wish.remaining())
            tries: tuple[tuple[str, Callable[[], Connection]], ...] = (
                ("shm", lambda: self._shm(ways)),
                ("verbs", lambda: self._verbs(ways)),
                ("tcp", lambda: self._tcp(ways, socket)),
            )
            for transport, attempt in tries:
                try:
                    connection = attempt()
                except DeadlineExceeded:
                    raise
                except Refused as error:
                    if error.status not in _OF_THE_WAY:
                        raise
                    self._tried.append(Way(transport, error.reason))
                except TransportError as error:
                    self._tried.append(Way(transport, str(error)))
                else:
                    connection.ways = (*self._tried, Way(transport, PICKED))
                    return connection
        whys = "; ".join(f"{way.transport}: {way.why}" for way in self._tried)
        raise TransportError(f"no way to the server at {self._place} works. {whys}")

    def _shm(self, ways: Ways) -> Connection:
        if ways.host != host_id() or ways.host == bytes(16):
            raise TransportError("the server is on another host")
        failed = TransportError("the server listens on no unix:// address")
        for place in offered(ways, "unix"):
            try:
                socket = _reach(place, self._wish)
            except DeadlineExceeded:
                raise
            except TransportError as error:
                failed = error
                continue
            with contextlib.closing(socket):
                if ask(socket, self._wish.remaining()).server == ways.server:
                    return _handshake(socket, self._wish, verbs=False)
                failed = TransportError(_ANOTHER_SERVER.format(place))
        raise failed

    def _verbs(self, ways: Ways) -> Connection:
        places = offered(ways, "rdma")
        if not places:
            raise TransportError("the server listens on no rdma:// address")
        if self._wish.tls is not None:
            raise TransportError("RDMA is not encrypted, and TLS was asked for")
        works, why = probe_verbs()
        if not works:
            raise TransportError(why)
        return _open(places[0], self._wish)

    def _tcp(self, ways: Ways, socket: sockets.socket) -> Connection:
        places = offered(ways, "tcp")
        if not places:
            raise TransportError("the server listens on no tcp:// address that is reached this way")
        try:
            return self._tcp_here(socket)
        except Refused as refusal:
            if refusal.status != STATUS_UNSUPPORTED:
                raise
            return _open(places[0], self._wish)  # what was asked is for rdma:// alone

    def _tcp_here(self, socket: sockets.socket) -> Connection:
        try:
            return _handshake(socket, self._wish, verbs=False)
        except PeerGone:
            pass
        except Refused as refusal:
            if refusal.status not in _WAITED_LONG:
                raise
        # The server did not wait while the others were tried. By the name given, which is in its certificate.
        return _open(self._place, self._wish)


def _handshake(socket: sockets.socket, wish: _Wish, *, verbs: bool) -> Connection:
    """HELLO and its answer. The socket is the connection's on success, else still the caller's."""
    remaining = wish.remaining()
    # Less than it waits itself, so that the server can still say that no worker became free.
    patience = remaining - min(1.0, wish.timeout / 5)
    hello = Hello(
        deadline_ms=int(min(max(patience, 0.0) * 1000, 0xFFFFFFFF)),
        # Only what is a matter of choice; the others are the endpoint's to offer.
        features=(FEATURE_VERBS if verbs else 0) | (FEATURE_CHECK if wish.check else 0),
        memory=wish.memory,
        host_memory=wish.host_memory,
        name=wish.name,
    )
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
    why = ffi.new("char[]", MAX_TEXT + 1)

    def connect() -> int:
        rc: int = lib.gpud_endpoint_connect(*arguments)
        if rc < 0 and verbs:
            lib.gpud_verbs_why(why, MAX_TEXT)  # of this thread
        return rc

    rc = _interruptible(connect, socket)
    words = text_of(bytes(ffi.string(text)))
    if refused.status:
        raise Refused(refused.status, words, refused.retry_ms)
    if rc == -errno.EIO:  # of a socket: over kernel TLS, the other side's closing alert
        rc = -errno.EPIPE
    if rc < 0 and why[0] != b"\0":
        raise TransportError(f"connect: {text_of(bytes(ffi.string(why)))}")
    check(rc, "connect")
    socket.detach()  # the endpoint's from here on
    connection = Connection(endpoint[0], client=True, timeout=wish.timeout)
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
