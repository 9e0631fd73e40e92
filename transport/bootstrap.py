"""The bootstrap socket on the server's side: binding it, knowing the peer, HELLO and REFUSED.

What a daemon needs to judge a client before a connection is made of its socket (`accept_on`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket as sockets
import stat
import struct
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from transport import network
from transport._transport import ffi, lib
from transport.address import Address
from transport.connection import Connection
from transport.constants import (
    FEATURE_VERBS,
    FRAME_ASK,
    MAX_FRAME,
    STATUS_UNSUPPORTED,
    STATUS_VERSION,
    VERSION,
)
from transport.deadline import deadline_ns
from transport.errors import ProtocolError, Refused, check
from transport.frames import (
    Hello,
    RefusedFrame,
    Ways,
    Welcome,
    decode_ask,
    decode_hello,
    encode_refused,
    encode_ways,
    frame_type,
    pack_hello,
    pack_welcome,
    unpack_welcome,
)
from transport.layout import text_bytes
from transport.network import user_of
from transport.ways import probe_verbs

__all__ = [
    "Peer",
    "accept_on",
    "bind",
    "bound_to",
    "check_transport",
    "check_version",
    "hang_up",
    "inode_of",
    "peer_of",
    "receive_bytes",
    "receive_hello",
    "refuse",
    "require",
    "unbind",
]

_MAX_DESCRIPTORS = 253  # what one message may carry: none must be left to the kernel
_INT = struct.Struct("i")
_SOL_TLS, _TLS_DATA = 282, b"\x17"  # beside what kernel TLS received stands the record's type
MAX_ASKS = 16  # before a HELLO
_LOCK_TIMEOUT = 5.0  # seconds; whoever binds or unbinds holds it for a moment


class Peer(NamedTuple):
    """Who is at the other end, by the kernel's word; None where it does not say: over TCP it knows the user
    at most, and only of this host (this network namespace).
    """

    pid: int | None
    uid: int | None
    gid: int | None

    def __str__(self) -> str:
        if self.uid is None:
            return "somebody on another host"
        return f"user {self.uid}" if self.pid is None else f"user {self.uid}, pid {self.pid}"


def peer_of(socket: sockets.socket) -> Peer:
    """Over TCP it reads the kernel's table of connections, which takes time where there are many."""
    if socket.family != sockets.AF_UNIX:
        return Peer(None, user_of(socket), None)
    peer = ffi.new("gpud_peer *")
    check(lib.gpud_bootstrap_peer(socket.fileno(), peer), "peer credentials")
    return Peer(peer.pid, peer.uid, peer.gid)


def receive_hello(socket: sockets.socket, timeout: float, ways: Callable[[], Ways]) -> Hello:
    """The client's HELLO, after answering each ASK before it with `ways()`. DeadlineExceeded, PeerGone,
    ProtocolError; a descriptor sent along is closed.
    """
    end = deadline_ns(timeout)
    for _ in range(MAX_ASKS):
        frame = _receive(socket, end)
        if frame_type(frame) != FRAME_ASK:
            return decode_hello(frame)
        decode_ask(frame)
        answer = encode_ways(ways())
        check(lib.gpud_bootstrap_send(socket.fileno(), answer, len(answer), -1, end), "WAYS")
    raise ProtocolError(f"it asked {MAX_ASKS} times and said no HELLO")


def _receive(socket: sockets.socket, deadline: int) -> bytes:
    frame = ffi.new("unsigned char[]", MAX_FRAME)
    descriptor = ffi.new("int *", -1)
    rc = lib.gpud_bootstrap_receive(socket.fileno(), frame, descriptor, deadline)
    if descriptor[0] >= 0:
        lib.gpud_bootstrap_discard(descriptor[0])
        raise ProtocolError("HELLO came with a descriptor")
    return bytes(ffi.buffer(frame, check(rc, "HELLO")))


def check_transport(hello: Hello, schemes: Collection[str]) -> None:
    """Refused where HELLO asks for verbs and `schemes`, those of the address it came to, have no rdma; or the
    other way round. ("unix" has one transport, which is not asked for.)
    """
    if "unix" in schemes:
        return
    scheme = "rdma" if hello.features & FEATURE_VERBS else "tcp"
    if scheme not in schemes:
        other = "tcp" if scheme == "rdma" else "rdma"
        raise Refused(
            STATUS_UNSUPPORTED,
            f"this server does not serve {scheme}:// at this address: use {other}:// or auto://, "
            f"or have it listen on {scheme}:// too",
        )


def check_version(hello: Hello) -> None:
    """Refused where client and server have no version in common."""
    if not hello.version_min <= VERSION <= hello.version_max:
        spoken = f"{hello.version_min} to {hello.version_max}"
        newer, older = ("server", "client") if hello.version_max < VERSION else ("client", "server")
        raise Refused(
            STATUS_VERSION,
            f"this server speaks wire version {VERSION}, the client {spoken}: "
            f"the {older} is the older one; install the gpudisagg of the {newer} there too",
        )


def refuse(socket: sockets.socket, status: int, reason: str, retry_ms: int = 0, timeout: float = 1.0) -> None:
    """Says no, with the reason, as far as the client still listens; does not close the socket."""
    frame = encode_refused(RefusedFrame(status, retry_ms, reason))
    lib.gpud_bootstrap_send(socket.fileno(), frame, len(frame), -1, deadline_ns(timeout))


def accept_on(socket: sockets.socket, hello: Hello, welcome: Welcome, timeout: float = 5.0) -> Connection:
    """Makes the worker's end of a connection of a socket whose HELLO was received and accepted.

    `welcome`: what is granted; its version, features and ring sizes are filled in (0 slots: the defaults).
    Takes the socket.
    """
    wanted = ffi.new("gpud_hello *")
    ffi.buffer(wanted)[:] = pack_hello(hello)
    granted = ffi.new("gpud_welcome *")
    ffi.buffer(granted)[:] = pack_welcome(welcome)
    endpoint = ffi.new("gpud_endpoint **")
    name = text_bytes(welcome.name)
    check(
        lib.gpud_endpoint_accept(socket.fileno(), wanted, granted, name, deadline_ns(timeout), endpoint),
        "WELCOME",
    )
    socket.detach()  # the endpoint's from here on
    connection = Connection(endpoint[0], client=False)
    connection.hello = hello
    connection.welcome = unpack_welcome(bytes(ffi.buffer(granted)), welcome.name)
    return connection


def bind(address: Address, mode: int = 0o600, backlog: int = 64) -> sockets.socket:
    """A listening socket. OSError: the address is not to be had, another server's, or rdma:// on a machine
    without.

    unix: a stale socket file is replaced, a live one, and any other file, refused; `mode`: who may connect,
    as file permissions.
    """
    require(address)
    if address.scheme != "unix":
        return network.bind(address, backlog)
    path = Path(address.path)
    listener = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM | sockets.SOCK_CLOEXEC)
    try:
        os.fchmod(listener.fileno(), mode)  # before bind: the file never has more permissions
        with _only_one(path.parent):
            _clear(path)
            listener.bind(str(path))
            path.chmod(mode)  # bind took the umask off
        listener.listen(backlog)
    except BaseException:
        listener.close()
        raise
    return listener


def receive_bytes(connected: sockets.socket, size: int) -> bytes:
    """What is there of the next `size` bytes, without waiting (BlockingIOError); b"" once the other side hung
    up.

    Descriptors that come along are closed so that closing does not wait for what they lead to, as a plain
    recv would.
    """
    room = sockets.CMSG_SPACE(_MAX_DESCRIPTORS * _INT.size)
    data, ancillary, _, _ = connected.recvmsg(size, room, sockets.MSG_CMSG_CLOEXEC | sockets.MSG_DONTWAIT)
    for level, kind, packed in ancillary:
        if (level, kind) == (sockets.SOL_SOCKET, sockets.SCM_RIGHTS):
            for (descriptor,) in _INT.iter_unpack(packed):
                lib.gpud_bootstrap_discard(descriptor)
        elif level == _SOL_TLS and packed != _TLS_DATA:
            return b""  # an alert: the other side closes
    return data


def hang_up(connected: sockets.socket) -> None:
    """Shuts the connection down, for whoever holds a copy of the socket too, and closes it, with every
    descriptor that was sent and not taken.
    """
    lib.gpud_bootstrap_hang_up(connected.detach())


def require(address: Address) -> None:
    """OSError: this machine or build has not what listening there takes."""
    if address.scheme == "rdma":
        works, why = probe_verbs()
        if not works:
            raise OSError(errno.ENOTSUP, f"cannot listen on {address}: {why}; tcp:// works everywhere")


def bound_to(listener: sockets.socket, address: Address) -> Address:
    """Where it listens in fact: `address`, over TCP in numbers and with the port that the kernel chose."""
    return address if address.scheme == "unix" else network.bound_to(listener, address)


def inode_of(address: Address) -> int:
    """Of the socket's file, just bound; 0 over TCP."""
    return Path(address.path).stat().st_ino if address.scheme == "unix" else 0


def unbind(listener: sockets.socket, address: Address, inode: int) -> None:
    """Closes the listener and removes its file, unless another server's stands there by now (`inode`: of
    ours).
    """
    path = Path(address.path)
    if address.scheme == "unix":
        with contextlib.suppress(OSError), _only_one(path.parent):
            if path.stat().st_ino == inode:
                path.unlink()
    listener.close()


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Two servers that start at once must not each remove the other's new socket as stale. OSError: somebody
    keeps the folder's lock.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        end = time.monotonic() + _LOCK_TIMEOUT
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise OSError(
                        errno.ETIMEDOUT,
                        f"another process has held the lock of {folder} for {_LOCK_TIMEOUT:g} s: "
                        "end it, or listen elsewhere",
                    ) from None
                time.sleep(0.01)
        yield
    finally:
        os.close(descriptor)


def _clear(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, f"{path} is there and no socket: remove it, or listen elsewhere")
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()  # whoever listened there is gone
            return
        except OSError as error:
            raise OSError(
                errno.EADDRINUSE, f"{path} may be a live server's ({error}): remove it if not"
            ) from error
    raise OSError(errno.EADDRINUSE, f"a server is listening on {path}: stop it, or listen elsewhere")
