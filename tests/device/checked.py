"""A pytest plugin (`-p tests.device.checked`): kernels are compiled with checks and held to their arguments.

Arrays that are passed to a launch, and the variables of the modules that are loaded, are what its kernel may
touch; `AssertionError` with what `csrc/engine/memcheck.c` says, otherwise. In a process of its own: tests
keep the modules that they loaded.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpudisagg.device import LoadedModule
from gpudisagg.device.cpu.compiler import CpuCompiler
from tests.device.harness import Launch

_ROOT = Path(__file__).resolve().parents[2]
_ENGINE = _ROOT / "csrc" / "engine"


class Fault(ctypes.Structure):
    """gpud_check_fault."""

    _fields_ = (("address", ctypes.c_uint64), ("thread", ctypes.c_uint32), ("text", ctypes.c_char * 768))


def build(into: Path) -> Any:
    """memcheck.c as a library."""
    library = into / "checked.so"
    compiler = os.environ.get("CC") or shutil.which("gcc") or "cc"
    sources = [Path(__file__).with_name("checked.c"), _ENGINE / "memcheck.c", _ENGINE / "fault.c"]
    command = [compiler, "-std=c11", "-D_GNU_SOURCE", "-O2", "-shared", "-fPIC"]
    command += [f"-I{_ROOT / 'csrc' / folder}" for folder in ("transport", "engine")]
    subprocess.run([*command, *map(str, sources), "-lpthread", "-o", str(library)], check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.gpud_check_new.restype = ctypes.c_void_p
    loaded.checked_run.restype = ctypes.POINTER(Fault)
    return loaded


class Checker:
    """What kernels may touch: variables of modules, and the arrays of one launch."""

    def __init__(self, into: Path) -> None:
        self.library = build(into)
        self.check = ctypes.c_void_p(self.library.gpud_check_new())

    def add(self, address: int, size: int, name: str) -> None:
        """One more array."""
        label = name.encode()
        rc = self.library.gpud_check_add(
            self.check,
            ctypes.c_uint64(address),
            ctypes.c_uint64(size),
            ctypes.c_uint64(size),
            0,
            label,
            len(label),
        )
        assert rc == 0, f"{name}: {os.strerror(-rc)}"

    def drop(self, address: int) -> None:
        """One less."""
        assert self.library.gpud_check_drop(self.check, ctypes.c_uint64(address)) == 0

    def run(self, launch: Launch, first: int, count: int) -> None:
        """Runs blocks of a launch."""
        arrays = [a for a in launch.arguments if isinstance(a, np.ndarray)]
        ranges = _joined([(a.ctypes.data, a.ctypes.data + a.nbytes) for a in arrays if a.nbytes])
        for number, (begin, end) in enumerate(ranges):
            self.add(begin, end - begin, f"array {number}")
        static = launch.kernel.static_shared
        self.library.gpud_check_begin(
            self.check, ctypes.c_uint64(-(-static // 16) * 16),
            ctypes.c_uint64(launch.shared_bytes - -(-static // 16) * 16),
            ctypes.c_void_p(launch.params.ctypes.data), ctypes.c_uint64(launch.kernel.params_size),
        )  # fmt: skip
        found = self.library.checked_run(
            self.check, launch.entry, ctypes.c_void_p(launch.params.ctypes.data),
            ctypes.c_void_p(launch.context.ctypes.data), ctypes.c_uint64(first), ctypes.c_uint64(count),
        )  # fmt: skip
        for begin, _ in ranges:
            self.drop(begin)
        assert not found, found.contents.text.decode()


def _joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Arrays may be views of one another."""
    found: list[tuple[int, int]] = []
    for begin, end in sorted(ranges):
        if found and begin < found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((begin, end))
    return found


@pytest.fixture(scope="session", autouse=True)
def checker(tmp_path_factory: pytest.TempPathFactory) -> Checker:
    """Makes every kernel a checked one."""
    checker = Checker(tmp_path_factory.mktemp("checked"))
    load = CpuCompiler.load

    def loaded(self: CpuCompiler, image: bytes, **given: Any) -> LoadedModule:
        module = load(self, image, **{**given, "check": True})
        variables = {v.address: v for v in module.globals.values()}
        for address, variable in variables.items():
            checker.add(address, variable.size, variable.name)
        close = module.close

        def closed() -> None:
            for address in variables:
                checker.drop(address)
            variables.clear()
            close()

        module.close = closed  # type: ignore[method-assign]
        return module

    CpuCompiler.load = loaded  # type: ignore[method-assign]
    Launch.run = lambda launch, first=0, count=None: checker.run(  # type: ignore[method-assign]
        launch, first, launch.blocks - first if count is None else count
    )
    return checker
