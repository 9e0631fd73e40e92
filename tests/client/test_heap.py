"""malloc, free, new and delete in kernels: a heap of the session's, of fixed size."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gpudisagg
from gpudisagg.device import nvrtc
from tests.client.conftest import PATIENCE, in_place, in_place_alone

KERNELS = r"""
struct Node { int value; Node* next; __device__ Node(int v, Node* n) : value(v), next(n) {} };
__device__ Node* head;

extern "C" __global__ void lists(int* out, int n) {
  int t = blockIdx.x * blockDim.x + threadIdx.x;
  Node* mine = nullptr;
  for (int i = 0; i < n + t % 3; i++) mine = new Node(t + i, mine);
  int sum = 0;
  while (mine) { Node* next = mine->next; sum += mine->value; delete mine; mine = next; }
  out[t] = sum;
}
extern "C" __global__ void arrays(float* out, int n) {
  float* a = new float[n];
  for (int i = 0; i < n; i++) a[i] = i * threadIdx.x;
  __syncthreads();
  float s = 0;
  for (int i = 0; i < n; i++) s += a[i];
  out[threadIdx.x] = s;
  delete[] a;
}
extern "C" __global__ void keep(int n) {
  head = nullptr;
  for (int i = 0; i < n; i++) head = new Node(i, head);
}
extern "C" __global__ void kept(int* out) {
  int sum = 0;
  for (Node* at = head; at; at = at->next) sum += at->value;
  *out = sum;
}
extern "C" __global__ void take(unsigned long long* out, unsigned long long size, int back) {
  char* a = (char*)malloc(size);
  *out = (unsigned long long)a;
  if (a) a[0] = a[size - 1] = 1;
  if (back) free(a);
  free(nullptr);
}
extern "C" __global__ void twice(char** held) {
  if (threadIdx.x == 0) { *held = (char*)malloc(8); free(*held); }
  __syncthreads();
  if (threadIdx.x == 35) free(*held);
}
extern "C" __global__ void foreign(char* x) { free(x); }
extern "C" __global__ void beyond(int n) { int* a = (int*)malloc(40); a[n] = 1; free(a); }
extern "C" __global__ void afterwards() { int* a = (int*)malloc(40); free(a); a[3] = 1; }
"""
HEAP = 8 << 20


@functools.cache
def kernels() -> bytes:
    """As PTX: compiled once for all sessions."""
    return nvrtc.compile_to_ptx(KERNELS.encode(), name="heap", options=("-lineinfo",))


checked = pytest.mark.parametrize("check", [False, True], ids=["plain", "checked"])


@in_place
@checked
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(blocks=st.integers(1, 5), threads=st.integers(1, 70), n=st.integers(0, 20))
def test_what_threads_allocate_is_their_own(
    server: str, check: bool, blocks: int, threads: int, n: int
) -> None:
    with gpudisagg.connect(server, timeout=PATIENCE, check=check) as gpu:
        module = gpu.compile(kernels())
        out = gpu.zeros(blocks * threads, np.int32)
        module["lists"][blocks, threads](out, n)
        t = np.arange(blocks * threads)
        count = n + t % 3
        assert (out.get() == t * count + count * (count - 1) // 2).all()
        sums = gpu.zeros(threads, np.float32)
        module["arrays"][1, threads](sums, n)
        assert (sums.get() == np.arange(threads) * (n * (n - 1) // 2)).all()


@in_place
@checked
def test_it_stays_from_launch_to_launch(server: str, check: bool) -> None:
    with gpudisagg.connect(server, timeout=PATIENCE, check=check) as gpu:
        module = gpu.compile(kernels())
        out = gpu.zeros(1, np.int32)
        module["keep"][1, 1](1000)
        module["kept"][1, 1](out)
        assert out.get()[0] == 999 * 1000 // 2


def test_null_when_it_is_spent_and_whole_for_the_next_session(lonely_server: str) -> None:
    for _ in range(2):
        with gpudisagg.connect(lonely_server, timeout=PATIENCE) as gpu:
            take = gpu.compile(kernels())["take"]
            out = gpu.zeros(1, np.uint64)

            def given_(size: int, back: int) -> int:
                take[1, 1](out, size, back)  # noqa: B023
                return int(out.get()[0])  # noqa: B023

            assert given_(HEAP, 1) % 16 == 0 and given_(HEAP, 1)
            assert given_(HEAP + 1, 1) == given_(0, 1) == given_(2**63, 1) == 0
            pieces = [given_(HEAP // 4, 0) for _ in range(4)]
            assert all(pieces) and len(set(pieces)) == 4
            assert given_(1, 0) == 0


@in_place_alone
@checked
@pytest.mark.parametrize(("name", "thread"), [("twice", 35), ("foreign", 0)])
def test_a_wrong_free_is_a_fault(lonely_server: str, check: bool, name: str, thread: int) -> None:
    with gpudisagg.connect(lonely_server, timeout=PATIENCE, check=check) as gpu:
        gpu.compile(kernels())[name][2, 64](gpu.zeros(8, np.uint8))
        with pytest.raises(gpudisagg.DeviceFault) as caught:
            gpu.synchronize()
    said = caught.value.reason
    words = "== 35) free" if name == "twice" else "void foreign("
    line = next(i for i, text in enumerate(KERNELS.splitlines(), 1) if words in text)
    assert said.startswith("free of a pointer that malloc did not give, or that was freed before: 0x")
    assert f"heap.cu:{line}, free at line " in said and f"thread ({thread}, 0, 0) of block (" in said
    assert caught.value.thread == thread


@in_place_alone
@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("beyond", (10,), "past the end of memory from malloc (40 bytes)"),
        ("beyond", (-1,), "before memory from malloc (40 bytes)"),
        ("afterwards", (), "in memory from malloc (40 bytes), which was freed"),
    ],
)
def test_checked_kernels_stay_within_it(
    lonely_server: str, name: str, arguments: tuple[int, ...], words: str
) -> None:
    with gpudisagg.connect(lonely_server, timeout=PATIENCE, check=True) as gpu:
        gpu.compile(kernels())[name][1, 1](*arguments)
        with pytest.raises(gpudisagg.DeviceFault) as caught:
            gpu.synchronize()
    assert words in caught.value.reason
