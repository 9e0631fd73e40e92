"""Host arrays: memory that the function and the device share; nobody's CPU copies it on this side."""

from __future__ import annotations

import gc
import pickle

import numpy as np
import pytest

import gpudisagg
from gpudisagg import HostArray, Module, Session
from tests.client.conftest import in_place


def copied(gpu: Session) -> int:
    stats = gpu.stats()
    return stats["bytes_copied_in"] + stats["bytes_copied_out"]


@in_place
def test_a_kernel_works_on_it_in_place(gpu: Session, module: Module) -> None:
    assert gpu.capabilities.host_map
    host = gpu.host_array(np.arange(1000, dtype=np.int32))
    before = copied(gpu)
    module["add"][4, 64](host, 1000, 5)
    gpu.synchronize()
    np.testing.assert_array_equal(host, np.arange(1000) + 5)
    host -= 5
    module["add"][4, 64](host, 1000, 1)
    gpu.synchronize()
    np.testing.assert_array_equal(host, np.arange(1000) + 1)
    assert copied(gpu) == before


@in_place
def test_a_view_of_a_view_is_passed_as_the_pointer_to_its_first_element(gpu: Session, module: Module) -> None:
    host = gpu.host_zeros((10, 10), np.int32)
    view = host[2:][1]
    assert isinstance(view, HostArray)
    assert view.ptr == host.ptr + 3 * 40
    module["add"][1, 16](view, 10, 1)
    gpu.synchronize()
    assert host.sum(axis=1).tolist() == [0, 0, 0, 10, 0, 0, 0, 0, 0, 0]


def test_bytes_move_to_and_from_the_device_without_a_copy_here(gpu: Session) -> None:
    host = gpu.host_array(np.random.default_rng(1).random((300, 1000)))
    before = copied(gpu)
    array = gpu.asarray(host)
    back = gpu.host_empty(host.shape)
    array.get(back)
    part = gpu.empty((100, 1000))
    part.set(host[100:200])
    part.get(back[:100], blocking=False)
    gpu.synchronize()
    np.testing.assert_array_equal(back[:100], host[100:200])
    np.testing.assert_array_equal(back[100:], host[100:])
    assert copied(gpu) == before


def test_a_source_may_be_changed_when_set_returns(gpu: Session) -> None:
    host = gpu.host_array(np.ones(1 << 20))
    array = gpu.asarray(host)
    host[...] = 0
    assert array.get().all()


def test_it_works_as_any_numpy_array_where_the_worker_cannot_help(gpu: Session) -> None:
    host = gpu.host_array(np.arange(100, dtype=np.int32).reshape(10, 10))
    array = gpu.asarray(host[::2, ::-1])
    np.testing.assert_array_equal(array.get(), host[::2, ::-1])
    array.T.get(host[:, :5])
    np.testing.assert_array_equal(host[:, :5], array.get().T)
    out = np.full_like(array.get(), -1)
    with pytest.raises(ValueError, match="blocking=False needs"):
        array.get(out, blocking=False)
    assert (out == -1).all()


@pytest.mark.parametrize("server", ["tcp"], indirect=True)
def test_over_tcp_kernels_refuse_it_and_copies_take_it(gpu: Session, module: Module) -> None:
    assert not gpu.capabilities.host_map
    host = gpu.host_array(np.arange(1000, dtype=np.int32))
    with pytest.raises(TypeError, match="cannot reach host memory in place"):
        module["add"][4, 64](host, 1000, 5)
    array = gpu.asarray(host)
    module["add"][4, 64](array, 1000, 5)
    array.get(host, blocking=False)
    gpu.synchronize()
    np.testing.assert_array_equal(host, np.arange(1000) + 5)


def test_results_and_copies_are_not_in_shared_memory_and_kernels_refuse_them(
    gpu: Session, module: Module
) -> None:
    host = gpu.host_zeros(4, np.int32)
    assert type(host + 1) is np.ndarray
    for other in (host.copy(), host[[0, 1]], np.array(host, subok=True)):
        assert getattr(other, "session", None) is None
        with pytest.raises(TypeError, match=r"argument 0 of add: "):
            module["add"][1, 4](other, 4, 1)
    assert host[:2].session is gpu


def test_another_session_s_is_refused(server: str, gpu: Session, module: Module) -> None:
    with gpudisagg.connect(server) as other, pytest.raises(ValueError, match="another session"):
        module["add"][1, 4](other.host_zeros(4, np.int32), 4, 1)


def test_its_memory_lives_until_the_last_view_and_the_last_command(gpu: Session, module: Module) -> None:
    x = gpu.zeros(1 << 20, np.int32)
    used = gpu.stats()["host_used"]
    for i in range(40):
        host = gpu.host_array(np.full(1 << 20, i, np.int32))
        x.set(host, blocking=False)
        del host
    assert set(x.get().tolist()) == {39}
    gc.collect()
    stats = gpu.stats()
    assert stats["host_used"] - stats["host_kept"] <= used + (5 << 20)
    gpu.free_all_blocks()
    assert gpu.stats()["host_kept"] == 0
    assert gpu.stats()["host_used"] <= used + (5 << 20)


@in_place
def test_memory_of_one_that_is_gone_is_used_again_once_no_command_needs_it(gpu: Session) -> None:
    gpu.free_all_blocks()
    first = gpu.host_empty(100_000, np.uint8)
    first[...] = 7
    region, address = first.region, first.ptr
    del first
    gpu.synchronize()
    again = gpu.host_empty(90_000, np.uint8)
    assert (again.region, again.ptr) == (region, address)
    del again
    gpu.synchronize()
    zeros = gpu.host_zeros(100_000, np.uint8)
    assert zeros.region == region
    assert not zeros.any()
    other = gpu.host_empty(100_000, np.uint8)
    assert other.region != region


def test_no_more_is_kept_than_a_part_of_what_was_granted(gpu: Session) -> None:
    limit = gpu.capabilities.host_memory
    arrays = [gpu.host_empty(limit // 32, np.uint8) for _ in range(24)]
    del arrays
    gc.collect()
    gpu.synchronize()  # over tcp what commands still need is let go of later
    stats = gpu.stats()
    assert 0 < stats["host_kept"] <= limit // 4
    assert stats["host_used"] <= limit // 2
    assert gpu.host_empty(limit - (64 << 20), np.uint8).nbytes  # what is kept makes room


def test_more_than_the_session_may_share_is_out_of_memory(gpu: Session) -> None:
    limit = gpu.capabilities.host_memory
    with pytest.raises(gpudisagg.OutOfMemory, match="host memory asked"):
        gpu.host_empty(limit + 1, np.uint8)
    most = gpu.host_empty(limit, np.uint8)
    with pytest.raises(gpudisagg.OutOfMemory):
        gpu.host_empty(1)
    most[-1] = 7
    del most
    assert gpu.host_zeros(10).sum() == 0


def test_a_pickle_of_it_is_a_plain_array(gpu: Session) -> None:
    host = gpu.host_array(np.arange(5))
    again = pickle.loads(pickle.dumps(host))
    assert type(again) is np.ndarray
    np.testing.assert_array_equal(again, host)


@in_place
def test_many_come_and_go(gpu: Session, module: Module) -> None:
    for i in range(1500):  # more than there are region numbers
        host = gpu.host_zeros(8, np.int32)
        if i % 100 == 0:
            module["add"][1, 8](host, 8, i)
            gpu.synchronize()
            assert set(host.tolist()) == {i}
