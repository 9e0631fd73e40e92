"""Function bodies, statement by statement, in whichever execution model."""

from __future__ import annotations

from collections.abc import Sequence

from gpudisagg.device.cpu import ast
from gpudisagg.device.cpu.analysis import CallGraph
from gpudisagg.device.cpu.emitter import DeviceFunction, Emitter, ModuleText, Value, quoted
from gpudisagg.device.cpu.layout import ModuleLayout
from gpudisagg.device.cpu.lowering import handler_of, unsupported
from gpudisagg.device.cpu.lowering.context import Frame, Handler, Lowering
from gpudisagg.device.cpu.lowering.host import trap_at
from gpudisagg.device.cpu.pointers import pointer_base, pointer_registers
from gpudisagg.device.cpu.types import PRED, U64
from gpudisagg.device.errors import CompileError

# What every function gets: the launch, and which thread of which block it runs as.
THREAD_PARAMETERS = (
    "ptr align 16 {params} %params, ptr align 8 dereferenceable(192) %ctx, "
    "i32 %tidx, i32 %tidy, i32 %tidz, i32 %linear, i32 %ctaidx, i32 %ctaidy, i32 %ctaidz"
)
THREAD_ARGUMENTS = (
    "ptr %params, ptr %ctx, i32 %tidx, i32 %tidy, i32 %tidz, i32 %linear, "
    "i32 %ctaidx, i32 %ctaidy, i32 %ctaidz"
)
ATTRIBUTES = "nounwind null_pointer_is_valid"


class FunctionLowering(Lowering):
    """Lowers bodies. Device functions become LLVM functions, or are inlined here if they wait."""

    def __init__(
        self,
        layout: ModuleLayout,
        graph: CallGraph,
        emitter: Emitter,
        function: ast.Function,
        exit_label: str,
    ) -> None:
        super().__init__(layout, emitter, Frame(function, exit_label, ""))
        self.graph = graph
        self.kernel = function
        self.frames = [self.frame]
        self.thread_exit: str | None = exit_label if function.entry else None
        self._inlined = 0
        self._carry: Value | None = None
        self._pointers = pointer_registers(function)
        self._pointer_cells: dict[str, Value] = {}
        self._ranges: list[tuple[Value, int]] = []
        self._arguments: list[tuple[Value, int]] = []

    def _carry_slot(self) -> Value:
        if self._carry is None:
            self._carry = self.em.slot("i1")
        return self._carry

    def read_carry(self) -> Value:
        """CC.CF."""
        return self.em.load("i1", self._carry_slot(), 1)

    def write_carry(self, value: Value) -> None:
        """Set CC.CF."""
        self.em.store(value, self._carry_slot(), 1)

    def local_ranges(self) -> list[tuple[Value, int]]:
        """The .local variables of this thread that are known here."""
        return self._ranges

    def argument_ranges(self) -> list[tuple[Value, int]]:
        """The variables for arguments of calls, whose addresses a callee may take."""
        return self._arguments

    def stack(self, size: int) -> tuple[Value, Value]:
        """The current call's memory for alloca, and how much of it is used."""
        if self.frame.stack is None:
            memory = self.em.entry_value(f"alloca [{size} x i8], align 128", "ptr")
            self.frame.stack = (memory, self.em.slot("i64"))
            self._ranges.append((memory, size))
        return self.frame.stack

    def params_size(self) -> int:
        """Bytes of the kernel's parameter buffer."""
        return params_size(self.frame.function)

    def label(self, name: str) -> str:
        """A branch target as an LLVM label."""
        if name not in self._labels():
            raise self.error(f"unknown label {name}")
        return "%" + quoted(f"{self.frame.prefix}L:{name}")

    def _labels(self) -> set[str]:
        body = self.frame.function.body
        statements = body.statements if body is not None else ()
        if self.frame.labels is None:
            self.frame.labels = {s.name for s in statements if isinstance(s, ast.Label)}
        return self.frame.labels

    def body(self) -> None:
        """The current frame's body; falls through to its exit label."""
        function, em = self.frame.function, self.em
        if function.body is None:
            raise CompileError(f"{function.name} has no body", line=function.line)
        for variable in function.body.variables:
            if variable.space in ("local", "param"):
                size = max(variable.size, 1)
                align = max(variable.align, 8)
                cell = em.entry_value(f"alloca [{size} x i8], align {align}", "ptr")
                self.frame.locals[variable.name] = cell
                ranges = self._ranges if variable.space == "local" else self._arguments
                ranges.append((cell, size))
        for statement in function.body.statements:
            self.line = statement.line
            if isinstance(statement, ast.Label):
                label = self.label(statement.name)
                em.branch(label)
                em.place(label)
            else:
                self.statement(statement)
        em.branch(self.frame.exit_label)
        if em.module.checks is not None and len(self.frames) == 1:
            em.module.checks.finish(self)

    def statement(self, instruction: ast.Instruction) -> None:
        """One instruction, under its guard."""
        em = self.em
        handler = handler_of(instruction)
        if handler is None:
            raise unsupported(instruction)
        if instruction.guard is None:
            self.perform(handler, instruction)
            return
        condition = self.read(instruction.guard.register, PRED)
        do, skip = em.new_label("do"), em.new_label("skip")
        em.branch_if(condition, do, skip)
        em.place(do)
        self.perform(handler, instruction)
        em.branch(skip)
        em.place(skip)

    def perform(self, handler: Handler, instruction: ast.Instruction) -> None:
        """The instruction, and the pointer form of its result if that is kept (`pointers.py`)."""
        checks = self.em.module.checks
        if checks is not None:
            checks.before(self, instruction)
        pointer = self._result_pointer(instruction)
        handler(self, instruction)
        if checks is not None:
            checks.after(instruction)
        if pointer is not None:
            name, value = pointer
            if value is None:
                value = self.em.pointer(self.read(ast.Register(name), U64))
            self.em.store(value, self._pointer_cell(name), 8)

    def _result_pointer(self, instruction: ast.Instruction) -> tuple[str, Value | None] | None:
        destination = instruction.operands[0] if instruction.operands else None
        if self.frame is not self.frames[0] or not isinstance(destination, ast.Register):
            return None
        if destination.name not in self._pointers or instruction.opcode in ("st", "red"):
            return None
        base = pointer_base(instruction, self._pointers)
        if base is None or (instruction.opcode == "add" and len(instruction.operands) != 3):
            return destination.name, None
        # Read before the instruction runs: it may overwrite its own base.
        pointer = self.em.load("ptr", self._pointer_cell(base.name), 8)
        if instruction.opcode == "add":
            first, second = instruction.operands[1:3]
            pointer = self.em.offset(pointer, self.read(second if first == base else first, U64))
        return destination.name, pointer

    def _pointer_cell(self, name: str) -> Value:
        if name not in self._pointer_cells:
            self._pointer_cells[name] = self.em.slot("ptr")
        return self._pointer_cells[name]

    def address(self, operand: ast.Operand, space: str) -> Value:
        """A pointer for a memory operand, from the register's pointer form where there is one."""
        if (
            isinstance(operand, ast.Address)
            and isinstance(operand.base, ast.Register)
            and space != "shared"
            and self.frame is self.frames[0]
            and operand.base.name in self._pointers
        ):
            pointer = self.em.load("ptr", self._pointer_cell(operand.base.name), 8)
            return self.em.offset(pointer, operand.offset)
        return super().address(operand, space)

    def call(self, function: ast.Function, cells: list[Value]) -> None:
        """A call with a cell per return value and argument."""
        em = self.em
        if not self.graph.waits(function.name):
            arguments = "".join(f", {cell.typed}" for cell in cells)
            em.line(f"call void @{quoted('gpud.f.' + function.name)}({THREAD_ARGUMENTS}{arguments})")
            return
        self.graph.check_recursion(function.name, self.line)
        if len(self.frames) > 32:
            raise self.error("calls nested too deeply")
        self._inlined += 1
        outer, line = self.frame, self.line
        done = em.new_label("return")
        self.frame = Frame(function, done, f"{function.name}.{self._inlined}.")
        self._bind(function, cells)
        self.frames.append(self.frame)
        self.body()
        em.place(done)
        self.frames.pop()
        self.frame, self.line = outer, line

    def candidates(self, results: int, arguments: int) -> Sequence[ast.Function]:
        """The functions that an indirect call may mean."""
        return self.graph.candidates(results, arguments)

    def indirect_call(self, target: Value, candidates: Sequence[ast.Function], cells: list[Value]) -> None:
        """Through the address; where a function that may be meant waits, and so is inlined, by comparison."""
        em = self.em
        if not any(self.graph.waits(function.name) for function in candidates):
            arguments = "".join(f", {cell.typed}" for cell in cells)
            em.line(f"call void {em.pointer(target).text}({THREAD_ARGUMENTS}{arguments})")
            return
        done = em.new_label("called")
        for function in candidates:
            address = Value(self.layout.function_address(function.name, self.line), "ptr", True)
            here, other = em.new_label("callee"), em.new_label("other")
            em.branch_if(em.icmp("eq", target, em.cast("ptrtoint", address, "i64")), here, other)
            em.place(here)
            self.call(function, cells)
            em.branch(done)
            em.place(other)
        trap_at(self, self.line, "call")
        em.branch(done)
        em.place(done)

    def _bind(self, function: ast.Function, cells: list[Value]) -> None:
        for param, cell in zip([*function.returns, *function.params], cells, strict=True):
            if param.register:
                # A register parameter is a register whose cell the caller made.
                self.frame.registers[param.name] = (cell, param.type)
            else:
                self.frame.params[param.name] = cell


def params_size(function: ast.Function) -> int:
    """Bytes of a parameter buffer."""
    return max((p.offset + p.size for p in function.params), default=0)


def _header(function: ast.Function, more: str = "") -> str:
    parameters = THREAD_PARAMETERS.format(params="dereferenceable(8)")
    return f"@{quoted('gpud.f.' + function.name)}({parameters}{more}) {ATTRIBUTES}"


def stand_in(text: ModuleText, function: ast.Function) -> DeviceFunction:
    """What a function that is always inlined has for an address: nothing calls it."""
    text.declarations.add("declare void @llvm.trap()")
    return DeviceFunction(_header(function), ("  call void @llvm.trap()", "  unreachable"))


def device_function(
    layout: ModuleLayout, graph: CallGraph, text: ModuleText, function: ast.Function
) -> DeviceFunction:
    """A `.func` as an LLVM function over cells for its returns and parameters."""
    em = Emitter(text, parallel=False)
    low = FunctionLowering(layout, graph, em, function, '%"return"')
    cells = [Value(f"%cell{i}", "ptr") for i in range(len(function.returns) + len(function.params))]
    low._bind(function, cells)
    low.body()
    body = ("entry:", *em.entry, '  br label %"body"', '"body":', *em.code, '"return":', "  ret void")
    return DeviceFunction(_header(function, "".join(f", ptr {cell.text}" for cell in cells)), body)
