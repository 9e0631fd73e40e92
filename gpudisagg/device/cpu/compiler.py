"""The face of the cpu device's compiler: an image in, a loaded module out."""

from __future__ import annotations

import functools
import hashlib
import os
import threading
from collections import OrderedDict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpudisagg.device import nvrtc
from gpudisagg.device.cache import DiskCache
from gpudisagg.device.code import GlobalVariable, KernelCode, LoadedModule
from gpudisagg.device.cpu import names
from gpudisagg.device.cpu.layout import MAX_SHARED, frame_symbol, kernel_symbol
from gpudisagg.device.cpu.models import scratch_sizes
from gpudisagg.device.cpu.parser import parse
from gpudisagg.device.cpu.runtime import with_runtime
from gpudisagg.device.cpu.sources import SourceLines
from gpudisagg.device.cpu.translate import KernelFacts, translate
from gpudisagg.device.description import DeviceDescription
from gpudisagg.device.errors import CompileError
from gpudisagg.device.image import ImageKind, classify, extract_ptx

if TYPE_CHECKING:
    from gpudisagg.device.cpu.jit import Jit, LinkedCode

_REMEMBERED = 256
# In sources whose kernels may stop at an instruction that says so: its line is worth having.
_STOPS = (b"trap", b"cooperative_groups", b"free(", b"delete")
_LINES = frozenset({"-lineinfo", "--generate-line-info", "-G", "--device-debug"})


@functools.cache
def compiler_version() -> str:
    """A digest of the compiler's own sources: no change to it can meet code cached before."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class _Compiled:
    """Object code and what it defines: what the caches keep."""

    code: bytes
    kernels: tuple[KernelFacts, ...]
    variables: tuple[tuple[str, int], ...]

    @property
    def symbols(self) -> list[str]:
        wanted = [kernel_symbol(kernel.name) for kernel in self.kernels]
        wanted += [frame_symbol(kernel.name) for kernel in self.kernels if kernel.frame_threads]
        return wanted + [f"gpud.g.{name}" for name, _ in self.variables]


@dataclass
class _Shared:
    """Linked code without variables, which all modules of one image can share."""

    linked: LinkedCode
    users: int


class CpuCompiler:
    """Compiles and loads modules for the cpu device. Safe to use from several threads.

    Code is kept by content in memory and on disk. A module with variables is linked anew at each load, so
    that its variables start from their initial values; one without shares its code with its twins.
    """

    def __init__(self, cache_dir: Path | None = None, threads: int = os.cpu_count() or 1) -> None:
        from gpudisagg.device.cpu.jit import Jit

        self._jit: Jit = Jit()
        self._disk = DiskCache(cache_dir)
        self._memory: OrderedDict[str, _Compiled] = OrderedDict()
        self._shared: dict[str, _Shared] = {}
        self._live: set[LinkedCode] = set()
        self._lock = threading.Lock()
        self.description = DeviceDescription(
            name=f"cpu ({self._jit.cpu})",
            compute_capability=(8, 0),
            max_shared_per_block=MAX_SHARED,
            multiprocessors=threads,
        )

    def warm(self) -> None:
        """Pay for LLVM's and NVRTC's first use now: compiles a small kernel, past the caches."""
        source = b'extern "C" __global__ void warm(float *x) { x[threadIdx.x] += 1.0f; __syncthreads(); }'
        compiled = self._compile(source, ())
        self._jit.link(compiled.code, compiled.symbols).close()

    def load(
        self, image: bytes, *, options: tuple[str, ...] = (), name: str = "module", check: bool = False
    ) -> LoadedModule:
        """Compile (or find) and link an image: CUDA C++, PTX, or a fatbin or cubin with PTX in it.

        `options` go to NVRTC, `name` into its messages. `check`: with a check before each access
        (`checks.py`), which the context must then answer.
        """
        key = self._key(image, options, check)
        with self._lock:
            compiled = self._memory.get(key)
            if compiled is not None:
                self._memory.move_to_end(key)
        if compiled is None:
            compiled = self._from_disk(key)
        if compiled is None:
            compiled = self._compile(image, options, name, check)
            header = {"kernels": [asdict(k) for k in compiled.kernels], "variables": compiled.variables}
            self._disk.put(key, header, compiled.code)
        with self._lock:
            self._memory[key] = compiled
            while len(self._memory) > _REMEMBERED:
                evicted, _ = self._memory.popitem(last=False)
                unused = self._shared.get(evicted)
                if unused is not None and unused.users == 0:
                    del self._shared[evicted]
                    unused.linked.close()
        return self._load(key, compiled)

    def _key(self, image: bytes, options: tuple[str, ...], check: bool) -> str:
        digest = hashlib.sha256()
        front = nvrtc.version() if classify(image) is ImageKind.CUDA else "ptx"
        host = (self._jit.version, self._jit.cpu, self._jit.features)
        for part in (compiler_version(), *host, front, "checked" if check else "", *options):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part.encode())
        digest.update(image)
        return digest.hexdigest()

    def _compile(
        self, image: bytes, options: tuple[str, ...], name: str = "module", check: bool = False
    ) -> _Compiled:
        kind = classify(image)
        if kind is ImageKind.CUDA:
            stops = any(word in image for word in _STOPS)
            if (check or stops) and not _LINES.intersection(options):
                options = (*options, "-lineinfo")
            ptx = nvrtc.compile_to_ptx(image, options=options, name=name)
        elif kind is ImageKind.PTX:
            ptx = image
        else:
            ptx = extract_ptx(image)
        module = with_runtime(parse(ptx))
        lines = SourceLines(ptx.rstrip(b"\0").decode(), f"{name}.cu")
        translation = translate(module, lines if check else None, lines)
        code = self._jit.compile(translation.loops, translation.warps)
        return _Compiled(code, translation.kernels, translation.variables)

    def _from_disk(self, key: str) -> _Compiled | None:
        entry = self._disk.get(key)
        if entry is None:
            return None
        header, code = entry
        try:
            return _Compiled(
                code,
                tuple(_facts(kernel) for kernel in header["kernels"]),
                tuple((str(name), int(size)) for name, size in header["variables"]),
            )
        except (KeyError, TypeError, ValueError):
            return None

    def _load(self, key: str, compiled: _Compiled) -> LoadedModule:
        if compiled.variables:
            linked = self._jit.link(compiled.code, compiled.symbols)
            # Held here until closed: code a launch may be running must not go with a forgotten Python object.
            with self._lock:
                self._live.add(linked)
            return _module(compiled, linked, lambda: self._unload(linked))
        with self._lock:
            shared = self._shared.get(key)
            if shared is None:
                shared = _Shared(self._jit.link(compiled.code, compiled.symbols), 0)
                self._shared[key] = shared
            shared.users += 1
        return _module(compiled, shared.linked, lambda: self._release(key))

    def _unload(self, linked: LinkedCode) -> None:
        with self._lock:
            self._live.discard(linked)
        linked.close()

    def _release(self, key: str) -> None:
        with self._lock:
            shared = self._shared[key]
            shared.users -= 1
            # The last user's code stays linked while the image is remembered: reloading it is common.
            if shared.users == 0 and key not in self._memory:
                del self._shared[key]
                shared.linked.close()


def _facts(kernel: dict[str, Any]) -> KernelFacts:
    return KernelFacts(
        name=str(kernel["name"]),
        params=tuple((int(offset), int(size), str(kind)) for offset, size, kind in kernel["params"]),
        params_size=int(kernel["params_size"]),
        static_shared=int(kernel["static_shared"]),
        max_threads=int(kernel["max_threads"]),
        frame_threads=int(kernel["frame_threads"]),
    )


def _module(compiled: _Compiled, linked: LinkedCode, release: Any) -> LoadedModule:
    from gpudisagg.device.cpu.jit import call_size_function

    kernels: dict[str, KernelCode] = {}
    for facts in compiled.kernels:
        fixed, per_thread = 0, 0
        if facts.frame_threads:
            frame = call_size_function(linked.addresses[frame_symbol(facts.name)])
            fixed, per_thread = scratch_sizes(facts.frame_threads, frame)
        kernels[facts.name] = KernelCode(
            name=facts.name,
            entry=linked.addresses[kernel_symbol(facts.name)],
            params=facts.params,
            params_size=facts.params_size,
            static_shared=facts.static_shared,
            scratch_fixed=fixed,
            scratch_per_thread=per_thread,
            max_threads=facts.max_threads,
        )
    variables = {
        name: GlobalVariable(name, linked.addresses[f"gpud.g.{name}"], size)
        for name, size in compiled.variables
    }
    return LoadedModule(names.with_plain(kernels), names.with_plain(variables), release)


__all__ = ["CompileError", "CpuCompiler"]
