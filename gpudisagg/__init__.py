"""gpudisagg: a GPU for functions that have none.

    with gpudisagg.connect() as gpu:
        x = gpu.asarray(points)
        module = gpu.compile(cuda_source)
        module["scale"][grid, block](x, 2.0)
        result = x.get()

The whole of it is in docs/api.md.
"""

from gpudisagg import errors
from gpudisagg._version import __version__
from gpudisagg.array import DeviceArray
from gpudisagg.capabilities import Capabilities, MemoryInfo
from gpudisagg.connect import connect
from gpudisagg.errors import (
    CommandError,
    CompileError,
    DeadlineExceeded,
    DeviceFault,
    ForkedSession,
    GpuDisaggError,
    InvalidCommand,
    OutOfMemory,
    ProtocolError,
    ServerBusy,
    SessionClosed,
    SessionLost,
    SessionRefused,
    TlsUnavailable,
    VersionMismatch,
)
from gpudisagg.hostarray import HostArray
from gpudisagg.kernel import Kernel
from gpudisagg.module import Module
from gpudisagg.session import Session
from gpudisagg.stream import Event, Stream, get_elapsed_time

__all__ = [
    "Capabilities",
    "CommandError",
    "CompileError",
    "DeadlineExceeded",
    "DeviceArray",
    "DeviceFault",
    "Event",
    "ForkedSession",
    "GpuDisaggError",
    "HostArray",
    "InvalidCommand",
    "Kernel",
    "MemoryInfo",
    "Module",
    "OutOfMemory",
    "ProtocolError",
    "ServerBusy",
    "Session",
    "SessionClosed",
    "SessionLost",
    "SessionRefused",
    "Stream",
    "TlsUnavailable",
    "VersionMismatch",
    "__version__",
    "connect",
    "errors",
    "get_elapsed_time",
]
