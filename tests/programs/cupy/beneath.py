"""The cpu device beneath an unchanged CuPy: what it asks of CUDA's runtime and driver is answered here.

CuPy's parts call one another through a table of C functions (`__pyx_capi__`). The few of them that reach for
a device are exchanged before CuPy's other parts look them up. Everything else is CuPy's own: which kernel it
picks, the source it writes, the options it compiles with, how it lays out arguments, what grid it launches.
Kernels that come with CuPy as machine code (CUB over a whole array, Thrust's sorts) can't run so.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gpudisagg.device import KernelCode
from tests.device.harness import compiler, launch

_CAPSULE_NEW = ctypes.pythonapi.PyCapsule_New
_CAPSULE_NEW.restype = ctypes.py_object
_CAPSULE_NEW.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_CAPSULE_NAME = ctypes.pythonapi.PyCapsule_GetName
_CAPSULE_NAME.restype = ctypes.c_char_p
_CAPSULE_NAME.argtypes = [ctypes.py_object]

_TYPES = {
    "PyObject *": ctypes.py_object,
    "int": ctypes.c_int,
    "unsigned int": ctypes.c_uint,
    "size_t": ctypes.c_size_t,
    "intptr_t": ctypes.c_ssize_t,
}
# cudaDeviceAttr and CUfunction_attribute.
_ATTRIBUTES = {1: 1024, 8: 48 << 10, 10: 32, 16: 2, 39: 2048, 75: 8, 76: 0, 81: 96 << 10, 97: 96 << 10}
_COPY, _SET = ctypes.memmove, ctypes.memset


@dataclass(frozen=True)
class Launched:
    """One launch as CuPy asked for it."""

    ptx: bytes
    kernel: KernelCode
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared: int
    arguments: tuple[bytes, ...]


class Driver:
    """A context's memory, modules and launches; `launches` is what was launched since it was last emptied."""

    def __init__(self) -> None:
        self.modules: dict[int, tuple[bytes, Any]] = {}
        self.functions: dict[int, tuple[int, KernelCode]] = {}
        self.memory: dict[int, Any] = {}
        self.launches: list[Launched] = []
        self.errors: list[BaseException] = []
        self.kept: list[Any] = []

    # What the runtime answers.
    def getDevice(self) -> int:
        return 0

    def getDeviceCount(self) -> int:
        return 1

    def setDevice(self, _device: int) -> None: ...

    def driverGetVersion(self) -> int:
        return 12090

    def deviceGetAttribute(self, attribute: int, _device: int) -> int:
        return _ATTRIBUTES[attribute]

    def getDeviceProperties(self, _device: int) -> dict[str, Any]:
        names = {"maxThreadsPerBlock": 1, "sharedMemPerBlock": 8, "warpSize": 10, "multiProcessorCount": 16}
        return {"name": b"cpu", "major": 8, "minor": 0} | {k: _ATTRIBUTES[v] for k, v in names.items()}

    def malloc(self, size: int) -> int:
        memory = ctypes.create_string_buffer(size + 512)
        start = -(-ctypes.addressof(memory) // 512) * 512
        self.memory[start] = memory
        return start

    def free(self, pointer: int) -> None:
        self.memory.pop(pointer, None)

    def _ensure_context(self) -> None: ...

    def pointerGetMemoryType(self, _pointer: int) -> int:
        return 0

    def hostAlloc(self, size: int, _flags: int) -> int:
        return self.malloc(size)

    def freeHost(self, pointer: int) -> None:
        self.free(pointer)

    def eventCreateWithFlags(self, _flags: int) -> int:
        return 1

    def eventRecord(self, _event: int, _stream: int) -> None: ...

    def eventQuery(self, _event: int) -> None: ...

    def eventSynchronize(self, _event: int) -> None: ...

    def eventDestroy(self, _event: int) -> None: ...

    def memcpy(self, to: int, source: int, size: int, _kind: int) -> None:
        _COPY(to, source, size)

    def memcpyAsync(self, to: int, source: int, size: int, _kind: int, _stream: int) -> None:
        _COPY(to, source, size)

    def memset(self, to: int, value: int, size: int) -> None:
        _SET(to, value, size)

    def memsetAsync(self, to: int, value: int, size: int, _stream: int) -> None:
        _SET(to, value, size)

    def deviceSynchronize(self) -> None: ...

    def streamSynchronize(self, _stream: int) -> None: ...

    def streamIsCapturing(self, _stream: int) -> int:
        return 0

    # What the driver answers.
    def ctxGetCurrent(self) -> int:
        return 1

    def ctxGetDevice(self) -> int:
        return 0

    def moduleLoadData(self, image: bytes) -> int:
        handle = len(self.modules) + 1
        self.modules[handle] = bytes(image), compiler().load(bytes(image), name="cupy")
        return handle

    def moduleUnload(self, _module: int) -> None: ...

    def moduleGetFunction(self, module: int, name: str) -> int:
        handle = len(self.functions) + 1
        self.functions[handle] = module, self.modules[module][1].kernels[name]
        return handle

    def moduleGetGlobal(self, module: int, name: str) -> int:
        return int(self.modules[module][1].globals[name].address)

    def funcGetAttribute(self, attribute: int, function: int) -> int:
        kernel = self.functions[function][1]
        return [kernel.max_threads, kernel.static_shared, 0, 0, 32, 80, 80, 0, 48 << 10][attribute]

    def funcSetAttribute(self, _function: int, _attribute: int, _value: int) -> None: ...

    def launchKernel(self, function: int, *rest: int) -> None:
        *sizes, shared, _stream, params, _extra = rest
        module, kernel = self.functions[function]
        pointers = ctypes.cast(params, ctypes.POINTER(ctypes.c_void_p))
        arguments = tuple(
            ctypes.string_at(pointers[i] or 0, size) for i, (_, size, _kind) in enumerate(kernel.params)
        )
        x, y, z, bx, by, bz = sizes
        self.launches.append(
            Launched(self.modules[module][0], kernel, (x, y, z), (bx, by, bz), shared, arguments)
        )
        launch(kernel, (x, y, z), (bx, by, bz), *arguments, dynamic_shared=shared)

    def _exchange(self, module: Any) -> None:
        table = module.__pyx_capi__
        for name in set(table) & set(dir(self)):
            signature = _CAPSULE_NAME(table[name])
            result, _, parameters = signature.decode().partition("(")
            types = [_TYPES[p] for p in parameters.rstrip(")").split(", ") if p in _TYPES]
            trailing = [ctypes.c_int] if "__pyx_skip_dispatch" in parameters else []
            function = getattr(self, name)
            prototype = ctypes.PYFUNCTYPE(_TYPES[result.strip()], *types, *trailing)
            callback = prototype(self._guarded(function, len(types)))
            self.kept += [callback, signature]
            address = ctypes.cast(callback, ctypes.c_void_p).value
            table[name] = _CAPSULE_NEW(address, signature, None)
            setattr(module, name, function)

    def _guarded(self, function: Callable[..., Any], count: int) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            try:
                return function(*arguments[:count])
            except BaseException as error:
                self.errors.append(error)
                raise

        return call


def install() -> Driver:
    """Put the cpu device beneath CuPy, which must not have been imported yet in this process."""
    os.environ["CUPY_CACHE_IN_MEMORY"] = "1"
    os.environ["CUPY_ACCELERATORS"] = ""
    from cupy_backends.cuda.api import driver as cupy_driver
    from cupy_backends.cuda.api import runtime as cupy_runtime

    driver = Driver()
    driver._exchange(cupy_runtime)
    driver._exchange(cupy_driver)
    import cupy.cuda.compiler as cupy_compiler

    # PTX where CuPy would ask NVRTC for SASS of the very device.
    cupy_compiler._get_arch_for_options_for_nvrtc = lambda arch=None: ("-arch=compute_80", "ptx")
    return driver
