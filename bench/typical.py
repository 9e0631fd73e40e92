"""Kernels of other kinds than those of `kernels`, against PoCL: gathers, divergent loops, scans, sorts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .kernels import Array, Case, against_pocl, side
from .row import Effort, Measured, Target, at_least

_FILE = "typical"
_TILE = 512  # values of a block that scans or sorts


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def _transpose(effort: Effort) -> Case:
    n = max(32, side(2048, effort) // 32 * 32)
    x = _rng().random((n, n), dtype=np.float32)
    grid = (n // 32, n // 32)
    return Case("transpose", grid, (32, 8), (x, np.zeros_like(x), np.int32(n)), 1, lambda: x.T.copy(), _FILE)


def _spmv(effort: Effort) -> Case:
    n, rng = (1 << 18) // effort.bulk_scale, _rng()
    rows = np.zeros(n + 1, np.int32)
    rows[1:] = np.cumsum(rng.integers(0, 33, n))
    columns = rng.integers(0, n, rows[-1]).astype(np.int32)
    values, x = rng.random(rows[-1], dtype=np.float32), rng.random(n, dtype=np.float32)

    def reference() -> Array:
        sums = np.concatenate([[0.0], np.cumsum(values * x[columns], dtype=np.float64)])
        return np.asarray(sums[rows[1:]] - sums[rows[:-1]])

    arguments = (rows, columns, values, x, np.zeros(n, np.float32), np.int32(n))
    return Case("spmv", (-(-n // 256),), (256,), arguments, 4, reference, _FILE)


def _nbody(effort: Effort) -> Case:
    n = max(128, side(4096, effort) // 128 * 128)
    bodies = _rng().random((n, 4), dtype=np.float32)

    def reference() -> Array:
        forces = np.zeros_like(bodies)
        for axis in range(3):
            away = bodies[None, :, axis] - bodies[:, None, axis]
            forces[:, axis] = (away * pull()).sum(1)
        return forces

    def pull() -> Array:
        square = np.full((n, n), np.float32(1e-3))
        for axis in range(3):
            square += (bodies[None, :, axis] - bodies[:, None, axis]) ** 2
        return np.asarray(bodies[None, :, 3] / (square * np.sqrt(square)))

    return Case(
        "nbody", (n // 128,), (128,), (bodies, np.zeros_like(bodies), np.int32(n)), 1, reference, _FILE
    )


def _mandelbrot(effort: Effort) -> Case:
    n, most = max(32, side(1024, effort) // 32 * 32), 256

    def reference() -> Array:
        at = np.float32(3) * np.arange(n, dtype=np.float32) / np.float32(n)
        cx, cy = (np.float32(-2) + at)[None, :], (np.float32(-1.5) + at)[:, None]
        x, y = np.zeros((n, n), np.float32), np.zeros((n, n), np.float32)
        counts, inside = np.zeros((n, n), np.int32), np.ones((n, n), bool)
        for _ in range(most):
            inside &= x * x + y * y < 4
            x, y = np.where(inside, x * x - y * y + cx, x), np.where(inside, 2 * x * y + cy, y)
            counts += inside
        return counts

    grid, arguments = (n // 32, n // 8), (np.zeros((n, n), np.int32), np.int32(n), np.int32(most))
    return Case("mandelbrot", grid, (32, 8), arguments, 0, reference, _FILE)


def _tiles(effort: Effort, kernel: str, reference: Callable[[Array], Array]) -> Case:
    blocks = max(1, 4096 // effort.bulk_scale)
    values = _rng().integers(0, 1 << 16, (blocks, _TILE)).astype(np.int32)
    arguments = (values, np.zeros_like(values))
    return Case(kernel, (blocks,), (_TILE // 2,), arguments, 1, lambda: reference(values), _FILE)


def _halo(effort: Effort) -> Case:
    n, rng = side(2048, effort), _rng()
    x, w = rng.random((n, n), dtype=np.float32), rng.random((5, 5), dtype=np.float32)

    def reference() -> Array:
        padded, y = np.pad(x, 2), np.zeros_like(x)
        for dy in range(5):
            for dx in range(5):
                y += w[dy, dx] * padded[dy : dy + n, dx : dx + n]
        return y

    arguments = (x, w, np.zeros_like(x), np.int32(n))
    return Case("halo", (n // 16, n // 16), (16, 16), arguments, 2, reference, _FILE)


def _black_scholes(effort: Effort) -> Case:
    n, rng = (4 << 20) // effort.bulk_scale, _rng()
    s, x, t = (rng.random(n, dtype=np.float32) * 9 + 1 for _ in range(3))

    def normal(d: Array) -> Array:
        k = 1 / (1 + 0.2316419 * abs(d))
        tail = np.polyval([1.330274429, -1.821255978, 1.781477937, -0.356563782, 0.31938153, 0], k)
        tail = 0.39894228 * np.exp(-0.5 * d * d) * tail
        return np.where(d > 0, 1 - tail, tail)

    def reference() -> Array:
        root = np.sqrt(t)
        d = (np.log(s / x) + (0.02 + 0.5 * 0.3 * 0.3) * t) / (0.3 * root)
        return np.asarray(s * normal(d) - x * np.exp(-0.02 * t) * normal(d - 0.3 * root))

    arguments = (s, x, t, np.zeros(n, np.float32), np.zeros(n, np.float32), np.int32(n))
    return Case("blackscholes", (-(-n // 256),), (256,), arguments, 3, reference, _FILE)


def transpose(effort: Effort) -> Measured:
    """2048 by 2048, through tiles in shared memory."""
    return against_pocl(_transpose, effort)


def spmv(effort: Effort) -> Measured:
    """A sparse matrix of 2^18 rows of up to 32 values, a row per thread."""
    return against_pocl(_spmv, effort)


def nbody(effort: Effort) -> Measured:
    """4096 bodies, through tiles in shared memory."""
    return against_pocl(_nbody, effort)


def mandelbrot(effort: Effort) -> Measured:
    """1024 by 1024, up to 256 iterations: loops that lanes leave one by one."""
    return against_pocl(_mandelbrot, effort)


def scan(effort: Effort) -> Measured:
    """4096 times 512 values, Blelloch's scan in shared memory."""
    return against_pocl(lambda e: _tiles(e, "scan", lambda x: np.cumsum(x, 1, dtype=np.int32) - x), effort)


def bitonic(effort: Effort) -> Measured:
    """4096 times 512 values, sorted in shared memory."""
    return against_pocl(lambda e: _tiles(e, "bitonic", lambda x: np.sort(x, 1)), effort)


def halo(effort: Effort) -> Measured:
    """5 by 5 over 2048 by 2048, tiles with a halo in shared memory."""
    return against_pocl(_halo, effort)


def black_scholes(effort: Effort) -> Measured:
    """4M options: much arithmetic for each element."""
    return against_pocl(_black_scholes, effort)


ROWS = tuple(
    Target(f"cpu device: {name}", "× PoCL's speed", "≥ 1", measured, at_least(1.0))
    for name, measured in (
        ("transpose, 2048²", transpose),
        ("sparse matrix by vector, a row per thread", spmv),
        ("n-body, 4096", nbody),
        ("mandelbrot, 1024²", mandelbrot),
        ("scan of 512 in a block", scan),
        ("bitonic sort of 512 in a block", bitonic),
        ("5 × 5 with a halo, 2048²", halo),
        ("Black-Scholes, 4M", black_scholes),
    )
)
