"""Where a server listens, and by which transport it is reached.

    unix:///run/gpudisagg.sock   shared memory, on the same host
    tcp://host:port              all over one TCP connection
    rdma://host:port             RDMA, after a handshake over TCP
    auto://host:port             for clients: the best of what the server there offers

A host is a name, an IPv4 address, or an IPv6 address in brackets.
"""

from __future__ import annotations

import ipaddress
import os
import re
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

__all__ = ["SCHEMES", "Address", "parse"]

SCHEMES = ("unix", "tcp", "rdma", "auto")
_MAX_UNIX_PATH = 107  # bytes in sockaddr_un.sun_path, its final NUL not counted
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_MAX_NAME = 253  # characters of a host's name
_ESCAPED = re.compile("[\x00-\x20%?#\x7f\udc80-\udcff]")  # the last: bytes that are no UTF-8


class Address(NamedTuple):
    """A parsed address. unix: `path`, absolute; the others: `host` (IPv6 without its brackets) and
    `port`. `str()` is the text that parses to it.
    """

    scheme: str
    path: str = ""
    host: str = ""
    port: int = 0

    @property
    def is_local(self) -> bool:
        """Whether none but this host's processes can reach it, whatever names resolve to."""
        if self.scheme == "unix" or self.host.lower().rstrip(".") == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        if self.scheme == "unix":
            return "unix://" + _ESCAPED.sub(lambda found: f"%{os.fsencode(found[0])[0]:02X}", self.path)
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def parse(text: str, *, listening: bool = False) -> Address:
    """Parses an address; ValueError (TypeError: no text) says what is wrong with it and what would be
    right.

    `listening`: for a server, which may leave the port to the kernel (0) and can't listen on auto://.
    """
    if not isinstance(text, str):
        raise TypeError(f"an address is a text such as 'unix:///run/name.sock', not {type(text).__name__}")
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    if not separator:
        form = "unix:///absolute/path.sock or tcp://host:port"
        if text.partition(":")[0].lower() in SCHEMES:
            raise ValueError(f"{text!r}: behind the scheme come two slashes: {form}")
        raise ValueError(f"{text!r} has no scheme: write {form}")
    if scheme not in SCHEMES:
        known = ", ".join(f"{one}://" for one in SCHEMES)
        raise ValueError(f"{text!r}: no transport {scheme}://; there is {known}")
    if scheme == "unix":
        return Address(scheme, path=_path(text, rest))
    if listening and scheme == "auto":
        raise ValueError(
            f"{text!r}: auto:// is for clients; listen on tcp://, rdma:// and unix://, and they find the best"
        )
    host, port = _host_and_port(text, rest)
    if port == 0 and not listening:
        raise ValueError(f"{text!r}: nobody can be reached at port 0; write the one the server says it has")
    return Address(scheme, host=host, port=port)


def _path(text: str, rest: str) -> str:
    if not rest.startswith("/"):
        raise ValueError(
            f"{text!r}: a unix address has three slashes and an absolute path: unix:///run/name.sock"
        )
    if "?" in rest or "#" in rest:
        raise ValueError(f"{text!r}: nothing may follow the path (write ? and # as %3F and %23)")
    path = unquote_to_bytes(os.fsencode(rest))
    if b"\0" in path:
        raise ValueError(f"{text!r}: a path has no NUL")
    if len(path) > _MAX_UNIX_PATH:
        raise ValueError(
            f"{text!r}: the kernel takes socket paths up to {_MAX_UNIX_PATH} bytes; choose a shorter one"
        )
    return os.fsdecode(path)


def _host_and_port(text: str, rest: str) -> tuple[str, int]:
    if rest.startswith("["):
        host, bracket, after = rest[1:].partition("]")
        if not bracket:
            raise ValueError(f"{text!r}: the bracket around the IPv6 address is not closed")
        _check_ipv6(text, host)
    else:
        host, colon, port = rest.rpartition(":")
        if not colon:
            raise ValueError(f"{text!r} has no port: write tcp://host:port")
        if ":" in host:
            raise ValueError(f"{text!r}: write an IPv6 address in brackets: tcp://[::1]:7777")
        after = colon + port
        _check_host(text, host)
    if not after.startswith(":") or not re.fullmatch(r"[0-9]{1,5}", after[1:]):
        raise ValueError(f"{text!r}: the port is a number from 1 to 65535, and nothing may follow it")
    if int(after[1:]) > 65535:
        raise ValueError(f"{text!r}: the port is a number from 1 to 65535")
    return host, int(after[1:])


def _check_ipv6(text: str, host: str) -> None:
    try:
        ipaddress.IPv6Address(host)
    except ValueError as error:
        raise ValueError(f"{text!r}: {host!r} is no IPv6 address ({error})") from None
    if not re.fullmatch(r"[0-9A-Fa-f:.]+(%[A-Za-z0-9_.-]+)?", host):  # a zone is an interface's name
        raise ValueError(f"{text!r}: {host!r} is no IPv6 address with an interface behind its %")


def _check_host(text: str, host: str) -> None:
    if not host:
        raise ValueError(f"{text!r} has no host: write 0.0.0.0 to listen everywhere, 127.0.0.1 for this host")
    if re.fullmatch(r"[0-9.]+", host):
        try:
            ipaddress.IPv4Address(host)
        except ValueError as error:
            raise ValueError(f"{text!r}: {host!r} is no IPv4 address ({error})") from None
        return
    labels = host.removesuffix(".").split(".")
    if len(host) > _MAX_NAME or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"{text!r}: {host!r} is no host's name (letters, digits, - and . only)")
