"""A kernel written in CuPy's own Python dialect. Read by `generate.py` only."""

# mypy: ignore-errors

import cupy
from cupyx import jit


@jit.rawkernel()
def doubled(x, out, n):
    i = jit.blockIdx.x * jit.blockDim.x + jit.threadIdx.x
    shared = jit.shared_memory(cupy.float32, 128)
    if i < n:
        shared[127 - jit.threadIdx.x] = x[i]
    jit.syncthreads()
    if i < n:
        out[i] = shared[127 - jit.threadIdx.x] * cupy.float32(2)
