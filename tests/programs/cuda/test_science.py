"""The kernels of benchmark suites."""

from __future__ import annotations

import ctypes
import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.device.harness import launch
from tests.programs.cuda.source import Source, few, rng, seeds

source = Source("science.cu")
sides = st.integers(1, 40)


def ints(*values: int) -> list[np.generic]:
    return [np.int32(v) for v in values]


@few
@given(n=st.integers(1, 150), seed=seeds)
def test_bodies(n: int, seed: int) -> None:
    bodies, out = rng(seed).uniform(0, 1, (n, 4)).astype(np.float32), np.zeros((n, 4), np.float32)
    launch(source["nbody"], -(-n // 64), 64, bodies, out, np.int32(n), np.float32(0.1), dynamic_shared=1024)
    p = bodies[:, :3].astype(float)
    r = p[None] - p[:, None]
    s = bodies[:, 3] * ((r**2).sum(-1) + 0.1) ** -1.5
    np.testing.assert_allclose(out[:, :3], (r * s[..., None]).sum(1), 1e-3, 1e-3)


@few
@given(n=st.integers(1, 100), seed=seeds)
def test_options(n: int, seed: int) -> None:
    s, x, t = rng(seed).uniform([[5], [1], [0.25]], [[30], [100], [10]], (3, 2 * n)).astype(np.float32)
    call, put = np.zeros(2 * n, np.float32), np.zeros(2 * n, np.float32)
    launch(
        source["BlackScholes"],
        -(-n // 64),
        64,
        call,
        put,
        s,
        x,
        t,
        np.float32(0.02),
        np.float32(0.3),
        np.int32(2 * n),
    )
    d1 = (np.log(s / x.astype(float)) + (0.02 + 0.045) * t) / (0.3 * np.sqrt(t))
    phi = np.vectorize(lambda v: 0.5 * math.erfc(-v / math.sqrt(2)))
    want = s * phi(d1) - x * np.exp(-0.02 * t) * phi(d1 - 0.3 * np.sqrt(t))
    np.testing.assert_allclose(call, want, 1e-3, 1e-3)
    np.testing.assert_allclose(put, want - s + x * np.exp(-0.02 * t), 1e-3, 1e-3)


@few
@given(w=sides, h=sides, seed=seeds)
def test_images(w: int, h: int, seed: int) -> None:
    taps = rng(seed).normal(size=9).astype(np.float32)
    ctypes.memmove(source.module.globals["c_Kernel"].address, taps.ctypes.data, taps.nbytes)
    x = rng(seed).normal(size=(h, w)).astype(np.float32)
    out = np.zeros_like(x)
    launch(source["convolutionRows"], (-(-w // 32), -(-h // 4)), (32, 4), out, x, *ints(w, h))
    want = [np.convolve(row, taps.astype(float))[4 : 4 + w] for row in x]
    np.testing.assert_allclose(out, want, 1e-4, 1e-4)
    pixels = rng(seed).integers(0, 256, (h, w), dtype=np.uint8)
    edges = np.zeros_like(pixels)
    grid = (-(-w // 16), -(-h // 16))
    launch(source["sobel"], grid, (16, 16), pixels, edges, *ints(w, h))
    p = np.pad(pixels.astype(int), 1, mode="edge")
    gx = (p[:, 2:] - p[:, :-2])[:-2] + 2 * (p[:, 2:] - p[:, :-2])[1:-1] + (p[:, 2:] - p[:, :-2])[2:]
    d = p[2:] - p[:-2]
    np.testing.assert_array_equal(
        edges, np.minimum(abs(gx) + abs(d[:, :-2] + 2 * d[:, 1:-1] + d[:, 2:]), 255)
    )
    launch(source["bilateral"], grid, (16, 16), x, out, *ints(w, h, 2), np.float32(3), np.float32(0.5))
    padded = np.pad(x.astype(float), 2, constant_values=np.nan)
    total, weight = np.zeros((h, w)), np.zeros((h, w))
    for j in range(5):
        for i in range(5):
            v = padded[j : j + h, i : i + w]
            g = np.exp(-((i - 2) ** 2 + (j - 2) ** 2) / 3 - (v - x) ** 2 / 0.5)
            total += np.nan_to_num(g * v)
            weight += np.nan_to_num(g)
    np.testing.assert_allclose(out, total / weight, 1e-4, 1e-5)


@few
@given(w=st.integers(1, 4), h=st.integers(1, 4), log=st.integers(1, 10), seed=seeds)
def test_transforms(w: int, h: int, log: int, seed: int) -> None:
    x = rng(seed).normal(size=(8 * h, 8 * w)).astype(np.float32)
    out = np.zeros_like(x)
    launch(source["dct8x8"], (w, h), (8, 8), x, out, np.int32(8 * w))
    k = np.arange(8)
    basis = np.cos(np.pi * np.outer(k, 2 * k + 1) / 16) * np.where(k == 0, math.sqrt(1 / 8), 0.5)[:, None]
    tiles = x.reshape(h, 8, w, 8)
    want = np.einsum("ai,hiwj,bj->hawb", basis, tiles, basis).reshape(x.shape)
    np.testing.assert_allclose(out, want, 1e-4, 1e-4)
    n = 1 << log
    z = (rng(seed).normal(size=(w, n)) + 1j * rng(seed + 1).normal(size=(w, n))).astype(np.complex64)
    expected = np.fft.fft(z)
    launch(source["fft_shared"], w, 64, z, np.int32(log), dynamic_shared=8 * n)
    np.testing.assert_allclose(z, expected, 1e-3, 1e-3)


@few
@given(n=st.integers(1, 80), seed=seeds)
def test_levels_of_a_graph(n: int, seed: int) -> None:
    links = rng(seed).random((n, n)) < 2 / n
    nodes = np.stack([np.cumsum(links.sum(1)) - links.sum(1), links.sum(1)], 1).astype(np.int32)
    edges = np.append(np.nonzero(links)[1], 0).astype(np.int32)
    frontier, updating, visited = (np.zeros(n, np.bool_) for _ in range(3))
    frontier[0] = visited[0] = True
    cost, over = np.full(n, -1, np.int32), np.ones(1, np.bool_)
    cost[0] = 0
    while over[0]:
        over[0] = False
        launch(
            source["bfs_visit"], -(-n // 32), 32, nodes, edges, frontier, updating, visited, cost, np.int32(n)
        )
        launch(source["bfs_update"], -(-n // 32), 32, frontier, updating, visited, over, np.int32(n))
    want, level, seen = np.full(n, -1), 0, np.arange(n) == 0
    while (new := seen & (want < 0)).any():
        want[new] = level
        seen, level = seen | links[new].any(0), level + 1
    np.testing.assert_array_equal(cost, want)


@few
@given(w=sides, h=sides, steps=st.integers(1, 4), seed=seeds)
def test_heat(w: int, h: int, steps: int, seed: int) -> None:
    power, heat = rng(seed).random((2, h, w)).astype(np.float32)
    out, inner = np.zeros((h, w), np.float32), 16 - 2 * steps
    launch(
        source["hotspot"],
        (-(-w // inner), -(-h // inner)),
        (16, 16),
        np.int32(steps),
        power,
        heat,
        out,
        *ints(w, h),
        np.float32(0.1),
    )
    want = heat.astype(float)
    for _ in range(steps):
        p = np.pad(want, 1, mode="edge")
        want = want + 0.1 * (p[2:, 1:-1] + p[:-2, 1:-1] + p[1:-1, 2:] + p[1:-1, :-2] - 4 * want) + power
    np.testing.assert_allclose(out, want, 1e-4)


@few
@given(rows=st.integers(1, 20), columns=st.integers(1, 100), seed=seeds)
def test_dynamic_programming(rows: int, columns: int, seed: int) -> None:
    reference = rng(seed).integers(-5, 6, (17, 17)).astype(np.int32)
    matrix = np.zeros((17, 17), np.int32)
    matrix[0] = matrix[:, 0] = -3 * np.arange(17)
    want = matrix.copy()
    for y, x in np.ndindex(16, 16):
        want[y + 1, x + 1] = max(want[y, x] + reference[y + 1, x + 1], want[y + 1, x] - 3, want[y, x + 1] - 3)
    launch(source["needle"], 1, 16, reference, matrix, *ints(17, 3))
    np.testing.assert_array_equal(matrix, want)
    wall, result = rng(seed).integers(0, 10, (rows, columns)).astype(np.int32), np.zeros(columns, np.int32)
    launch(source["pathfinder"], 1, 64, wall, result, *ints(rows, columns), dynamic_shared=8 * columns)
    best = wall[0]
    for row in wall[1:]:
        p = np.pad(best, 1, mode="edge")
        best = row + np.minimum(best, np.minimum(p[2:], p[:-2]))
    np.testing.assert_array_equal(result, best)


@few
@given(n=st.integers(1, 200), k=st.integers(1, 6), dims=st.integers(1, 5), seed=seeds)
def test_decomposition_and_clusters(n: int, k: int, dims: int, seed: int) -> None:
    m = (rng(seed).random((16, 16)) + 16 * np.eye(16)).astype(np.float32)
    lu = m.copy()
    launch(source["lud_diagonal"], 1, 16, lu, np.int32(16))
    np.testing.assert_allclose((np.tril(lu, -1) + np.eye(16)) @ np.triu(lu), m, 1e-4, 1e-4)
    x, centres = (
        rng(seed).normal(size=(dims, n)).astype(np.float32),
        rng(seed + 1).normal(size=(k, dims)).astype(np.float32),
    )
    member, delta = np.zeros(n, np.int32), np.zeros(1, np.int32)
    launch(source["kmeans"], -(-n // 64), 64, x, *ints(n, dims), centres, np.int32(k), member, delta)
    distances = ((x.T[:, None].astype(float) - centres) ** 2).sum(-1)
    np.testing.assert_allclose(distances[np.arange(n), member], distances.min(1), 1e-5)
    assert delta[0] == (member != 0).sum()
