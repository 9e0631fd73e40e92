"""Messages and bytes between two processes, fast: over shared memory (unix://), RDMA (rdma://) or TCP
(tcp://), alike.

Usable alone, with no device anywhere. One process:

    with transport.listen("unix:///tmp/x.sock") as listener, listener.accept(timeout=10) as connection:
        print(connection.recv(timeout=10))

The other:

    with transport.connect("unix:///tmp/x.sock") as connection:
        connection.send(b"hello")
        region = connection.create_region(1 << 20)  # region.array: a uint8 array that both sides reach
"""

from __future__ import annotations

from transport.bootstrap import Peer
from transport.connect import connect
from transport.connection import Connection, loop
from transport.errors import (
    Closed,
    DeadlineExceeded,
    PeerGone,
    ProtocolError,
    Refused,
    SessionFaulted,
    TlsUnavailable,
    TransportError,
)
from transport.listener import Listener, listen
from transport.region import MemoryRegion
from transport.stage import Stage
from transport.ways import PICKED, Way

__all__ = [
    "PICKED",
    "Closed",
    "Connection",
    "DeadlineExceeded",
    "Listener",
    "MemoryRegion",
    "Peer",
    "PeerGone",
    "ProtocolError",
    "Refused",
    "SessionFaulted",
    "Stage",
    "TlsUnavailable",
    "TransportError",
    "Way",
    "connect",
    "listen",
    "loop",
]
