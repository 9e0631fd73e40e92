"""How fast the cpu device runs kernels, against PoCL's and numpy's: interleaved in one run.

PoCL: Debian's `pocl-opencl-icd`, and `pip install pyopencl`. Both sides use every CPU that there is.
"""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

import gpudisagg

from . import measure, server
from .row import Effort, Measured, NotHere, Target, at_least, at_most

_HERE = Path(__file__).parent
_TESTS = _HERE.parent / "tests"
Array = npt.NDArray[Any]
_SMALLEST = 16  # of a side, where the sizes are divided


@dataclass(frozen=True)
class Case:
    """A kernel and its arguments: arrays become device arrays. `out`: which of them is the result. `numpy`:
    the same by numpy; its value is what the first launch must have given. `file`: of its sources, without .cu
    and .cl.
    """

    kernel: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    arguments: tuple[Any, ...]
    out: int
    numpy: Callable[[], Array]
    file: str = "kernels"


def side(side: int, effort: Effort) -> int:
    """A side of a square, so that the square shrinks as `bulk_scale` says."""
    return max(_SMALLEST, int(side / effort.bulk_scale**0.5) // _SMALLEST * _SMALLEST)


def _saxpy(effort: Effort) -> Case:
    n = (16 << 20) // effort.bulk_scale
    x, y = np.arange(n, dtype=np.float32) % 97, np.ones(n, np.float32)
    return Case("saxpy", (n // 256,), (256,), (np.int32(n), np.float32(0.5), x, y), 3,
                lambda: np.float32(0.5) * x + y)  # fmt: skip


def _softmax(effort: Effort) -> Case:
    n = side(1024, effort)
    x = np.random.default_rng(1).random((n, n), dtype=np.float32)

    def reference() -> Array:
        e = np.exp(x - x.max(1, keepdims=True))
        return np.asarray(e / e.sum(1, keepdims=True))

    return Case("softmax", (n,), (256,), (x, np.zeros_like(x), np.int32(n)), 1, reference)


def _histogram(effort: Effort) -> Case:
    n = (16 << 20) // effort.bulk_scale
    data = np.random.default_rng(2).integers(0, 256, n, dtype=np.uint8)
    counts = np.zeros(256, np.uint32)
    return Case("histogram", (256,), (256,), (data, counts, np.int32(n)), 1,
                lambda: np.bincount(data, minlength=256))  # fmt: skip


def _matmul(effort: Effort) -> Case:
    n = side(1024, effort)
    rng = np.random.default_rng(3)
    a, b = rng.random((n, n), dtype=np.float32), rng.random((n, n), dtype=np.float32)
    blocks = (n // 16, n // 16)
    return Case("matmul", blocks, (16, 16), (a, b, np.zeros_like(a), np.int32(n)), 2, lambda: a @ b)


def _stencil(effort: Effort) -> Case:
    n = side(4096, effort)
    x = np.random.default_rng(4).random((n, n), dtype=np.float32)

    def reference() -> Array:
        y = np.zeros_like(x)
        around = x[1:-1, :-2] + x[1:-1, 2:] + x[:-2, 1:-1] + x[2:, 1:-1]
        y[1:-1, 1:-1] = np.float32(0.5) * x[1:-1, 1:-1] + np.float32(0.125) * around
        return y

    return Case("stencil", (-(-n // 64), n // 4), (64, 4), (x, np.zeros_like(x), np.int32(n)), 1, reference)


def _convolution(effort: Effort) -> Case:
    images, channels, n = 8, 8, side(256, effort)
    rng = np.random.default_rng(5)
    x = rng.random((images, channels, n, n), dtype=np.float32)
    w = rng.random((channels, channels, 3, 3), dtype=np.float32)

    def reference() -> Array:
        y = np.zeros_like(x)
        for dy in range(3):
            for dx in range(3):
                part = x[:, :, dy : n - 2 + dy, dx : n - 2 + dx]
                y[:, :, 1:-1, 1:-1] += np.einsum("oc,icyx->ioyx", w[:, :, dy, dx], part, optimize=True)
        return y

    grid = (-(-n // 32), n // 8, images * channels)
    arguments = (x, w, np.zeros_like(x), np.int32(channels), np.int32(n))
    return Case("convolution", grid, (32, 8), arguments, 2, reference)


def _reduce(effort: Effort) -> Case:
    n = (16 << 20) // effort.bulk_scale
    x = np.random.default_rng(6).random(n, dtype=np.float32)
    return Case("reduce", (256,), (256,), (x, np.zeros(1, np.float32), np.int32(n)), 1,
                lambda: np.asarray([x.sum(dtype=np.float32)]))  # fmt: skip


def _agree(case: Case, got: Array, who: str) -> None:
    expected = case.numpy()
    if not np.allclose(got.reshape(expected.shape), expected, rtol=1e-3, atol=1e-4):
        raise RuntimeError(f"{who} computes {case.kernel} wrongly")


@contextmanager
def _here(case: Case) -> Iterator[Callable[[], float]]:
    """Seconds of a launch on the cpu device, its completion awaited."""
    with server.running() as served, gpudisagg.connect(served.address) as session:
        kernel = session.compile((_HERE / f"{case.file}.cu").read_text())[case.kernel]
        given = [session.asarray(a) if isinstance(a, np.ndarray) else a for a in case.arguments]
        launcher = kernel[case.grid, case.block]
        launcher(*given)
        _agree(case, given[case.out].get(), "the cpu device")
        served.settle()

        def once() -> float:
            begin = perf_counter()
            launcher(*given)
            session.synchronize()
            return perf_counter() - begin

        yield once


def _pocl() -> Any:
    """An OpenCL queue on PoCL's CPU device."""
    try:
        import pyopencl
    except ImportError:
        raise NotHere("pyopencl isn't installed: pip install pyopencl") from None
    try:
        platforms = pyopencl.get_platforms()
    except pyopencl.LogicError:
        platforms = []
    for platform in platforms:
        if "Portable Computing Language" in platform.name:
            return pyopencl.CommandQueue(pyopencl.Context(platform.get_devices()[:1]))
    raise NotHere("PoCL isn't installed: apt-get install pocl-opencl-icd")


def _there(case: Case) -> Callable[[], float]:
    """Seconds of a launch by PoCL, its completion awaited."""
    queue = _pocl()
    import pyopencl as cl

    program = cl.Program(queue.context, (_HERE / f"{case.file}.cl").read_text()).build()
    kernel = cl.Kernel(program, case.kernel)
    flags = cl.mem_flags.READ_WRITE | cl.mem_flags.COPY_HOST_PTR
    given = [
        cl.Buffer(queue.context, flags, hostbuf=np.ascontiguousarray(a)) if isinstance(a, np.ndarray) else a
        for a in case.arguments
    ]
    size = tuple(g * b for g, b in zip(case.grid, (*case.block, 1, 1), strict=False))
    local = (*case.block, 1, 1)[: len(size)]
    kernel.set_args(*given)
    cl.enqueue_nd_range_kernel(queue, kernel, size, local).wait()
    got = np.empty_like(case.arguments[case.out])
    cl.enqueue_copy(queue, got, given[case.out]).wait()
    _agree(case, got, "PoCL")

    def once() -> float:
        begin = perf_counter()
        kernel.set_args(*given)  # which also keeps them: a kernel doesn't
        cl.enqueue_nd_range_kernel(queue, kernel, size, local)
        queue.finish()
        return perf_counter() - begin

    return once


def against_pocl(make: Callable[[Effort], Case], effort: Effort) -> Measured:
    case = make(effort)
    there = _there(case)
    with _here(case) as here:
        subjects = {"here": here, "there": there, "numpy": lambda: measure.seconds_of(case.numpy)}
        measure.interleave(subjects, 2)
        times = measure.interleave(subjects, effort.bulk_rounds)
    return Measured(
        measure.ratio(times["there"], times["here"]),
        f"{_milliseconds(times['here'])}; PoCL {_milliseconds(times['there'])}, "
        f"numpy {_milliseconds(times['numpy'])}",
    )


def _milliseconds(times: list[float]) -> str:
    return f"{1e3 * median(times):.2f} ms"


def saxpy(effort: Effort) -> Measured:
    """PoCL's time over ours, 16M floats; of these rows, all are."""
    return against_pocl(_saxpy, effort)


def softmax(effort: Effort) -> Measured:
    """1024 rows of 1024, a tree reduction in shared memory."""
    return against_pocl(_softmax, effort)


def histogram(effort: Effort) -> Measured:
    """16 MiB of bytes, atomics in shared memory."""
    return against_pocl(_histogram, effort)


def matmul(effort: Effort) -> Measured:
    """1024 by 1024, in tiles of 16 by 16."""
    return against_pocl(_matmul, effort)


def stencil(effort: Effort) -> Measured:
    """Five points, 4096 by 4096."""
    return against_pocl(_stencil, effort)


def convolution(effort: Effort) -> Measured:
    """3 by 3, 8 images, 8 channels in and out, 256 by 256."""
    return against_pocl(_convolution, effort)


def reduction(effort: Effort) -> Measured:
    """Our time over numpy's sum: 16M floats, by shuffles."""
    case = _reduce(effort)
    with _here(dataclasses.replace(case)) as here:
        subjects = {"here": here, "numpy": lambda: measure.seconds_of(case.numpy)}
        measure.interleave(subjects, 2)
        times = measure.interleave(subjects, effort.bulk_rounds)
    return Measured(
        measure.ratio(times["here"], times["numpy"]),
        f"{_milliseconds(times['here'])}; numpy {_milliseconds(times['numpy'])}",
    )


def empty_launch(effort: Effort) -> Measured:
    """µs a launch of an empty kernel in batches, posting and running overlapped: the worker takes no more."""
    with server.running() as served, gpudisagg.connect(served.address) as session:
        launcher = session.compile((_HERE / "kernels.cu").read_text())["empty"][1, 1]
        served.settle()
        times = []
        for _ in range(effort.rounds * 20):
            begin = perf_counter()
            for _ in range(effort.launches):
                launcher()
            session.synchronize()
            times.append((perf_counter() - begin) / effort.launches * 1e6)
    return Measured(
        median(times), f"median of {len(times)} batches of {effort.launches}; best {min(times):.2f}"
    )


@functools.cache
def _ptx() -> tuple[tuple[str, bytes], ...]:
    """Every kernel file there is, as PTX."""
    from gpudisagg.device import nvrtc

    files = [*sorted(_HERE.glob("*.cu")), *sorted((_TESTS / "device" / "kernels").glob("*.cu"))]
    made = [(f.name, nvrtc.compile_to_ptx(f.read_bytes(), name=f.name)) for f in files]
    made += [(f.name, f.read_bytes()) for f in sorted((_TESTS / "programs").rglob("*.ptx"))]
    return tuple(made)


def _some(effort: Effort) -> tuple[tuple[str, bytes], ...]:
    files = _ptx()
    return files[:3] if effort.bulk_scale > 1 else files


def compilation(effort: Effort) -> Measured:
    """Translation and JIT of each kernel by itself, from PTX to linked code: the median, ms."""
    from gpudisagg.device.cpu.jit import Jit
    from gpudisagg.device.cpu.layout import kernel_symbol
    from gpudisagg.device.cpu.parser import parse
    from gpudisagg.device.cpu.translate import translate

    jit, times = Jit(), {}
    for file, text in _some(effort):
        begin = perf_counter()
        module = parse(text)
        entries = [f for f in module.functions.values() if f.entry]
        parsing = (perf_counter() - begin) / max(1, len(entries))
        others = {name: f for name, f in module.functions.items() if not f.entry}
        for entry in entries[: effort.launches]:
            alone = dataclasses.replace(module, functions={**others, entry.name: entry})
            begin = perf_counter()
            translation = translate(alone)
            code = jit.compile(translation.loops, translation.warps)
            linked = jit.link(code, [kernel_symbol(entry.name)])
            times[f"{file}:{entry.name}"] = 1e3 * (perf_counter() - begin + parsing)
            linked.close()
    slowest = max(times, key=lambda name: times[name])
    return Measured(
        median(times.values()), f"{len(times)} kernels; slowest {slowest} {times[slowest]:.0f} ms"
    )


def cached(effort: Effort) -> Measured:
    """Loading an image whose code a worker has, or finds on disk: the median, ms."""
    from gpudisagg.device.cpu.compiler import CpuCompiler

    texts = [text for _, text in _some(effort)]
    times = []
    with tempfile.TemporaryDirectory() as folder:
        for text in texts:
            CpuCompiler(Path(folder)).load(text).close()
        for _ in range(max(2, effort.rounds // 4)):
            compiler = CpuCompiler(Path(folder))  # knows nothing but what is on disk
            for text in texts:
                begin = perf_counter()
                loaded = compiler.load(text)
                times.append(1e3 * (perf_counter() - begin))
                loaded.close()
    return Measured(
        median(times), f"{len(times)} loads from disk, linking included; worst {max(times):.2f} ms"
    )


def unloading(effort: Effort) -> Measured:
    """MiB by which a worker grows while a module with a variable is loaded and unloaded 10,000 times."""
    source = '__device__ int v[64]; extern "C" __global__ void f(int *x) { x[0] += v[0]++; }'
    cycles = 10_000 // effort.bulk_scale
    with server.running() as served, gpudisagg.connect(served.address) as session:

        def cycle(count: int) -> None:
            for _ in range(count):
                session.compile(source)  # dropped at once, and so unloaded
            session.synchronize()

        cycle(max(2, cycles // 20))
        before = _resident(served.pid)
        cycle(cycles)
        grown = _resident(served.pid) - before
    return Measured(grown / (1 << 20), f"{cycles} cycles; {before / (1 << 20):.0f} MiB before")


def _resident(pid: int) -> int:
    """Bytes of memory that the processes below `pid` have in all."""
    pages = [int(Path(f"/proc/{child}/statm").read_text().split()[1]) for child in measure.descendants(pid)]
    return sum(pages) * 4096


_POCL = "× PoCL's speed"

ROWS = (
    Target("cpu device: saxpy, 16M", _POCL, "≥ 1", saxpy, at_least(1.0)),
    Target("cpu device: softmax, 1024²", _POCL, "≥ 1", softmax, at_least(1.0)),
    Target("cpu device: histogram, 16 MiB", _POCL, "≥ 1", histogram, at_least(1.0)),
    Target("cpu device: tiled matmul, 1024", _POCL, "≥ 1", matmul, at_least(1.0)),
    Target("cpu device: stencil, 4096²", _POCL, "≥ 1", stencil, at_least(1.0)),
    Target("cpu device: batched 3 × 3 convolution", _POCL, "≥ 1", convolution, at_least(1.0)),
    Target("cpu device: shuffle reduction, 16M", "× numpy's time", "≤ 4", reduction, at_most(4.0)),
    Target("cpu device: launch of an empty kernel", "µs", "≤ 2", empty_launch, at_most(2.0)),
    Target("cpu device: translation and JIT, median kernel", "ms", "≤ 80", compilation, at_most(80.0)),
    Target("cpu device: the same from the cache", "ms", "≤ 1", cached, at_most(1.0)),
    Target("cpu device: growth by 10,000 loads and unloads", "MiB", "≤ 1", unloading, at_most(1.0)),
)
