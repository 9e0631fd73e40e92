"""Products of small matrices by a warp, against numpy: exact where the sums are exact, else within the error
of sums in any order.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpudisagg.device import LoadedModule
from gpudisagg.device.cpu.models import lockstep_plan
from gpudisagg.device.cpu.parser import parse
from tests.device.elementwise import HEADER, Array
from tests.device.harness import compiler, launch

WIDTH = {"f16": 16, "bf16": 16, "tf32": 32, "f64": 64, "s8": 8, "u8": 8, "s4": 4, "u4": 4, "b1": 1,
         "e4m3": 8, "e5m2": 8}  # fmt: skip
SHAPES = [
    *[(16, 8, 8, t, t, c) for t in ("f16",) for c in ("f16", "f32")],
    *[(16, 8, 16, t, t, c) for t in ("f16",) for c in ("f16", "f32")],
    (16, 8, 8, "bf16", "bf16", "f32"),
    (16, 8, 16, "bf16", "bf16", "f32"),
    (16, 8, 4, "tf32", "tf32", "f32"),
    (16, 8, 8, "tf32", "tf32", "f32"),
    (8, 8, 4, "f64", "f64", "f64"),
    (16, 8, 4, "f64", "f64", "f64"),
    (16, 8, 8, "f64", "f64", "f64"),
    (16, 8, 16, "f64", "f64", "f64"),
    (8, 8, 16, "s8", "u8", "s32"),
    (16, 8, 16, "u8", "u8", "s32"),
    (16, 8, 32, "s8", "s8", "s32"),
    (16, 8, 32, "u8", "s8", "s32"),
    (8, 8, 32, "s4", "u4", "s32"),
    (16, 8, 32, "s4", "s4", "s32"),
    (16, 8, 64, "u4", "u4", "s32"),
    (8, 8, 128, "b1", "b1", "s32"),
    (16, 8, 128, "b1", "b1", "s32"),
    (16, 8, 256, "b1", "b1", "s32"),
    (16, 8, 32, "e4m3", "e5m2", "f32"),
]


def codes(
    type_: str, shape: tuple[int, ...], rng: np.random.Generator
) -> tuple[Array, npt.NDArray[np.float64]]:
    """Bit patterns of random elements, and what they are."""
    if type_ in ("s8", "u8", "s4", "u4", "b1"):
        bits = WIDTH[type_]
        raw = rng.integers(0, 1 << bits, shape)
        value = raw - ((raw >> (bits - 1)) << bits) if type_[0] == "s" else raw
        return raw.astype(np.uint64), value.astype(np.float64)
    value = rng.integers(-8, 9, shape) * 2.0 ** rng.integers(-3, 3, shape)
    if type_ == "f16":
        return value.astype(np.float16).view(np.uint16).astype(np.uint64), value
    if type_ == "f64":
        value = value + rng.standard_normal(shape)
        return value.view(np.uint64), value
    if type_ == "e4m3":
        from tests.device.formats import E4M3

        raw = rng.integers(0, 256, shape)
        raw[raw & 0x7F == 0x7F] = 0
        return raw.astype(np.uint64), np.vectorize(lambda c: float(E4M3.decode(int(c))))(raw)  # type: ignore[arg-type]
    if type_ == "e5m2":
        raw = rng.integers(0, 0x70, shape)
        return raw.astype(np.uint64), (raw << 8).astype(np.uint16).view(np.float16).astype(np.float64)
    single = value.astype(np.float32).view(np.uint32)
    if type_ == "tf32":  # the low bits are not looked at
        return (single | rng.integers(0, 1 << 13, shape, np.uint32)).astype(np.uint64), value
    return (single >> 16).astype(np.uint64), value


def words(raw: Array, bits: int) -> Array:
    """Elements along the last axis packed into registers, the first lowest."""
    if bits >= 32:
        return raw
    groups = raw.reshape(*raw.shape[:-1], -1, 32 // bits)
    shifts = np.arange(32 // bits, dtype=np.uint64) * np.uint64(bits)
    return np.bitwise_or.reduce(groups << shifts, axis=-1)


@functools.cache
def module(
    m: int, n: int, k: int, types: tuple[str, str, str], extra: str, plain: bool
) -> tuple[LoadedModule, bool]:
    a, b, c = types
    per = max(32 // WIDTH[a], 1)
    blocks, rows = k // (4 * per), m // 8
    kind = "f64" if a == "f64" else "b32"
    size = 8 if a == "f64" else 4
    number = {"f64": "f64", "f32": "f32"}.get(c, "b32")
    sums = 2 * rows // (2 if c == "f16" else 1)
    lines = [
        HEADER,
        ".func nothing() { ret; }",
        ".visible .entry k(.param .u64 a, .param .u64 b, .param .u64 c) {",
    ]
    lines += [f".reg .b64 %d<4>; .reg .b32 %t; .reg .{kind} %a<{rows * blocks}>; .reg .{kind} %b<{blocks}>;"]
    lines += [f".reg .{number} %c<{sums}>; mov.u32 %t, %tid.x;"]
    if not plain:
        lines += ["call nothing;"]  # which rules lockstep out
    for letter, count, type_ in (("a", rows * blocks, kind), ("b", blocks, kind), ("c", sums, number)):
        width = 8 if type_ == "f64" else 4
        lines += [f"ld.param.u64 %d0, [{letter}]; mad.wide.u32 %d0, %t, {count * width}, %d0;"]
        lines += [f"ld.global.{type_} %{letter}{i}, [%d0+{i * width}];" for i in range(count)]

    def vector(letter: str, count: int) -> str:
        return "{" + ",".join(f"%{letter}{i}" for i in range(count)) + "}"

    operation = ".and.popc" if a == "b1" and "and" in extra else ".xor.popc" if a == "b1" else ""
    sat = ".satfinite" if "sat" in extra else ""
    lines += [f"mma.sync.aligned.m{m}n{n}k{k}.row.col{sat}.{c}.{a}.{b}.{c}{operation} {vector('c', sums)}, "
              f"{vector('a', rows * blocks)}, {vector('b', blocks)}, {vector('c', sums)};"]  # fmt: skip
    width = 8 if number == "f64" else 4
    lines += [f"st.global.{number} [%d0+{i * width}], %c{i};" for i in range(sums)] + ["ret; }"]
    text = "\n".join(lines).encode()
    assert size in (4, 8)
    return compiler().load(text), lockstep_plan(parse(text).functions["k"]) is not None


@pytest.mark.parametrize("lockstep", [True, False], ids=["lockstep", "threads"])
@pytest.mark.parametrize("extra", ["", "sat,and"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "m{}n{}k{}-{}-{}-{}".format(*s))
@settings(max_examples=4, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_mma(shape: tuple[int, int, int, str, str, str], extra: str, lockstep: bool, seed: int) -> None:
    m, n, k, ta, tb, tc = shape
    if extra and tc != "s32":
        return
    if extra and ta == "b1":
        extra = "and"
    rng = np.random.default_rng(seed)
    raw_a, a = codes(ta, (m, k), rng)
    raw_b, b = codes(tb, (n, k), rng)
    c = rng.integers(-1000, 1000, (m, n)).astype(np.float64)
    if "sat" in extra:
        c = np.where(rng.integers(0, 2, (m, n)), 2.0**31 - 1, c)
    lane = np.arange(32)
    g, t = lane // 4, lane % 4
    bits = WIDTH[ta]
    wa, wb = words(raw_a, bits), words(raw_b, bits)
    blocks = wa.shape[1] // 4
    kind = np.uint64 if ta == "f64" else np.uint32
    fa = np.stack([wa[g + 8 * h, 4 * q + t] for q in range(blocks) for h in range(m // 8)], 1).astype(kind)
    fb = np.stack([wb[g, 4 * q + t] for q in range(blocks)], 1).astype(kind)
    dtype = {"f16": np.float16, "f32": np.float32, "f64": np.float64, "s32": np.int32}[tc]
    fc = np.stack([c[g + 8 * h, 2 * t + j] for h in range(m // 8) for j in range(2)], 1).astype(dtype)
    loaded, whole = module(m, n, k, (ta, tb, tc), extra, lockstep)
    assert whole == lockstep
    # Two warps: each multiplies the same.
    both = [np.concatenate([f, f]) for f in (fa, fb, fc)]
    launch(loaded.kernels["k"], 1, 64, *both)
    got = np.zeros((2, m, n), dtype)
    for w in range(2):
        for h in range(m // 8):
            for j in range(2):
                got[w][g + 8 * h, 2 * t + j] = both[2][32 * w : 32 * w + 32, 2 * h + j]
    if ta == "b1":
        x, y = raw_a.astype(int), raw_b.astype(int)
        pairs = (x[:, None] & y[None]) if extra == "and" else (x[:, None] ^ y[None])
        want = pairs.sum(-1) + c
    else:
        want = a @ b.T + c
    if tc == "s32":
        want = np.clip(want, -(2.0**31), 2.0**31 - 1)
        np.testing.assert_array_equal(got[0], want.astype(np.int64))
    else:
        scale = np.abs(a) @ np.abs(b).T + np.abs(c)
        eps = {"f16": 2.0**-11, "f32": k * 2.0**-24, "f64": k * 2.0**-53}[tc]
        assert (np.abs(got[0].astype(np.float64) - want) <= scale * eps + 1e-30).all()
    np.testing.assert_array_equal(got[0], got[1])


WMMA = [
    (16, 16, 16, "f16", "f32"),
    (32, 8, 16, "f16", "f32"),
    (8, 32, 16, "f16", "f32"),
    (16, 16, 16, "f16", "f16"),
    (32, 8, 16, "f16", "f16"),
    (16, 16, 16, "bf16", "f32"),
    (32, 8, 16, "bf16", "f32"),
    (8, 32, 16, "bf16", "f32"),
    (16, 16, 8, "tf32", "f32"),
    (16, 16, 16, "s8", "s32"),
    (32, 8, 16, "s8", "s32"),
    (8, 32, 16, "u8", "s32"),
    (8, 8, 4, "f64", "f64"),
    (8, 8, 32, "s4", "s32"),
    (8, 8, 128, "b1", "s32"),
]


@functools.cache
def wmma_module(
    shape: tuple[int, int, int, str, str], layouts: str, space: str, lockstep: bool
) -> LoadedModule:
    """d = a b + 2 c, with a, b and c from (and d to) memory of the given space."""
    m, n, k, ta, tc = shape
    bits = WIDTH[ta]
    factor, total = ("f64" if t == "f64" else "f32" if t == "f32" else "b32" for t in (ta, tc))
    used = 8 if ta == "f16" else 0
    counts = {
        "a": used or max(m * k * bits // 32 // max(bits, 32), 1),
        "b": used or max(n * k * bits // 32 // max(bits, 32), 1),
        "c": m * n // 32 // (2 if tc == "f16" else 1),
    }
    names = {c: "{" + ",".join(f"%{c}{i}" for i in range(count)) + "}" for c, count in counts.items()}
    order = [{"r": "row", "c": "col"}[c] for c in layouts]
    params = (
        ", ".join(f".param .u64 {p}" for p in "abcd") + ", " + ", ".join(f".param .u32 ld{p}" for p in "abc")
    )
    lines = [
        HEADER,
        ".func nothing() { ret; }",
        f".visible .entry k({params}) {{",
        ".reg .b64 %d<4>; .reg .b32 %l<3>;",
    ]
    lines += [f".reg .{factor} %a<8>, %b<8>; .reg .{total} %c<8>;"]
    lines += [f"ld.param.u64 %d{i}, [{p}];" for i, p in enumerate("abcd")]
    lines += [f"ld.param.u32 %l{i}, [ld{p}];" for i, p in enumerate("abc")]
    if not lockstep:
        lines += ["call nothing;"]
    s, form = f"m{m}n{n}k{k}", "sync.aligned"
    lines += [f"wmma.load.{p}.{form}.{order[i]}.{s}{space}.{t} {names[p]}, [%d{i}], %l{i};"
              for i, (p, t) in enumerate((("a", ta), ("b", ta), ("c", tc)))]  # fmt: skip
    for i in range(counts["c"]):
        if tc == "f16":
            lines += [f"add.f16x2 %c{i}, %c{i}, %c{i};"]
        else:
            lines += [f"add.{tc} %c{i}, %c{i}, %c{i};"]
    types = f"{tc}.{tc}" if ta == "f16" else f"{tc}.{ta}.{ta}.{tc}"
    extra = {"b1": "xor.popc.", "f64": ""}.get(ta, "")
    rn = ".rn" if ta == "f64" else ""
    lines += [f"wmma.mma.{extra}{form}.{order[0]}.{order[1]}.{s}{rn}.{types} "
              f"{names['c']}, {names['a']}, {names['b']}, {names['c']};"]  # fmt: skip
    lines += [f"wmma.store.d.{form}.{order[2]}.{s}{space}.{tc} [%d3], {names['c']}, %l2;", "ret; }"]
    text = "\n".join(lines).encode()
    assert (lockstep_plan(parse(text).functions["k"]) is not None) == lockstep
    return compiler().load(text)


@pytest.mark.parametrize("lockstep", [True, False], ids=["lockstep", "threads"])
@pytest.mark.parametrize("layouts", ["rrr", "rcr", "crc", "ccc"])
@pytest.mark.parametrize("shape", WMMA, ids=lambda s: "m{}n{}k{}-{}-{}".format(*s))
@settings(max_examples=3, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0, 8, 16]))
def test_wmma(
    shape: tuple[int, int, int, str, str], layouts: str, lockstep: bool, seed: int, pad: int
) -> None:
    m, n, k, ta, tc = shape
    bits = WIDTH[ta]
    if bits < 8 and layouts[:2] != "rc":
        return
    pad = 0 if bits < 8 else pad
    rng = np.random.default_rng(seed)

    def whole(shape: tuple[int, int]) -> tuple[Array, npt.NDArray[np.float64]]:
        if ta in ("s8", "u8", "s4", "b1"):
            return codes(ta, shape, rng)
        value = rng.integers(-8, 9, shape).astype(np.float64)
        form = {"f16": np.float16, "f64": np.float64}.get(ta, np.float32)
        raw = value.astype(form)
        patterns = raw.view(f"u{raw.itemsize}").astype(np.uint64)
        return patterns >> np.uint64(16) if ta == "bf16" else patterns, value

    def laid_out(raw: Array, layout: str, width: int) -> tuple[Array, int]:
        raw = raw if layout == "r" else raw.T
        padded = np.zeros((raw.shape[0], raw.shape[1] + pad), np.uint64)
        padded[:, : raw.shape[1]] = raw
        if width < 8:
            return np.ascontiguousarray(words(padded, width).astype(np.uint32)), padded.shape[1]
        return np.ascontiguousarray(padded.astype(f"u{width // 8}")), padded.shape[1]

    (raw_a, a), (raw_b, b) = whole((m, k)), whole((k, n))
    c = rng.integers(-8, 9, (m, n))
    dtype = {"f16": np.float16, "f32": np.float32, "f64": np.float64, "s32": np.int32}[tc]
    (sa, lda), (sb, ldb) = laid_out(raw_a, layouts[0], bits), laid_out(raw_b, layouts[1], bits)
    size = np.dtype(dtype).itemsize
    sc, ldc = laid_out(c.astype(dtype).view(f"u{size}").astype(np.uint64), layouts[2], 8 * size)
    d = np.zeros_like(sc)
    loaded = wmma_module(shape, layouts, ".global" if seed % 2 else "", lockstep)
    launch(loaded.kernels["k"], 1, 32, sa, sb, sc, d, np.uint32(lda), np.uint32(ldb), np.uint32(ldc))
    product = a @ b
    if ta == "b1":
        product = (raw_a.astype(int)[:, :, None] ^ raw_b.astype(int)[None]).sum(1).astype(np.float64)
    got = d.view(dtype)
    got = got[:, :n] if layouts[2] == "r" else got[:, :m].T
    np.testing.assert_array_equal(got.astype(np.float64), product + 2 * c)


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("trans", ["", ".trans"])
@pytest.mark.parametrize("lockstep", [True, False], ids=["lockstep", "threads"])
def test_matrices_go_through_shared_memory(count: int, trans: str, lockstep: bool) -> None:
    """ldmatrix of rows in any order, then stmatrix of what it gave, then movmatrix."""
    registers = "{" + ",".join(f"%m{i}" for i in range(count)) + "}"
    call = "" if lockstep else "call nothing;"
    text = f"""{HEADER} .func nothing() {{ ret; }}
.visible .entry k(.param .u64 x, .param .u64 rows, .param .u64 out, .param .u64 back, .param .u64 turned) {{
.reg .b32 %t, %r<8>, %m<4>; .reg .b64 %d<8>;
.shared .align 16 .b8 sh[512]; .shared .align 16 .b8 st[512];
mov.u32 %t, %tid.x; ld.param.u64 %d0, [x]; mad.wide.u32 %d0, %t, 16, %d0;
ld.global.v4.b32 {{%r0,%r1,%r2,%r3}}, [%d0];
shl.b32 %r4, %t, 4; mov.u32 %r5, sh; add.u32 %r4, %r4, %r5; st.shared.v4.b32 [%r4], {{%r0,%r1,%r2,%r3}};
{call} bar.sync 0;
ld.param.u64 %d1, [rows]; mad.wide.u32 %d1, %t, 4, %d1; ld.global.u32 %r6, [%d1]; shl.b32 %r6, %r6, 4;
add.u32 %r7, %r6, %r5;
ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {registers}, [%r7];
ld.param.u64 %d2, [out]; mad.wide.u32 %d2, %t, {4 * count}, %d2;
{" ".join(f"st.global.b32 [%d2+{4 * i}], %m{i};" for i in range(count))}
mov.u32 %r5, st; add.u32 %r7, %r6, %r5;
stmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 [%r7], {registers};
bar.sync 0;
shl.b32 %r4, %t, 4; add.u32 %r4, %r4, %r5; ld.shared.v4.b32 {{%r0,%r1,%r2,%r3}}, [%r4];
ld.param.u64 %d3, [back]; mad.wide.u32 %d3, %t, 16, %d3; st.global.v4.b32 [%d3], {{%r0,%r1,%r2,%r3}};
movmatrix.sync.aligned.m8n8.trans.b16 %m0, %m0;
ld.param.u64 %d4, [turned]; mad.wide.u32 %d4, %t, 4, %d4; st.global.b32 [%d4], %m0;
ret; }}"""
    assert (lockstep_plan(parse(text.encode()).functions["k"]) is not None) == lockstep
    rng = np.random.default_rng(count)
    x = rng.integers(0, 1 << 16, (32, 8)).astype(np.uint16)
    rows = rng.permutation(32).astype(np.uint32)
    out, back, turned = (
        np.zeros((32, count, 2), np.uint16),
        np.zeros((32, 8), np.uint16),
        np.zeros((32, 2), np.uint16),
    )
    loaded = compiler().load(text.encode())
    try:
        launch(loaded.kernels["k"], 1, 32, x, rows, out, back, turned)
    finally:
        loaded.close()
    lane = np.arange(32)
    for i in range(count):
        matrix = x[rows[8 * i : 8 * i + 8]]
        shown = matrix.T if trans else matrix
        for j in range(2):
            np.testing.assert_array_equal(out[:, i, j], shown[lane // 4, lane % 4 * 2 + j])
        np.testing.assert_array_equal(back[rows[8 * i : 8 * i + 8]], matrix)
        if i == 0:
            for j in range(2):
                np.testing.assert_array_equal(turned[:, j], shown.T[lane // 4, lane % 4 * 2 + j])
