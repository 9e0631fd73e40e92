"""LLVM through llvmlite: IR to object code, object code to addresses. All that is untyped is in this file."""

from __future__ import annotations

import ctypes
import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import llvmlite
import llvmlite.binding as llvm

from gpudisagg.device.errors import CompileError

_initialised = False
_lock = threading.Lock()
_names = itertools.count()
# No "new_gvn": it fails an assertion of LLVM's own on irregular loops.
_BEFORE_SPLIT = ("sroa", "simplify_cfg", "instruction_combine", "loop_simplify", "lcssa", "loop_rotate",
                 "simplify_cfg")  # fmt: skip
_AFTER_SPLIT = ("sroa", "instruction_combine", "simplify_cfg", "global_dead_code_eliminate")


# LLVM's linker keeps some 10 KiB of each library that it ever had, so after that many it is given up, and
# freed with the last of them. A new one takes a millisecond.
_LIBRARIES = 64


class _Linker:
    """One of LLVM's, for a number of libraries."""

    def __init__(self, machine: Any) -> None:
        self.lljit: Any = llvm.create_lljit_compiler(machine, use_jit_link=False)
        self.left = _LIBRARIES
        self._live = 0
        self._lock = threading.Lock()

    def take(self) -> None:
        """A library is about to be linked."""
        with self._lock:
            self.left -= 1
            self._live += 1

    def release(self) -> None:
        """A library is gone."""
        with self._lock:
            self._live -= 1
            over = self.left <= 0 and self._live == 0
        if over:
            self.lljit.close()


class LinkedCode:
    """Object code in memory; it stays as long as this object does."""

    def __init__(self, linker: _Linker, tracker: Any, symbols: Sequence[str]) -> None:
        self._linker = linker
        self._tracker = tracker
        self.addresses: dict[str, int] = {name: int(tracker[name]) for name in symbols}

    def close(self) -> None:
        """Unload it."""
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            tracker.close()
            self._linker.release()


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
        self._machine: Any = self._target_machine(3)
        # Of code that is vectors already, a lower level makes as good code, faster.
        self._quick: Any = self._target_machine(1)
        self._linker = _Linker(self._target_machine(3))
        self._compiling = threading.Lock()
        # Apart from the other, so that loading known code doesn't wait for a compilation.
        self._linking = threading.Lock()

    def _target_machine(self, level: int) -> Any:
        target = llvm.Target.from_default_triple()
        return target.create_target_machine(
            cpu=self.cpu, features=self.features, opt=level, reloc="pic", codemodel="jitdefault", jit=True
        )

    def compile(self, loops: str, warps: str) -> bytes:
        """Optimise and generate object code of two modules that belong together (see `Translation`)."""
        with self._compiling:
            module = self._optimised(loops, self._vectorise) if loops else None
            if warps:
                other = self._optimised(warps, self._tidy)
                if module is None:
                    module = other
                else:
                    module.link_in(other)
            self.optimised = str(module) if self.keep_ir else ""
            return bytes((self._machine if loops else self._quick).emit_object(module))

    def _optimised(self, ir: str, passes: Callable[[Any], None]) -> Any:
        header = f'target triple = "{llvm.get_process_triple()}"\n'
        header += f'target datalayout = "{self._machine.target_data}"\n'
        try:
            module = llvm.parse_assembly(header + ir)
            module.verify()
        except RuntimeError as error:
            raise CompileError(f"internal error: LLVM refused the generated code: {error}") from None
        passes(module)
        return module

    def _vectorise(self, module: Any) -> None:
        """All that LLVM can: for loops over threads."""
        tuning = llvm.create_pipeline_tuning_options(speed_level=3)
        tuning.loop_vectorization = True
        tuning.slp_vectorization = True
        tuning.loop_interleaving = True
        tuning.loop_unrolling = True
        builder = llvm.create_pass_builder(self._machine, tuning)
        builder.getModulePassManager().run(module, builder)

    def _tidy(self, module: Any) -> None:
        """A few passes, in less than half of the time: for code that is vectors already, of which LLVM's own
        pipeline makes nothing faster. Its lowest level is what splits coroutines.
        """
        builder = llvm.create_pass_builder(self._machine, llvm.create_pipeline_tuning_options(speed_level=0))
        self._run(builder, module, _BEFORE_SPLIT)
        builder.getModulePassManager().run(module, builder)
        self._run(builder, module, _AFTER_SPLIT)

    @staticmethod
    def _run(builder: Any, module: Any, passes: Sequence[str]) -> None:
        manager = llvm.create_new_module_pass_manager()
        for name in passes:
            getattr(manager, f"add_{name}_pass")()
        manager.run(module, builder)

    keep_ir = False
    optimised = ""

    def link(self, code: bytes, symbols: Sequence[str]) -> LinkedCode:
        """Load object code; `symbols` are what is wanted from it."""
        library = llvm.JITLibraryBuilder().add_object_img(code).add_current_process()
        for symbol in symbols:
            library.export_symbol(symbol)
        with self._linking:
            if self._linker.left <= 0:
                self._linker = _Linker(self._target_machine(3))
            linker = self._linker
            linker.take()
            try:
                return LinkedCode(linker, library.link(linker.lljit, f"gpud{next(_names)}"), symbols)
            except RuntimeError as error:
                linker.release()
                raise CompileError(f"internal error: linking failed: {error}") from None


def call_size_function(address: int) -> int:
    """Call a compiled `i64 ()`."""
    return int(ctypes.CFUNCTYPE(ctypes.c_int64)(address)())
