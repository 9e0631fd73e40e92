"""Compiled code, ready to launch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class KernelCode:
    """A kernel's native entry and everything a launch must know about it."""

    name: str
    entry: int
    params: tuple[tuple[int, int, str], ...]
    """Offset, size and kind ("bits", "float" or "blob") of each parameter."""
    params_size: int
    static_shared: int
    scratch_fixed: int
    scratch_per_thread: int
    max_threads: int


@dataclass(frozen=True)
class GlobalVariable:
    """A `__device__` or `__constant__` variable of one loaded module."""

    name: str
    address: int
    size: int


class LoadedModule:
    """Kernels and variables of one loaded image; addresses are valid until `close()`.

    Dropping it without closing keeps the code loaded. A kernel or variable may be listed under more than one
    name (mangled and plain).
    """

    def __init__(
        self,
        kernels: dict[str, KernelCode],
        variables: dict[str, GlobalVariable],
        release: Callable[[], None],
    ) -> None:
        self.kernels = kernels
        self.globals = variables
        self._release: Callable[[], None] | None = release

    def close(self) -> None:
        """Free the code. Nothing may be running it. Closing twice is harmless."""
        release, self._release = self._release, None
        if release is not None:
            self.kernels = {}
            self.globals = {}
            release()
