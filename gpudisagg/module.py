"""Modules: compiled device code, loaded on the device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from gpudisagg import failures, geometry
from gpudisagg.array import DeviceArray
from gpudisagg.errors import ProtocolError
from gpudisagg.kernel import Kernel
from gpudisagg.pool import Command
from transport import wire

if TYPE_CHECKING:
    from gpudisagg.session import Session


class Module:
    """Kernels and variables of one `Session.compile`. It stays loaded as long as anything of it is referred
    to.

    module["name"] and module.get_function("name") give a Kernel; iterating gives their names. Kernels of C++
    linkage answer to their mangled name and, where it is unambiguous, to the plain one.
    """

    def __init__(self, session: Session, number: int, parts: list[Any]) -> None:
        """`parts`: the answer to MODULE_LOAD. CompileError, OutOfMemory, InvalidCommand: not loaded."""
        self.session = session
        self.number = number
        self._loaded = False
        status: wire.ModuleStatus = parts[-1]
        if status.status != wire.STATUS_OK:
            raise failures.module(status)
        self._loaded = True
        kernels = sum(isinstance(part, wire.KernelInfo) for part in parts)
        if (kernels, len(parts) - 1 - kernels) != (status.kernels, status.globals):
            raise ProtocolError(
                f"the server described {kernels} of the module's {status.kernels} kernels; update it"
            )
        self._infos = {part.name: part for part in parts if isinstance(part, wire.KernelInfo)}
        self._globals = {part.name: part for part in parts if isinstance(part, wire.GlobalInfo)}
        self._kernels: dict[str, Kernel] = {}
        names = {info.kernel: info.name for info in self._infos.values()}
        session.channel.kernels[number] = tuple(names.get(i, "?") for i in range(max(names, default=-1) + 1))

    def __getitem__(self, name: str) -> Kernel:
        """The kernel of that name. KeyError says which there are."""
        kernel = self._kernels.get(name)
        if kernel is None:
            info = self._infos.get(name)
            if info is None:
                raise KeyError(
                    f"no kernel {name!r} in the module; there are: {', '.join(self._infos) or 'none'}"
                )
            kernel = self._kernels[name] = Kernel(self, info)
        return kernel

    def get_function(self, name: str) -> Kernel:
        """As module[name]."""
        return self[name]

    def get_global(self, name: str, dtype: Any = np.uint8, shape: Any = None) -> DeviceArray:
        """A `__device__` or `__constant__` variable as an array in place; by default one dimension, all of
        it.

        KeyError says which there are. ValueError: `shape` of `dtype` does not fit in it.
        """
        info = self._globals.get(name)
        if info is None:
            raise KeyError(
                f"no variable {name!r} in the module; there are: {', '.join(self._globals) or 'none'}"
            )
        element = geometry.plain_dtype(dtype)
        lengths = (info.size // element.itemsize,) if shape is None else geometry.shape_of(shape)
        layout = geometry.contiguous(info.address, lengths, element.itemsize)
        if layout.nbytes > info.size:
            raise ValueError(f"{name} has {info.size} bytes; {lengths} of {element} are {layout.nbytes}")
        return DeviceArray(self.session, layout, element, self)

    def __contains__(self, name: object) -> bool:
        return name in self._infos

    def __iter__(self) -> Iterator[str]:
        return iter(self._infos)

    def __len__(self) -> int:
        return len(self._infos)

    def __repr__(self) -> str:
        return f"<Module {self.number}: {', '.join(self._infos)}>"

    def __del__(self) -> None:
        if self._loaded:
            body = wire.ModuleRef(self.number).pack()
            self.session.pool.bury(Command(wire.OP_MODULE_UNLOAD, 0, body))
