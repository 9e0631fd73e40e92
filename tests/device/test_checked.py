"""Checked kernels: every form of access is held to its bounds, to the byte, and good programs run clean."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpudisagg.device import KernelCode
from tests.device.checked import Checker
from tests.device.harness import Launch, compiler

ROOT = Path(__file__).resolve().parents[2]
SHARED = 64
# What is run again with checks: all kernels of `kernels/`, and programs in PTX. Not those that reach beyond
# arrays on purpose, through addresses that no argument has.
FILES = ("block", "asynchronous", "host_functions", "link", "lockstep", "pointers", "spike_kernels")
BEYOND = "not indices_wrap and not wrap_on_their_way and not random_programs"


def test_good_programs_run_clean_and_give_the_same() -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "tests.device.checked",
        "-p",
        "no:cacheprovider",
    ]
    command += [f"tests/device/test_{file}.py" for file in FILES] + ["-k", BEYOND]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.fixture(scope="module")
def checker(tmp_path_factory: pytest.TempPathFactory) -> Checker:
    return Checker(tmp_path_factory.mktemp("checker"))


def kernel(text: str) -> tuple[KernelCode, int]:
    """A kernel around one instruction, `%d1` its address in generic or global and `%r1` in shared memory;
    and the instruction's line.
    """
    lines = [
        ".version 8.8", ".target sm_100a", ".address_size 64",
        ".visible .entry k(.param .u64 p, .param .s64 offset, .param .s64 stride, .param .u32 n) {",
        ".reg .pred %p<4>; .reg .b16 %h<20>; .reg .b32 %r<40>; .reg .b64 %d<20>;",
        ".reg .f32 %f<20>; .reg .f64 %e<20>; .reg .b128 %q<4>;",
        f".shared .align 32 .b8 sh[{SHARED}];",
        "ld.param.u64 %d1, [p]; ld.param.s64 %d2, [offset]; ld.param.s64 %d3, [stride];",
        "mov.u32 %r2, %tid.x; cvt.u64.u32 %d4, %r2; mad.lo.s64 %d2, %d3, %d4, %d2;",
        "add.s64 %d1, %d1, %d2; cvt.u32.u64 %r1, %d2; ld.param.u32 %r3, [n];",
        text,
        "ret; }",
    ]  # fmt: skip
    return compiler().load("\n".join(lines).encode(), check=True).kernels["k"], lines.index(text) + 1


def run(
    checker: Checker, code: KernelCode, array: np.ndarray, *numbers: np.generic, threads: int
) -> tuple[int, str] | None:
    """The first bad access's thread, and what is said of it."""
    launch = Launch(code, (1, 1, 1), (threads, 1, 1), [array, *numbers])
    try:
        checker.run(launch, 0, 1)
    except AssertionError as error:
        said = str(error).split("\n")[0]
        found = re.search(r"thread \((\d+), 0, 0\) of block \(0, 0, 0\)$", said)
        assert found, said
        return int(found[1]), said
    return None


def aligned(size: int) -> np.ndarray:
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size]


_R4 = "{%r4, %r5, %r6, %r7}"
_Q = "{%h0, %h1, %h2, %h3}"
# Instructions and the bytes that they touch, aligned to that.
FORMS = {
    "ld.global.u8 %r4, [%d1];": 1, "ld.global.b16 %h0, [%d1];": 2, "ld.volatile.global.u32 %r4, [%d1];": 4,
    "ld.acquire.gpu.global.u64 %d5, [%d1];": 8, "ld.relaxed.sys.u32 %r4, [%d1];": 4,
    "ld.global.nc.v4.f32 {%f0, %f1, %f2, %f3}, [%d1];": 16, "ld.v2.f64 {%e0, %e1}, [%d1];": 16,
    f"ld.global.v4.u8 {_R4}, [%d1];": 4, f"ld.global.v4.b16 {_Q}, [%d1];": 8,
    "ld.global.b128 %q0, [%d1];": 16,
    "ldu.global.v2.u32 {%r4, %r5}, [%d1];": 8, "ld.global.v4.b64 {%d5, %d6, %d7, %d8}, [%d1];": 32,
    "ld.global.v8.f32 {%f0, %f1, %f2, %f3, %f4, %f5, %f6, %f7}, [%d1];": 32,
    f"ld.shared.v4.u32 {_R4}, [%r1];": 16, "ld.shared.u8 %r4, [%r1];": 1,
    "st.global.u8 [%d1], %r4;": 1, "st.release.gpu.global.u32 [%d1], %r4;": 4,
    "st.global.b128 [%d1], %q0;": 16,
    f"st.wt.v4.u32 [%d1], {_R4};": 16, "st.shared.v2.b16 [%r1], {%h0, %h1};": 4,
    "st.shared.b64 [%r1], %d5;": 8,
    "atom.global.add.u32 %r4, [%d1], 1;": 4, "atom.add.f64 %e0, [%d1], %e1;": 8,
    "atom.global.cas.b16 %h0, [%d1], %h1, %h2;": 2, "atom.cas.b128 %q0, [%d1], %q1, %q2;": 16,
    "atom.global.add.noftz.f16x2 %r4, [%d1], %r5;": 4, "atom.shared.inc.u32 %r4, [%r1], 7;": 4,
    "atom.shared.exch.b64 %d5, [%r1], %d6;": 8, "atom.global.add.v2.f32 {%f0, %f1}, [%d1], {%f2, %f3};": 8,
    "red.global.add.v4.f32 [%d1], {%f0, %f1, %f2, %f3};": 16, "red.add.noftz.bf16x2 [%d1], %r4;": 4,
    "red.shared.max.s64 [%r1], %d5;": 8,
    "mbarrier.init.shared.b64 [%r1], 5;": 8, "mbarrier.init.b64 [%d1], 5;": 8,
    "mbarrier.inval.shared::cta.b64 [%r1];": 8,
    "@%p0 ld.global.u32 %r4, [%d1];": 0,  # predicates begin as false
}  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(FORMS)), st.integers(1, 70), st.integers(1, 40), st.integers(-2, 8), st.data())
def test_every_form_is_held_to_its_bounds(
    checker: Checker, text: str, length: int, threads: int, start: int, data: st.DataObject
) -> None:
    size = FORMS[text]
    unit = max(size, 1)
    offset = start * unit + data.draw(st.sampled_from([0, 0, 0, 1, unit // 2]))
    stride = data.draw(st.sampled_from([0, 1, 1, 1, -1])) * unit
    shared = "[%r1]" in text
    extent = SHARED if shared else length
    array = aligned(length)
    code, line = kernel(text)
    found = run(checker, code, array, np.int64(offset), np.int64(stride), np.uint32(0), threads=threads)
    places = [offset + t * stride for t in range(threads if size else 0)]
    bad = [t for t, at in enumerate(places) if at % unit or at < 0 or at + size > extent]
    assert (found is None) == (not bad)
    if found is None:
        return
    thread, said = found
    at = places[bad[0]]
    assert thread == bad[0] and f" at line {line} of the PTX" in said
    kind = {"l": "read", "s": "write"}.get(text[0], "atomic operation")
    assert f" {kind} of {size} bytes " in said
    assert said.startswith("misaligned " if at % unit else "invalid ")
    if not shared:
        assert f" at 0x{array.ctypes.data + at:x}," in said
        if at % unit == 0 and at >= extent:
            far = f"{at - extent} bytes" if at > extent else "just"
            assert f", {far} past the end of array 0 ({extent} bytes);" in said


@dataclass(frozen=True)
class Tiles:
    """wmma with its matrix: `lines` of `along` elements of `bits`, `stride` elements apart."""

    text: str
    lines: int
    along: int
    bits: int


_R8 = "{%r4, %r5, %r6, %r7, %r8, %r9, %r10, %r11}"
_F8 = "{%f0, %f1, %f2, %f3, %f4, %f5, %f6, %f7}"
TILES = [
    Tiles(f"wmma.load.a.sync.aligned.row.m16n16k16.global.f16 {_R8}, [%d1], %r3;", 16, 16, 16),
    Tiles(f"wmma.load.a.sync.aligned.col.m32n8k16.global.f16 {_R8}, [%d1], %r3;", 16, 32, 16),
    Tiles(f"wmma.load.b.sync.aligned.col.m8n32k16.f16 {_R8}, [%d1], %r3;", 32, 16, 16),
    Tiles("wmma.load.b.sync.aligned.row.m16n16k16.global.s8 {%r4, %r5}, [%d1], %r3;", 16, 16, 8),
    Tiles("wmma.load.a.sync.aligned.row.m16n16k8.global.tf32 {%r4, %r5, %r6, %r7}, [%d1], %r3;", 16, 8, 32),
    Tiles("wmma.load.a.sync.aligned.row.m8n8k4.global.f64 {%e0}, [%d1], %r3;", 8, 4, 64),
    Tiles("wmma.load.a.sync.aligned.row.m8n8k32.global.s4 {%r4}, [%d1], %r3;", 8, 32, 4),
    Tiles(f"wmma.load.c.sync.aligned.row.m16n16k16.global.f32 {_F8}, [%d1], %r3;", 16, 16, 32),
    Tiles(f"wmma.store.d.sync.aligned.col.m32n8k16.global.f32 [%d1], {_F8}, %r3;", 8, 32, 32),
    Tiles("wmma.store.d.sync.aligned.row.m16n16k16.f16 [%d1], {%r4, %r5, %r6, %r7}, %r3;", 16, 16, 16),
]


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(TILES), st.integers(0, 2), st.sampled_from([0, 0, 0, -1, -4, 1, 4, 8, 64]))
def test_matrices_in_memory_are_held_to_their_bounds(
    checker: Checker, tiles: Tiles, further: int, slack: int
) -> None:
    """`slack`: bytes that the array has behind the matrix, or lacks."""
    stride = tiles.along + 32 * further
    needed = ((tiles.lines - 1) * stride + tiles.along) * tiles.bits // 8
    array = aligned(needed + slack)
    code, line = kernel(tiles.text)
    found = run(checker, code, array, np.int64(0), np.int64(0), np.uint32(stride), threads=32)
    assert (found is None) == (slack >= 0)
    if found is not None:
        assert f" at line {line} of the PTX" in found[1]
        assert "global write" in found[1] or "read" in found[1] or "memory write" in found[1]
    before = run(checker, code, array, np.int64(-8), np.int64(0), np.uint32(stride), threads=32)
    assert before is not None and "8 bytes before array 0" in before[1]


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["ldmatrix", "stmatrix"]),
    st.sampled_from([1, 2, 4]),
    st.integers(0, 34),
    st.integers(0, 1),
)
def test_rows_that_lanes_point_at(checker: Checker, opcode: str, count: int, rows: int, odd: int) -> None:
    registers = "{" + ", ".join(f"%r{4 + i}" for i in range(count)) + "}"
    operands = f"{registers}, [%d1]" if opcode == "ldmatrix" else f"[%d1], {registers}"
    code, _ = kernel(f"{opcode}.sync.aligned.m8n8.x{count}.b16 {operands};")
    found = run(
        checker, code, aligned(16 * rows + 8), np.int64(8 * odd), np.int64(16), np.uint32(0), threads=32
    )
    lanes = 8 * count
    if odd:
        assert found is not None and found[0] == 0 and found[1].startswith("misaligned")
    elif rows >= lanes:
        assert found is None
    else:
        assert found is not None and found[0] == rows and "whose last 8 bytes are past the end" in found[1]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([4, 8, 16]), st.integers(0, 20), st.integers(0, 40), st.integers(0, 6), st.booleans())
def test_asynchronous_copies(
    checker: Checker, size: int, count: int, length: int, at: int, writes_beyond: bool
) -> None:
    """They read as many bytes as they are told, from no further than the array, and write all of `size`."""
    mode = "cg" if size == 16 else "ca"
    target = SHARED if writes_beyond else 0
    code, _ = kernel(f"cp.async.{mode}.shared.global [sh+{target}], [%d1], {size}, %r3;")
    found = run(checker, code, aligned(length), np.int64(at * size), np.int64(0), np.uint32(count), threads=1)
    read = min(count, size)
    if writes_beyond:
        assert found is not None and f"shared write of {size} bytes" in found[1]
    elif read and at * size + read > length:
        assert found is not None and f"global read of {read} bytes" in found[1]
    else:
        assert found is None


PASSED = """.version 8.0
.target sm_80
.address_size 64
.func (.param .u32 r) pick(.param .align 4 .b8 given[32], .param .u64 at) {
.reg .b64 %d<4>; .reg .b32 %r<2>;
mov.u64 %d0, given; ld.param.u64 %d1, [at]; add.s64 %d0, %d0, %d1;
ld.param.u32 %r0, [%d0]; ld.u32 %r1, [%d0]; add.u32 %r0, %r0, %r1; st.param.u32 [r], %r0; ret; }
.visible .entry k(.param .u64 p, .param .s64 at) {
.reg .b64 %d<4>; .reg .b32 %r<2>;
ld.param.u64 %d0, [p]; ld.param.u64 %d1, [at]; mov.u32 %r0, 21;
{ .param .align 4 .b8 given[32]; st.param.b32 [given+28], %r0; .param .b64 where; st.param.b64 [where], %d1;
.param .b32 got; call (got), pick, (given, where); ld.param.b32 %r1, [got]; }
st.global.u32 [%d0], %r1; ret; }
"""


def test_arguments_of_functions_may_be_pointed_at(checker: Checker) -> None:
    code = compiler().load(PASSED.encode(), check=True).kernels["k"]
    array = aligned(4)
    assert run(checker, code, array, np.int64(28), threads=1) is None
    assert array.view(np.uint32)[0] == 42
    found = run(checker, code, array, np.int64(32), threads=1)
    assert found is not None and "invalid parameter read of 4 bytes" in found[1]
    assert " at line 7 of the PTX" in found[1]
