"""Views of device arrays are what numpy says they are: shapes, strides and addresses, for any index."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gpudisagg import geometry
from gpudisagg.geometry import Layout

shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6)


def layout_of(array: np.ndarray) -> Layout:
    return Layout(array.__array_interface__["data"][0], array.shape, array.strides, array.itemsize)


@st.composite
def indexed(draw: st.DrawFn) -> tuple[np.ndarray, object]:
    array = np.zeros(draw(shapes), draw(st.sampled_from(["u1", "f4", "c16"])))
    return array, draw(hnp.basic_indices(array.shape, allow_newaxis=True, allow_ellipsis=True))


def view_of(array: np.ndarray, key: object) -> np.ndarray:
    """`array[key]` that stays a view where the key names one element."""
    keys = key if isinstance(key, tuple) else (key,)
    return array[keys if any(k is ... for k in keys) else (*keys, ...)]


def assert_same(layout: Layout, view: np.ndarray) -> None:
    assert layout.shape == view.shape
    assert layout.size == view.size
    if view.size:
        assert layout.strides == view.strides
        assert layout.address == view.__array_interface__["data"][0]
        assert layout.is_contiguous() == view.flags.c_contiguous


@given(indexed())
def test_indexing_gives_the_view_that_numpy_gives(case: tuple[np.ndarray, object]) -> None:
    array, key = case
    view = view_of(array, key)
    assert_same(layout_of(array).at(key), view)


@given(indexed(), st.data())
def test_reshaping_gives_a_view_exactly_where_numpy_does(
    case: tuple[np.ndarray, object], data: st.DataObject
) -> None:
    array, key = case
    view = view_of(array, key)
    shape = data.draw(st.permutations(view.shape).map(tuple) | st.just((view.size,)) | st.just((-1, 1)))
    try:
        wanted = view.reshape(shape)
    except ValueError:
        with pytest.raises(ValueError):
            layout_of(view).reshape(shape)
        return
    got = layout_of(view).reshape(shape)
    if view.size and np.shares_memory(wanted, view):
        assert got is not None
        assert_same(got, wanted)
    elif view.size:
        assert got is None


@given(indexed())
def test_transposing_reverses_the_axes(case: tuple[np.ndarray, object]) -> None:
    view = np.asarray(case[0])
    assert_same(layout_of(view).transpose(), view.T)


@given(indexed())
def test_runs_cover_every_byte_of_a_view_once_in_order(case: tuple[np.ndarray, object]) -> None:
    array, key = case
    array = np.arange(array.size, dtype=np.uint32).reshape(array.shape)
    view = view_of(array, key)
    if view.size == 0:
        return
    rows = geometry.runs(layout_of(view))
    base = array.__array_interface__["data"][0]
    whole = array.tobytes()
    gathered = b"".join(whole[a - base : a - base + rows.nbytes] for a in rows.addresses[0].tolist())
    assert gathered == view.tobytes()
    begin, end = layout_of(view).span()
    assert base <= begin <= rows.addresses[0].min()
    assert rows.addresses[0].max() + rows.nbytes <= end <= base + len(whole)


def test_runs_of_a_contiguous_array_are_one() -> None:
    rows = geometry.runs(geometry.contiguous(4096, (3, 4, 5), 8))
    assert rows.nbytes == 480
    assert rows.addresses[0].tolist() == [4096]


def test_runs_of_two_arrays_are_what_both_have_in_rows() -> None:
    packed = geometry.contiguous(0, (3, 4), 4)
    wide = Layout(10_000, (3, 4), (64, 4), 4)
    rows = geometry.runs(packed, wide)
    assert rows.nbytes == 16
    assert [a.tolist() for a in rows.addresses] == [[0, 16, 32], [10_000, 10_064, 10_128]]


@pytest.mark.parametrize(
    "key", [[0, 1], np.array([0]), np.array([True]), True, np.True_, 1.0, "field", (0, [1])]
)
def test_an_index_that_makes_no_view_is_refused(key: object) -> None:
    with pytest.raises(TypeError, match="ints, slices, None"):
        geometry.contiguous(1 << 40, (4, 4), 4).at(key)


@pytest.mark.parametrize("key", [4, -5, (0, 0, 0), (0, 9)])
def test_an_index_out_of_range_is_an_index_error(key: object) -> None:
    with pytest.raises(IndexError):
        geometry.contiguous(1 << 40, (4, 4), 4).at(key)


def test_numpy_integers_are_indices() -> None:
    assert geometry.contiguous(4096, (4, 4), 4).at(np.int64(2)).address == 4096 + 32


@pytest.mark.parametrize(
    ("shape", "error"),
    [(-1, ValueError), ((2, -3), ValueError), (2.0, TypeError), (("2",), TypeError), ([1] * 33, ValueError)],
)
def test_what_is_no_shape_is_refused(shape: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"shape|dimensions"):
        geometry.shape_of(shape)


@pytest.mark.parametrize("dtype", [object, "S0", "V0", [("a", "f4"), ("b", object)], ("f4", (2,))])
def test_elements_that_are_not_plain_bytes_are_refused(dtype: object) -> None:
    with pytest.raises(TypeError):
        geometry.plain_dtype(dtype)
