"""What a kernel needs, found before it is lowered: this picks its execution model."""

from __future__ import annotations

from dataclasses import dataclass

from gpudisagg.device.cpu import ast
from gpudisagg.device.cpu.spinning import spins_of
from gpudisagg.device.errors import CompileError

# Instructions that wait for other threads.
MATRIX_OPERATIONS = frozenset({"mma", "wmma", "ldmatrix", "stmatrix", "movmatrix"})
WARP_OPERATIONS = MATRIX_OPERATIONS | {"shfl", "vote", "match", "redux", "elect", "activemask"}
_WAITING = WARP_OPERATIONS | {"bar", "barrier"}
# Instructions that order memory between threads, or have effects that must not be merged or reordered.
_ORDERING = frozenset({"atom", "red", "membar", "fence", "call", "trap", "mbarrier", "cp"})
_ORDERED_ACCESS = frozenset({"volatile", "relaxed", "acquire", "release", "mmio"})


@dataclass(frozen=True)
class Needs:
    """`waits`: threads wait for one another. `independent`: no thread orders its accesses after another's."""

    waits: bool
    independent: bool


def _instructions(function: ast.Function) -> list[ast.Instruction]:
    statements = function.body.statements if function.body is not None else ()
    return [s for s in statements if isinstance(s, ast.Instruction)]


def waits_for_threads(instruction: ast.Instruction) -> bool:
    """Whether the instruction may wait for other threads."""
    if instruction.opcode == "mbarrier":
        return not {"test_wait", "try_wait"}.isdisjoint(instruction.modifiers)
    return instruction.opcode in _WAITING


def callees(instruction: ast.Instruction) -> list[str]:
    """Names a call may mean: whatever symbols are among its operands."""
    return [o.name for o in instruction.operands if isinstance(o, ast.Symbol)]


def indirect_arguments(instruction: ast.Instruction) -> tuple[int, int] | None:
    """Of a call through a register: how many results and arguments it has."""
    operands = list(instruction.operands)
    results, arguments = 0, 0
    if operands and isinstance(operands[0], ast.Arguments):
        results = len(operands.pop(0).elements)  # type: ignore[union-attr]
    if instruction.opcode != "call" or not operands or not isinstance(operands[0], ast.Register):
        return None
    if len(operands) > 1 and isinstance(operands[1], ast.Arguments):
        arguments = len(operands[1].elements)
    return results, arguments


class CallGraph:
    """Which functions wait, directly or through calls."""

    def __init__(self, module: ast.Module) -> None:
        self.module = module
        self._waits: dict[str, bool] = {}
        self._taken = self._addresses()
        self._calls = {
            name: [c for ins in _instructions(f) if ins.opcode == "call" for c in self._callees(ins)]
            for name, f in module.functions.items()
        }

    def _addresses(self) -> list[str]:
        """Functions that are named where they aren't called."""
        found: set[str] = set()
        variables = list(self.module.variables.values())
        for function in self.module.functions.values():
            variables += function.body.variables if function.body is not None else ()
            for ins in _instructions(function):
                if ins.opcode != "call":
                    found.update(callees(ins))
        values = [value for variable in variables for value in variable.initializers]
        found.update(value.name for value in values if isinstance(value, ast.Symbol))
        return sorted(name for name in found if name in self.module.functions)

    def candidates(self, results: int, arguments: int) -> list[ast.Function]:
        """What an indirect call may mean."""
        functions = [self.module.functions[name] for name in self._taken]
        return [
            f
            for f in functions
            if f.body is not None and not f.entry and (len(f.returns), len(f.params)) == (results, arguments)
        ]

    def _callees(self, instruction: ast.Instruction) -> list[str]:
        counts = indirect_arguments(instruction)
        return callees(instruction) + ([] if counts is None else [f.name for f in self.candidates(*counts)])

    def reachable(self, name: str) -> set[str]:
        """The function and everything it calls."""
        seen: set[str] = set()
        todo = [name]
        while todo:
            current = todo.pop()
            if current not in seen and current in self.module.functions:
                seen.add(current)
                todo += self._calls[current]
        return seen

    def waits(self, name: str) -> bool:
        """Whether running the function can wait for other threads, or ends the thread."""
        known = self._waits.get(name)
        if known is None:
            reached = self.reachable(name)
            known = any(
                waits_for_threads(ins) or (ins.opcode == "exit" and not self.module.functions[f].entry)
                for f in reached
                for ins in _instructions(self.module.functions[f])
            )
            # What waits in a loop lets others run if it can be inlined, else it can't.
            recursive = any(name in self.reachable(c) for c in self._calls[name])
            known = known or (not recursive and self._spin(reached))
            self._waits[name] = known
        return known

    def _spin(self, names: set[str]) -> bool:
        return any(spins_of(self.module.functions[name]).others for name in names)

    def check_recursion(self, name: str, line: int) -> None:
        """Functions that wait are inlined, so they can't be recursive."""
        if any(name in self.reachable(c) for c in self._calls[name]):
            raise CompileError(f"{name} is recursive and contains barriers or warp operations", line=line)

    def needs(self, kernel: ast.Function) -> Needs:
        """What decides a kernel's execution model."""
        reached = self.reachable(kernel.name)
        waits = self._spin(reached) or any(
            waits_for_threads(ins) for f in reached for ins in _instructions(self.module.functions[f])
        )
        independent = not waits
        for ins in _instructions(kernel):
            if ins.opcode in _ORDERING or not _ORDERED_ACCESS.isdisjoint(ins.modifiers):
                independent = False
        # Arrays in .local memory are one stack cell that all iterations of the thread loop share.
        if kernel.body is not None and any(v.space in ("local", "param") for v in kernel.body.variables):
            independent = False
        return Needs(waits, independent)
