"""By which transports a server can be reached: what it answers to ASK, and what a client makes of it."""

from __future__ import annotations

import ipaddress
import secrets
import socket as sockets
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from transport._transport import ffi, lib
from transport.address import Address, parse
from transport.constants import FRAME_REFUSED, MAX_FRAME
from transport.deadline import deadline_ns
from transport.errors import ProtocolError, Refused, check
from transport.frames import Ways, decode_refused, decode_ways, encode_ask, frame_type
from transport.network import local_host

__all__ = ["PICKED", "Way", "ask", "host_id", "offered", "probe_verbs", "server_id", "ways_for"]

PICKED = "picked"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_MAX_ADDRESSES = 64  # of a server's, that a client looks at


class Way(NamedTuple):
    """A transport ("shm", "verbs", "tcp") and "picked", or why it was not."""

    transport: str
    why: str


def host_id() -> bytes:
    """16 bytes that are the same in every process under this running kernel, zeros where unknown."""
    try:
        return UUID(_BOOT_ID.read_text().strip()).bytes
    except (OSError, ValueError):
        return bytes(16)


def server_id() -> str:
    """A new name for a server, by which its addresses are known to be one server's."""
    return secrets.token_hex(16)


def ways_for(client: sockets.socket, server: str, addresses: Iterable[Address]) -> Ways:
    """What to answer `client`: those of `addresses` (as bound) that it can use, from where it is."""
    host = local_host(client)
    reached = (_as_reached(address, host) for address in addresses)
    return Ways(host_id(), server, tuple(str(address) for address in reached if address is not None))


def _as_reached(address: Address, host: str | None) -> Address | None:
    """`address` for a client that reached this host as `host` (None: over a Unix socket)."""
    if address.scheme == "unix":
        return address
    bound = ipaddress.ip_address(address.host.partition("%")[0])
    if host is None:
        return None if bound.is_unspecified else address
    used = ipaddress.ip_address(host.partition("%")[0])
    if bound.version != used.version or (bound.is_loopback and not used.is_loopback):
        return None
    return address._replace(host=host) if bound.is_unspecified else address


def ask(socket: sockets.socket, timeout: float) -> Ways:
    """The server's answer to ASK; the socket is then where it was. Refused, PeerGone, DeadlineExceeded,
    ProtocolError.
    """
    deadline = deadline_ns(timeout)
    question = encode_ask()
    # One that will not have this client may have said so already, and hung up: then its reason is to be read.
    lib.gpud_bootstrap_send(socket.fileno(), question, len(question), -1, deadline)
    frame = ffi.new("unsigned char[]", MAX_FRAME)
    descriptor = ffi.new("int *", -1)
    rc = lib.gpud_bootstrap_receive(socket.fileno(), frame, descriptor, deadline)
    if descriptor[0] >= 0:
        lib.gpud_bootstrap_discard(descriptor[0])
        raise ProtocolError("WAYS came with a descriptor")
    answer = bytes(ffi.buffer(frame, check(rc, "ASK")))
    if frame_type(answer) == FRAME_REFUSED:
        status, retry_ms, reason = decode_refused(answer)
        raise Refused(status, reason, retry_ms)
    return decode_ways(answer)


def offered(ways: Ways, scheme: str) -> list[Address]:
    """The addresses of a scheme among a server's. What this version cannot read it passes over."""
    found = []
    for text in ways.addresses[:_MAX_ADDRESSES]:
        try:
            address = parse(text)
        except ValueError:
            continue
        if address.scheme == scheme:
            found.append(address)
    return found


def probe_verbs() -> tuple[bool, str]:
    """Whether this build and machine can do RDMA, and the device or the reason."""
    text = ffi.new("char[]", 512)
    rc: int = lib.gpud_verbs_probe(text, len(text))
    return rc == 0, ffi.string(text).decode("utf-8", errors="replace")
