"""Numba kernels as people write them. Read by `generate.py` only."""

# mypy: ignore-errors

from __future__ import annotations

import math

import numba
import numpy as np
from numba import cuda, float32, float64, int32
from numba.cuda import random as rng

TILE = 16
TAPS = np.array([0.25, 0.5, 0.125, 0.0625, 0.0625], np.float32)
FORCE = np.dtype([("x", np.float32), ("count", np.int16), ("weight", np.float64)], align=True)
KERNELS = {}


def kernel(signature):
    def collect(function):
        KERNELS[function.__name__] = function, signature
        return function

    return collect


@kernel("void(float32, float32[::1], float32[::1])")
def saxpy(a, x, y):
    i = cuda.grid(1)
    if i < x.size:
        y[i] += a * x[i]


@kernel("void(float64[:], float64[:], float64[:])")
def strided_add(x, y, out):
    """Arrays of any stride; a grid-stride loop."""
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        out[i] = x[i] + y[-1 - i]


@kernel("void(float32[:, ::1], float32[:, ::1], float32[:, ::1])")
def matmul(a, b, c):
    sa = cuda.shared.array((TILE, TILE), float32)
    sb = cuda.shared.array((TILE, TILE), float32)
    x, y = cuda.grid(2)
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    total = float32(0.0)
    for tile in range((a.shape[1] + TILE - 1) // TILE):
        sa[ty, tx] = 0
        sb[ty, tx] = 0
        if y < a.shape[0] and tx + tile * TILE < a.shape[1]:
            sa[ty, tx] = a[y, tx + tile * TILE]
        if x < b.shape[1] and ty + tile * TILE < b.shape[0]:
            sb[ty, tx] = b[ty + tile * TILE, x]
        cuda.syncthreads()
        for k in range(TILE):
            total += sa[ty, k] * sb[k, tx]
        cuda.syncthreads()
    if y < c.shape[0] and x < c.shape[1]:
        c[y, x] = total


@kernel("void(float64[::1], float64[::1])")
def block_sum(x, out):
    shared = cuda.shared.array(128, float64)
    t = cuda.threadIdx.x
    i = cuda.grid(1)
    shared[t] = x[i] if i < x.size else 0.0
    cuda.syncthreads()
    step = cuda.blockDim.x // 2
    while step > 0:
        if t < step:
            shared[t] += shared[t + step]
        cuda.syncthreads()
        step //= 2
    if t == 0:
        cuda.atomic.add(out, 0, shared[0])


@kernel("void(int32[::1], int32[::1])")
def dynamic_reverse(x, out):
    """Dynamic shared memory, and one block."""
    shared = cuda.shared.array(0, int32)
    t = cuda.threadIdx.x
    if t < x.size:
        shared[t] = x[t]
    cuda.syncthreads()
    if t < x.size:
        out[t] = shared[x.size - 1 - t]


@kernel("void(int32[::1], int32[::1])")
def scan(x, totals):
    """Blelloch's exclusive scan of a block of 256, in place."""
    shared = cuda.shared.array(256, int32)
    t = cuda.threadIdx.x
    i = cuda.grid(1)
    shared[t] = x[i] if i < x.size else 0
    step = 1
    d = 128
    while d > 0:
        cuda.syncthreads()
        if t < d:
            shared[step * (2 * t + 2) - 1] += shared[step * (2 * t + 1) - 1]
        step *= 2
        d //= 2
    if t == 0:
        totals[cuda.blockIdx.x] = shared[255]
        shared[255] = 0
    d = 1
    while d < 256:
        step //= 2
        cuda.syncthreads()
        if t < d:
            left, right = step * (2 * t + 1) - 1, step * (2 * t + 2) - 1
            kept = shared[left]
            shared[left] = shared[right]
            shared[right] += kept
        d *= 2
    cuda.syncthreads()
    if i < x.size:
        x[i] = shared[t]


@kernel("void(uint8[::1], int32[::1])")
def histogram(x, out):
    counts = cuda.shared.array(256, int32)
    for b in range(cuda.threadIdx.x, 256, cuda.blockDim.x):
        counts[b] = 0
    cuda.syncthreads()
    for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
        cuda.atomic.add(counts, x[i], 1)
    cuda.syncthreads()
    for b in range(cuda.threadIdx.x, 256, cuda.blockDim.x):
        cuda.atomic.add(out, b, counts[b])


@kernel("void(float64[::1], int32[::1], float64[::1], float32[::1], uint64[::1], int64[::1])")
def atomics(x, words, extremes, sums, bits, swaps):
    i = cuda.grid(1)
    if i < x.size:
        cuda.atomic.max(extremes, 0, x[i])
        cuda.atomic.min(extremes, 1, x[i])
        cuda.atomic.nanmax(extremes, 2, x[i])
        cuda.atomic.add(sums, words[i] % 7, float32(words[i]))
        cuda.atomic.sub(sums, 7, float32(words[i]))
        cuda.atomic.and_(bits, 0, ~numba.uint64(words[i] & 1023))
        cuda.atomic.or_(bits, 1, numba.uint64(words[i] & 1023))
        cuda.atomic.xor(bits, 2, numba.uint64(words[i] & 1023))
        cuda.atomic.inc(bits, 3, numba.uint64(1000000))
        cuda.atomic.max(swaps, 0, numba.int64(words[i]))
        if cuda.atomic.cas(swaps, 1, numba.int64(0), numba.int64(i + 1)) == 0:
            swaps[2] = i + 1
        cuda.atomic.exch(swaps, 3, numba.int64(5))


@kernel("void(int32[::1], int32[::1], int32)")
def spin_lock(lock, value, rounds):
    """One thread of each block takes the lock in turn."""
    if cuda.threadIdx.x == 0:
        for _ in range(rounds):
            while cuda.atomic.cas(lock, 0, 0, 1) != 0:
                pass
            cuda.threadfence()
            value[0] = value[0] * 2 % 1000003 + 1
            cuda.threadfence()
            cuda.atomic.exch(lock, 0, 0)


@cuda.jit(device=True)
def _escape(x, y, limit):
    c = complex(x, y)
    z = 0.0j
    for i in range(limit):
        z = z * z + c
        if z.real * z.real + z.imag * z.imag >= 4:
            return i
    return limit


@kernel("void(float64, float64, float64, float64, int32[:, ::1], int32)")
def mandelbrot(x0, x1, y0, y1, image, limit):
    rows, columns = image.shape
    start_x, start_y = cuda.grid(2)
    step_x, step_y = cuda.gridsize(2)
    for x in range(start_x, columns, step_x):
        for y in range(start_y, rows, step_y):
            image[y, x] = _escape(x0 + x * (x1 - x0) / columns, y0 + y * (y1 - y0) / rows, limit)


@kernel("void(complex64, complex64[:, ::1], uint8[:, ::1])")
def julia(c, z, out):
    x, y = cuda.grid(2)
    if y < z.shape[0] and x < z.shape[1]:
        v = z[y, x]
        n = 0
        while n < 100 and abs(v) <= 2.0:
            v = v * v + c
            n += 1
        out[y, x] = n


@kernel("void(float64[::1], float64[::1], float64[:, ::1])")
def mathematics(x, y, out):
    i = cuda.grid(1)
    if i < x.size:
        a, b = x[i], y[i]
        p = abs(a) + 0.25
        out[0, i] = math.sin(a)
        out[1, i] = math.cos(a)
        out[2, i] = math.tan(a)
        out[3, i] = math.exp(a)
        out[4, i] = math.log(p)
        out[5, i] = math.pow(p, b)
        out[6, i] = math.atan2(a, b)
        out[7, i] = math.hypot(a, b)
        out[8, i] = math.erf(a)
        out[9, i] = math.lgamma(p)
        out[10, i] = math.gamma(p)
        out[11, i] = math.tanh(a)
        out[12, i] = math.log1p(p)
        out[13, i] = math.expm1(a)
        out[14, i] = math.acosh(1 + p)
        out[15, i] = math.fmod(a, p * 0.1)
        out[16, i] = math.floor(a) + math.ceil(b) * math.copysign(2.0, a)
        out[17, i] = math.sqrt(p)
        out[18, i] = a % b
        out[19, i] = a // b
        out[20, i] = math.ldexp(a, 3) + math.frexp(b)[0]
        out[21, i] = round(a) + int(b)
        out[22, i] = math.erfc(a)
        out[23, i] = math.asinh(a) + math.atan(b)


@kernel("void(float32[::1], float32[:, ::1])")
def fast_mathematics(x, out):
    """Compiled with `fastmath`."""
    i = cuda.grid(1)
    if i < x.size:
        a = x[i]
        out[0, i] = math.sin(a)
        out[1, i] = math.exp(a)
        out[2, i] = math.log(abs(a) + float32(0.5))
        out[3, i] = a / (float32(1) + a * a)
        out[4, i] = math.sqrt(abs(a))
        out[5, i] = math.pow(abs(a), float32(1.5))
        out[6, i] = math.tanh(a)


@kernel("void(int32[::1], int32[::1], int64[:, ::1])")
def integers(x, y, out):
    """Python's integer semantics."""
    i = cuda.grid(1)
    if i < x.size:
        a, b = x[i], y[i]
        out[0, i] = a // b
        out[1, i] = a % b
        out[2, i] = cuda.popc(a)
        out[3, i] = cuda.clz(a)
        out[4, i] = cuda.brev(numba.uint32(a))
        out[5, i] = cuda.ffs(a)
        out[6, i] = (a << (b & 7)) ^ (a >> (b & 7))
        out[7, i] = cuda.selp(a > b, numba.int64(a), numba.int64(b))
        out[8, i] = min(a, b) * max(a, b)
        out[9, i] = a ** numba.int32(3)


@kernel("void(float32[:, ::1], int32)")
def sort_rows(x, columns):
    """A local array per thread: insertion sort of up to 32 values."""
    row = cuda.grid(1)
    if row < x.shape[0]:
        values = cuda.local.array(32, float32)
        for i in range(columns):
            v = x[row, i]
            j = i
            while j > 0 and values[j - 1] > v:
                values[j] = values[j - 1]
                j -= 1
            values[j] = v
        for i in range(columns):
            x[row, i] = values[i]


@cuda.jit(device=True)
def _fibonacci(n):
    if n < 2:
        return n
    return _fibonacci(n - 1) + _fibonacci(n - 2)


@kernel("void(int64[::1])")
def recursion(x):
    i = cuda.grid(1)
    if i < x.size:
        x[i] = _fibonacci(x[i])


@kernel("void(int32[::1], int32[:, ::1])")
def warp(x, out):
    i = cuda.grid(1)
    v = x[i]
    out[0, i] = cuda.shfl_sync(-1, v, 3)
    out[1, i] = cuda.shfl_up_sync(-1, v, 1)
    out[2, i] = cuda.shfl_down_sync(-1, v, 2)
    out[3, i] = cuda.shfl_xor_sync(-1, v, 5)
    out[4, i] = cuda.ballot_sync(-1, v > 0)
    out[5, i] = cuda.any_sync(-1, v == 7)
    out[6, i] = cuda.all_sync(-1, v > -5)
    out[7, i] = cuda.match_any_sync(-1, v)
    if v > 0:
        out[8, i] = cuda.activemask()
    cuda.syncwarp()
    out[9, i] = cuda.laneid + cuda.warpsize
    total = v
    for step in (16, 8, 4, 2, 1):
        total += cuda.shfl_xor_sync(-1, total, step)
    out[10, i] = total


@kernel("void(int32[::1], int32[:, ::1])")
def votes(x, out):
    t = cuda.threadIdx.x
    out[0, t] = cuda.syncthreads_count(int32(x[t] > 0))
    out[1, t] = cuda.syncthreads_and(int32(x[t] > -9))
    out[2, t] = cuda.syncthreads_or(int32(x[t] == 9))


@kernel("void(float32[::1], float32[::1])")
def convolve(x, out):
    """Constant memory."""
    taps = cuda.const.array_like(TAPS)
    i = cuda.grid(1)
    if i < out.size:
        total = float32(0)
        for k in range(5):
            total += taps[k] * x[i + k]
        out[i] = total


@kernel("void(uint8[:, :, ::1], uint8[:, ::1])")
def grey(image, out):
    x, y = cuda.grid(2)
    if y < out.shape[0] and x < out.shape[1]:
        r, g, b = image[y, x, 0], image[y, x, 1], image[y, x, 2]
        out[y, x] = (r * 77 + g * 150 + b * 29) >> 8


@kernel("void(float64[:, ::1], float64[:, ::1])")
def jacobi(x, out):
    column, row = cuda.grid(2)
    if 0 < row < x.shape[0] - 1 and 0 < column < x.shape[1] - 1:
        out[row, column] = 0.25 * (
            x[row - 1, column] + x[row + 1, column] + x[row, column - 1] + x[row, column + 1]
        )


@kernel((numba.from_dtype(FORCE)[::1], numba.float64[::1]))
def records(force, out):
    i = cuda.grid(1)
    if i < force.size:
        out[i] = force[i].x * force[i].count + force[i].weight
        force[i].count += 1


@kernel((rng.xoroshiro128p_type[::1], numba.int32, numba.float64[::1], numba.float32[::1]))
def monte_carlo(states, rounds, share, normal):
    i = cuda.grid(1)
    if i < states.size:
        inside = 0
        for _ in range(rounds):
            x = rng.xoroshiro128p_uniform_float64(states, i)
            y = rng.xoroshiro128p_uniform_float64(states, i)
            if x * x + y * y <= 1.0:
                inside += 1
        share[i] = inside
        normal[i] = rng.xoroshiro128p_normal_float32(states, i)


@kernel("void(UniTuple(float64[::1], 3), UniTuple(float64, 3))")
def weighted(arrays, weights):
    """Tuples as arguments."""
    i = cuda.grid(1)
    if i < arrays[0].size:
        arrays[2][i] = arrays[0][i] * weights[0] + arrays[1][i] * weights[1] + weights[2]


@kernel("void(complex128[::1], complex128[::1], float64[::1])")
def complexes(x, y, out):
    i = cuda.grid(1)
    if i < x.size:
        a, b = x[i], y[i]
        x[i] = a * b + a.conjugate()
        y[i] = a / b
        out[i] = abs(a)


@kernel("void(float64[::1], float64[::1], float64, float64)")
def black_scholes(price, out, strike, years):
    i = cuda.grid(1)
    if i < price.size:
        s = price[i]
        spread = 0.3 * math.sqrt(years)
        d1 = (math.log(s / strike) + (0.02 + 0.045) * years) / spread
        d2 = d1 - spread
        out[i] = s * 0.5 * (1 + math.erf(d1 / math.sqrt(2.0))) - strike * math.exp(-0.02 * years) * 0.5 * (
            1 + math.erf(d2 / math.sqrt(2.0))
        )


@kernel("void(float32[:, ::1], float32[:, ::1])")
def bodies(place, force):
    """All pairs, a tile of 64 at a time."""
    tile = cuda.shared.array((64, 3), float32)
    i = cuda.grid(1)
    n = place.shape[0]
    t = cuda.threadIdx.x
    fx, fy, fz = float32(0), float32(0), float32(0)
    for start in range(0, n, 64):
        if start + t < n:
            for d in range(3):
                tile[t, d] = place[start + t, d]
        cuda.syncthreads()
        if i < n:
            for j in range(min(64, n - start)):
                dx, dy, dz = tile[j, 0] - place[i, 0], tile[j, 1] - place[i, 1], tile[j, 2] - place[i, 2]
                d2 = dx * dx + dy * dy + dz * dz + float32(0.01)
                w = float32(1) / (d2 * math.sqrt(d2))
                fx += dx * w
                fy += dy * w
                fz += dz * w
        cuda.syncthreads()
    if i < n:
        force[i, 0], force[i, 1], force[i, 2] = fx, fy, fz
