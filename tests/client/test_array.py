"""Arrays on a real device: what goes there comes back, whole or in any view."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import gpudisagg
from gpudisagg import Session

dtypes = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(),
    hnp.unsigned_integer_dtypes(),
    hnp.floating_dtypes(sizes=(16, 32, 64)),
    hnp.complex_number_dtypes(sizes=(64, 128)),
    hnp.datetime64_dtypes(),
    st.sampled_from([np.dtype("S3"), np.dtype("U5"), np.dtype([("a", "f4"), ("b", "u1")]), np.dtype("V7")]),
)
shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9)
real_device = settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)


def numbers(shape: tuple[int, ...], dtype: np.dtype | str = "i4") -> np.ndarray:
    """An array whose bytes are all different for a while."""
    wanted = np.dtype(dtype)
    count = int(np.prod(shape)) * wanted.itemsize
    return np.resize(np.arange(251, dtype=np.uint8), count).view(wanted).reshape(shape)


def view_of(array: np.ndarray, key: object) -> np.ndarray:
    keys = key if isinstance(key, tuple) else (key,)
    return array[keys if any(k is ... for k in keys) else (*keys, ...)]


@real_device
@given(shapes, dtypes)
def test_every_plain_dtype_and_shape_makes_the_round_trip(
    gpu: Session, shape: tuple[int, ...], dtype: np.dtype
) -> None:
    source = numbers(shape, dtype)
    array = gpu.asarray(source)
    assert (array.shape, array.dtype, array.nbytes) == (source.shape, source.dtype, source.nbytes)
    assert array.get().tobytes() == source.tobytes()


@real_device
@given(st.data(), shapes.filter(lambda s: 0 not in s))
def test_any_view_reads_as_numpy_s(gpu: Session, data: st.DataObject, shape: tuple[int, ...]) -> None:
    source = numbers(shape)
    key = data.draw(hnp.basic_indices(shape, allow_newaxis=True))
    wanted = view_of(source, key)
    view = gpu.asarray(source)[key]
    assert view.shape == wanted.shape
    np.testing.assert_array_equal(view.get(), wanted)
    np.testing.assert_array_equal(view.copy().get(), wanted)
    np.testing.assert_array_equal(view.T.get(), wanted.T)
    np.testing.assert_array_equal(view.ravel().get(), wanted.ravel())


@real_device
@given(st.data(), shapes.filter(lambda s: 0 not in s), st.sampled_from(["set", "fill", "assign", "device"]))
def test_any_view_is_written_as_numpy_s_and_nothing_beside_it(
    gpu: Session, data: st.DataObject, shape: tuple[int, ...], how: str
) -> None:
    expected = numbers(shape).copy()
    array = gpu.asarray(expected)
    key = data.draw(hnp.basic_indices(shape, allow_newaxis=True))
    target = view_of(expected, key)
    new = numbers(target.shape)[::-1] if target.ndim else np.asarray(-7, "i4")
    if how == "fill":
        array[key].fill(77)
        target[...] = 77
    else:
        target[...] = new
        if how == "set":
            array[key].set(new)
        elif how == "device":
            array[key] = gpu.asarray(new)
        else:
            array[key] = new
    np.testing.assert_array_equal(array.get(), expected)


@pytest.mark.parametrize("size", [1, 4095, 65536, 65537, (1 << 20) + 3, 9 << 20])
def test_transfers_of_every_size_class_are_exact(gpu: Session, size: int) -> None:
    source = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    array = gpu.asarray(source)
    np.testing.assert_array_equal(array.get(), source)
    out = np.empty_like(source)
    assert array.get(out) is out
    np.testing.assert_array_equal(out, source)


def test_a_source_may_be_changed_as_soon_as_it_is_given(gpu: Session) -> None:
    source = np.ones(3 << 20, np.uint8)
    array = gpu.asarray(source)
    source[:] = 0
    assert array.get().all()


def test_sources_in_any_memory_order_arrive_in_c_order(gpu: Session) -> None:
    source = np.asfortranarray(numbers((30, 40)))
    np.testing.assert_array_equal(gpu.asarray(source).get(), source)
    np.testing.assert_array_equal(gpu.asarray(source[::-2, 5:9]).get(), source[::-2, 5:9])


def test_a_sparse_view_of_a_large_array_is_packed_on_the_device(gpu: Session) -> None:
    array = gpu.zeros((64, 1 << 18), np.uint8)
    array[::32, :5000] = numbers((2, 5000), "u1")
    before = gpu.stats()["bytes_copied_out"]
    np.testing.assert_array_equal(array[::32, :5000].get(), numbers((2, 5000), "u1"))
    assert gpu.stats()["bytes_copied_out"] - before == 10_000


def test_a_column_comes_over_in_one_piece(gpu: Session) -> None:
    source = numbers((5000, 16))
    array = gpu.asarray(source)
    before = gpu.channel.connection.posted
    np.testing.assert_array_equal(array[:, 3].get(), source[:, 3])
    assert gpu.channel.connection.posted - before < 10


def test_a_view_that_fits_nowhere_packed_is_moved_piece_by_piece(gpu: Session) -> None:
    free = gpu.memory_info.free
    rows = (free - (8 << 20)) >> 20
    array = gpu.empty((rows, 1 << 20), np.uint8)
    view = array[:, : 1 << 18].reshape(rows, 4, 1 << 16)[::2]
    source = np.resize(np.arange(251, dtype=np.uint8), view.size).reshape(view.shape)
    view.set(source)
    np.testing.assert_array_equal(view.get(), source)


def test_out_may_be_any_writable_array_of_the_shape_and_dtype(gpu: Session) -> None:
    source = numbers((6, 8))
    array = gpu.asarray(source)
    out = np.zeros((6, 16), "i4")[:, ::2]
    array.get(out)
    np.testing.assert_array_equal(out, source)
    array[::2].get(out[::2])
    for bad in (np.empty((8, 6), "i4"), np.empty((6, 8), "f4"), np.broadcast_to(np.int32(0), (6, 8))):
        with pytest.raises(ValueError, match="out is"):
            array.get(bad)


def test_a_wrong_source_is_refused_with_what_would_be_right(gpu: Session) -> None:
    array = gpu.zeros((2, 3), np.float32)
    with pytest.raises(TypeError, match=r"set\(\) of float64 into float32; \.astype\('float32'\) it first"):
        array.set(np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"set\(\) of shape \(3,\) into \(2, 3\)"):
        array.set(np.zeros(3, np.float32))
    with pytest.raises(TypeError, match="numpy array, not list"):
        array.set([[1, 2, 3]] * 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one value"):
        array.fill([1, 2])


def test_what_would_need_the_elements_here_is_refused_and_never_answered_by_identity(gpu: Session) -> None:
    array, other = gpu.zeros(3), np.zeros(3)
    for use in (
        lambda: array == array, lambda: array != other, lambda: other == array, lambda: array == 0,
        lambda: array + 1, lambda: other + array, lambda: bool(array), lambda: hash(array),
        lambda: np.asarray(array),
    ):  # fmt: skip
        with pytest.raises(TypeError):
            use()


def test_the_makers_make_what_numpy_s_do(gpu: Session) -> None:
    like = np.zeros((2, 5), np.int16)
    assert gpu.empty_like(like).shape == gpu.zeros_like(gpu.asarray(like)).shape == (2, 5)
    assert gpu.empty(3).dtype == np.float64
    for value, dtype in [(3, None), (2.5, None), (7, np.uint8), (1 + 2j, None), (True, None)]:
        wanted = np.full((3, 2), value, dtype)
        made = gpu.full((3, 2), value, dtype)
        assert made.dtype == wanted.dtype
        np.testing.assert_array_equal(made.get(), wanted)
    np.testing.assert_array_equal(gpu.full_like(like, 9).get(), np.full_like(like, 9))
    np.testing.assert_array_equal(
        gpu.asarray([[1, 2], [3, 4]], np.float32).get(), np.float32([[1, 2], [3, 4]])
    )
    array = gpu.zeros(3)
    assert gpu.asarray(array) is array


def test_zeros_are_zeros_also_in_memory_that_was_used(gpu: Session) -> None:
    for _ in range(3):
        array = gpu.zeros((100, 7), np.dtype([("a", "f8"), ("b", "u1")]))
        assert not array.get().view(np.uint8).any()
        array.view(np.dtype("V9")).fill(b"\xff" * 9)


def test_a_view_keeps_the_memory_of_its_base(gpu: Session) -> None:
    used = gpu.memory_info.used
    view = gpu.asarray(numbers((1 << 20,)))[5:10]
    others = [gpu.full(1 << 20, -1, np.int32) for _ in range(3)]
    np.testing.assert_array_equal(view.get(), numbers((1 << 20,))[5:10])
    del view, others
    assert gpu.memory_info.used == used


def test_memory_is_accounted_and_given_back(gpu: Session) -> None:
    before = gpu.memory_info
    assert (before.used, before.free) == (0, before.total)
    array = gpu.empty(10 << 20, np.uint8)
    during = gpu.memory_info
    assert during.used == 10 << 20
    assert during.free == before.total - during.used
    del array
    gpu.free_all_blocks()
    assert gpu.memory_info == before


def test_more_than_the_session_may_have_is_out_of_memory_and_the_session_goes_on(gpu: Session) -> None:
    total = gpu.memory_info.total
    with pytest.raises(gpudisagg.OutOfMemory, match="connect\\(memory="):
        gpu.empty(total + 1, np.uint8)
    most = gpu.empty(total, np.uint8)
    with pytest.raises(MemoryError):
        gpu.empty(1)
    most.fill(1)
    del most
    assert gpu.zeros(5).get().sum() == 0


def test_the_limit_asked_for_is_the_limit(server: str) -> None:
    with gpudisagg.connect(server, memory="32MiB") as gpu:
        assert gpu.memory_info.total == gpu.capabilities.memory == 32 << 20
        with pytest.raises(gpudisagg.OutOfMemory):
            gpu.empty(33 << 20, np.uint8)
    with pytest.raises(gpudisagg.SessionRefused), gpudisagg.connect(server, memory="1TiB"):
        pass


def test_sessions_do_not_share_arrays(server: str, gpu: Session) -> None:
    array = gpu.zeros(3)
    with gpudisagg.connect(server) as other:
        mine = other.zeros(3)
        for wrong in (lambda: other.asarray(array), lambda: mine.__setitem__(slice(None), array)):
            with pytest.raises(ValueError, match=r"session"):
                wrong()


def test_no_session_sees_what_another_left(server: str) -> None:
    for _ in range(4):
        with gpudisagg.connect(server) as gpu:
            array = gpu.empty(4 << 20, np.uint8)
            assert not array.get().any()
            array.fill(0xAA)
            with contextlib.suppress(gpudisagg.GpuDisaggError):
                gpu.synchronize()
