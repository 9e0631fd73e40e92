"""Where a module's variables live: shared offsets, global definitions, function names."""

from __future__ import annotations

from dataclasses import dataclass

from gpudisagg.device.cpu import ast
from gpudisagg.device.cpu.cursor import align_up
from gpudisagg.device.cpu.emitter import quoted
from gpudisagg.device.cpu.spinning import read_registers
from gpudisagg.device.errors import CompileError

# Shared memory that a device keeps for CUDA's own headers: cooperative groups' large tiles meet there. Before
# all else, and zero when a block starts; only in modules that ask where it is.
RESERVED_SHARED = 1024
RESERVED_REGISTERS = {
    "%reserved_smem_offset_begin": 0,
    "%reserved_smem_offset_end": RESERVED_SHARED,
    "%reserved_smem_offset_cap": RESERVED_SHARED,
    "%reserved_smem_offset_0": 0,
    "%reserved_smem_offset_1": RESERVED_SHARED // 2,
}
MAX_SHARED = 163 << 10  # what compute capability 8.0 lets a block opt in to, and what the engine allows


@dataclass(frozen=True)
class GlobalSymbol:
    """A variable's LLVM name and its definition."""

    name: str
    space: str
    size: int
    reference: str
    definition: str
    declaration: str


def kernel_symbol(name: str) -> str:
    """The linker name of a kernel: prefixed, so that none is taken for a libc function."""
    return f"gpud.k.{name}"


def frame_symbol(name: str) -> str:
    """The exported function that gives the size of a kernel's coroutine frame."""
    return f"gpud.frame.{name}"


def _uses_reserved(function: ast.Function) -> bool:
    """Whether the function asks for shared memory that is kept for CUDA's headers."""
    statements = function.body.statements if function.body is not None else ()
    return any(
        not RESERVED_REGISTERS.keys().isdisjoint(read_registers(s))
        for s in statements
        if isinstance(s, ast.Instruction)
    )


class ModuleLayout:
    """Addresses of everything a module declares.

    Shared memory: module-scope variables first, then each function's own; kernels overlap, device functions
    don't. The dynamic part starts at one offset for all kernels of a module. `margin`: bytes that stay unused
    behind each variable.
    """

    def __init__(self, module: ast.Module, margin: int = 0) -> None:
        self.module = module
        self._margin = margin
        self.globals: dict[str, GlobalSymbol] = {}
        self._shared: dict[tuple[str, str], int] = {}
        self._dynamic: set[str] = set()
        self.kernel_shared: dict[str, int] = {}
        self.kernel_static: dict[str, int] = {}  # of that, what the kernel itself declares and may touch
        self.reserved = any(_uses_reserved(f) for f in module.functions.values())
        # Functions whose addresses are somewhere: they must exist, and may be called by any indirect call.
        self.addressed: set[str] = set()
        self._place_shared()
        for function in module.functions.values():
            if function.body is not None:
                for variable in function.body.variables:
                    if variable.space in ("global", "const"):
                        self._define(variable)
        for variable in module.variables.values():
            if variable.space in ("global", "const"):
                self._define(variable)

    def _place_shared(self) -> None:
        end = RESERVED_SHARED if self.reserved else 0
        dynamic_align = 16

        def place(owner: str, variable: ast.Variable, at: int) -> int:
            at = align_up(at, variable.align)
            self._shared[owner, variable.name] = at
            at += variable.size
            if at > MAX_SHARED:
                raise CompileError(f"more than {MAX_SHARED} bytes of shared memory", line=variable.line)
            return at

        for variable in self.module.variables.values():
            if variable.space == "shared":
                if variable.count is None:
                    self._dynamic.add(variable.name)
                    dynamic_align = max(dynamic_align, variable.align)
                else:
                    end = place("", variable, end)
        for kernels in (False, True):
            base = end
            for name, function in self.module.functions.items():
                if function.entry is not kernels or function.body is None:
                    continue
                at = base if kernels else end
                for variable in function.body.variables:
                    if variable.space == "shared":
                        at = place(name, variable, at)
                if kernels:
                    self.kernel_shared[name] = at
                else:
                    end = at
        self.kernel_static = dict(self.kernel_shared)
        most = max(self.kernel_shared.values(), default=end)
        self.dynamic_offset = align_up(most, dynamic_align)
        if self._dynamic:
            self.kernel_shared = dict.fromkeys(self.kernel_shared, self.dynamic_offset)

    def shared_offset(self, function: str, name: str) -> int | None:
        """Offset of a shared variable; -1 for the dynamic part; None if it isn't shared."""
        if name in self._dynamic:
            return -1
        own = self._shared.get((function, name))
        return own if own is not None else self._shared.get(("", name))

    def param_offset(self, function: ast.Function, name: str) -> int | None:
        """Offset in the parameter buffer of an entry's parameter."""
        if not function.entry:
            return None
        return next((param.offset for param in function.params if param.name == name), None)

    def function_address(self, name: str, line: int) -> str:
        """A function's address as a constant."""
        function = self.module.functions[name]
        if function.body is None:
            raise CompileError(f"the address of {name}, which isn't defined here", line=line)
        if function.entry:
            return "@" + quoted(kernel_symbol(name))
        self.addressed.add(name)
        return "@" + quoted(f"gpud.f.{name}")

    def _define(self, variable: ast.Variable) -> None:
        if variable.external and variable.count is not None and not variable.initializers:
            raise CompileError(f"{variable.name} is extern and not defined here", line=variable.line)
        reference = "@" + quoted(f"gpud.g.{variable.name}")
        size = variable.size
        pieces: list[str] = []
        data = bytearray(size)
        filled = 0
        width = variable.type.bytes
        for index, value in enumerate(variable.initializers):
            start = index * width
            if isinstance(value, ast.Symbol):
                if start < filled:  # a further byte of an address that is there
                    continue
                if value.mask and not _whole(variable.initializers[index : index + 8]):
                    raise CompileError(f"{variable.name}: a part of an address", line=variable.line)
                pieces += self._bytes(data[filled:start])
                pieces.append(self._pointer(value, 8 if value.mask else width, variable))
                filled = start + 8
            else:
                number = value.bits if isinstance(value, ast.Float) else value.value
                data[start : start + width] = (number & ((1 << 8 * width) - 1)).to_bytes(width, "little")
        pieces += self._bytes(data[filled:])
        pieces += self._bytes(bytearray(self._margin))
        body = "<{ " + ", ".join(pieces) + " }>"
        types = "<{ " + ", ".join(_piece_type(p) for p in pieces) + " }>"
        align = max(variable.align, 16)
        definition = f"{reference} = global {types} {body}, align {align}"
        declaration = f"{reference} = external global {types}, align {align}"
        self.globals[variable.name] = GlobalSymbol(
            variable.name, variable.space, size, reference, definition, declaration
        )

    def _bytes(self, data: bytearray | bytes) -> list[str]:
        if not data:
            return []
        if not any(data):
            return [f"[{len(data)} x i8] zeroinitializer"]
        text = "".join(f"\\{byte:02X}" for byte in data)
        return [f'[{len(data)} x i8] c"{text}"']

    def _pointer(self, value: ast.Symbol, width: int, variable: ast.Variable) -> str:
        target = self.module.variables.get(value.name)
        if width == 8 and target is None and value.name in self.module.functions and not value.offset:
            return f"ptr {self.function_address(value.name, variable.line)}"
        if width != 8 or target is None or target.space not in ("global", "const"):
            raise CompileError(f"{variable.name}: can't hold the address of {value.name}", line=variable.line)
        name = "@" + quoted(f"gpud.g.{value.name}")
        return f"ptr getelementptr (i8, ptr {name}, i64 {value.offset})"


def _whole(values: tuple[ast.Initializer, ...]) -> bool:
    """Whether these are the eight bytes of one address."""
    first = values[0]
    return len(values) == 8 and all(
        isinstance(value, ast.Symbol)
        and isinstance(first, ast.Symbol)
        and (value.name, value.offset, value.mask) == (first.name, first.offset, 0xFF << 8 * index)
        for index, value in enumerate(values)
    )


def _piece_type(piece: str) -> str:
    return "ptr" if piece.startswith("ptr ") else piece[: piece.index("]") + 1]
