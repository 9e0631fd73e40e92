"""Shapes and strides of arrays that lie elsewhere. Pure arithmetic: nothing here touches memory.

numpy itself answers what a view is: a `shadow` is a numpy array whose data pointer is the device address. It
is asked for shapes, strides and addresses only and never read, so only operations that make views may be used
on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]
_CAN_FORBID_COPY = np.lib.NumpyVersion(np.__version__) >= "2.1.0"


class _Interface:
    """An object of numpy's array interface; numpy.asarray() makes an array of it."""

    def __init__(self, address: int, shape: Shape, strides: Shape, itemsize: int) -> None:
        self.__array_interface__ = {
            "version": 3,
            "data": (address, False),
            "shape": shape,
            "strides": strides,
            "typestr": f"|V{itemsize}",
        }


class Layout(NamedTuple):
    """Where the elements are: byte address of the first, shape, byte strides, bytes of an element."""

    address: int
    shape: Shape
    strides: Shape
    itemsize: int

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.itemsize

    def is_contiguous(self) -> bool:
        """Whether the elements follow each other in C order without a gap."""
        expected = self.itemsize
        for length, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if length == 0:
                return True
            if length != 1 and stride != expected:
                return False
            expected *= length
        return True

    def span(self) -> tuple[int, int]:
        """The addresses [begin, end) between which every element lies."""
        begin = end = self.address
        if self.size == 0:
            return begin, end
        for length, stride in zip(self.shape, self.strides, strict=True):
            step = (length - 1) * stride
            begin, end = begin + min(step, 0), end + max(step, 0)
        return begin, end + self.itemsize

    def at(self, key: Any) -> Layout:
        """The view that `array[key]` is: ints, slices, None and Ellipsis. IndexError as numpy; TypeError: a
        key of another kind.
        """
        keys = key if isinstance(key, tuple) else (key,)
        for part in keys:
            plain = part is None or part is Ellipsis or isinstance(part, int | np.integer | slice)
            if not plain or isinstance(part, bool | np.bool_):
                raise TypeError(
                    f"device arrays take ints, slices, None and ... as index, not {type(part).__name__}; "
                    "index the host copy: .get()[...]"
                )
        if not any(part is Ellipsis for part in keys):
            keys = (*keys, Ellipsis)  # an index of ints only would make numpy read the element
        return self._view(self._shadow()[keys])

    def reshape(self, shape: int | Sequence[int]) -> Layout | None:
        """The same elements in another shape (one length may be -1), or None where that needs a copy.
        ValueError: no such shape.
        """
        shadow = self._shadow()
        try:
            if _CAN_FORBID_COPY:
                return self._view(np.reshape(shadow, shape, copy=False))
            view = shadow.view()
            view.shape = (shape,) if isinstance(shape, int) else tuple(shape)
            return self._view(view)
        except (ValueError, AttributeError):
            np.empty(self.shape, np.dtype([])).reshape(
                shape
            )  # of no bytes: raises where the shape is the fault
            return None

    def transpose(self, axes: Sequence[int] | None = None) -> Layout:
        """The axes in reverse, or in the order given. ValueError: `axes` is no permutation."""
        return self._view(self._shadow().transpose(axes))

    def _shadow(self) -> NDArray[Any]:
        return np.asarray(_Interface(self.address, self.shape, self.strides, self.itemsize))

    def _view(self, view: NDArray[Any]) -> Layout:
        address = view.__array_interface__["data"][0] if view.size else self.address
        return Layout(address, view.shape, view.strides, self.itemsize)


def contiguous(address: int, shape: Shape, itemsize: int) -> Layout:
    """C order without gaps."""
    strides, step = [], itemsize
    for length in reversed(shape):
        strides.append(step)
        step *= max(length, 1)
    return Layout(address, shape, tuple(reversed(strides)), itemsize)


class Runs(NamedTuple):
    """Arrays of one shape as rows of bytes that are contiguous in each of them: the rows' size, and where
    they begin.
    """

    nbytes: int
    addresses: tuple[NDArray[np.int64], ...]


def runs(*layouts: Layout) -> Runs:
    """The longest rows that all `layouts` (same shape and itemsize, size > 0) have in common."""
    shape, nbytes = layouts[0].shape, layouts[0].itemsize
    if all(layout.is_contiguous() for layout in layouts):
        return Runs(layouts[0].nbytes, tuple(np.array([layout.address], np.int64) for layout in layouts))
    outer = len(shape)
    while outer and all(shape[outer - 1] == 1 or layout.strides[outer - 1] == nbytes for layout in layouts):
        nbytes *= shape[outer - 1]
        outer -= 1
    addresses = []
    for layout in layouts:
        begins = np.full(1, layout.address, np.int64)
        for length, stride in zip(shape[:outer], layout.strides[:outer], strict=True):
            begins = np.add.outer(begins, np.arange(length, dtype=np.int64) * stride).reshape(-1)
        addresses.append(begins)
    return Runs(nbytes, tuple(addresses))


def shape_of(shape: int | Sequence[int]) -> Shape:
    """A shape as numpy functions take it. TypeError, ValueError: none."""
    if isinstance(shape, int | np.integer):
        lengths: tuple[Any, ...] = (shape,)
    else:
        lengths = tuple(shape) if isinstance(shape, Iterable) else (_no_length(shape),)
    checked = tuple(
        int(length) if isinstance(length, int | np.integer) else _no_length(length) for length in lengths
    )
    if any(length < 0 for length in checked):
        raise ValueError(f"a shape has no negative lengths: {checked}")
    if len(checked) > 32:
        raise ValueError(f"{len(checked)} dimensions; there may be 32")
    return checked


def _no_length(length: object) -> int:
    raise TypeError(f"a shape is made of ints, not {type(length).__name__}")


def plain_dtype(dtype: Any) -> np.dtype[Any]:
    """`dtype` as numpy understands it. TypeError: its elements are no plain bytes of at least one."""
    result: np.dtype[Any] = np.dtype(dtype)
    if result.hasobject or result.itemsize == 0:
        raise TypeError(f"a device has no memory for dtype {result}: its elements are not plain bytes")
    if result.subdtype is not None:
        raise TypeError(f"dtype {result} has a shape of its own; put it in the array's shape")
    return result
