"""Where a session begins."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import transport
from gpudisagg import failures
from gpudisagg.errors import DeadlineExceeded, ProtocolError, SessionRefused, TlsUnavailable
from gpudisagg.session import Session
from gpudisagg.sizes import parse_size
from transport import wire
from transport.errors import DeadlineExceeded as TransportDeadline
from transport.errors import PeerGone, Refused, TransportError
from transport.errors import ProtocolError as TransportProtocolError
from transport.errors import TlsUnavailable as TransportTlsUnavailable

if TYPE_CHECKING:
    from ssl import SSLContext

ADDRESS_VARIABLE = "GPUDISAGG_ADDRESS"
CHECK_VARIABLE = "GPUDISAGG_CHECK"


def connect(
    address: str | None = None,
    *,
    memory: int | str | None = None,
    host_memory: int | str | None = None,
    timeout: float = 60.0,
    name: str | None = None,
    check: bool | None = None,
    tls: SSLContext | None = None,
) -> Session:
    """Opens a session on a disaggregated device.

    address: "unix:///path.sock" (a server on this host), "tcp://host:port", "rdma://host:port", or
        "auto://host:port": the fastest of these that works with the server there, which
        `capabilities.ways` then explains. None: what GPUDISAGG_ADDRESS says; where that is unset, a local
        server is started that lives as long as this process.
    memory: bytes of device memory the session may use, as an int or a text such as "2GiB"; None: the
        server's default.
    host_memory: bytes of its own memory it may share with the worker (host arrays, staging), likewise.
    timeout: seconds for a worker to come free, and then the longest that any wait of the session lasts.
    name: for the server's logs; this program's by default.
    tls: an ssl.SSLContext for tcp:// (and for tcp behind auto://); TlsUnavailable where the kernel can't
        carry it.

    check: kernels are compiled so that each access is checked against the session's arrays, as
        compute-sanitizer's memcheck does. The first bad one, be it off by one byte, is a DeviceFault that
        says which array it missed, in which line of the source, block and thread. Kernels run slower.
        None: if GPUDISAGG_CHECK is set, to anything but 0.

    Errors: SessionRefused (nobody listens there, not allowed, more memory than there is), ServerBusy (no
    worker came free), VersionMismatch, TlsUnavailable, DeadlineExceeded, ProtocolError; ValueError: an
    address, a size or a timeout that cannot be.
    """
    if not 0 < timeout < math.inf:
        raise ValueError(f"a timeout is a positive number of seconds, not {timeout!r}")
    memory_bytes = 0 if memory is None else parse_size(memory)
    host_bytes = 0 if host_memory is None else parse_size(host_memory)
    if check is None:
        check = os.environ.get(CHECK_VARIABLE, "0") not in ("", "0")
    where = address or os.environ.get(ADDRESS_VARIABLE)
    if not where:
        from gpudisagg.local import local_address

        where = local_address(timeout)
    try:
        connection = transport.connect(
            where,
            name=Path(sys.argv[0]).name or "python" if name is None else name,
            memory=memory_bytes,
            host_memory=host_bytes,
            timeout=timeout,
            check=check,
            tls=tls,
        )
    except Refused as error:
        raise failures.refused(error, where) from None
    except TransportDeadline as error:
        raise DeadlineExceeded(f"{where}: no session within {timeout:g} s ({error})") from error
    except TransportProtocolError as error:
        raise ProtocolError(f"{where}: {error}; is that a gpudisagg server of this release?") from error
    except TransportTlsUnavailable as error:
        raise TlsUnavailable(f"{where}: {error}") from error
    except TransportError as error:
        said = str(error)
        if isinstance(error, PeerGone) and error.errno is not None and tls is None:
            said = "the server hung up without an answer: its log says why; over TCP it may want TLS (tls=)"
        raise SessionRefused(said if where in said else f"{where}: {said}") from error
    if connection.welcome is None or not connection.welcome.window_base:
        connection.close()
        raise SessionRefused(f"{where}: there is no device behind this address; is it another program's?")
    if check and not connection.welcome.features & wire.FEATURE_CHECK:
        connection.close()
        raise SessionRefused(
            f"{where}: this server's device checks no kernels: neither check=True nor {CHECK_VARIABLE}=1 here"
        )
    return Session(connection, where, timeout)
