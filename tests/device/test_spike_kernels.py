"""Real CUDA kernels give what numpy gives, for ragged sizes and blocks that aren't whole warps."""

from __future__ import annotations

import ctypes
import math
import struct

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.device.harness import launch, load_file

sizes = st.integers(1, 3000)
blocks = st.sampled_from([1, 7, 32, 33, 96, 128, 250, 256, 1024])
seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=25, deadline=None)


def grid_for(n: int, block: int) -> int:
    return -(-n // block)


@few
@given(sizes, blocks, seeds)
def test_saxpy(n: int, block: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((2, n + 5)).astype(np.float32)
    want = y.copy()
    want[:n] = (np.float64(1.5) * x[:n] + y[:n]).astype(np.float32)
    launch(
        load_file("saxpy.cu").kernels["saxpy"], grid_for(n, block), block, np.int32(n), np.float32(1.5), x, y
    )
    np.testing.assert_array_equal(y, want)


@few
@given(st.integers(1, 70), seeds)
def test_matmul(n: int, seed: int) -> None:
    a, b = np.random.default_rng(seed).standard_normal((2, n, n)).astype(np.float32)
    c = np.zeros((n, n), np.float32)
    tiles = grid_for(n, 16)
    launch(load_file("matmul.cu").kernels["matmul"], (tiles, tiles), (16, 16), a, b, c, np.int32(n))
    np.testing.assert_allclose(c, a.astype(np.float64) @ b, rtol=1e-4, atol=1e-4)


@few
@given(st.integers(1, 9), st.integers(1, 700), st.sampled_from([1, 2, 16, 32, 64, 256]), seeds)
def test_softmax(rows: int, columns: int, block: int, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32) * 4
    y = np.zeros_like(x)
    kernel = load_file("softmax.cu").kernels["softmax"]
    launch(kernel, rows, block, x, y, np.int32(columns), dynamic_shared=4 * block)
    e = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    np.testing.assert_allclose(y, e / e.sum(1, keepdims=True), rtol=2e-5)


@few
@given(sizes, blocks, st.integers(1, 5), seeds)
def test_histogram(n: int, block: int, grid: int, seed: int) -> None:
    data = np.random.default_rng(seed).integers(0, 256, n, dtype=np.uint8)
    counts = np.zeros(256, np.uint32)
    launch(load_file("histogram.cu").kernels["histogram"], grid, block, data, counts, np.int32(n))
    np.testing.assert_array_equal(counts, np.bincount(data, minlength=256))


@few
@given(sizes, st.sampled_from([32, 64, 256, 1024]), st.integers(1, 5), seeds)
def test_reduce(n: int, block: int, grid: int, seed: int) -> None:
    x = np.random.default_rng(seed).integers(-8, 8, n).astype(np.float32)
    out = np.zeros(1, np.float32)
    launch(load_file("reduce.cu").kernels["reduce"], grid, block, x, out, np.int32(n))
    assert out[0] == x.sum()


@few
@given(sizes, blocks, seeds)
def test_half_axpy_rounds_once(n: int, block: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((2, 2 * n)).astype(np.float16)
    a = np.float16(rng.standard_normal())
    want = (a.astype(np.float64) * x.astype(np.float64) + y.astype(np.float64)).astype(np.float16)
    launch(load_file("half2.cu").kernels["axpy_h2"], grid_for(n, block), block, np.int32(n), a, x, y)
    np.testing.assert_array_equal(y, want)


@few
@given(sizes, blocks, seeds)
def test_half_gelu(n: int, block: int, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal(n).astype(np.float16)
    y = np.zeros_like(x)
    launch(load_file("half2.cu").kernels["gelu_h"], grid_for(n, block), block, np.int32(n), x, y)
    want = [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x.astype(float)]
    np.testing.assert_allclose(y, want, atol=2e-3)


@few
@given(st.integers(8, 3000), blocks, seeds)
def test_convolution_with_constant_memory(n: int, block: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y, taps = rng.standard_normal(n).astype("f4"), np.zeros(n, "f4"), rng.standard_normal(8).astype("f4")
    module = load_file("misc.cu")
    ctypes.memmove(module.globals["taps"].address, taps.ctypes.data, 32)
    config = struct.pack("<ifd", n, 2.0, 0.5)
    launch(module.kernels["conv1d"], grid_for(n, block), block, x, y, config)
    want = 2 * np.convolve(x, taps[::-1], "valid") + 0.5
    np.testing.assert_allclose(y[: n - 7], want, atol=1e-4)
    assert not y[n - 7 :].any()


@few
@given(sizes, blocks, seeds)
def test_vector_types_and_functions(n: int, block: int, seed: int) -> None:
    a = np.random.default_rng(seed).standard_normal((n, 4)).astype(np.float32)
    b = np.zeros_like(a)
    launch(load_file("misc.cu").kernels["copy4"], grid_for(n, block), block, a, b, np.int32(n))
    want = np.stack([a[:, 0] * 2, a[:, 1] + 1, 1 / np.sqrt(np.abs(a[:, 2]) + 1), np.sin(a[:, 3])], 1)
    np.testing.assert_allclose(b, want, rtol=1e-5, atol=1e-6)


@few
@given(sizes, st.sampled_from([32, 64, 256]), seeds)
def test_compaction_by_ballot(n: int, block: int, seed: int) -> None:
    x = np.random.default_rng(seed).integers(-100, 100, n, dtype=np.int32)
    out, count = np.zeros(n, np.int32), np.zeros(1, np.int32)
    launch(load_file("misc.cu").kernels["compact"], grid_for(n, block), block, x, out, count, np.int32(n))
    np.testing.assert_array_equal(out[: count[0]], x[x > 0])


@few
@given(st.integers(1, 50), st.integers(1, 50))
def test_mandelbrot_in_double(w: int, h: int) -> None:
    out = np.zeros((h, w), np.int32)
    kernel = load_file("misc.cu").kernels["mandel"]
    doubles = (np.float64(-2), np.float64(-1.5), np.float64(0.0625))
    launch(
        kernel,
        (grid_for(w, 16), grid_for(h, 16)),
        (16, 16),
        out,
        np.int32(w),
        np.int32(h),
        *doubles,
        np.int32(60),
    )
    cx, cy = np.meshgrid(-2 + np.arange(w) * 0.0625, -1.5 + np.arange(h) * 0.0625)
    zx, zy, steps = np.zeros_like(cx), np.zeros_like(cx), np.zeros(cx.shape, np.int32)
    for _ in range(60):
        inside = zx * zx + zy * zy < 4.0
        steps += inside
        zx, zy = np.where(inside, zx * zx - zy * zy + cx, zx), np.where(inside, 2 * zx * zy + cy, zy)
    assert (out != steps).mean() < 0.01  # fused multiply-adds move points on the border


@few
@given(sizes, blocks, seeds)
def test_maximum_by_compare_and_swap(n: int, block: int, seed: int) -> None:
    x = np.abs(np.random.default_rng(seed).standard_normal(n)).astype(np.float32)
    most = np.zeros(1, np.float32)
    launch(load_file("misc.cu").kernels["casmax"], grid_for(n, block), block, x, most, np.int32(n))
    assert most[0] == x.max()


def test_library_functions() -> None:
    x = np.random.default_rng(0).uniform(0.1, 30, 256)
    y, v = np.zeros(256, np.float32), np.zeros(256)
    single = x.astype(np.float32)
    launch(load_file("misc.cu").kernels["library"], 1, 256, single, y, x, v)
    a = single.astype(np.float64)
    want = np.sin(a) + a**2.5 + np.log(a) + np.tan(a) + np.arctan2(a, 2) + np.cbrt(a) + np.tanh(a) + a / 3
    np.testing.assert_allclose(y, want + np.fmod(a, np.float32(0.7)), rtol=1e-5)
    want = np.sin(x) + x**2.5 + np.log(x) + np.exp(x) + x / 3 + np.fmod(x, 0.7) + np.sqrt(x) + np.tanh(x)
    np.testing.assert_allclose(v, want + 1 / x, rtol=1e-13)
