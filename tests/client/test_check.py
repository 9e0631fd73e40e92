"""connect(check=True): the first bad access of a kernel is found and named; good kernels run as ever."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpudisagg
from gpudisagg import DeviceFault
from tests.client.conftest import in_place

PATIENCE = 60.0
ARRAYS, SHARED, LOCAL = 3, 96, 40
_STORE, _LOAD, _RED = "st", "ld", "red"


@dataclass(frozen=True)
class Step:
    """Thread `t` of the launch, if it is below `below`, accesses `width * count` bytes at
    `t * stride + offset` bytes of an array, of shared memory or of a local array.
    """

    kind: str
    where: str  # "0", "1", "2": an array; "shared", "local"
    generic: bool
    width: int
    count: int
    stride: int
    offset: int
    below: int
    barrier: bool

    @property
    def size(self) -> int:
        return self.width * self.count


@st.composite
def steps(draw: st.DrawFn) -> Step:
    width = draw(st.sampled_from([1, 2, 4, 8]))
    kind = draw(st.sampled_from([_STORE, _LOAD, _RED] if width == 4 else [_STORE, _LOAD]))
    count = draw(st.sampled_from([1, 2, 4])) if kind != _RED and width in (2, 4) else 1
    where = draw(st.sampled_from([*map(str, range(ARRAYS)), "shared", "local"]))
    if where == "local" and kind == _RED:
        kind = _LOAD
    unit = draw(st.sampled_from([width * count, width * count, width * count, 1]))
    stride = draw(st.sampled_from([0, 1, 1, 1, -1])) * width * count
    offset = draw(st.integers(-2, 40)) * unit
    return Step(kind, where, draw(st.booleans()), width, count, stride, offset,
                draw(st.sampled_from([10**6, 10**6, 3])), draw(st.booleans()))  # fmt: skip


def to_ptx(program: list[Step]) -> tuple[str, list[int]]:
    """A kernel `k`, and the line of each step's access."""
    lines = [
        ".version 7.0", ".target sm_80", ".address_size 64",
        f".visible .entry k({', '.join(f'.param .u64 p{i}' for i in range(ARRAYS))})", "{",
        ".reg .pred %p; .reg .b32 %r<8>; .reg .b64 %rd<16>; .reg .b16 %h<4>;",
        f".shared .align 16 .b8 sh[{SHARED}];", f".local .align 16 .b8 loc[{LOCAL}];",
        "mov.u32 %r0, %tid.x; mov.u32 %r1, %ntid.x; mov.u32 %r2, %tid.y; mad.lo.u32 %r0, %r2, %r1, %r0;",
        "mov.u32 %r2, %ntid.y; mul.lo.u32 %r1, %r1, %r2;",
        "mov.u32 %r2, %ctaid.x; mad.lo.u32 %r0, %r2, %r1, %r0;",
    ]  # fmt: skip
    lines += [f"ld.param.u64 %rd{i}, [p{i}];" for i in range(ARRAYS)]
    places = []
    for step in program:
        bits, vector = 8 * step.width, "" if step.count == 1 else f".v{step.count}"
        lines.append(f"setp.lt.u32 %p, %r0, {step.below};")
        lines.append(f"mul.lo.s32 %r3, %r0, {step.stride}; cvt.s64.s32 %rd8, %r3;")
        if step.where in ("shared", "local"):
            lines.append(f"mov.u64 %rd9, {'sh' if step.where == 'shared' else 'loc'};")
            if step.generic:
                lines.append(f"cvta.{step.where}.u64 %rd9, %rd9;")
        else:
            lines.append(f"mov.u64 %rd9, %rd{step.where};")
        lines.append("add.s64 %rd9, %rd9, %rd8;")
        space = "" if step.generic else "." + ("global" if step.where.isdigit() else step.where)
        register = {8: "%h0", 16: "%h0", 32: "%r4", 64: "%rd10"}[bits]
        value = register if step.count == 1 else "{" + ", ".join([register] * step.count) + "}"
        address = f"[%rd9+{step.offset}]"
        if step.kind == _LOAD:
            body = f"ld{space}{vector}.u{bits} {value}, {address};"
        elif step.kind == _STORE:
            lines.append("cvt.u16.u32 %h0, 7; mov.u32 %r4, 7; mov.u64 %rd10, 7;")
            body = f"st{space}{vector}.u{bits} {address}, {value};"
        else:
            body = f"red{space}.add.u32 {address}, 1;"
        lines.append(f"@%p {body}")
        places.append(len(lines))
        if step.barrier:
            lines.append("bar.sync 0;")
    return "\n".join([*lines, "ret;", "}", ""]), places


Bad = tuple[int, int, int]  # block, thread, step


def run(program: list[Step], arrays: list[np.ndarray], grid: int, threads: int) -> Bad | None:
    """What the kernel does to the arrays, and its first bad access. Threads go from barrier to barrier, in
    order.
    """
    phases: list[list[int]] = [[]]
    for index, step in enumerate(program):
        phases[-1].append(index)
        if step.barrier:
            phases.append([])
    for block in range(grid):
        for phase in phases:
            for thread in range(threads):
                for index in phase:
                    if not perform(program[index], arrays, block * threads + thread):
                        return block, thread, index
    return None


def perform(step: Step, arrays: list[np.ndarray], t: int) -> bool:
    if t >= step.below:
        return True
    at = t * step.stride + step.offset
    array = arrays[int(step.where)] if step.where.isdigit() else None
    extent = array.nbytes if array is not None else SHARED if step.where == "shared" else LOCAL
    if at < 0 or at + step.size > extent or at % step.size:
        return False
    if array is not None and step.kind != _LOAD:
        cells = array.view(f"u{step.width}")[at // step.width :][: step.count]
        cells[...] = 7 if step.kind == _STORE else cells + 1
    return True


@settings(max_examples=60, deadline=None)
@given(
    st.lists(steps(), min_size=1, max_size=5),
    st.lists(st.integers(1, 60), min_size=ARRAYS, max_size=ARRAYS),
    st.integers(1, 3),
    st.sampled_from([(1, 1), (5, 1), (33, 1), (8, 2)]),
)
def test_the_first_bad_access_of_any_kernel_is_found(
    server: str, program: list[Step], words: list[int], grid: int, block: tuple[int, int]
) -> None:
    text, places = to_ptx(program)
    arrays = [np.zeros(8 * n, np.uint8) for n in words]
    bad = run(program, arrays, grid, block[0] * block[1])
    with gpudisagg.connect(server, timeout=PATIENCE, check=True) as gpu:
        device = [gpu.zeros(8 * n, np.uint8) for n in words]
        gpu.compile(text)["k"][grid, block](*device)
        if bad is None:
            for array, copy in zip(arrays, device, strict=True):
                np.testing.assert_array_equal(copy.get(), array)
            return
        with pytest.raises(DeviceFault) as caught:
            gpu.synchronize()
    fault, (at_block, thread, index) = caught.value, bad
    step = program[index]
    assert (fault.block, fault.thread) == ((at_block, 0, 0), thread)
    assert f" at line {places[index]} of the PTX" in fault.reason
    kind = {_LOAD: "read", _STORE: "write", _RED: "atomic operation"}[step.kind]
    assert f" {kind} of {step.size} bytes " in fault.reason
    assert (
        f"thread ({thread % block[0]}, {thread // block[0]}, 0) of block ({at_block}, 0, 0)" in fault.reason
    )
    at = (at_block * block[0] * block[1] + thread) * step.stride + step.offset
    if at % step.size:
        assert fault.reason.startswith("misaligned ") and f"not a multiple of {step.size};" in fault.reason
    if step.where.isdigit():
        array = device[int(step.where)]
        assert fault.address == array.ptr + at
        if at % step.size == 0 and at >= array.nbytes:
            beyond = at - array.nbytes
            far = f"{beyond} bytes" if beyond else "just"
            assert f", {far} past the end of uint8[{array.nbytes}] made at" in fault.reason
        elif at % step.size == 0 and at < 0 and -at >= step.size:
            # Before the first array is nothing, or what is free behind another.
            assert re.search(
                r", (just|\d+ bytes) (before|past the end of) uint8\[\d+\] made at", fault.reason
            )


SOURCE = r"""
#define N 100
__device__ int table[N];
__constant__ float weights[10];

__device__ __forceinline__ void bump(int *p) {
  *p += 1;                                                  // line 7
}
extern "C" __global__ void inlined(int *x, int i) {
  bump(x + i);                                              // line 10
}
__device__ __noinline__ int last(int *p, int i) {
  return p[i];                                              // line 13
}
extern "C" __global__ void called(int *out, int i) {
  int own[16];
  for (int j = 0; j < 16; j++) own[j] = j * out[0];
  out[0] = last(own, i);
}
extern "C" __global__ void variable(float *out, int i) { out[0] = (float)table[i]; }  // line 20
extern "C" __global__ void constant(float *out, int i) { out[0] = weights[i]; }       // line 21
extern "C" __global__ void dynamic(float *out, int i) {
  extern __shared__ float s[];
  s[(int)threadIdx.x + i] = 1.0f;                           // line 24
  __syncthreads();
  out[threadIdx.x] = s[threadIdx.x];
}
extern "C" __global__ void add(int *x, int i) { atomicAdd(&x[i], 1); }                // line 28
extern "C" __global__ void generic(int *out, int i) {
  __shared__ int s[8];
  int *p = i & 1 ? s : out;
  p[i] = 5;                                                 // line 32
}
struct Big { int v[8]; };
extern "C" __global__ void by_value(Big big, int *out, int i) { out[0] = big.v[i & 7]; }
extern "C" __global__ void shuffled(int *x, int n) {
  int v = threadIdx.x;
  v = __shfl_xor_sync(~0u, v, 1);
  x[v] = threadIdx.x;                                       // line 39
}
typedef int (*Function)(int);
__device__ __noinline__ int one(int x) { return 1; }
__device__ __noinline__ int two(int x) { return 2; }
__device__ Function functions[2] = {one, two};
extern "C" __global__ void pointed(int *out, int i, unsigned long long wild) {
  out[0] = (wild ? (Function)wild : functions[i])(i);
}
"""


@pytest.fixture(scope="module")
def source() -> bytes:
    return SOURCE.encode()


def fault_of(server: str, source: bytes, kernel: str, *, i: int, n: int = 1, threads: int = 1) -> str:
    """The reason of the fault, "" where there was none."""
    with gpudisagg.connect(server, timeout=PATIENCE, check=True) as gpu:
        module = gpu.compile(source)
        out = gpu.zeros(n, np.int32)
        try:
            module[kernel][1, threads, None, 64 if kernel == "dynamic" else 0](out, np.int32(i))
            gpu.synchronize()
        except DeviceFault as fault:
            assert fault.kernel == kernel and fault.block == (0, 0, 0)
            return fault.reason
    return ""


@pytest.mark.parametrize(
    ("kernel", "good", "bad", "words"),
    [
        ("inlined", 0, 1, "invalid global read of 4 bytes .*just past the end of int32.1. made at "
                          "test_check.py:.*; line 7, inlined at line 10, "),
        ("called", 15, 16, "invalid local read of 4 bytes .*; line 13, "),
        ("variable", 99, 100, "just past the end of the variable table .400 bytes.; line 20, "),
        ("constant", 9, 10, "just past the end of the variable weights .40 bytes.; line 21, "),
        ("dynamic", 15, 16, "invalid shared write of 4 bytes .*, 0 bytes past the end of the block's 64 "
                            "bytes of shared memory; line 24, "),
        ("dynamic", 0, -1, "4 bytes before the block's 64 bytes of dynamic shared memory; line 24, "),
        ("add", 0, -1, "invalid global atomic operation of 4 bytes .*; line 28, "),
        ("generic", 7, 9, "4 bytes past the end of the block's 32 bytes of shared memory; line 32, "),
    ],
)  # fmt: skip
def test_what_is_said_of_each_kind_of_memory(
    server: str, source: bytes, kernel: str, good: int, bad: int, words: str
) -> None:
    assert fault_of(server, source, kernel, i=good) == ""
    assert re.search(words, fault_of(server, source, kernel, i=bad))


def test_the_thread_is_named_after_a_shuffle(server: str, source: bytes) -> None:
    assert fault_of(server, source, "shuffled", i=0, n=32, threads=32) == ""
    reason = fault_of(server, source, "shuffled", i=0, n=31, threads=32)
    assert "line 39" in reason and "thread (30, 0, 0) of block (0, 0, 0)" in reason


def test_parameters_may_be_read(server: str, source: bytes) -> None:
    with gpudisagg.connect(server, timeout=PATIENCE, check=True) as gpu:
        out = gpu.zeros(1, np.int32)
        gpu.compile(source)["by_value"][1, 1](np.arange(8, dtype=np.int32), out, 5)
        assert out.get()[0] == 5


def test_a_freed_array_is_known_by_name(server: str, source: bytes) -> None:
    with gpudisagg.connect(server, timeout=PATIENCE, check=True) as gpu:
        add = gpu.compile(source)["add"]
        gone = gpu.zeros(10, np.int16)
        pointer = gone.ptr
        add[1, 1](pointer, 0)
        gpu.synchronize()
        del gone
        add[1, 1](pointer, 0)
        with pytest.raises(DeviceFault, match=r"in int16\[10\] made at .* \(20 bytes\), which was freed"):
            gpu.synchronize()


def test_freed_memory_is_not_used_again_at_once(server: str, source: bytes) -> None:
    with gpudisagg.connect(server, timeout=PATIENCE, check=True) as gpu:
        add = gpu.compile(source)["add"]
        gone = gpu.zeros(100, np.int32)
        pointer = gone.ptr
        del gone
        others = [gpu.zeros(100, np.int32) for _ in range(20)]
        assert all(other.ptr + other.nbytes <= pointer or pointer + 400 <= other.ptr for other in others)
        add[1, 1](pointer, 99)
        with pytest.raises(DeviceFault, match=r"in int32\[100\] made at .* \(400 bytes\), which was freed"):
            gpu.synchronize()


def test_a_call_through_a_wild_pointer(server: str, source: bytes) -> None:
    with gpudisagg.connect(server, timeout=PATIENCE, check=True) as gpu:
        pointed = gpu.compile(source)["pointed"]
        out = gpu.zeros(1, np.int32)
        for which, wanted in [(0, 1), (1, 2)]:
            pointed[1, 1](out, which, np.uint64(0))
            assert out.get()[0] == wanted
        pointed[1, 1](out, 0, np.uint64(out.ptr))
        with pytest.raises(DeviceFault, match=r"invalid call of 0x[0-9a-f]+, where the module has no"):
            gpu.synchronize()


def test_the_environment_asks_for_checks(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for value, check, wanted in [
        ("1", None, True),
        ("0", None, False),
        ("", None, False),
        ("1", False, False),
    ]:
        monkeypatch.setenv("GPUDISAGG_CHECK", value)
        with gpudisagg.connect(server, timeout=PATIENCE, check=check) as gpu:
            assert gpu.checked is wanted


def test_null_and_wild_pointers(server: str, source: bytes) -> None:
    for pointer, words in [(None, "through a null pointer"), (1 << 60, "far from any array")]:
        with gpudisagg.connect(server, timeout=PATIENCE, check=True) as gpu:
            gpu.compile(source)["add"][1, 1](pointer, 0)
            with pytest.raises(DeviceFault, match=words):
                gpu.synchronize()


@in_place
def test_host_arrays_have_bounds_too(server: str, source: bytes) -> None:
    with gpudisagg.connect(server, timeout=PATIENCE, check=True) as gpu:
        add = gpu.compile(source)["add"]
        x = gpu.host_zeros(5, np.int32)
        add[1, 1](x, 4)
        gpu.synchronize()
        assert x.tolist() == [0, 0, 0, 0, 1]
        add[1, 1](x, 5)
        with pytest.raises(DeviceFault, match=r"just past the end of int32\[5\] made at"):
            gpu.synchronize()


def test_a_worker_is_used_again_after_a_bad_access(lonely_server: str, source: bytes) -> None:
    for _ in range(3):
        assert fault_of(lonely_server, source, "add", i=1) != ""


def test_memory_that_is_held_back_is_given_when_it_is_needed(server: str, source: bytes) -> None:
    with gpudisagg.connect(server, timeout=PATIENCE, memory="32MiB", check=True) as gpu:
        add = gpu.compile(source)["add"]
        for _ in range(20):
            x = gpu.zeros(3 << 20, np.uint8)
            add[1, 1](x, 0)
        assert gpu.memory_info.used < 8 << 20
        del x
        y = gpu.zeros(24 << 20, np.uint8)
        add[1, 1](y, 0)
        gpu.synchronize()


def test_a_session_that_is_not_checked_runs_as_ever(server: str, source: bytes) -> None:
    with gpudisagg.connect(server, timeout=PATIENCE) as gpu:
        assert not gpu.checked
        x = gpu.zeros(1, np.int32)
        gpu.compile(source)["add"][1, 1](x, 1)  # within what is mapped
        gpu.synchronize()
