"""TCP sockets: reaching a server, listening, and whose the other end of a connection is."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import re
import socket as sockets
import sys
import threading
import time
from pathlib import Path
from typing import Any

from transport.address import Address
from transport.deadline import SLICE
from transport.errors import DeadlineExceeded, PeerGone, TransportError

__all__ = ["bind", "bound_to", "dial", "local_host", "user_of"]

_ESTABLISHED = "01"
_LOOKS = 3  # the kernel's table is read in pieces, between which rows may move
_IPV4_IN_IPV6 = "0000000000000000FFFF0000"


def dial(place: Address, timeout: float) -> sockets.socket:
    """A blocking connection to `place`, by whichever of its addresses answers first in their order.

    PeerGone: nobody listens there; DeadlineExceeded; TransportError: no such host, or no way to it.
    """
    end = time.monotonic() + timeout
    found = _resolve(place, timeout)
    failed: list[OSError] = []
    for n, (family, kind, protocol, _, where) in enumerate(found):
        remaining = end - time.monotonic()
        socket = sockets.socket(family, kind | sockets.SOCK_CLOEXEC, protocol)
        try:
            # One that swallows packets must not take the time of those behind it.
            socket.settimeout(max(remaining / (len(found) - n), 0.001))
            socket.connect(where)
            socket.settimeout(None)
            socket.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)
            return socket
        except OSError as error:
            socket.close()
            failed.append(error)
        except BaseException:
            socket.close()
            raise
    raise _failure(place, failed, timeout) from failed[-1]


def _failure(place: Address, failed: list[OSError], timeout: float) -> TransportError:
    if any(isinstance(error, ConnectionRefusedError) for error in failed):
        listen = place._replace(scheme="tcp") if place.scheme == "auto" else place
        return PeerGone(
            f"nobody listens on {place}: start a server there (gpudisagg serve --listen {listen})"
        )
    if any(isinstance(error, TimeoutError) for error in failed):
        return DeadlineExceeded(
            f"{place} did not answer within {timeout:g} s: is the host up, and does no firewall drop packets?"
        )
    return TransportError(f"cannot connect to {place}: {failed[-1].strerror}")


def _resolve(place: Address, timeout: float) -> list[Any]:
    """getaddrinfo within the deadline: the C library's has none, so names are looked up in a thread."""

    def look(flags: int) -> list[Any]:
        # As bytes: for a text Python loads its IDNA codec, which a function's cold start would pay for.
        name = place.host.encode("ascii")
        return sockets.getaddrinfo(name, place.port, type=sockets.SOCK_STREAM, flags=flags)

    with contextlib.suppress(sockets.gaierror):
        return look(sockets.AI_NUMERICHOST)
    results: list[list[Any] | OSError] = []

    def work() -> None:
        try:
            results.append(look(0))
        except OSError as error:
            results.append(error)

    thread = threading.Thread(target=work, name="gpudisagg-resolve", daemon=True)
    thread.start()
    end = time.monotonic() + timeout
    while thread.is_alive() and (remaining := end - time.monotonic()) > 0:
        thread.join(min(remaining, SLICE))
    if not results:
        raise DeadlineExceeded(f"{place}: the name {place.host} was not resolved within {timeout:g} s")
    if isinstance(results[0], OSError):
        raise TransportError(
            f"{place}: no host {place.host} is known here ({results[0].strerror}); write its IP address"
        ) from results[0]
    return results[0]


def bind(place: Address, backlog: int) -> sockets.socket:
    """A listening socket on the first address of `place.host`. OSError says what to do."""
    try:
        family, kind, protocol, _, where = sockets.getaddrinfo(
            place.host, place.port, type=sockets.SOCK_STREAM, flags=sockets.AI_PASSIVE
        )[0]
    except sockets.gaierror as error:
        raise OSError(
            errno.EADDRNOTAVAIL,
            f"no host {place.host} is known here ({error.strerror}); write its IP address",
        ) from error
    listener = sockets.socket(family, kind | sockets.SOCK_CLOEXEC, protocol)
    try:
        listener.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEADDR, 1)  # a restart need not wait
        if family == sockets.AF_INET6:
            listener.setsockopt(sockets.IPPROTO_IPV6, sockets.IPV6_V6ONLY, 1)  # an address is what it says
        listener.bind(where)
        listener.listen(backlog)
    except OSError as error:
        listener.close()
        advice = {
            errno.EADDRINUSE: f"another process listens on {place}: stop it, or listen elsewhere",
            errno.EADDRNOTAVAIL: f"{place.host} is no address of this host: take one that is, or 0.0.0.0",
            errno.EACCES: f"not allowed to listen on port {place.port}: take one from 1024 on",
        }
        said = advice.get(error.errno or 0, f"cannot listen on {place}: {error.strerror}")
        raise OSError(error.errno, said) from error
    return listener


def bound_to(listener: sockets.socket, place: Address) -> Address:
    """Where it listens in fact, in numbers: the port where it was left to the kernel."""
    host, port = listener.getsockname()[:2]
    return place._replace(host=host, port=port)


def local_host(connected: sockets.socket) -> str | None:
    """This side's IP address of a connection, None over a Unix socket."""
    if connected.family not in (sockets.AF_INET, sockets.AF_INET6):
        return None
    host: str = connected.getsockname()[0]
    return host


def user_of(connected: sockets.socket) -> int | None:
    """The user whose process connected over TCP, by the kernel's word; None where it is not one of this
    network namespace, so from elsewhere, or gone already.
    """
    ours, theirs = (_as_listed(*name[:2]) for name in (connected.getsockname(), connected.getpeername()))
    for _ in range(_LOOKS):
        for table in ("tcp", "tcp6"):
            try:
                rows = Path(f"/proc/net/{table}").read_text()
            except OSError:
                continue
            at, here = theirs[table], ours[table]
            # Only an established connection: one that is closed already is listed as user 0's.
            row = re.search(rf": {at} {here} {_ESTABLISHED} \S+ \S+ \S+ +(\d+) +\d+ +([1-9]\d*) ", rows)
            if row:
                return int(row[1])
    return None


def _as_listed(host: str, port: int) -> dict[str, str]:
    """How /proc/net/tcp and tcp6 write an address: words of four bytes, each in the host's order."""
    ip = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    packed = ip.packed
    words = "".join(
        f"{int.from_bytes(packed[at : at + 4], sys.byteorder):08X}" for at in range(0, len(packed), 4)
    )
    if ip.version == 4:
        return {"tcp": f"{words}:{port:04X}", "tcp6": f"{_IPV4_IN_IPV6}{words}:{port:04X}"}
    return {"tcp": "none", "tcp6": f"{words}:{port:04X}"}
