"""numpy arrays in memory that both the function and its device reach."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from gpudisagg.regions import Pages
    from gpudisagg.session import Session


class HostArray(np.ndarray[Any, Any]):
    """A numpy array that a kernel may take as an argument and dereference in place, and that the worker
    copies from and to itself.

    Made by `Session.host_empty`, `host_zeros` or `host_array`. Views of it (slices, reshapes, `.view(dtype)`)
    are HostArrays in the same memory; results of operations and copies are plain memory: `session` is None
    and kernels refuse them. What a kernel writes is there after the next synchronisation. Its memory lives as
    long as any view of it.
    """

    pages: Pages | None

    def __array_finalize__(self, obj: Any) -> None:
        # Called for views and for new memory alike (a ufunc's result, a copy): only what lies in the pages
        # keeps them.
        pages = getattr(obj, "pages", None)
        self.pages = pages if pages is not None and pages.holds(self) else None

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        if isinstance(array, HostArray) and array.pages is not None:
            return array  # written in place
        return array[()] if return_scalar else array.view(np.ndarray)

    @property
    def session(self) -> Session | None:
        """Whose device reaches it; None: none does."""
        return None if self.pages is None else self.pages.session

    @property
    def region(self) -> int:
        """The number of its memory region."""
        return self._pages().number

    @property
    def offset(self) -> int:
        """Bytes from the beginning of its memory region to its first element."""
        return self._pages().offset_of(self)

    @property
    def ptr(self) -> int:
        """The address by which kernels reach its first element.

        TypeError: the memory is not a session's, or the device cannot map host memory
        (`capabilities.host_map`).
        """
        pages = self._pages()
        if pages.address == 0:
            raise TypeError(
                "this device cannot reach host memory in place (capabilities.host_map); use asarray() instead"
            )
        return pages.address + pages.offset_of(self)

    def _pages(self) -> Pages:
        if self.pages is None:
            raise TypeError(
                "this HostArray is not in a session's memory: it is a copy or the result of an operation"
            )
        return self.pages

    def __reduce__(self) -> Any:
        return np.asarray(self).view(np.ndarray).__reduce__()  # the memory itself cannot travel


def host_array(pages: Pages, shape: tuple[int, ...], dtype: np.dtype[Any]) -> HostArray:
    """The array at the beginning of `pages`."""
    array: NDArray[Any] = np.ndarray(shape, dtype, np.asarray(pages))
    result = array.view(HostArray)
    result.pages = pages
    return result
