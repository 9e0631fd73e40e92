"""The floors of csrc/: built by the C compiler when first needed, loaded through cffi as the library itself
is.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from .peer import Peer

_CSRC = Path(__file__).parent / "csrc"
_SOURCES = ("floor.c", "copy.c", "sockets.c")
_FLAGS = ["-O2", "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror"]
COPIES = ("libc", "rep movsb", "streaming stores")


@functools.cache
def load() -> Any:
    """The compiled floors, with .ffi and .lib. Builds into the user's cache once per version of the
    sources.
    """
    text = "".join((_CSRC / name).read_text(encoding="utf-8") for name in ("floor.h", *_SOURCES))
    tag = f"{sys.implementation.cache_tag}-{text}{_FLAGS}"
    name = f"_bench_floor_{hashlib.sha256(tag.encode()).hexdigest()[:12]}"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gpudisagg" / "bench"
    built = cache / f"{name}.so"
    if not built.exists():
        cache.mkdir(parents=True, exist_ok=True)
        _build(name, built)
    return _load_extension(name, built)


def _build(name: str, built: Path) -> None:
    import cffi

    header = (_CSRC / "floor.h").read_text(encoding="utf-8")
    ffi = cffi.FFI()
    for part in re.findall(r"/\* cffi: begin \*/(.*?)/\* cffi: end \*/", header, re.DOTALL):
        ffi.cdef(part)
    sources = [str(_CSRC / source) for source in _SOURCES]
    ffi.set_source(
        name, '#include "floor.h"', sources=sources, include_dirs=[str(_CSRC)], extra_compile_args=_FLAGS
    )
    with tempfile.TemporaryDirectory(dir=built.parent) as folder:
        made = ffi.compile(tmpdir=folder)
        Path(made).replace(built)  # whole or not at all: two benches may build at once


def _load_extension(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be loaded; remove it to have it built anew")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class CacheLine:
    """This process's half of the cache-line ping-pong; the other half is a process of its own."""

    def __init__(self, memory: npt.NDArray[np.uint8], peer: Peer) -> None:
        self._floor = load()
        self._memory, self._peer = memory, peer  # keeps the mapping alive under the pointer
        self._pointer = self._floor.ffi.from_buffer(memory)
        self._next = 1

    def pingpong(self, rounds: int) -> npt.NDArray[np.uint64]:
        """Times of `rounds` round trips, ns, all in C on both sides. TimeoutError: the other process is
        silent.
        """
        ns = np.zeros(rounds, np.uint64)
        first = self._begin(rounds)
        out = self._floor.ffi.cast("uint64_t *", self._floor.ffi.from_buffer(ns))
        if self._floor.lib.floor_pingpong(self._pointer, first, rounds, out) != 0:
            raise TimeoutError("the floor's other process did not answer")
        self._peer.expect("done")
        return ns

    @contextmanager
    def round_trips(self, rounds: int) -> Iterator[tuple[Any, Any, Any, Any, int]]:
        """For timing from Python: the function and its arguments (function, memory, request, reply, first
        sequence).

        The caller makes exactly `rounds` calls function(memory, request, reply, first + i), each 0 or -1.
        """
        ffi = self._floor.ffi
        request, reply = ffi.new("char[64]"), ffi.new("char[64]")
        first = self._begin(rounds)
        yield self._floor.lib.floor_round_trip, self._pointer, request, reply, first
        self._peer.expect("done")

    def _begin(self, rounds: int) -> int:
        first, self._next = self._next, self._next + rounds
        self._peer.say(f"serve {first} {rounds}")
        self._peer.expect("ready")
        return first


@contextmanager
def cache_line(cpu: int | None = None) -> Iterator[CacheLine]:
    """The cache-line ping-pong with a fresh process on `cpu` (anywhere where None)."""
    import mmap

    fd = os.memfd_create("bench-floor")
    try:
        size = load().lib.FLOOR_MEMORY
        os.ftruncate(fd, size)
        # Unmapped when the array goes: pointers into it may live as long as the CacheLine does.
        memory = np.frombuffer(mmap.mmap(fd, size), np.uint8)
        with Peer(["floor", str(fd), str(-1 if cpu is None else cpu)], pass_fds=(fd,)) as peer:
            yield CacheLine(memory, peer)
    finally:
        os.close(fd)


def copy_ns(destination: npt.NDArray[Any], source: npt.NDArray[Any], how: int) -> int:
    """Time of one copy of all of `source`, ns, by COPIES[how]; 0 where this CPU has no such copy."""
    floor = load()
    to, of = floor.ffi.from_buffer(destination), floor.ffi.from_buffer(source)
    return int(floor.lib.floor_copy(to, of, source.nbytes, how))
