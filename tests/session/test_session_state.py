"""A session against a model of it: whatever is done, in whatever order, every byte is what numpy makes of it,
and after a fault every wait says so until another session is opened.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from numpy.typing import NDArray

import gpudisagg
from gpudisagg import errors

PATIENCE = 60.0
KERNELS = """
extern "C" __global__ void add(int *x, int n, int value) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) x[i] += value;
}
extern "C" __global__ void mix(int *to, const int *from, int n) {
  for (int i = threadIdx.x; i < n; i += blockDim.x) to[i] = 3 * to[i] + from[i];
}
extern "C" __global__ void reversed(int *x, int n) {
  extern __shared__ int scratch[];
  if (threadIdx.x < n) scratch[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  if (threadIdx.x < n) x[threadIdx.x] = scratch[n - 1 - threadIdx.x];
}
extern "C" __global__ void wild() { *(volatile int *)16 = 1; }
extern "C" __global__ void trap() { __trap(); }
__device__ int total[4];
extern "C" __global__ void tally(int value) { atomicAdd(&total[threadIdx.x % 4], value); }
extern "C" __global__ void read_tally(int *out) { out[threadIdx.x] = total[threadIdx.x]; }
"""

any_index = st.integers(0, 1 << 16)
values = st.integers(-(2**31), 2**31 - 1)
dtypes = st.sampled_from(["int32", "uint8", "float64", "int16", "complex64"])
# Most arrays are small; a few are longer than a message, a staging chunk's part, or 4 MiB of granules.
lengths = st.integers(0, 40) | st.sampled_from([1000, 4096, 65_537, 300_000])
shapes = st.tuples(lengths) | st.tuples(st.integers(1, 9), st.integers(1, 33))


def noise(shape: tuple[int, ...], dtype: str, seed: int) -> NDArray[Any]:
    """Bytes that tell an array from any other; no NaN, which is not equal to itself."""
    numbers = np.random.default_rng(seed).integers(0, 200, size=shape)
    return numbers.astype(dtype)


@dataclass
class Pair:
    """An array on the device, or shared with it, and what must be in it."""

    real: Any
    model: NDArray[Any]


@dataclass
class World:
    gpu: gpudisagg.Session
    arrays: list[Pair] = field(default_factory=list)
    hosts: list[Pair] = field(default_factory=list)
    modules: list[tuple[gpudisagg.Module, NDArray[np.int32]]] = field(default_factory=list)
    streams: list[Any] = field(default_factory=list)
    events: list[Any] = field(default_factory=list)


class Machine(RuleBasedStateMachine):
    def __init__(self, address: str) -> None:
        super().__init__()
        self.address = address
        self.fault: tuple[type[errors.CommandError], str] | None = None

    # ------------------------------------------------------------ life

    @initialize()
    def open(self) -> None:
        self.world = World(gpudisagg.connect(self.address, timeout=PATIENCE))
        self.fault = None
        self.compile(0)
        self.allocate((37,), "int32", 1, "asarray")

    @rule(orderly=st.booleans())
    def reopen(self, orderly: bool) -> None:
        """The old one's memory is given back, and nothing of it is found in the next."""
        world = self.world
        if orderly and self.fault is None:
            self.check_all()
        world.gpu.close()
        for pair in world.hosts:
            if self.fault is None and orderly:
                assert np.array_equal(np.asarray(pair.real), pair.model)
        for call in (world.gpu.synchronize, lambda: world.gpu.empty(4)):
            with pytest.raises(errors.SessionClosed):
                call()
        self.open()
        fresh = self.world.gpu.empty(70_000, "uint8")
        assert not fresh.get().any()

    @rule()
    def fork(self) -> None:
        """The child's session is nobody's; the parent's goes on."""
        child = os.fork()
        if child == 0:
            status = 1
            try:
                self.world.gpu.synchronize()
            except errors.ForkedSession:
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    def teardown(self) -> None:
        world = getattr(self, "world", None)
        if world is None:
            return
        try:
            if self.fault is None and not world.gpu.closed:
                self.check_all()
        finally:
            world.gpu.close()

    def check_all(self) -> None:
        for pair in self.world.arrays:
            assert np.array_equal(pair.real.get(), pair.model)
        self.world.gpu.synchronize()
        for pair in self.world.hosts:
            assert np.array_equal(np.asarray(pair.real), pair.model)

    # ------------------------------------------------------------ choices

    def array(self, index: int) -> Pair:
        return self.world.arrays[index % len(self.world.arrays)]

    def stream(self, index: int) -> Any:
        """One of the streams, or None: the default one."""
        return ([None, *self.world.streams])[index % (len(self.world.streams) + 1)]

    def numbers(self, index: int) -> Pair | None:
        """One of the arrays that kernels take: contiguous int32, on the device or reached by it."""
        found = [pair for pair in self.world.arrays if pair.model.dtype == np.int32]
        if self.world.gpu.capabilities.host_map:
            found += [pair for pair in self.world.hosts if pair.model.dtype == np.int32]
        found = [pair for pair in found if pair.model.size]
        return found[index % len(found)] if found else None

    usable = precondition(lambda self: self.fault is None)
    with_arrays = precondition(lambda self: self.fault is None and self.world.arrays)
    with_hosts = precondition(lambda self: self.fault is None and self.world.arrays and self.world.hosts)
    with_modules = precondition(lambda self: self.fault is None and self.world.modules)

    # ------------------------------------------------------------ memory

    @usable
    @rule(shape=shapes, dtype=dtypes, seed=any_index, how=st.sampled_from(["asarray", "zeros", "full"]))
    def allocate(self, shape: tuple[int, ...], dtype: str, seed: int, how: str) -> None:
        gpu = self.world.gpu
        if how == "asarray":
            model = noise(shape, dtype, seed)
            real = gpu.asarray(model)
        elif how == "zeros":
            model = np.zeros(shape, dtype)
            real = gpu.zeros(shape, dtype)
        else:
            model = np.full(shape, seed % 200, dtype)
            real = gpu.full(shape, seed % 200, dtype)
        self.world.arrays.append(Pair(real, model))

    @usable
    @rule(shape=shapes, dtype=dtypes, seed=any_index)
    def share(self, shape: tuple[int, ...], dtype: str, seed: int) -> None:
        model = noise(shape, dtype, seed)
        self.world.hosts.append(Pair(self.world.gpu.host_array(model), model))

    @usable
    @rule(number=any_index, host=st.booleans())
    def release(self, number: int, host: bool) -> None:
        pairs = self.world.hosts if host else self.world.arrays
        if pairs:
            del pairs[number % len(pairs)]
            gc.collect()

    @usable
    @rule()
    def give_back(self) -> None:
        self.world.gpu.free_all_blocks()
        info = self.world.gpu.memory_info
        assert info.used >= sum(pair.model.nbytes for pair in self.world.arrays)
        assert info.mapped >= info.used and info.free + info.used == info.total

    @usable
    @rule()
    def ask_for_too_much(self) -> None:
        """Refused here, and nothing has happened."""
        with pytest.raises(errors.OutOfMemory):
            self.world.gpu.empty(1 << 40, "uint8")
        with pytest.raises(errors.OutOfMemory):
            self.world.gpu.host_empty(1 << 40, "uint8")

    # ------------------------------------------------------------ bytes

    @with_arrays
    @rule(number=any_index, seed=any_index, stream=any_index)
    def upload(self, number: int, seed: int, stream: int) -> None:
        pair = self.array(number)
        data = noise(pair.model.shape, str(pair.model.dtype), seed)
        pair.real.set(data, self.stream(stream))
        data = data.copy()  # what the caller does with its own array afterwards is its own affair
        pair.model[...] = data

    @with_arrays
    @rule(number=any_index, data=st.data(), seed=any_index)
    def upload_part(self, number: int, data: st.DataObject, seed: int) -> None:
        pair = self.array(number)
        part = data.draw(hnp.basic_indices(pair.model.shape, allow_newaxis=False, allow_ellipsis=False))
        if isinstance(pair.model[part], np.ndarray):
            new = noise(pair.model[part].shape, str(pair.model.dtype), seed)
            pair.real[part] = new
            pair.model[part] = new

    @with_arrays
    @rule(number=any_index, stream=any_index)
    def download(self, number: int, stream: int) -> None:
        pair = self.array(number)
        assert np.array_equal(pair.real.get(stream=self.stream(stream)), pair.model)

    @with_arrays
    @rule(number=any_index, data=st.data())
    def download_part(self, number: int, data: st.DataObject) -> None:
        pair = self.array(number)
        part = data.draw(hnp.basic_indices(pair.model.shape, allow_newaxis=False, allow_ellipsis=False))
        if isinstance(pair.model[part], np.ndarray):
            assert np.array_equal(pair.real[part].get(), pair.model[part])

    @with_arrays
    @rule(number=any_index, value=st.integers(0, 200), data=st.data())
    def fill(self, number: int, value: int, data: st.DataObject) -> None:
        pair = self.array(number)
        part = data.draw(hnp.basic_indices(pair.model.shape, allow_newaxis=False, allow_ellipsis=False))
        if isinstance(pair.model[part], np.ndarray):
            pair.real[part].fill(value)
            pair.model[part] = value

    @with_arrays
    @rule(to=any_index, shift=st.integers(0, 3))
    def copy(self, to: int, shift: int) -> None:
        """From an array of the same kind, or from itself: the two ranges may overlap."""
        target = self.array(to)
        alike = [
            pair
            for pair in self.world.arrays
            if pair.model.dtype == target.model.dtype and pair.model.ndim == target.model.ndim == 1
        ]
        for source in alike[to % len(alike) :] if alike else []:
            count = min(len(source.model) - shift, len(target.model))
            if count > 0:
                target.real[:count] = source.real[shift : shift + count]
                target.model[:count] = source.model[shift : shift + count].copy()
                return

    @with_hosts
    @rule(host=any_index, seed=any_index)
    def change_shared(self, host: int, seed: int) -> None:
        """In place, by this process: after what the device may still read or write of it."""
        self.world.gpu.synchronize()
        pair = self.world.hosts[host % len(self.world.hosts)]
        assert np.array_equal(np.asarray(pair.real), pair.model)
        pair.model[...] = noise(pair.model.shape, str(pair.model.dtype), seed)
        pair.real[...] = pair.model

    @with_hosts
    @rule(host=any_index, number=any_index, back=st.booleans(), blocking=st.booleans())
    def move_shared(self, host: int, number: int, back: bool, blocking: bool) -> None:
        shared = self.world.hosts[host % len(self.world.hosts)]
        alike = [
            pair
            for pair in self.world.arrays
            if pair.model.shape == shared.model.shape and pair.model.dtype == shared.model.dtype
        ]
        if not alike:
            self.world.arrays.append(Pair(self.world.gpu.asarray(shared.real), shared.model.copy()))
            return
        device = alike[number % len(alike)]
        if back:
            device.real.get(out=shared.real, blocking=blocking)
            shared.model[...] = device.model
        else:
            device.real.set(shared.real, blocking=blocking)
            device.model[...] = shared.model

    # ------------------------------------------------------------ code

    @usable
    @rule(number=st.integers(0, 2))
    def compile(self, number: int) -> None:
        module = self.world.gpu.compile(KERNELS, options=(f"-DVARIANT={number}",))
        self.world.modules.append((module, np.zeros(4, np.int32)))

    @usable
    @rule()
    def compile_nonsense(self) -> None:
        with pytest.raises(errors.CompileError) as caught:
            self.world.gpu.compile("__global__ void broken() { nonsense; }")
        assert "nonsense" in caught.value.log

    @usable
    @rule(number=any_index)
    def unload(self, number: int) -> None:
        if self.world.modules:
            del self.world.modules[number % len(self.world.modules)]
            gc.collect()

    @with_modules
    @rule(module=any_index, number=any_index, other=any_index, value=values, stream=any_index)
    def launch(self, module: int, number: int, other: int, value: int, stream: int) -> None:
        pair, second = self.numbers(number), self.numbers(other)
        if pair is None or second is None:
            return
        code, _ = self.world.modules[module % len(self.world.modules)]
        n, on = pair.model.size, self.stream(stream)
        flat = pair.model.reshape(-1)
        which = value % 3
        if which == 0:
            code["add"][(n + 63) // 64, 64, on](pair.real, n, value)
            flat += np.int32(value)
        elif which == 1 and second is not pair:
            n = min(n, second.model.size)
            code["mix"][1, 96, on](pair.real, second.real, n)
            flat[:n] = 3 * flat[:n] + second.model.reshape(-1)[:n]
        elif which == 2 and n <= 1024:
            code["reversed"][1, n, on, 4 * n](pair.real, n)
            flat[:] = flat[::-1].copy()

    @with_modules
    @rule(module=any_index, value=st.integers(-1000, 1000), threads=st.integers(1, 64))
    def count_in_a_variable(self, module: int, value: int, threads: int) -> None:
        code, total = self.world.modules[module % len(self.world.modules)]
        code["tally"][1, threads](value)
        for thread in range(threads):
            total[thread % 4] += np.int32(value)
        out = self.world.gpu.zeros(4, "int32")
        code["read_tally"][1, 4](out)
        assert out.get().tolist() == total.tolist()

    # ------------------------------------------------------------ order

    @usable
    @rule()
    def make_stream(self) -> None:
        self.world.streams.append(self.world.gpu.stream())

    @usable
    @rule(number=any_index)
    def drop_stream(self, number: int) -> None:
        if self.world.streams:
            del self.world.streams[number % len(self.world.streams)]
            gc.collect()

    @usable
    @rule(stream=any_index, other=any_index)
    def record(self, stream: int, other: int) -> None:
        event = self.world.gpu.event()
        event.record(self.stream(stream))
        waiting = self.stream(other)
        (waiting or self.world.gpu.default_stream).wait_event(event)
        self.world.events.append(event)

    @usable
    @rule()
    def look_at_events(self) -> None:
        """In the order they were recorded they happened: a device that runs all in order has it so."""
        times = [event.nanoseconds() for event in self.world.events]
        assert times == sorted(times)
        assert all(event.done for event in self.world.events)

    @usable
    @rule(stream=any_index)
    def synchronize(self, stream: int) -> None:
        on = self.stream(stream)
        (on or self.world.gpu).synchronize()

    # ------------------------------------------------------------ faults

    @with_modules
    @rule(module=any_index, name=st.sampled_from(["wild", "trap"]), later=st.booleans())
    def fail(self, module: int, name: str, later: bool) -> None:
        code, _ = self.world.modules[module % len(self.world.modules)]
        code[name][1, 1]()
        if later:  # what is posted behind it is not executed, and not an error of its own
            for pair in self.world.arrays:
                pair.real.fill(1)
        self.fault = (errors.DeviceFault, name)

    @precondition(lambda self: self.fault is not None)
    @rule()
    def every_wait_raises_the_fault(self) -> None:
        assert self.fault is not None
        kind, words = self.fault
        gpu = self.world.gpu
        waits: list[Callable[[], object]] = [
            gpu.synchronize,
            gpu.default_stream.synchronize,
            lambda: gpu.compile(KERNELS),
        ]
        waits += [pair.real.get for pair in self.world.arrays[:3]]
        for wait in waits:
            with pytest.raises(kind, match=words) as caught:
                wait()
            assert caught.value.command == "LAUNCH"


@pytest.mark.timeout(600)
def test_a_session_does_what_numpy_does(address: str) -> None:
    run_state_machine_as_test(
        lambda: Machine(address),  # type: ignore[arg-type]
        settings=settings(
            max_examples=12,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
