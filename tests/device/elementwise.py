"""Runs a few PTX instructions over arrays: thread i computes out[i] from a[i], b[i], ..."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gpudisagg.device import LoadedModule
from tests.device.harness import compiler, launch

_LOADS = {1: ("u8", "b16"), 2: ("b16", "b16"), 4: ("b32", "b32"), 8: ("b64", "b64")}
Array = npt.NDArray[np.generic]

HEADER = ".version 8.0\n.target sm_80\n.address_size 64\n"
REGISTERS = """
  .reg .pred %p<8>;
  .reg .b16 %h<8>;
  .reg .b32 %r<16>;
  .reg .b64 %rd<24>;
  .reg .f32 %f<8>;
  .reg .f64 %fd<8>;
"""


@functools.lru_cache(maxsize=512)
def _module(body: str, inputs: tuple[int, ...], output: int) -> LoadedModule:
    names = "abcd"[: len(inputs)]
    params = ", ".join(f".param .u64 p_{n}" for n in (*names, "out"))
    lines = [HEADER, f".visible .entry snippet({params}, .param .u32 n)\n{{", REGISTERS]
    lines += [f"  .reg .{_LOADS[size][1]} %{n};" for n, size in zip(names, inputs, strict=True)]
    lines += [f"  .reg .{_LOADS[output][1]} %out;"]
    lines += [
        "  mov.u32 %r0, %ctaid.x; mov.u32 %r1, %ntid.x; mov.u32 %r2, %tid.x; mad.lo.s32 %r0, %r0, %r1, %r2;",
        "  ld.param.u32 %r1, [n]; setp.ge.u32 %p0, %r0, %r1; @%p0 ret;",
    ]
    for number, (n, size) in enumerate(zip((*names, "out"), (*inputs, output), strict=True)):
        lines.append(
            f"  ld.param.u64 %rd{number}, [p_{n}]; mad.wide.u32 %rd{number}, %r0, {size}, %rd{number};"
        )
        if n != "out":
            lines.append(f"  ld.global.{_LOADS[size][0]} %{n}, [%rd{number}];")
    lines += [body, f"  st.global.{_LOADS[output][0]} [%rd{len(names)}], %out;", "  ret;\n}"]
    return compiler().load("\n".join(lines).encode())


def elementwise(body: str, inputs: Sequence[Array], output: npt.DTypeLike) -> Array:
    """The results of `body`, which reads %a, %b, ... and leaves its result in %out.

    %r8 to %r15, %rd8 up, %h, %f, %fd and %p1 up are free.
    """
    arrays = [np.ascontiguousarray(a) for a in inputs]
    out = np.zeros(len(arrays[0]), output)
    module = _module(body, tuple(a.dtype.itemsize for a in arrays), out.dtype.itemsize)
    kernel = module.kernels["snippet"]
    launch(kernel, -(-len(out) // 96), 96, *arrays, out, np.uint32(len(out)))
    return out


def edge_integers(bits: int, extra: int = 64, seed: int = 0) -> tuple[Array, Array]:
    """All pairs of interesting unsigned values, and random ones."""
    unsigned = np.dtype(f"u{bits // 8}")
    top = 1 << (bits - 1)
    edges = np.array([0, 1, 2, 3, 31, 32, 33, top - 1, top, top + 1, 2 * top - 1, 2 * top - 2], unsigned)
    rng = np.random.default_rng(seed)
    a, b = (v.ravel() for v in np.meshgrid(edges, edges))
    more = rng.integers(0, 2 * top, (2, extra), dtype=unsigned)
    return np.concatenate([a, more[0]]), np.concatenate([b, more[1]])


def edge_floats(dtype: npt.DTypeLike, extra: int = 400, seed: int = 0) -> Array:
    """Zeros, subnormals, limits, infinities, NaN, and random bit patterns."""
    kind = np.dtype(dtype)
    info = np.finfo(kind)
    edges = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        1.5,
        2.5,
        -2.5,
        info.max,
        info.min,
        info.tiny,
        info.smallest_subnormal,
    ]
    rng = np.random.default_rng(seed)
    patterns = rng.integers(0, 1 << (8 * kind.itemsize), extra, dtype=f"u{kind.itemsize}").view(kind)
    middle = rng.standard_normal(extra).astype(kind)
    return np.concatenate([np.array([*edges, np.inf, -np.inf, np.nan], kind), patterns, middle])


def same_floats(got: Array, want: Array) -> None:
    """Equal bit for bit; any NaN equals any NaN."""
    nan = np.isnan(want)
    assert (np.isnan(got) == nan).all()
    bits = f"u{want.dtype.itemsize}"
    wrong = np.flatnonzero((got.view(bits) != want.view(bits)) & ~nan)
    assert wrong.size == 0, f"at {wrong[:4]}: {got[wrong[:4]]} instead of {want[wrong[:4]]}"
