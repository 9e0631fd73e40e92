"""Kernels on a real device: arguments arrive as passed, launches run as configured, the rest is refused."""

from __future__ import annotations

import struct
import threading

import numpy as np
import pytest

import gpudisagg
from gpudisagg import Module, Session


def test_the_example_of_the_readme_computes_what_it_says(gpu: Session, module: Module) -> None:
    n = 10_000
    x, y = np.arange(n, dtype=np.float32), np.ones(n, np.float32)
    device = gpu.asarray(y)
    module["saxpy"][(n + 255) // 256, 256](n, 2.0, gpu.asarray(x), device)
    np.testing.assert_array_equal(device.get(), 2 * x + 1)


def test_arguments_of_every_kind_arrive_as_passed(gpu: Session, module: Module) -> None:
    out = gpu.zeros(11)
    pair = np.zeros((), np.dtype([("a", "f4"), ("b", "i4"), ("c", "f8")]))
    pair["a"], pair["b"], pair["c"] = 0.5, -9, 1e300
    module["kinds"][1, 1](
        out, -3, 65535, np.int32(-70000), 1 << 63, 0.25, np.float64(1e-300), pair[()], True, None
    )
    assert out.get().tolist() == [-3, 65535, -70000, float(1 << 63), 0.25, 1e-300, 0.5, -9, 1e300, 1, 1]
    module["kinds"][1, 1](out, 0, 0, 0, 0, 0, 0, struct.pack("<fid", 1, 2, 3), False, out)
    assert out.get().tolist() == [0, 0, 0, 0, 0, 0, 1, 2, 3, 0, 0]


@pytest.mark.parametrize(
    ("grid", "block"), [(1, 1), (3, 32), ((2,), (4, 4)), ((2, 3), (5, 2, 3)), ((2, 3, 4), (8, 2, 2))]
)
def test_every_thread_of_every_block_runs_once(
    gpu: Session, module: Module, grid: object, block: object
) -> None:
    blocks, threads = (int(np.prod(extent)) for extent in (grid, block))
    out = gpu.full((blocks, threads), -1, np.int32)
    module["shape"][grid, block](out)
    np.testing.assert_array_equal(out.get(), np.arange(blocks)[:, None] * 1000 + np.arange(threads))


def test_all_forms_of_a_launch_do_the_same(gpu: Session, module: Module) -> None:
    x = gpu.zeros(4, np.int32)
    add, stream = module.get_function("add"), gpu.stream()
    add[1, 4](x, 4, 1)
    add[1, 4, stream](x, 4, 1)
    add[1, 4, stream, 64](x, 4, 1)
    add[(1, 1), (4,)](x, 4, 1)
    add((1,), (4,), (x, 4, 1))
    add((1,), (4,), (x, 4, 1), shared_mem=16)
    add.launch(1, 4, [x, 4, 1], shared_memory=16, stream=stream)
    with stream:
        add[1, 4](x, 4, 1)
    assert x.get().tolist() == [8] * 4


def test_dynamic_shared_memory_is_as_large_as_asked(gpu: Session, module: Module) -> None:
    x = gpu.asarray(np.arange(256, dtype=np.int32))
    module["reversed"][1, 256, None, 1024](x)
    np.testing.assert_array_equal(x.get(), np.arange(256)[::-1])


def test_a_view_is_passed_as_the_pointer_to_its_first_element(gpu: Session, module: Module) -> None:
    x = gpu.zeros((4, 8), np.int32)
    module["add"][1, 8](x[2], 8, 5)
    assert x.get().sum(axis=1).tolist() == [0, 0, 40, 0]


def test_launches_run_in_the_order_posted(gpu: Session, module: Module) -> None:
    x = gpu.zeros(1000, np.int32)
    add = module["add"]
    for i in range(500):
        add[4, 64](x, 1000, i)
        if i % 100 == 99:
            x.fill(i)
    add[4, 64](x, 1000, 1)
    assert set(x.get().tolist()) == {500}


def test_memory_freed_right_after_a_launch_is_not_lost_under_it(gpu: Session, module: Module) -> None:
    totals = []
    for i in range(50):
        x = gpu.full(100_000, i, np.int32)
        module["add"][16, 64](x, 100_000, 1)
        y = gpu.empty(100_000, np.int32)
        y[...] = x
        del x  # its memory is the next array's
        totals.append((y, i + 1))
    assert all((y.get() == wanted).all() for y, wanted in totals[::7])


@pytest.mark.parametrize(
    ("grid", "block", "shared", "why"),
    [
        (0, 1, 0, "grid 0"),
        (-1, 1, 0, "grid -1"),
        (1 << 31, 1, 0, "grid"),
        ((1, 1 << 16), 1, 0, "the device takes"),
        (1, 0, 0, "block 0"),
        (1, 1025, 0, "block 1025"),
        (1, (32, 64), 0, "a block of 2048 threads; it may have"),
        (1, (1, 1, 65), 0, "block"),
        ((1, 1, 1, 1), 1, 0, "int or a tuple of one to three"),
        ("1", 1, 0, "int or a tuple"),
        (1, 2.5, 0, "int or a tuple"),
        (1, 1, 1 << 30, "bytes of shared memory; a block may have"),
        (1, 1, -1, "shared memory of -1"),
    ],
)
def test_what_no_device_takes_is_refused_without_a_message(
    gpu: Session, module: Module, grid: object, block: object, shared: int, why: str
) -> None:
    posted = gpu.channel.connection.posted
    with pytest.raises(gpudisagg.InvalidCommand, match=why) as caught:
        module["nothing"].launch(grid, block, (), shared_memory=shared)  # type: ignore[arg-type]
    assert isinstance(caught.value, ValueError)
    assert (caught.value.command, caught.value.kernel) == ("LAUNCH", "nothing")
    assert gpu.channel.connection.posted == posted
    gpu.synchronize()


def test_arguments_of_the_wrong_kind_are_refused_without_a_message(gpu: Session, module: Module) -> None:
    x, y = gpu.zeros(4, np.float32), gpu.zeros(4, np.float32)
    saxpy = module["saxpy"][1, 4]
    posted = gpu.channel.connection.posted
    for arguments, why in (
        ((4, 2.0, x), "saxpy takes 4 arguments, 3 given"),
        ((4.0, 2.0, x, y), "argument 0 of saxpy: expected 4-byte integer, got float"),
        ((4, np.float64(2), x, y), "argument 1 of saxpy: expected float32, got numpy float64"),
        ((4, 2.0, np.zeros(4, np.float32), y), "argument 2 of saxpy: .*numpy array"),
        ((np.int64(4), 2.0, x, y), "argument 0 of saxpy: expected 4-byte integer, got numpy int64"),
    ):
        with pytest.raises(TypeError, match=why):
            saxpy(*arguments)
    for arguments, why in (
        ((1 << 40, 2.0, x, y), f"argument 0 of saxpy: {1 << 40} does not fit a 4-byte integer"),
        ((4, 1e39, x, y), "argument 1 of saxpy: 1e\\+39 does not fit a float32"),
        ((4, 10**400, x, y), "argument 1 of saxpy: 10+ does not fit a float32"),
        ((4, 2.0, 1 << 64, y), "argument 2 of saxpy"),
    ):
        with pytest.raises(OverflowError, match=why):
            saxpy(*arguments)
    with pytest.raises(TypeError, match=r"write saxpy\[grid, block\]"):
        module["saxpy"][1]
    assert gpu.channel.connection.posted == posted


def test_a_module_says_what_is_in_it(gpu: Session, module: Module) -> None:
    assert {"nothing", "saxpy", "kinds"} <= set(module)
    assert "saxpy" in module and "sxapy" not in module
    with pytest.raises(KeyError, match=r"no kernel 'sxapy' .* saxpy"):
        module["sxapy"]
    assert module["saxpy"] is module["saxpy"]
    assert [(p.offset, p.size) for p in module["saxpy"].parameters] == [(0, 4), (4, 4), (8, 8), (16, 8)]
    assert module["nothing"].max_threads_per_block >= 256


def test_variables_of_a_module_are_arrays_in_place(gpu: Session, module: Module) -> None:
    counters = module.get_global("counters", np.int32)
    assert counters.get().tolist() == [0, 0, 0, 0]
    module["count"][10, 1]()
    assert counters.get().tolist() == [3, 3, 2, 2]
    factor = module.get_global("factor", np.float32, ())
    factor.fill(2.5)
    x = gpu.full(4, 2, np.float32)
    module["scale"][1, 4](x)
    assert x.get().tolist() == [5.0] * 4
    with pytest.raises(KeyError, match=r"there are: .*counters"):
        module.get_global("counter")
    with pytest.raises(ValueError, match="counters has 16 bytes"):
        module.get_global("counters", np.int32, 5)


def test_code_that_does_not_compile_says_why_and_the_session_goes_on(gpu: Session) -> None:
    with pytest.raises(gpudisagg.CompileError) as caught:
        gpu.compile('extern "C" __global__ void broken(int* x) { x[0] = missing_name; }')
    assert "missing_name" in caught.value.log
    x = gpu.zeros(1, np.int32)
    good = gpu.compile('extern "C" __global__ void f(int* x) { *x = VALUE; }', ["-DVALUE=42"])
    good["f"][1, 1](x)
    assert x.get().tolist() == [42]


def test_a_module_lives_as_long_as_a_kernel_of_it(gpu: Session) -> None:
    kernel = gpu.compile('extern "C" __global__ void f(int* x) { *x += 1; }')["f"]
    x = gpu.zeros(1, np.int32)
    for _ in range(3):
        kernel[1, 1](x)
    assert x.get().tolist() == [3]


def test_threads_share_a_session(gpu: Session, module: Module) -> None:
    problems: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for i in range(30):
                source = np.full(1000 + seed, seed * 100 + i, np.int32)
                x = gpu.asarray(source)
                module["add"][2, 64](x, x.size, 1)
                np.testing.assert_array_equal(x.get(), source + 1)
                if i % 10 == 0:
                    gpu.compile(f'extern "C" __global__ void f{seed % 2}(int* x) {{ *x = {i}; }}')
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


def test_events_mark_points_and_time_between_them(gpu: Session, module: Module) -> None:
    x = gpu.zeros(1 << 20, np.int32)
    start, end = gpu.event(), gpu.event()
    with pytest.raises(ValueError, match="never recorded"):
        gpudisagg.get_elapsed_time(start, end)
    start.record()
    for _ in range(5):
        module["add"][64, 256](x, x.size, 1)
    end.record()
    end.synchronize()
    assert start.done and end.done
    assert gpudisagg.get_elapsed_time(start, end) > 0
    assert gpudisagg.get_elapsed_time(end, start) == -gpudisagg.get_elapsed_time(start, end)


def test_streams_wait_for_events_of_others(gpu: Session, module: Module) -> None:
    first, second = gpu.stream(), gpu.stream()
    x = gpu.zeros(1000, np.int32)
    with first:
        module["add"][4, 64](x, 1000, 3)
    done = first.record()
    second.wait_event(done)
    with second:
        module["add"][4, 64](x, 1000, 4)
        assert set(x.get().tolist()) == {7}
    second.synchronize()


def test_streams_and_events_come_and_go(gpu: Session, module: Module) -> None:
    x = gpu.zeros(4, np.int32)
    for _ in range(300):
        with gpu.stream() as stream:
            module["add"][1, 4](x, 4, 1)
            stream.record().synchronize()
    assert x.get().tolist() == [300] * 4
