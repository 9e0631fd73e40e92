"""Runs operations in CuPy on the cpu device, without a GPU, and keeps the kernels CuPy makes for them:
`python -m tests.programs.cupy.generate [FOLDER]`. Each result is compared with NumPy's.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.programs.corpus import Program, trimmed

N = 300
Operation = Callable[[Any, Callable[..., Any]], Any]
OPERATIONS: dict[str, Operation] = {
    # xp is numpy or cupy; a(shape, dtype) is an array of its.
    "add_float32": lambda xp, a: a(N, "f4") + a(N, "f4"),
    "add_float32_strided": lambda xp, a: a((40, 30), "f4")[::2, ::3] + a((20, 1), "f4"),
    "add_scalar_float32": lambda xp, a: a(N, "f4") + xp.float32(2.5),
    "multiply_complex64": lambda xp, a: a(N, "c8") * a(N, "c8"),
    "divide_complex128": lambda xp, a: a(N, "c16") / a(N, "c16"),
    "true_divide_int32": lambda xp, a: a(N, "i4") / (a(N, "i4") | 1),
    "floor_divide_int32": lambda xp, a: a(N, "i4") // (a(N, "i4") | 1),
    "remainder_int64": lambda xp, a: a(N, "i8") % (a(N, "i8") | 1),
    "left_shift_uint8": lambda xp, a: xp.left_shift(a(N, "u1"), a(N, "u1") & 7),
    "gcd_int32": lambda xp, a: xp.gcd(a(N, "i4"), a(N, "i4")),
    "power_float64": lambda xp, a: xp.power(xp.abs(a(N, "f8")), a(N, "f8")),
    "sin_float32": lambda xp, a: xp.sin(a(N, "f4")),
    "exp_float64": lambda xp, a: xp.exp(a(N, "f8")),
    "log1p_float32": lambda xp, a: xp.log1p(xp.abs(a(N, "f4"))),
    "arctan2_float32": lambda xp, a: xp.arctan2(a(N, "f4"), a(N, "f4")),
    "sqrt_float16": lambda xp, a: xp.sqrt(xp.abs(a(N, "f2"))),
    "tanh_float16": lambda xp, a: xp.tanh(a(N, "f2")),
    "greater_float32": lambda xp, a: a(N, "f4") > a(N, "f4"),
    "where_float32": lambda xp, a: xp.where(a(N, "i4") > 0, a(N, "f4"), a(N, "f4")),
    "float32_to_float16": lambda xp, a: a(N, "f4").astype("f2"),
    "arange_int32": lambda xp, a: xp.arange(7, 7 + 3 * N, 3, dtype="i4"),
    "take_float32": lambda xp, a: xp.take(a(50, "f4"), a(N, "i4") % 50),
    "gamma_float64": lambda xp, a: special(xp).gammaln(xp.abs(a(N, "f8"))),
    "erf_float32": lambda xp, a: special(xp).erf(a(N, "f4")),
    "elementwise_kernel": lambda xp, a: neighbours(xp, a(N, "f4"), a(N, "f4")),
    "fused": lambda xp, a: fused(xp, a(N, "f4"), a(N, "f4")),
    "sum_float32": lambda xp, a: a(N, "f4").sum(),
    "sum_float32_axis1": lambda xp, a: a((37, 53), "f4").sum(axis=1),
    "sum_float32_axis0": lambda xp, a: a((37, 53), "f4").sum(axis=0),
    "max_int32": lambda xp, a: a((37, 53), "i4").max(axis=1),
    "argmax_float32": lambda xp, a: a((37, 53), "f4").argmax(axis=1),
    "prod_float64": lambda xp, a: a((37, 5), "f8").prod(axis=1),
    "any_bool": lambda xp, a: (a((37, 53), "i4") > 40).any(axis=1),
    "mean_float16": lambda xp, a: a((37, 53), "f2").mean(axis=1),
    "nansum_float32": lambda xp, a: xp.nansum(xp.sqrt(a((37, 53), "f4")), axis=1),
    "reduction_kernel": lambda xp, a: length(xp, a((37, 53), "f4")),
    "cumsum_int32": lambda xp, a: xp.cumsum(a((37, 53), "i4"), axis=1),
    "scatter_add_float32": lambda xp, a: scatter_add(xp, a(50, "i4"), a(50, "i4")),
    # By CUB's block reductions, which is what CuPy takes where rows are contiguous.
    "cub_reduction_kernel": lambda xp, a: length(xp, a((37, 530), "f4")),
    "cub_first_pass": lambda xp, a: length(xp, a(9000, "f4"), axis=0),
    "cub_nansum_float64": lambda xp, a: xp.nansum(a((37, 530), "f8"), axis=1),
    "cub_argmax_int32": lambda xp, a: a((37, 530), "i4").argmax(axis=1),
    "raw_kernel": lambda xp, a: raw(xp, a(N, "i4").astype("f4")),
    "jit_kernel": lambda xp, a: doubled(xp, a(N, "f4")),
}

COPIES = ("float32_to_float16",)

RAW = r"""
extern "C" __global__ void raw_sum(const float* x, float* total, int n) {
  __shared__ float part[128];
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  part[threadIdx.x] = i < n ? x[i] : 0;
  __syncthreads();
  for (int step = 64; step; step /= 2) {
    if (threadIdx.x < step) part[threadIdx.x] += part[threadIdx.x + step];
    __syncthreads();
  }
  if (threadIdx.x == 0) atomicAdd(total, part[0]);
}
"""


def special(xp: Any) -> Any:
    if xp is np:
        import scipy.special

        return scipy.special
    import cupyx.scipy.special

    return cupyx.scipy.special


def neighbours(xp: Any, x: Any, y: Any) -> Any:
    if xp is np:
        return x * np.roll(y, -1) + 0.5
    kernel = xp.ElementwiseKernel(
        "T x, raw T y, float64 s", "T z", "z = x * y[(i + 1) % _ind.size()] + s", "neighbours"
    )
    return kernel(x, y, 0.5)


def fused(xp: Any, x: Any, y: Any) -> Any:
    def plain(x: Any, y: Any) -> Any:
        return xp.tanh(x * y + 1) * y - xp.maximum(x, 0)

    return plain(x, y) if xp is np else xp.fuse(kernel_name="fused")(plain)(x, y)


def length(xp: Any, x: Any, axis: int = 1) -> Any:
    if xp is np:
        return np.sqrt((x * x).sum(axis))
    return xp.ReductionKernel("T x", "T y", "x * x", "a + b", "y = sqrt(a)", "0", "length")(x, axis=axis)


def scatter_add(xp: Any, at: Any, x: Any) -> Any:
    out = xp.zeros(50, "f4")
    if xp is np:
        np.add.at(out, at % 50, x.astype("f4"))
    else:
        import cupyx

        cupyx.scatter_add(out, at % 50, x.astype("f4"))
    return out


def raw(xp: Any, x: Any) -> Any:
    if xp is np:
        return x.sum()
    out = xp.zeros((), "f4")
    xp.RawKernel(RAW, "raw_sum")((-(-x.size // 128),), (128,), (x, out, np.int32(x.size)))
    return out


def doubled(xp: Any, x: Any) -> Any:
    if xp is np:
        return 2 * x
    from tests.programs.cupy.jitted import doubled as kernel

    out = xp.zeros_like(x)
    kernel[-(-x.size // 128), 128](x, out, np.int32(x.size))
    return out


def _maker(xp: Any, seed: int) -> Callable[..., Any]:
    rng = np.random.default_rng(seed)

    def make(shape: Any, dtype: str) -> Any:
        x = 3 * rng.standard_normal(shape)
        if dtype[0] == "c":
            x = x + 1j * rng.standard_normal(shape)
        elif dtype[0] in "iu":
            x = rng.integers(0 if dtype[0] == "u" else -50, 51, shape)
        return xp.asarray(x.astype(dtype))

    return make


def generate() -> Iterator[Program]:
    """The programs, whole. Only in a process that has not imported CuPy yet."""
    from tests.programs.cupy.beneath import install

    driver = install()
    import cupy

    for seed, (name, operation) in enumerate(OPERATIONS.items()):
        with np.errstate(all="ignore"):
            want = operation(np, _maker(np, seed))
        make = _maker(cupy, seed)
        driver.launches.clear()
        cupy._core.set_reduction_accelerators(["cub"] if name.startswith("cub_") else [])
        got = cupy.asnumpy(operation(cupy, make))
        if driver.errors:
            raise driver.errors[0]
        tolerance = 2e-3 if want.dtype == np.float16 else 1e-5
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance, err_msg=name)
        # What converts the result afterwards is an operation of its own.
        own = [launch for launch in driver.launches if "copy" not in launch.kernel.name or name in COPIES]
        last = own[0] if name == "cub_first_pass" else own[-1]
        yield Program.made(
            name,
            last.ptx.rstrip(b"\0").decode(),
            by=f"cupy {cupy.__version__}",
            threads=last.block[0],
            shared=last.shared,
        )


def main(folder: Path | None) -> None:
    for program in generate():
        if folder is None:
            program = Program.made(program.name, trimmed(program.text), **program.facts)
        program.write(folder or Path(__file__).parent)
    # CuPy frees its memory when Python has already taken down what would answer.
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
