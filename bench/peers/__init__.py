"""The peers that this project is measured beside, which of them are installed, and how to get the others."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from bench.peers import ucx
from bench.peers.pair import Pair, PeerFailed, Processes, RoundTrips
from bench.row import NotHere

__all__ = [
    "BULK",
    "KINDS",
    "MESSAGES",
    "ONE_WAY",
    "Kind",
    "Pair",
    "PeerFailed",
    "RoundTrips",
    "kind",
    "versions",
]

LARGEST = 64 << 20
_UCX_SHM = {"UCX_TLS": "posix,cma,self", "UCX_WARN_UNUSED_ENV_VARS": "n"}

MESSAGES, ONE_WAY, BULK = "round_trips", "one_way", "bulk"
_ALL = (MESSAGES, ONE_WAY, BULK)


@dataclass(frozen=True)
class Kind:
    """A peer. `role`: "ours", "floor" or "peer". `does`: what can be measured of it. `package`: the Python
    package it needs, "" where it is our own program; `install`: what pip calls it.
    """

    name: str
    module: str
    variant: str = ""
    role: str = "peer"
    does: tuple[str, ...] = _ALL
    package: str = ""
    install: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    def missing(self, interpreter: str = sys.executable) -> str | None:
        """Why it cannot be measured: None where it can."""
        folders = _folders(interpreter)
        if self.module == "ucx":
            found = ucx.find(folders) is not None
        else:
            found = not self.package or self.package in folders
        if found:
            return None
        return f"{self.name} is not installed: pip install {self.install}"

    def open(self, interpreter: str = sys.executable, largest: int = LARGEST) -> Pair:
        """Starts it. NotHere; PeerFailed."""
        missing = self.missing(interpreter)
        if missing is not None:
            raise NotHere(missing)
        if self.module == "ucx":
            tool = ucx.find(_folders(interpreter))
            assert tool is not None
            return ucx.Perftest(tool, self.variant)
        return Processes(
            self.module,
            self.variant,
            interpreter=interpreter if self.package else sys.executable,
            environment=self.environment,
            largest=largest,
        )


KINDS = (
    Kind("gpudisagg shm", "ours", "shm", "ours"),
    Kind("gpudisagg shm, C", "ours", "shm-c", "ours", (MESSAGES, ONE_WAY)),
    Kind("gpudisagg shm, C, sleeping", "ours", "shm-sleepy", "ours", (MESSAGES,)),
    Kind("gpudisagg tcp", "ours", "tcp", "ours"),
    Kind("gpudisagg tcp, C", "ours", "tcp-c", "ours", (MESSAGES, ONE_WAY)),
    Kind("cache lines", "line", "", "floor", (MESSAGES, ONE_WAY)),
    Kind("futex", "line", "sleepy", "floor", (MESSAGES,)),
    Kind("copy by libc", "copies", "libc", "floor", (BULK,)),
    Kind("copy by rep movsb", "copies", "rep movsb", "floor", (BULK,)),
    Kind("copy by streaming stores", "copies", "streaming stores", "floor", (BULK,)),
    Kind("tcp socket", "sockets", "tcp", "floor"),
    Kind("tcp socket, spinning", "sockets", "tcp spinning", "floor", (MESSAGES, BULK)),
    Kind("unix socket", "sockets", "unix", "floor"),
    Kind("unix socket, spinning", "sockets", "unix spinning", "floor", (MESSAGES, BULK)),
    Kind("UCX shm", "ucx", "shm", package="libucx", install="libucx-cu12"),
    Kind("UCX tcp", "ucx", "tcp", package="libucx", install="libucx-cu12"),
    Kind("UCXX", "ucxx", package="ucxx", install="ucxx-cu12", environment=_UCX_SHM),
    Kind("NIXL", "nixl", "", package="nixl_cu12", install="nixl-cu12", does=(MESSAGES, BULK)),
    Kind(
        "NIXL, no error handling",
        "nixl",
        "no-errors",
        package="nixl_cu12",
        install="nixl-cu12",
        does=(MESSAGES, BULK),
    ),
    Kind(
        "Mooncake tcp",
        "mooncake",
        package="mooncake",
        install="mooncake-transfer-engine-non-cuda",
        does=(BULK,),
    ),
    Kind("iceoryx2", "iceoryx2", package="iceoryx2", install="iceoryx2"),
    Kind("ZeroMQ", "zeromq", package="zmq", install="pyzmq"),
    Kind("gRPC streaming", "grpc", "stream", package="grpc", install="grpcio", does=(MESSAGES, ONE_WAY)),
    Kind("gRPC unary", "grpc", "unary", package="grpc", install="grpcio", does=(MESSAGES, BULK)),
)


def kind(name: str) -> Kind:
    """The peer of this name; KeyError."""
    return {kind.name: kind for kind in KINDS}[name]


_FIND = """
import importlib.util, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        continue
    if spec is not None:
        found[name] = (list(spec.submodule_search_locations or []) or [""])[0]
print(json.dumps(found))
"""


@cache
def _folders(interpreter: str) -> dict[str, str]:
    """Package -> its folder, of those that this interpreter can import. NotHere: there is no such one."""
    names = sorted({kind.package for kind in KINDS if kind.package})
    # Not from here: the current folder would be looked in first.
    command = [interpreter, "-c", _FIND, *names]
    try:
        done = subprocess.run(command, cwd=Path("/"), capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise NotHere(f"{interpreter} is no Python interpreter that can be asked: {error}") from error
    found: dict[str, str] = json.loads(done.stdout)
    return found


_VERSIONS = """
import importlib.metadata, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def versions(interpreter: str = sys.executable) -> dict[str, str]:
    """The versions of those that are installed, by what pip calls them."""
    names = sorted({kind.install for kind in KINDS if kind.install})
    command = [interpreter, "-c", _VERSIONS, *names]
    done = subprocess.run(command, cwd=Path("/"), capture_output=True, text=True, timeout=60, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found
