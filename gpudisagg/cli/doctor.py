"""`gpudisagg doctor`: each line is something tried here and now, not something remembered."""

from __future__ import annotations

import ctypes
import fcntl
import importlib
import json
import os
import platform
import resource
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import click
import numpy as np

from gpudisagg._version import __version__
from gpudisagg.sizes import format_size

if TYPE_CHECKING:
    from transport import Connection


@dataclass(frozen=True)
class Finding:
    """`state`: "ok"; "absent": optional and not here; "broken": needed (by whom, says the detail) and not
    working.
    """

    what: str
    state: str
    detail: str


def _ok(what: str, detail: str) -> Finding:
    return Finding(what, "ok", detail)


def _absent(what: str, detail: str) -> Finding:
    return Finding(what, "absent", detail)


def _broken(what: str, detail: str) -> Finding:
    return Finding(what, "broken", detail)


def _host() -> Finding:
    cpus = len(os.sched_getaffinity(0))
    spin = (
        "waits poll first, then sleep"
        if cpus > 1
        else "one CPU: waits sleep at once, a round trip costs a wake-up"
    )
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    python = (
        f"Python {platform.python_version()}, {platform.system()} {platform.release()} {platform.machine()}"
    )
    return _ok("host", f"{python}, {cpus} CPUs ({spin}), {format_size(pages)} of memory")


def _memfd() -> Finding:
    what = "sealed memfd"
    try:
        fd = os.memfd_create("gpudisagg-doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as error:
        return _broken(what, f"memfd_create: {error.strerror}; needed to share memory with a session")
    try:
        os.ftruncate(fd, 4096)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except OSError as error:
        return _broken(what, f"F_ADD_SEALS: {error.strerror}; needed to share memory with a session")
    finally:
        os.close(fd)
    return _ok(what, "memory can be shared and cannot be pulled away")


def _extension() -> Finding:
    try:
        importlib.import_module("transport._transport")
    except ImportError as error:
        return _broken(
            "transport extension", f"{error}; build it: pip install . or python setup.py build_ext --inplace"
        )
    return _ok("transport extension", "loads; needed by client and server")


def _device() -> Finding:
    what = "cpu device"
    try:
        from gpudisagg.server.engine import Engine

        Engine(1, 1 << 36).close()
    except Exception as error:
        return _broken(what, f"{error}; needed by a server")
    return _ok(what, "opens; runs CUDA kernels on this machine's CPUs")


def _membarrier() -> Finding:
    try:
        from gpudisagg.server.engine import has_membarrier
    except ImportError as error:
        return _absent("membarrier", f"not tried: {error}")
    if has_membarrier():
        return _ok("membarrier", "sending needs no memory fence")
    return _absent(
        "membarrier",
        "the kernel lacks it or forbids it: each message costs a full fence, all else is the same",
    )


def _pidfd() -> Finding:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        return _absent("pidfd", f"{error.strerror}: a client's death is seen by its socket alone")
    return _ok("pidfd", "a client's death is seen at once")


def _packages(extra: str, modules: list[str], purpose: str) -> Finding:
    missing = []
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError:
            missing.append(module)
    if missing:
        return _absent(
            f"extra [{extra}]", f"no {', '.join(missing)}: pip install 'gpudisagg[{extra}]' {purpose}"
        )
    return _ok(f"extra [{extra}]", f"{', '.join(modules)}: installed")


def _nvrtc() -> Finding:
    try:
        from cuda.bindings import nvrtc

        status, major, minor = nvrtc.nvrtcVersion()
    except Exception as error:
        return _absent(
            "NVRTC", f"{error}: CUDA C++ cannot be compiled here, PTX can; pip install 'gpudisagg[server]'"
        )
    if int(status) != 0:
        return _broken("NVRTC", f"nvrtcVersion says {status}; needed by a server to compile CUDA C++")
    return _ok("NVRTC", f"{major}.{minor} compiles CUDA C++ to PTX; it needs no GPU")


def _cache() -> Finding:
    try:
        from gpudisagg.server.config import ConfigError, resolve
    except ImportError as error:
        return _absent("code cache", f"not tried: {error}")
    try:
        path = resolve({"listen": ("unix:///nowhere",)}).cache_dir
    except ConfigError as error:
        return _broken("code cache", f"a server started here would refuse its settings: {error}")
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)  # as the server makes it
        with tempfile.TemporaryFile(dir=path):
            pass
        used = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    except OSError as error:
        return _broken(
            "code cache",
            f"{path}: {error.strerror}; a server compiles everything anew: --cache-dir elsewhere",
        )
    return _ok("code cache", f"{path}, {format_size(used)} in it")


def _cuda() -> Finding:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return _absent("CUDA driver", "no libcuda.so.1; not needed, sessions run on the cpu device")
    return _absent(
        "CUDA driver",
        "libcuda.so.1 is here, but this version has no cuda device yet: sessions run on the cpu device",
    )


def _verbs() -> Finding:
    try:
        from transport.ways import probe_verbs
    except ImportError as error:
        return _absent("RDMA verbs", f"not tried: {error}")
    works, words = probe_verbs()
    return _ok("RDMA verbs", words) if works else _absent("RDMA verbs", words)


def _kernel_tls() -> Finding:
    try:
        from transport import tls
    except ImportError as error:
        return _absent("kernel TLS", f"not tried: {error}")
    why = tls.available()
    if why:
        return _absent("kernel TLS", f"{why}; tcp:// goes without TLS")
    return _ok(
        "kernel TLS", f"the kernel can carry TLS over tcp://, with the keys that {tls.OPENSSL} hands it"
    )


def _memlock() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    detail = f"{_limit(soft)} may be locked, and registered for RDMA; up to {_limit(hard)} can be asked for"
    return _ok("memlock limit", detail) if soft == hard else _absent("memlock limit", f"{detail} (ulimit -l)")


def _limit(value: int) -> str:
    return "any amount" if value == resource.RLIM_INFINITY else format_size(value)


def _server(address: str) -> list[Finding]:
    """A session there: by which way, and how fast that is."""
    import transport

    what = f"server {address}"
    try:
        with transport.connect(address, name="gpudisagg doctor", timeout=10.0) as connection:
            welcome = connection.welcome
            assert welcome is not None  # a connection that connect() made has one
            findings = [
                _ok(
                    what,
                    f"gave session {welcome.session} on {welcome.name}, "
                    f"{format_size(welcome.memory)} of device memory",
                )
            ]
            findings += [
                _ok(f"way {way.transport}", way.why)
                if way.why == transport.PICKED
                else _absent(f"way {way.transport}", way.why)
                for way in connection.ways
            ]
            findings.append(_speed(connection))
            if connection.transport == "verbs":
                findings.append(_direct(connection))
    except (transport.TransportError, ValueError) as error:
        return [_broken(what, str(error))]
    return findings


_ROUND_TRIPS = 200
_TEST_SIZE = 16 << 20  # bytes, or what the session has
_TEST_RUNS = 3


def _speed(connection: Connection) -> Finding:
    """Of a command and its completion, and of bytes to the device and back: the best of a few."""
    from transport import wire
    from transport.stage import Stage

    welcome = connection.welcome
    assert welcome is not None
    best = min(
        _timed(lambda: connection.wait(connection.post(wire.OP_SYNCHRONIZE, 0, b"")))
        for _ in range(_ROUND_TRIPS)
    )
    said = f"a command and its completion take {best * 1e6:.3g} µs"
    if not welcome.window_base or welcome.memory < welcome.granularity:
        return _ok("speed", said)
    size = min(_TEST_SIZE, welcome.memory) // welcome.granularity * welcome.granularity
    connection.post(wire.OP_MAP, 0, wire.Map(welcome.window_base, size).pack())
    data = np.ones(size, np.uint8)  # not zeros: those would be one page, again and again
    stage = Stage(connection, None, 8, 1 << 20)
    base = welcome.window_base
    try:
        up = min(_timed(lambda: connection.wait(stage.put(base, data))) for _ in range(_TEST_RUNS))
        down = min(_timed(lambda: connection.wait(stage.get(data, base))) for _ in range(_TEST_RUNS))
    finally:
        stage.close()
    return _ok(
        "speed",
        f"{said}; {format_size(size)} go at {size / up / 1e9:.2g} GB/s to the device, "
        f"{size / down / 1e9:.2g} GB/s back",
    )


def _direct(connection: Connection) -> Finding:
    """By which way RDMA reaches the device's memory: the server says so after the first copy."""
    from transport import DeadlineExceeded, wire

    what = "GPUDirect"
    try:
        while True:
            body = wire.decode(connection.receive(0), False).body
            if isinstance(body, wire.Direct):
                return _ok(what, f"transfers reach the device's memory by: {body.text}")
    except DeadlineExceeded:
        return _absent(what, "the server does not say by which way transfers reach the device's memory")


def _timed(call: Callable[[], object]) -> float:
    begun = perf_counter()
    call()
    return perf_counter() - begun


CHECKS: list[Callable[[], Finding]] = [
    _host,
    _extension,
    _memfd,
    _membarrier,
    _pidfd,
    lambda: _packages("server", ["click", "llvmlite", "cuda.bindings"], "to run a server here"),
    _device,
    _nvrtc,
    _cache,
    lambda: _packages("demo", ["sklearn", "matplotlib", "rich"], "to run the demonstrations"),
    _cuda,
    _verbs,
    _memlock,
    _kernel_tls,
]


@click.command("doctor")
@click.argument("server", metavar="[ADDRESS]", required=False)
@click.option(
    "--address",
    envvar="GPUDISAGG_ADDRESS",
    help="Also open a session on this server, as ADDRESS does.  [env: GPUDISAGG_ADDRESS]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def command(server: str | None, address: str | None, as_json: bool) -> None:
    """Say what works on this machine, and what does not and why. With an ADDRESS also what that server gives,
    by which way, and how fast.

    Exit status 1 if something that is needed is broken; what is merely absent is not.
    """
    findings = [check() for check in CHECKS]
    if where := server or address:
        findings += _server(where)
    broken = any(finding.state == "broken" for finding in findings)
    if as_json:
        click.echo(
            json.dumps(
                {"version": __version__, "ok": not broken, "findings": [asdict(f) for f in findings]},
                indent=2,
            )
        )
    else:
        width = max(len(finding.what) for finding in findings)
        click.echo(f"gpudisagg {__version__}")
        for finding in findings:
            click.echo(f"{finding.state:6}  {finding.what:{width}}  {finding.detail}")
    sys.exit(1 if broken else 0)
