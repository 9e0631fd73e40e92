"""A real server, started as a user would, and sessions with it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import gpudisagg

PATIENCE = 60.0  # seconds: ends what hangs, times nothing

# For tests of what takes shared memory: kernels that dereference a HostArray.
in_place = pytest.mark.parametrize("server", ["unix"], indirect=True)
in_place_alone = pytest.mark.parametrize("lonely_server", ["unix"], indirect=True)

KERNELS = r"""
struct Pair { float a; int b; double c; };

extern "C" __global__ void nothing() {}

extern "C" __global__ void saxpy(int n, float a, const float* x, float* y) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = a * x[i] + y[i];
}
extern "C" __global__ void add(int* x, int n, int value) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) x[i] += value;
}
// Every kind of argument comes back as a double: what the kernel was given is what the caller passed.
extern "C" __global__ void kinds(double* out, signed char i8, unsigned short u16, int i32,
                                 unsigned long long u64, float f, double d, Pair pair, bool flag,
                                 const void* pointer) {
  out[0] = i8; out[1] = u16; out[2] = i32; out[3] = (double)u64; out[4] = f; out[5] = d;
  out[6] = pair.a; out[7] = pair.b; out[8] = pair.c; out[9] = flag; out[10] = pointer == 0;
}
extern "C" __global__ void shape(int* out) {
  int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] = block * 1000 + thread;
}
extern "C" __global__ void reversed(int* x) {
  extern __shared__ int scratch[];
  scratch[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  x[threadIdx.x] = scratch[blockDim.x - 1 - threadIdx.x];
}
extern "C" __global__ void wild(int* x) { x[threadIdx.x] = 1; }
extern "C" __global__ void spin(volatile int* stop) { while (!*stop) {} }

__device__ int counters[4];
__constant__ float factor;
extern "C" __global__ void count() { atomicAdd(&counters[blockIdx.x % 4], 1); }
extern "C" __global__ void scale(float* x) { x[threadIdx.x] *= factor; }
"""


@contextlib.contextmanager
def serving(*options: str, over: str = "unix") -> Iterator[str]:
    """A server's address, of the scheme `over`; the server ends with the block."""
    folder = Path(tempfile.mkdtemp(prefix="gpud-"))  # short: a socket's path has room for 107 bytes
    listen = f"unix://{folder}/s.sock" if over == "unix" else f"{over}://127.0.0.1:0"
    command = [sys.executable, "-m", "gpudisagg", "serve", "--listen", listen, *options]
    log = folder / "log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr)
    try:
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        assert line.startswith(f"gpudisagg: listening on {over}://"), log.read_text()
        yield line.split()[-1]
        process.terminate()
        assert process.wait(PATIENCE) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
        shutil.rmtree(folder)


@pytest.fixture(scope="session", params=["unix", "tcp"])
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server's address, by each transport that every machine has."""
    options = ("--workers", "3", "--memory", "256MiB", "--host-memory", "256MiB", "--threads", "2")
    with serving(*options, over=request.param) as address:
        yield address


@pytest.fixture(scope="session", params=["unix", "tcp"])
def lonely_server(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server of one worker: it must be free again for the next session to open."""
    with serving("--workers", "1", "--memory", "64MiB", "--threads", "1", over=request.param) as address:
        yield address


@pytest.fixture
def gpu(server: str) -> Iterator[gpudisagg.Session]:
    with gpudisagg.connect(server, timeout=PATIENCE) as session:
        yield session


@pytest.fixture
def module(gpu: gpudisagg.Session) -> gpudisagg.Module:
    return gpu.compile(KERNELS)


@pytest.fixture
def run_python() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts Python programs with the sources in their path; whatever still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def run(
        program: str, *arguments: str, environment: dict[str, str | None] | None = None
    ) -> subprocess.Popen[str]:
        variables = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **(environment or {})}
        process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={name: value for name, value in variables.items() if value is not None},
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()
