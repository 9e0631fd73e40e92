"""Messages and bytes between two processes, fast: rings and regions in shared memory, bootstrapped over a
socket.

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
from transport.connect import Listener, connect, listen
from transport.connection import Connection, loop
from transport.errors import (
    Closed,
    DeadlineExceeded,
    PeerGone,
    ProtocolError,
    Refused,
    SessionFaulted,
    TransportError,
)
from transport.region import MemoryRegion
from transport.stage import Stage

__all__ = [
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
    "TransportError",
    "connect",
    "listen",
    "loop",
]
