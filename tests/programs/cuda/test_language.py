"""What C++ allows in device code."""

from __future__ import annotations

import ctypes
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.device.harness import launch
from tests.programs.cuda.source import Source, few, rng, seeds

source = Source("language.cu")
counts = st.integers(0, 100)
Ints = np.typing.NDArray[np.int32]


@few
@given(rows=st.integers(1, 70), width=st.integers(1, 60), seed=seeds)
def test_recursive_quicksort(rows: int, width: int, seed: int) -> None:
    x = rng(seed).integers(-50, 50, (rows, width)).astype(np.int32)
    want = np.sort(x, axis=1)
    launch(source["sort_rows"], rows, 1, x, np.int32(width))
    np.testing.assert_array_equal(x, want)


def test_ackermann() -> None:
    out = np.zeros((4, 5), np.uint32)
    launch(source["ackermanns"], 1, (5, 4), out)
    n = np.arange(5)
    np.testing.assert_array_equal(out, [n + 1, n + 2, 2 * n + 3, 2 ** (n + 3) - 3])


@pytest.mark.parametrize(("n", "solutions"), [(1, 1), (4, 2), (6, 4), (8, 92)])
def test_queens(n: int, solutions: int) -> None:
    total = np.zeros(1, np.int32)
    launch(source["queens"], 1, 32, total, np.int32(n))
    assert total[0] == solutions


def traced(spheres: np.ndarray, origin: np.ndarray, to: np.ndarray, depth: int) -> float:
    hits = []
    for x, y, z, radius, colour, mirror in spheres:
        centre = np.array([x, y, z]) - origin
        along = centre @ to
        d2 = centre @ centre - along**2
        if along >= 0 and d2 <= radius**2 and (t := along - np.sqrt(radius**2 - d2)) > 1e-3:
            hits.append((t, np.array([x, y, z]), colour, mirror))
    if not hits:
        return 0.5 * (to[1] + 1)
    t, centre, colour, mirror = min(hits, key=lambda h: h[0])
    at = origin + to * t
    normal = (at - centre) / np.linalg.norm(at - centre)
    own = colour * max(0.0, normal @ np.array([0.57735, 0.57735, -0.57735]))
    if depth == 0 or mirror == 0:
        return own
    bounce = to - normal * 2 * (normal @ to)
    return own + mirror * traced(spheres, at, bounce / np.linalg.norm(bounce), depth - 1)


@few
@given(width=st.integers(1, 20), height=st.integers(1, 10), depth=st.integers(0, 4), seed=seeds)
def test_ray_tracer(width: int, height: int, depth: int, seed: int) -> None:
    count = 5
    spheres = rng(seed).uniform([-2, -2, 0, 0.3, 0.2, 0], [2, 2, 3, 1, 1, 0.8], (count, 6)).astype(np.float32)
    variables = source.module.globals
    ctypes.memmove(variables["spheres"].address, spheres.ctypes.data, spheres.nbytes)
    ctypes.c_int32.from_address(variables["sphere_count"].address).value = count
    image = np.zeros((height, width), np.float32)
    grid = (-(-width // 8), -(-height // 8))
    launch(source["raytrace"], grid, (8, 8), image, np.int32(width), np.int32(height), np.int32(depth))
    want = np.zeros((height, width))
    for y, x in np.ndindex(height, width):
        to = np.array([(x + 0.5) / width - 0.5, (y + 0.5) / height - 0.5, 1])
        want[y, x] = traced(spheres.astype(float), np.array([0, 0, -3.0]), to / np.linalg.norm(to), depth)
    # A ray that just misses in one precision may just hit in the other.
    assert (abs(image - want) > 2e-3).mean() <= 0.1


@few
@given(n=counts, seed=seeds)
def test_virtual_functions(n: int, seed: int) -> None:
    size = rng(seed).uniform(1, 2, n).astype(np.float32)
    kind = rng(seed).integers(0, 3, n).astype(np.int32)
    storage = np.zeros((n, 4), np.uint64)
    areas, sides = np.zeros(n, np.float32), np.zeros(n, np.int32)
    grid = -(-n // 64)
    launch(source["make_shapes"], grid, 64, storage, size, kind, np.int32(n))
    launch(source["measure_shapes"], grid, 64, storage, areas, sides, np.int32(n))
    np.testing.assert_allclose(areas, np.choose(kind, [2 * size**2, size**2, 3 * size**2]), rtol=1e-6)
    np.testing.assert_array_equal(sides, np.choose(kind, [4, 4, 0]))


@few
@given(n=st.integers(1, 100), seed=seeds)
def test_function_pointers_and_lambdas(n: int, seed: int) -> None:
    x = rng(seed).normal(size=n).astype(np.float32)
    which, y = rng(seed).integers(0, 5, n).astype(np.int32), np.zeros(n, np.float32)
    launch(source["by_pointer"], -(-n // 64), 64, x, which, y, np.int32(n))
    want = np.choose(which, [x / 2, -x, x * x, x**4, x + x[0] + x[0]])
    np.testing.assert_allclose(y, want, rtol=1e-5)


PUSH, ADD, MUL, DUP, SWAP, JNZ, DEC, HALT = range(8)


def interpreted(code: list[int], start: int) -> int:
    stack, pc, steps = [start], 0, 0
    while True:
        steps += 1
        if steps > 200:
            break
        op = code[pc]
        pc += 1
        if op == PUSH:
            stack.append(code[pc])
            pc += 1
        elif op in (ADD, MUL):
            b, a = stack.pop(), stack.pop()
            stack.append(a + b if op == ADD else a * b)
        elif op == DUP:
            stack.append(stack[-1])
        elif op == SWAP:
            stack[-1], stack[-2] = stack[-2], stack[-1]
        elif op == DEC:
            stack[-1] -= 1
        elif op == JNZ:
            pc += 1 + (code[pc] if stack[-1] else 0)
        else:
            break
    return int(np.int64(stack[0] & 0xFFFFFFFF).astype(np.uint32).astype(np.int32))


@few
@given(st.lists(st.integers(0, 30), min_size=1, max_size=70))
def test_interpreter(start: list[int]) -> None:
    # acc n -> acc * 3 + 1, n - 1, until n is 0: threads take different numbers of steps.
    code = [DUP, SWAP, PUSH, 3, MUL, PUSH, 1, ADD, SWAP, DEC, JNZ, -10, PUSH, 5, HALT]
    x, out = np.array(start, np.int32), np.zeros(len(start), np.int32)
    data = np.array(code, np.int8).view(np.uint8)
    launch(source["interpret"], -(-len(x) // 32), 32, data, x, out, np.int32(len(x)))
    np.testing.assert_array_equal(out, [interpreted(code, v) for v in start])


def irreducible(v: int) -> int:
    count, middle = 0, v & 1
    while True:
        if not middle:
            v = int(v / 2)
            count += 1
            if v == 7:
                break
        v, count = v - 3, count + 100
        if v > 0:
            middle = 0
            continue
        if v < -50:
            break
        v, middle = v - 11, 1
    return count * 1000 + v


@few
@given(st.lists(st.integers(-40, 500), min_size=1, max_size=70))
def test_irreducible_control_flow(values: list[int]) -> None:
    x, out = np.array(values, np.int32), np.zeros(len(values), np.int32)
    launch(source["irreducible"], -(-len(x) // 64), 64, x, out, np.int32(len(x)))
    np.testing.assert_array_equal(out, [irreducible(v) for v in values])


@few
@given(n=st.integers(1, 64), seed=seeds)
def test_duffs_device(n: int, seed: int) -> None:
    x, out = rng(seed).integers(0, 99, n).astype(np.int32), np.zeros(n, np.int32)
    launch(source["duffs_device"], 1, 64, out, x, np.int32(n))
    sums, want = np.int64(0), []
    for v in x:
        sums = (sums * 3 + int(v)) & 0xFFFFFFFF
        want.append(sums)
    np.testing.assert_array_equal(out.view(np.uint32), want)


def ragged(i: int, limit: int) -> int | None:
    acc, last = 0, None
    for a in range(limit):
        if a % 3 == 1:
            continue
        b = a
        while True:
            if b > 20:
                acc ^= 0x55
                break
            if (b ^ i) % 5 == 0:
                acc += 7
                break
            acc += b
            b += 2
        if acc > 5000:
            return last
        last = acc
    return -acc


@few
@given(st.lists(st.integers(0, 200), min_size=1, max_size=70))
def test_loops_that_lanes_leave_at_different_times(limits: list[int]) -> None:
    x, out = np.array(limits, np.int32), np.full(len(limits), -1, np.int32)
    launch(source["ragged_loops"], -(-len(x) // 64), 64, x, out, np.int32(len(x)))
    np.testing.assert_array_equal(
        out, [-1 if (v := ragged(i, k)) is None else v for i, k in enumerate(limits)]
    )


@few
@given(n=st.integers(1, 64), seed=seeds)
def test_bit_fields_and_unions(n: int, seed: int) -> None:
    x = rng(seed).integers(0, 2**32, n).astype(np.uint32)
    before = rng(seed).integers(0, 2**63, (n, 2)).astype(np.uint64)
    out, sums = before.copy(), np.zeros(n, np.uint32)
    launch(source["bit_fields"], 1, 64, x, out, sums, np.int32(n))

    def field(words: int, at: int, bits: int, value: int) -> int:
        mask = (1 << bits) - 1
        return words & ~(mask << at) | (value & mask) << at

    for i in range(n):
        v, low, high = int(x[i]), int(before[i, 0]), int(before[i, 1])
        b, c, e = (low >> 3 & 127) + (v >> 3), v >> 10 & 511, v >> 20 & 15
        low = field(field(field(low, 0, 3, v), 3, 7, b), 10, 9, c)
        want = (field(low, 19, 45, (low >> 19) ^ v << 13), field(high, 0, 4, e))
        bits = (v & 0xFFFF0000 | (v + 1) & 0xFFFF) & 0x7FFFFFFF
        signed = (c - 512 if c > 255 else c) + (e - 16 if e > 7 else e)
        assert sums[i] == (bits + signed) & 0xFFFFFFFF
        assert (int(out[i, 0]), int(out[i, 1]) & 15) == (want[0], want[1] & 15)


@few
@given(n=st.integers(1, 64), seed=seeds)
def test_packed_structures(n: int, seed: int) -> None:
    numbers = rng(seed).integers(-100, 100, (n, 4))
    raw = np.frombuffer(b"".join(struct.pack("<bihd", *map(int, row)) for row in numbers), np.int8).copy()
    out = np.zeros(n, np.int32)
    launch(source["tight"], 1, 64, raw, out, np.int32(n))
    np.testing.assert_array_equal(out, numbers @ [1, 2, 3, 1])


@few
@given(threads=st.integers(1, 40), seed=seeds)
def test_large_parameters_and_results(threads: int, seed: int) -> None:
    layout = np.dtype({
        "names": ["n", "values", "a", "b", "c"], "formats": ["i4", ("f4", 200), "i4", "i1", ("f8", 3)],
        "offsets": [0, 4, 816, 820, 824], "itemsize": 848,
    })  # fmt: skip
    big = np.zeros(1, layout)
    big["values"] = rng(seed).normal(size=200)
    big["c"], big["b"] = [1, 2, 3], 5
    by, out = rng(seed).normal(size=threads).astype(np.float32), np.zeros(threads, layout)
    launch(source["large_parameter"], 1, threads, big.tobytes(), out, by, np.int32(1), np.int8(-3))
    np.testing.assert_array_equal(out["values"], big["values"] * by[:, None])
    np.testing.assert_array_equal(out["n"], np.arange(threads) - 3)
    np.testing.assert_array_equal(out["c"][:, 1], 2 + by.astype(float))
    assert (out["a"] == 848).all() and (out["b"] == 5).all()


@few
@given(threads=st.integers(1, 128))
def test_globals_with_initial_values(threads: int) -> None:
    module = Source("language.cu").module  # of its own: the counter starts anew
    lengths, sums, counted = (np.zeros(threads, t) for t in (np.int32, np.float32, np.int32))
    launch(module.kernels["use_globals"], 1, threads, lengths, sums, counted)
    i = np.arange(threads)
    words = np.array([sum(w) for w in (b"warp", b"", b"a longer word", b"b")])
    np.testing.assert_array_equal(lengths, words[i & 3] + np.array([-1, 2, -3, 4, -5])[i % 5])
    np.testing.assert_array_equal(sums, np.where(i & 1, 8, -0.25))
    assert counted[0] == 42 + threads
    module.close()


@few
@given(blocks=st.integers(1, 4), threads=st.integers(1, 130), seed=seeds)
def test_shared_memory_of_a_function(blocks: int, threads: int, seed: int) -> None:
    x, out = rng(seed).integers(0, 9, (blocks, threads)).astype(np.int32), np.zeros(blocks, np.int32)
    launch(source["shared_in_function"], blocks, threads, x, out)
    a = x.sum(1)
    b = (a % 7) * threads + threads * (threads - 1) // 2
    np.testing.assert_array_equal(out, a * 1000 + b)


@few
@given(n=st.integers(1, 200), seed=seeds)
def test_several_arrays_in_dynamic_shared_memory(n: int, seed: int) -> None:
    x, out, i = rng(seed).normal(size=n), np.zeros(n), np.arange(n)
    launch(source["several_arrays"], 1, 224, x, out, np.int32(n), dynamic_shared=15 * n)
    small = ((n - 1 - i) ** 2).astype(np.int16)
    np.testing.assert_array_equal(out, x[::-1] + small + (i % 3 == 0) * 0.5)


@pytest.mark.parametrize(("kind", "name"), [(np.uint32, "templatesIjE"), (np.uint16, "templatesItE")])
@few
@given(n=counts, seed=seeds)
def test_templates(kind: type[np.generic], name: str, n: int, seed: int) -> None:
    x = (rng(seed).integers(0, 60, (n, 4)) * 12).astype(kind)
    out, fib = np.zeros(n, kind), np.zeros(1, np.uint64)
    launch(source[name], 1, 128, x, out, fib, np.int32(n))
    np.testing.assert_array_equal(out, (np.gcd.reduce(x, axis=1) + 3 + np.arange(n)).astype(kind))
    assert fib[0] == (23416728348467685 if n else 0)


def distance(a: str, b: str) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a):
        last, row[0] = row[0], i + 1
        for j, y in enumerate(b):
            last, row[j + 1] = row[j + 1], min(row[j + 1] + 1, row[j] + 1, last + (x != y))
    return row[-1]


words = st.text("abc", max_size=20)


@few
@given(st.lists(words, min_size=1, max_size=40), st.text("abc", min_size=1, max_size=6))
def test_edit_distance(given: list[str], target: str) -> None:
    data = np.array([w.encode() for w in given], "S32")
    aim, out = np.array([target.encode()], "S32"), np.zeros(len(given), np.int32)
    launch(source["edit_distance"], 1, 64, data, np.int32(32), aim, out, np.int32(len(given)))
    want = [distance(w, target) for w in given]
    np.testing.assert_array_equal(
        out, [-1 - d if target in w else d for w, d in zip(given, want, strict=True)]
    )


@few
@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=40))
def test_decimal_text(numbers: list[int]) -> None:
    x, out = np.array(numbers, np.int64), np.zeros(len(numbers), "S24")
    launch(source["to_decimal"], 1, 64, x, out, np.int32(len(numbers)))
    assert [w.decode() for w in out] == [str(v) for v in numbers]


@few
@given(
    st.tuples(*[st.integers(1, 4)] * 3), st.tuples(st.integers(1, 40), st.integers(1, 5), st.integers(1, 4))
)
def test_three_dimensions(grid: tuple[int, int, int], block: tuple[int, int, int]) -> None:
    blocks, threads = np.prod(grid), np.prod(block)
    out = np.zeros((blocks, threads), np.uint32)
    launch(source["three_dimensions"], grid, block, out)
    want = np.arange(blocks)[:, None] * 7 + np.arange(threads) * 3 + 1000032
    np.testing.assert_array_equal(out, want)


def test_grids_of_no_work_and_of_much() -> None:
    launch(source["nothing"], 0, 1)
    launch(source["nothing"], (3, 0, 2), 1024)
    launch(source["nothing"], (2, 3, 2), (16, 8, 8))
    out = np.zeros(65535, np.uint8)
    launch(source["tall"], (1, 65535), 33, out)
    np.testing.assert_array_equal(out, (np.arange(65535) * 7 + 1).astype(np.uint8))
