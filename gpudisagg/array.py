"""Arrays in device memory, shaped and sliced as numpy's are."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpudisagg import geometry
from gpudisagg.errors import OutOfMemory
from gpudisagg.geometry import Layout, Shape
from gpudisagg.hostarray import HostArray
from transport import wire

if TYPE_CHECKING:
    from gpudisagg.session import Session
    from gpudisagg.stream import Stream

_FILL_WIDTHS = (1, 2, 4, 8)
_DENSE_ENOUGH = 2  # a view whose span is at most this many times its bytes comes over in one piece
_ROW_COST = (
    4096  # and so does one whose span costs less than a command for each row: bytes copied in that time
)


class DeviceArray:
    """`shape` elements of `dtype` in the memory of a session's device, at address `ptr`.

    Made by a session (`asarray`, `empty`, `zeros`, ...) or as a view of another: indexing with ints, slices,
    None and `...` gives views, as in numpy. Nothing comes to the host unless `get()` is called.

    shape, strides (bytes), dtype, ndim, size (elements), nbytes, itemsize: as in numpy.
    ptr: the device address of the first element (0 where nothing is allocated), the view's offset included.
    session: whose it is. base: the array this one is a view of, or None.
    """

    __slots__ = ("__weakref__", "base", "dtype", "layout", "memory", "ptr", "session", "shape", "strides")
    __array_ufunc__ = None  # numpy's operators refuse it instead of making an object array
    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self,
        session: Session,
        layout: Layout,
        dtype: np.dtype[Any],
        memory: object,
        base: DeviceArray | None = None,
    ) -> None:
        self.session = session
        self.layout = layout
        self.ptr = layout.address
        self.shape = layout.shape
        self.strides = layout.strides
        self.dtype = dtype
        self.memory = memory  # what keeps the memory: freed when nothing refers to it any more
        self.base = base

    # ------------------------------------------------------------ what it is

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return self.layout.size

    @property
    def nbytes(self) -> int:
        return self.layout.nbytes

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    @property
    def T(self) -> DeviceArray:
        """The axes in reverse order, a view."""
        return self.transpose()

    def is_contiguous(self) -> bool:
        """Whether the elements follow each other in C order without a gap."""
        return self.layout.is_contiguous()

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of an array without dimensions")
        return self.shape[0]

    def __repr__(self) -> str:
        return f"DeviceArray(shape={self.shape}, dtype={self.dtype}, ptr={self.ptr:#x})"

    def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[Any]:
        raise TypeError("a DeviceArray does not turn into a numpy array by itself; call .get() for a copy")

    def __bool__(self) -> bool:
        raise TypeError("the truth of a DeviceArray is on the device; ask .get()")

    def __eq__(self, other: object) -> bool:
        raise TypeError("DeviceArrays are compared on the device, by a kernel; on the host compare .get()")

    def __iter__(self) -> Iterator[DeviceArray]:
        return (self[index] for index in range(len(self)))

    # ------------------------------------------------------------ views

    def __getitem__(self, key: Any) -> DeviceArray:
        """A view. IndexError: out of range; TypeError: an index other than ints, slices, None and `...`."""
        return self._view(self.layout.at(key))

    def reshape(self, *shape: Any) -> DeviceArray:
        """The same elements in C order in another shape; one length may be -1. A view where there is one,
        else a copy.

        ValueError: the shape does not hold as many elements.
        """
        wanted = shape[0] if len(shape) == 1 else shape
        layout = self.layout.reshape(wanted)
        return self.copy().reshape(wanted) if layout is None else self._view(layout)

    def ravel(self) -> DeviceArray:
        """One dimension; a view where there is one, else a copy."""
        return self.reshape(-1)

    def transpose(self, *axes: Any) -> DeviceArray:
        """The axes in the order given, or in reverse; a view. ValueError: `axes` is no permutation."""
        order = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes
        return self._view(self.layout.transpose(order or None))

    def view(self, dtype: Any) -> DeviceArray:
        """The same bytes as elements of another dtype of the same size. TypeError: the sizes differ."""
        other = geometry.plain_dtype(dtype)
        if other.itemsize != self.itemsize:
            raise TypeError(f"{self.dtype} and {other} differ in size; there is no such view")
        return DeviceArray(self.session, self.layout, other, self.memory, self._root())

    def _view(self, layout: Layout) -> DeviceArray:
        return DeviceArray(self.session, layout, self.dtype, self.memory, self._root())

    def _root(self) -> DeviceArray:
        return self if self.base is None else self.base

    # ------------------------------------------------------------ bytes

    def get(
        self, out: NDArray[Any] | None = None, stream: Stream | None = None, *, blocking: bool = True
    ) -> NDArray[Any]:
        """A copy on the host: waits for everything posted before.

        out: where to, of the same shape and dtype; a new C-ordered array by default. A C-contiguous HostArray
        is written by the worker itself; only with such a one `blocking=False` is allowed, and then the bytes
        are there after the next synchronisation.
        Errors: whatever failed before on the session (CommandError, SessionLost), DeadlineExceeded;
        ValueError: `out` does not fit.
        """
        if out is None:
            out = np.empty(self.shape, self.dtype)
        elif out.shape != self.shape or out.dtype != self.dtype:
            raise ValueError(f"out is {out.dtype} {out.shape}; this array is {self.dtype} {self.shape}")
        elif not out.flags.writeable:
            raise ValueError("out is read-only")
        channel = self.session.channel
        number = self.session.stream_number(stream)
        reached = isinstance(out, HostArray) and out.session is self.session and out.flags.c_contiguous
        if not blocking and not (reached and self.is_contiguous()):
            raise ValueError(
                "blocking=False needs a contiguous array and a C-contiguous HostArray of this session as out"
            )
        if self.size == 0:
            channel.synchronize()
        elif not self.is_contiguous():
            self._gather(out, stream)
        elif reached:
            assert isinstance(out, HostArray)
            sequence = channel.copy_out(out.offset, self.ptr, self.nbytes, out.region, number)
            if blocking:
                channel.wait(sequence)
        elif out.flags.c_contiguous:
            channel.get(out, self.ptr, number)
        else:
            packed = np.empty(self.shape, self.dtype)
            channel.get(packed, self.ptr, number)
            out[...] = packed
        return out

    def set(self, source: NDArray[Any], stream: Stream | None = None, *, blocking: bool = True) -> None:
        """Copies `source`, of the same shape and dtype, to the device. `source` may be changed as soon as
        this returns.

        A C-contiguous HostArray is read by the worker itself; with `blocking=False` this returns at once, and
        it must not be changed before the next synchronisation.
        Errors: ValueError: another shape; TypeError: another dtype, no numpy array; as `get` for what failed
        before.
        """
        if not isinstance(source, np.ndarray):
            raise TypeError(f"set() takes a numpy array, not {type(source).__name__}; numpy.asarray() it")
        if source.dtype != self.dtype:
            raise TypeError(
                f"set() of {source.dtype} into {self.dtype}; .astype({str(self.dtype)!r}) it first"
            )
        if source.shape != self.shape:
            raise ValueError(f"set() of shape {source.shape} into {self.shape}")
        if self.size == 0:
            return
        channel = self.session.channel
        number = self.session.stream_number(stream)
        if not self.is_contiguous():
            self._scatter(source, stream)
        elif isinstance(source, HostArray) and source.session is self.session and source.flags.c_contiguous:
            sequence = channel.copy_in(self.ptr, source.offset, self.nbytes, source.region, number)
            if blocking:
                channel.wait(sequence)
        else:
            channel.put(self.ptr, np.ascontiguousarray(source), number)

    def fill(self, value: Any, stream: Stream | None = None) -> None:
        """Sets every element to `value`, converted as numpy would. Posted, not waited for."""
        if self.size == 0:
            return
        element = np.asarray(value, self.dtype)
        if element.shape != ():
            raise ValueError(f"fill() takes one value, not an array of shape {element.shape}")
        data = element.tobytes()
        width = next((w for w in _FILL_WIDTHS if data == data[:w] * (len(data) // w)), 0)
        if not width:
            self.set(np.full(self.shape, element, self.dtype), stream)
            return
        pattern = int.from_bytes(data[:width], "little")
        number = self.session.stream_number(stream)
        rows = geometry.runs(self.layout)
        for address in rows.addresses[0].tolist():
            body = wire.Fill(address, rows.nbytes // width, pattern, width).pack()
            self.session.channel.post(wire.OP_FILL, number, body)

    def copy(self, stream: Stream | None = None) -> DeviceArray:
        """A C-contiguous copy in device memory. Posted, not waited for: a command for each contiguous row."""
        result = self.session.empty(self.shape, self.dtype)
        result._copy_from(self, stream)
        return result

    def __setitem__(self, key: Any, value: Any) -> None:
        """`array[key] = value`: a scalar fills, a numpy or device array of the view's shape and dtype is
        copied.
        """
        target = self[key]
        if isinstance(value, DeviceArray):
            if value.session is not self.session:
                raise ValueError("the arrays belong to different sessions; copy through the host: .get()")
            if value.dtype != self.dtype:
                raise TypeError(f"assignment of {value.dtype} to {self.dtype}")
            if value.shape != target.shape:
                raise ValueError(f"assignment of shape {value.shape} to {target.shape}")
            target._copy_from(value, None)
        elif isinstance(value, np.ndarray) and value.ndim:
            target.set(value)
        else:
            target.fill(value)

    def _copy_from(self, source: DeviceArray, stream: Stream | None) -> None:
        if self.size == 0:
            return
        (begin, end), (other_begin, other_end) = self.layout.span(), source.layout.span()
        rows = geometry.runs(self.layout, source.layout)
        if begin < other_end and other_begin < end and len(rows.addresses[0]) > 1:
            source = source.copy(
                stream
            )  # rows copied one by one could overwrite others that are still to be read
            rows = geometry.runs(self.layout, source.layout)
        number = self.session.stream_number(stream)
        for destination, origin in zip(*(a.tolist() for a in rows.addresses), strict=True):
            self.session.channel.post(
                wire.OP_COPY, number, wire.Copy(destination, origin, rows.nbytes).pack()
            )

    def _gather(self, out: NDArray[Any], stream: Stream | None) -> None:
        """The download of a view: its whole span where that is dense, else packed on the device first."""
        layout = self.layout
        begin, end = layout.span()
        count = len(geometry.runs(layout).addresses[0])
        if end - begin <= max(_DENSE_ENOUGH * self.nbytes, _ROW_COST * count):
            span = np.empty(end - begin, np.uint8)
            self.session.channel.get(span, begin, self.session.stream_number(stream))
            out[...] = np.ndarray(self.shape, self.dtype, span, self.ptr - begin, self.strides)
            return
        try:
            packed = self.copy(stream)
        except OutOfMemory:
            for index in self._parts():
                self[index].get(out[index], stream)
        else:
            packed.get(out, stream)

    def _scatter(self, source: NDArray[Any], stream: Stream | None) -> None:
        """The upload into a view: packed, then spread on the device row by row, so that nothing between is
        touched.
        """
        try:
            packed = self.session.empty(self.shape, self.dtype)
        except OutOfMemory:
            for index in self._parts():
                self[index].set(source[index], stream)
        else:
            packed.set(np.ascontiguousarray(source), stream)
            self._copy_from(packed, stream)

    def _parts(self) -> Iterator[tuple[Any, ...]]:
        """Keys of the views along the longest stretch of leading axes that isn't contiguous: what to move
        piece by piece.
        """
        axis = next(i for i, length in enumerate(self.shape) if length > 1)
        return ((*itertools.repeat(0, axis), i, Ellipsis) for i in range(self.shape[axis]))


def shape_like(array: NDArray[Any] | DeviceArray) -> tuple[Shape, np.dtype[Any]]:
    """Shape and dtype of an array of either kind. TypeError: something else."""
    if not isinstance(array, np.ndarray | DeviceArray):
        raise TypeError(f"expected an array, got {type(array).__name__}")
    return array.shape, array.dtype
