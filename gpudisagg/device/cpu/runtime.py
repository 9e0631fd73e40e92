"""Functions that NVIDIA's device runtime defines and programs only declare, in CUDA C++: compiled and linked
to a module that names one. Numba's grid groups are built on these.
"""

from __future__ import annotations

from functools import cache

from gpudisagg.device import nvrtc
from gpudisagg.device.cpu.ast import Module
from gpudisagg.device.cpu.link import link
from gpudisagg.device.cpu.parser import parse

_FUNCTIONS = ("cudaCGGetIntrinsicHandle", "cudaCGSynchronize")
_SOURCE = b"""
#include <cooperative_groups.h>
extern "C" __device__ unsigned long long cudaCGGetIntrinsicHandle(enum cudaCGScope scope) {
  return scope == cudaCGScopeGrid;
}
extern "C" __device__ cudaError_t cudaCGSynchronize(unsigned long long handle, unsigned flags) {
  if (!handle) return cudaErrorInvalidValue;
  cooperative_groups::this_grid().sync();
  return cudaSuccess;
}
"""


@cache
def _runtime() -> bytes:
    return nvrtc.compile_to_ptx(_SOURCE, options=("-rdc=true",), name="device runtime")


def with_runtime(module: Module) -> Module:
    """The module, and what it needs of the device runtime."""
    for name in _FUNCTIONS:
        function = module.functions.get(name)
        if function is not None and function.body is None:
            return link([module, parse(_runtime())])
    return module
