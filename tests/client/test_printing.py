"""printf comes out of the client's stdout, in order and as C has it; assertions say where they failed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gpudisagg
from tests.client.conftest import PATIENCE

KERNELS = r"""
extern "C" __global__ void hello(int n) {
  for (int i = 0; i < n; i++) printf("block %d thread %d: %d\n", blockIdx.x, threadIdx.x, i);
}
extern "C" __global__ void long_lines(int n) {
  for (int i = 0; i < n; i++) printf("%0100d\n", i);
}
extern "C" __global__ void formats(const char* format, int i, long long l, double d, const char* s) {
  printf(format, i, l, d, s);
}
extern "C" __global__ void careful(const int* x) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  assert(x[i] < 100 && "a bound");
}
extern "C" __global__ void careful_among_barriers(const int* x) {
  __shared__ int y[64];
  y[threadIdx.x] = x[blockIdx.x * blockDim.x + threadIdx.x];
  __syncthreads();
  printf("");
  assert(y[threadIdx.x] < 100);
}
static __device__ __noinline__ void check(int x) { assert(x < 100); }
extern "C" __global__ void careful_in_a_function(const int* x) {
  check(x[blockIdx.x * blockDim.x + threadIdx.x]);
}
extern "C" __global__ void trapping(const int* x) {
  if (x[blockIdx.x * blockDim.x + threadIdx.x] >= 100) __trap();
}
extern "C" __global__ void trapping_after_a_shuffle(const int* x) {
  int y = __shfl_xor_sync(~0u, x[blockIdx.x * blockDim.x + threadIdx.x], 0);
  if (y >= 100) __trap();
}
"""


def test_kernels_print_in_order(gpu: gpudisagg.Session, capsys: pytest.CaptureFixture[str]) -> None:
    module = gpu.compile(KERNELS)
    module["hello"][1, 3](2)
    module["hello"][1, 1](1)
    print("posted")
    gpu.synchronize()
    print("done")
    got = capsys.readouterr().out.splitlines()
    assert got[0] == "posted" and got[-1] == "done"
    for thread in range(3):
        mine = [line for line in got[1:-2] if f"thread {thread}:" in line]
        assert mine == [f"block 0 thread {thread}: {i}" for i in range(2)]
    assert got[-2] == "block 0 thread 0: 0" and len(got) == 9


@pytest.mark.parametrize("lines", [1, 1000, 10_000])
def test_more_than_fits_any_ring(
    gpu: gpudisagg.Session, capsys: pytest.CaptureFixture[str], lines: int
) -> None:
    module = gpu.compile(KERNELS)
    module["long_lines"][1, 1](lines)
    x = gpu.asarray(np.arange(3))
    assert x.get().tolist() == [0, 1, 2]  # which waits, so what was printed before is there
    assert capsys.readouterr().out == "".join(f"{i:0100d}\n" for i in range(lines))


def test_what_is_too_much_is_counted(gpu: gpudisagg.Session, capsys: pytest.CaptureFixture[str]) -> None:
    module = gpu.compile(KERNELS)
    module["long_lines"][1, 1](11_000)
    gpu.synchronize()
    *whole, last = capsys.readouterr().out.splitlines()
    assert whole == [f"{i:0100d}" for i in range(len(whole))]
    assert f"{11_000 - len(whole)} more printfs" in last
    module["long_lines"][1, 1](2)
    gpu.synchronize()
    assert len(capsys.readouterr().out) == 202


flags = st.lists(st.sampled_from("-+ #0"), max_size=3, unique=True).map("".join)
width = st.one_of(st.just(""), st.integers(1, 30).map(str))
precision = st.one_of(st.just(""), st.integers(0, 20).map(lambda p: f".{p}"))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.tuples(flags, width, precision, st.sampled_from("dioxXu")),
    st.tuples(flags, width, precision, st.sampled_from("dxX")),
    st.tuples(flags, width, precision, st.sampled_from("eEfFgG")),
    st.tuples(st.sampled_from(["", "-"]), width, precision),
    st.integers(-(2**31), 2**31 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20),
)
def test_formats_are_those_of_c(
    gpu: gpudisagg.Session,
    capsys: pytest.CaptureFixture[str],
    a: tuple[str, str, str, str],
    b: tuple[str, str, str, str],
    c: tuple[str, str, str, str],
    d: tuple[str, str, str],
    i: int,
    wide: int,
    number: float,
    word: str,
) -> None:
    module = gpu.compile(KERNELS)
    pieces = ["%" + "".join(a), "%" + "".join((*b[:3], "ll", b[3])), "%" + "".join(c), "%" + "".join(d) + "s"]
    text = "100%% [" + "|".join(pieces) + "]\n"
    format_ = gpu.asarray(np.frombuffer(text.encode() + b"\0", np.uint8))
    string = gpu.asarray(np.frombuffer(word.encode() + b"\0", np.uint8))
    module["formats"][1, 1](format_, i, wide, number, string)
    capsys.readouterr()
    gpu.synchronize()
    got = capsys.readouterr().out
    libc = _c_printf(text, i, wide, number, word)
    assert got == libc


def _c_printf(text: str, i: int, wide: int, number: float, word: str) -> str:
    """What the host's own C library makes of it."""
    import ctypes

    buffer = ctypes.create_string_buffer(8192)
    ctypes.CDLL(None).snprintf(
        buffer,
        8192,
        text.encode(),
        ctypes.c_int(i),
        ctypes.c_longlong(wide),
        ctypes.c_double(number),
        word.encode(),
    )
    return buffer.value.decode()


CASES = ["careful", "careful_among_barriers", "careful_in_a_function"]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("where", [0, 5, 40, 63, 64 + 33])
def test_a_failed_assertion_says_what_and_where(lonely_server: str, name: str, where: int) -> None:
    with gpudisagg.connect(lonely_server, timeout=PATIENCE) as gpu:
        module = gpu.compile(KERNELS)
        x = np.zeros(128, np.int32)
        module[name][2, 64](gpu.asarray(x))
        gpu.synchronize()
        x[where] = 100
        module[name][2, 64](gpu.asarray(x))
        with pytest.raises(gpudisagg.DeviceFault) as caught:
            gpu.synchronize()
    line = next(i for i, text in enumerate(KERNELS.splitlines(), 1) if f" {_home(name)}(" in text)
    line += {"careful": 2, "careful_among_barriers": 5, "careful_in_a_function": 0}[name]
    said = str(caught.value)
    assert "assertion `" in said and "< 100" in said and f".cu:{line} in " in said
    assert ("a bound" in said) == (name == "careful")
    assert caught.value.block == (where // 64, 0, 0) and caught.value.thread == where % 64


def _home(name: str) -> str:
    return "check" if name == "careful_in_a_function" else name


@pytest.mark.parametrize("name", ["trapping", "trapping_after_a_shuffle"])
def test_a_trap_says_where(lonely_server: str, name: str) -> None:
    with gpudisagg.connect(lonely_server, timeout=PATIENCE) as gpu:
        module = gpu.compile(KERNELS)
        x = np.zeros(128, np.int32)
        x[64 + 37] = 100
        module[name][2, 64](gpu.asarray(x))
        with pytest.raises(gpudisagg.DeviceFault, match=r"trap at line \d+ of the PTX") as caught:
            gpu.synchronize()
    assert caught.value.block == (1, 0, 0) and caught.value.thread == 37


def test_what_was_printed_before_a_fault_is_seen(
    lonely_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with gpudisagg.connect(lonely_server, timeout=PATIENCE) as gpu:
        module = gpu.compile(KERNELS)
        module["hello"][1, 1](1)
        module["trapping"][1, 1](gpu.full(1, 100, np.int32))
        with pytest.raises(gpudisagg.DeviceFault):
            gpu.synchronize()
    assert capsys.readouterr().out == "block 0 thread 0: 0\n"
