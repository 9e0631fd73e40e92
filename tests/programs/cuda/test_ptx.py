"""PTX as people write it by hand, of old versions and for old and new targets, and of debug builds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpudisagg.device import CompileError, nvrtc
from tests.device.harness import compiler, launch
from tests.programs.cuda.source import Source, few, rng, seeds

# Fermi's version and the newest: tabs, comments, old mnemonics, addresses of shared memory in 32 bits.
REVERSE = """
/* reverses each block's part */
.version {version}
.target {target}, debug // with what a debugger wants
.address_size 64
.visible .entry reverse ( .param .u64 data , .param .u32 n )
.reqntid 64, 1, 1
.minnctapersm 2
{{
	.reg .u32 %r<10>; .reg .u64 %rd<6>; .reg .pred p, q; .reg .f32 %f1, %f2;
	.shared .align 4 .f32 part[64];
	.loc 1 5 0
	ld.param.u64 %rd1, [data];	ld.param.u32 %r1, [n];
	mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mov.u32 %r4, %tid.x;
	mad.lo.u32 %r5, %r2, %r3, %r4;
	setp.ge.u32 p, %r5, %r1;
	cvt.u64.u32 %rd2, %r5; shl.b64 %rd2, %rd2, 0x2; add.u64 %rd3, %rd1, %rd2;
	mov.u32 %r6, part; shl.b32 %r7, %r4, 2; add.u32 %r6, %r6, %r7;
	mov.f32 %f1, 0fBF800000;
@!p	ld.global.f32 %f1, [%rd3+0];
	st.shared.f32 [%r6], %f1;
	bar.sync 0;
	xor.b32 %r8, %r4, 63; mov.u32 %r9, part;
	mad24.lo.u32 %r9, %r8, 4, %r9;
	ld.volatile.shared.f32 %f2, [%r9];
	selp.f32 %f2, %f2, %f2, p;
@p	bra.uni Done;
	st.global.f32 [%rd3], %f2;
Done:
	exit;
}}
"""
VERSIONS = [("3.0", "sm_20"), ("4.3", "sm_52"), ("6.4", "sm_70"), ("7.8", "sm_90"), ("8.6", "sm_100a")]


@pytest.mark.parametrize(("version", "target"), VERSIONS)
def test_versions_and_targets(version: str, target: str) -> None:
    kernel = compiler().load(REVERSE.format(version=version, target=target).encode()).kernels["reverse"]
    x = np.arange(150, dtype=np.float32)
    launch(kernel, 3, 64, x, np.uint32(150))
    tail = np.concatenate([np.arange(64) + 128, [0]])[:64]
    tail = np.where(tail < 150, tail, -1)[::-1][:22]
    np.testing.assert_array_equal(x, [*range(63, -1, -1), *range(127, 63, -1), *tail])


COLLATZ = """.version 7.0 .target sm_70 .address_size 64
.func (.reg .u32 result) steps (.reg .u32 n, .reg .u32 limit) {
  .reg .pred p; .reg .u32 t;
  mov.u32 result, 0;
loop: setp.le.u32 p, n, 1; @p ret; setp.ge.u32 p, result, limit; @p bra done;
  and.b32 t, n, 1; setp.eq.u32 p, t, 0;
  @p shr.u32 n, n, 1;
  @!p mad.lo.u32 n, n, 3, 1;
  add.u32 result, result, 1; bra loop;
done: mov.u32 result, -1;
}
.entry collatz (.param .u64 .ptr .global .align 4 x, .param .u32 limit) {
  .reg .b64 %a; .reg .u32 %n, %i, %l;
  ld.param.b64 %a, [x]; ld.param.u32 %l, [limit]; mov.u32 %i, %tid.x; mad.wide.u32 %a, %i, 4, %a;
  ld.global.u32 %n, [%a];
  call (%n), steps, (%n, %l);
  st.global.u32 [%a], %n;
}
"""


@few
@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=100))
def test_functions_with_register_parameters(values: list[int]) -> None:
    x = np.array(values, np.uint32)
    launch(compiler().load(COLLATZ.encode()).kernels["collatz"], 1, len(x), x, np.uint32(200))

    def steps(n: int) -> int:
        count = 0
        while n > 1:
            if count >= 200:
                return 2**32 - 1
            n, count = (n // 2 if n % 2 == 0 else 3 * n + 1), count + 1
        return count

    assert list(x) == [steps(n) for n in values]


LIBRARY = b"""
__device__ int calls = 0;
__device__ float weights[4] = {1, 2, 4, 8};
__device__ __noinline__ float weighted(const float *x, int i) { atomicAdd(&calls,
    1); return x[i] * weights[i & 3]; }
"""
PROGRAM = b"""
extern __device__ int calls;
extern __device__ float weighted(const float *x, int i);
extern "C" __global__ void use(const float *x, float *y, int *called, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = weighted(x, i) + 1;
  __syncthreads();
  if (i == 0) *called = calls;
}
"""


@pytest.mark.parametrize("option", ["-G", "-lineinfo"])
def test_two_sources_linked(option: str) -> None:
    n, options = 50, ("--relocatable-device-code=true", option)
    texts = [nvrtc.compile_to_ptx(text, options=options) for text in (PROGRAM, LIBRARY)]
    module = compiler().load(b"\n".join(texts))
    x, y, called = rng(1).normal(size=n).astype(np.float32), np.zeros(n, np.float32), np.zeros(1, np.int32)
    launch(module.kernels["use"], 1, 64, x, y, called, np.int32(n))
    np.testing.assert_allclose(y, x * 2.0 ** (np.arange(n) & 3) + 1, 1e-6)
    assert called[0] == n
    module.close()
    with pytest.raises(CompileError, match="calls"):
        compiler().load(texts[0])


source = Source("samples.cu", "-G")


@few
@given(n=st.integers(0, 600), seed=seeds)
def test_debug_builds(n: int, seed: int) -> None:
    x = rng(seed).integers(-99, 99, n).astype(np.int32)
    out = np.zeros(-(-n // 128), np.int32)
    launch(source["reduce3"], len(out), 64, x, out, np.uint32(n), dynamic_shared=256)
    np.testing.assert_array_equal(out, [x[i : i + 128].sum() for i in range(0, n, 128)])
    keys, values = x.view(np.uint32)[:512].copy(), np.zeros(512, np.uint32)
    keys.resize(512)
    want = np.sort(keys)
    launch(
        source["oddEvenMergeSortShared"],
        1,
        256,
        keys,
        values,
        np.uint32(512),
        np.uint32(1),
        dynamic_shared=4096,
    )
    np.testing.assert_array_equal(keys, want)
