"""LLVM through llvmlite: IR to object code, object code to addresses. All that is untyped is in this file."""

from __future__ import annotations

import ctypes
import itertools
import threading
from collections.abc import Sequence
from typing import Any

import llvmlite
import llvmlite.binding as llvm

from gpudisagg.device.errors import CompileError

_initialised = False
_lock = threading.Lock()
_names = itertools.count()


class LinkedCode:
    """Object code in memory; it stays as long as this object does."""

    def __init__(self, tracker: Any, symbols: Sequence[str]) -> None:
        self._tracker = tracker
        self.addresses: dict[str, int] = {name: int(tracker[name]) for name in symbols}

    def close(self) -> None:
        """Unload it."""
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            tracker.close()


class Jit:
    """A target machine and an ORC linker for this host."""

    def __init__(self) -> None:
        global _initialised
        with _lock:
            if not _initialised:
                llvm.initialize_native_target()
                llvm.initialize_native_asmprinter()
                _initialised = True
        self.cpu: str = llvm.get_host_cpu_name()
        self.features: str = llvm.get_host_cpu_features().flatten()
        self.version = f"llvmlite {llvmlite.__version__} llvm {'.'.join(map(str, llvm.llvm_version_info))}"
        self._machine: Any = self._target_machine()
        self._linker: Any = llvm.create_lljit_compiler(self._target_machine(), use_jit_link=False)
        self._compiling = threading.Lock()
        # Apart from the other, so that loading known code doesn't wait for a compilation.
        self._linking = threading.Lock()

    def _target_machine(self) -> Any:
        target = llvm.Target.from_default_triple()
        return target.create_target_machine(
            cpu=self.cpu, features=self.features, opt=3, reloc="pic", codemodel="jitdefault", jit=True
        )

    def compile(self, ir: str) -> bytes:
        """Optimise and generate object code."""
        with self._compiling:
            header = f'target triple = "{llvm.get_process_triple()}"\n'
            header += f'target datalayout = "{self._machine.target_data}"\n'
            try:
                module = llvm.parse_assembly(header + ir)
                module.verify()
            except RuntimeError as error:
                raise CompileError(f"internal error: LLVM refused the generated code: {error}") from None
            tuning = llvm.create_pipeline_tuning_options(speed_level=3)
            tuning.loop_vectorization = True
            tuning.slp_vectorization = True
            tuning.loop_interleaving = True
            tuning.loop_unrolling = True
            builder = llvm.create_pass_builder(self._machine, tuning)
            passes = builder.getModulePassManager()
            passes.run(module, builder)
            self.optimised = str(module) if self.keep_ir else ""
            return bytes(self._machine.emit_object(module))

    keep_ir = False
    optimised = ""

    def link(self, code: bytes, symbols: Sequence[str]) -> LinkedCode:
        """Load object code; `symbols` are what is wanted from it."""
        library = llvm.JITLibraryBuilder().add_object_img(code).add_current_process()
        for symbol in symbols:
            library.export_symbol(symbol)
        with self._linking:
            try:
                return LinkedCode(library.link(self._linker, f"gpud{next(_names)}"), symbols)
            except RuntimeError as error:
                raise CompileError(f"internal error: linking failed: {error}") from None


def call_size_function(address: int) -> int:
    """Call a compiled `i64 ()`."""
    return int(ctypes.CFUNCTYPE(ctypes.c_int64)(address)())
