"""CUDA C++ in, kernels by name out."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from gpudisagg.device import CompileError, nvrtc
from gpudisagg.device.cpu.names import base_name
from tests.device.harness import compiler, launch

HEADERS = [
    "cub/cub.cuh stdint.h limits.h cooperative_groups.h cooperative_groups/reduce.h mma.h cuda.h",
    "cuda_runtime.h cuda_fp16.h cuda_bf16.h cuda_fp8.h cuComplex.h cuda/atomic cuda/barrier cuda/pipeline "
    "cuda/std/complex algorithm array atomic complex functional iterator limits numeric optional iostream "
    "map memory string tuple type_traits utility vector cstdint cooperative_groups/memcpy_async.h",
]


@pytest.mark.parametrize("headers", HEADERS, ids=["cub", "others"])
def test_headers_are_found(headers: str) -> None:
    source = (
        "".join(f"#include <{header}>\n" for header in headers.split()).encode() + b"__global__ void k() {}"
    )
    assert b".entry" in nvrtc.compile_to_ptx(source)


def test_names_of_the_standard_library_are_those_of_libcudacxx() -> None:
    source = b"""
    #include <array>
    #include <limits>
    #include <type_traits>
    #include <utility>
    #include <cuda/std/array>
    template <typename T> __global__ void k(T *x) {
      static_assert(std::is_floating_point<T>::value);
      static_assert(std::is_same_v<std::array<T, 2>, cuda::std::array<T, 2>>);
      std::array<T, 2> both{std::numeric_limits<T>::max(), std::numeric_limits<T>::lowest()};
      auto pair = std::make_pair(both[0], std::move(both[1]));
      x[0] = pair.first;
      x[1] = pair.second;
    }
    template __global__ void k<float>(float *);
    """
    out = np.zeros(2, np.float32)
    launch(compiler().load(source).kernels["k"], 1, 1, out)
    assert out.tolist() == [np.finfo(np.float32).max, np.finfo(np.float32).min]


def test_options_reach_the_compiler() -> None:
    module = compiler().load(b"__global__ void k(int *x) { *x = VALUE; }", options=("-DVALUE=7",))
    out = np.zeros(1, np.int32)
    launch(module.kernels["k"], 1, 1, out)
    assert out[0] == 7


def test_plain_names_of_mangled_kernels() -> None:
    source = b"""
    __global__ void saxpy(float *x) { x[0] = 1; }
    namespace ns { __global__ void inner(int) {} }
    __global__ void twice(int) {}
    __global__ void twice(float) {}
    template <typename T> __global__ void generic(T *x) {}
    template __global__ void generic<float>(float *);
    __device__ int counter;
    """
    module = compiler().load(source)
    assert {"saxpy", "inner", "generic"} <= module.kernels.keys()
    assert "twice" not in module.kernels
    assert module.kernels["saxpy"] is module.kernels["_Z5saxpyPf"]
    assert module.globals["counter"].size == 4


def test_base_names() -> None:
    assert base_name("_Z5saxpyiPf") == "saxpy"
    assert base_name("_ZN2ns5innerEi") == "inner"
    assert base_name("plain") is None
    assert base_name("_Z99short") is None
    assert base_name("_ZN") is None


def test_importing_the_package_is_light() -> None:
    code = (
        "import sys, gpudisagg.device, gpudisagg.device.cpu.compiler; "
        "print('llvmlite' in sys.modules, 'cuda.bindings' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


HABITS = r"""
#include <cassert>
#include <cfloat>
#include <climits>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <inttypes.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <cuda_runtime.h>
#include <cuda_fp16.h>
#include <cuda/std/cstdint>

extern "C" __global__ void k(double *out, std::uint64_t n, int32_t m) {
  assert(n < UINT32_MAX && m < INT_MAX);
  if (n == 12345) std::printf("%d", m);
  uint8_t bytes[8];
  std::memcpy(bytes, &n, sizeof n);
  out[0] = std::sqrt((double)n) + std::pow(2.0, m) + fabsf(-1.0f) + std::isnan(NAN);
  out[1] = FLT_EPSILON * M_PI + bytes[0];
  out[2] = std::size_t(INT64_MAX) == (size_t)LLONG_MAX;
}
"""


def test_headers_that_programs_include_out_of_habit() -> None:
    import math

    out = np.zeros(3)
    module = compiler().load(HABITS.encode(), name="habits")
    launch(module.kernels["k"], 1, 1, out, np.uint64(16), np.int32(3))
    module.close()
    assert out.tolist() == [4 + 8 + 1 + 1, float(np.float32(1.1920929e-07)) * math.pi + 16, 1]


def test_what_nvcc_has_without_being_asked() -> None:
    source = b"""extern "C" __global__ void k(float *x, unsigned __int128 *y, const uint8_t *z) {
      x[0] = INFINITY + FLT_MAX + M_PI + INT_MAX; *y *= *z; }"""
    assert b".entry k" in nvrtc.compile_to_ptx(source)
    with pytest.raises(CompileError) as caught:
        nvrtc.compile_to_ptx(b"__global__ void k(float *x) { x[0] = INFINITY + MISSING; }", name="mine")
    assert "mine.cu(1)" in str(caught.value) and "INFINITY" in caught.value.log
    # Names of a program's own come first.
    own = b"const float M_PI = 3; __global__ void k(float *x) { x[0] = M_PI; }"
    assert b"40400000" in nvrtc.compile_to_ptx(own).lower() or b"1077936128" in nvrtc.compile_to_ptx(own)
