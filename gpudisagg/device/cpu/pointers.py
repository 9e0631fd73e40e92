"""Which registers are pointers, so that addresses reach LLVM as pointer plus offset.

An address built in integer arithmetic and cast to a pointer is opaque to LLVM: nothing vectorises. A
register whose every definition is a pointer parameter, a copy of such a register or such a register plus
something gets a second cell that holds it as a pointer. The cell is written where the register is, so it is
right on every path.
"""

from __future__ import annotations

from gpudisagg.device.cpu import ast

_COPIES = frozenset({"mov", "cvta"})
_WRITE_NOTHING = frozenset({"st", "red", "bra", "brx", "nanosleep", "trap", "pmevent", "setmaxnreg"})


def pointer_base(instruction: ast.Instruction, pointers: set[str] | None = None) -> ast.Register | None:
    """The register whose pointer the instruction moves or displaces (for `add`: its first pointer
    operand).
    """
    if instruction.opcode in _COPIES and len(instruction.operands) == 2:
        if "shared" in instruction.modifiers:
            return None
        sources: tuple[ast.Operand, ...] = instruction.operands[1:]
    elif instruction.opcode == "add" and instruction.modifiers in (("s64",), ("u64",)):
        sources = instruction.operands[1:]
    else:
        return None
    for source in sources:
        if (
            isinstance(source, ast.Register)
            and not source.negated
            and (pointers is None or source.name in pointers)
        ):
            return source
    return None


def defined_registers(instruction: ast.Instruction) -> list[str]:
    """Registers the instruction may write: its first operand, and all of a vector or pair there."""
    if not instruction.operands or instruction.opcode in _WRITE_NOTHING:
        return []
    if instruction.opcode in ("bar", "barrier") and "red" not in instruction.modifiers:
        return []
    found: list[str] = []
    todo = [instruction.operands[0]]
    while todo:
        operand = todo.pop()
        if isinstance(operand, ast.Register):
            found.append(operand.name)
        elif isinstance(operand, ast.Vector | ast.Arguments):
            todo += operand.elements
        elif isinstance(operand, ast.Pair):
            todo += [operand.first, operand.second]
    return found


def pointer_registers(function: ast.Function) -> set[str]:
    """The 64-bit registers of a kernel that only ever hold pointers: the largest set closed under its
    definitions.
    """
    body = function.body
    if body is None or not function.entry:
        return set()
    definitions: dict[str, list[ast.Instruction]] = {}
    for statement in body.statements:
        if isinstance(statement, ast.Instruction):
            for name in defined_registers(statement):
                definitions.setdefault(name, []).append(statement)
    roots = {
        name
        for name, instructions in definitions.items()
        if all(i.opcode == "ld" and i.modifiers in (("param", "u64"), ("param", "b64")) for i in instructions)
    }

    def is_root(instruction: ast.Instruction) -> bool:
        return instruction.opcode == "ld" and instruction.modifiers in (("param", "u64"), ("param", "b64"))

    # Grow from the roots, so that every member is reached from a parameter, then drop what has another
    # definition.
    pointers = set(roots)
    grown = True
    while grown:
        grown = False
        for name, instructions in definitions.items():
            if name not in pointers and any(pointer_base(i, pointers) is not None for i in instructions):
                pointers.add(name)
                grown = True
    shrunk = True
    while shrunk:
        shrunk = False
        for name in sorted(pointers):
            if not all(is_root(i) or pointer_base(i, pointers) is not None for i in definitions[name]):
                pointers.discard(name)
                shrunk = True
    return {name for name in pointers if name in body.registers and body.registers[name].bits == 64}
