"""Several PTX modules as one, the way a device linker joins them.

A name is a module's own unless it is declared `.visible`, `.weak`, `.common` or `.extern`. One visible
definition of a name may be there, and any number of weak ones, of which the first counts if none is visible.
Names of a module's own that are taken already are changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gpudisagg.device.cpu.ast import (
    Address,
    Arguments,
    Body,
    Function,
    Initializer,
    Instruction,
    Module,
    Operand,
    Pair,
    Statement,
    Symbol,
    Variable,
    Vector,
)
from gpudisagg.device.errors import CompileError


def link(modules: list[Module]) -> Module:
    """The modules joined; `CompileError` where two define the same."""
    if len(modules) == 1:
        return modules[0]
    taken: set[str] = set()
    variables: dict[str, Variable] = {}
    functions: dict[str, Function] = {}
    # What other modules may mean by a name is never given to a module's own.
    shared = {
        name
        for module in modules
        for table in (module.variables, module.functions)
        for name, item in table.items()
        if item.linkage or (isinstance(item, Function) and item.entry)
    }
    for number, module in enumerate(modules, 1):
        own = [
            name
            for table in (module.variables, module.functions)
            for name, item in table.items()
            if not item.linkage and not (isinstance(item, Function) and item.entry)
        ]
        names = {name: f"{name}@{number}" for name in own if name in taken or name in shared}
        taken.update(names.get(name, name) for name in own)
        for variable in module.variables.values():
            _add_variable(variables, _variable(variable, names))
        for function in module.functions.values():
            _add_function(functions, _function(function, names))
    first = modules[0]
    return Module(max(m.version for m in modules), first.target, variables, functions)


def _add_variable(known: dict[str, Variable], new: Variable) -> None:
    old = known.get(new.name)
    if old is None or (old.external and not new.external):
        known[new.name] = new
    elif new.external or new.linkage == "weak":
        return
    elif old.linkage in ("weak", "common"):
        known[new.name] = new if new.linkage != "common" or new.size > old.size else old
    elif new.linkage != "common":
        raise CompileError(f"{new.name} is defined in two of the modules", line=new.line)


def _add_function(known: dict[str, Function], new: Function) -> None:
    old = known.get(new.name)
    if old is None or old.body is None:
        known[new.name] = new
    elif new.body is None or new.linkage == "weak":
        return
    elif old.linkage == "weak":
        known[new.name] = new
    else:
        raise CompileError(f"{new.name} is defined in two of the modules", line=new.line)


def _variable(variable: Variable, names: Mapping[str, str]) -> Variable:
    values = tuple(_initializer(value, names) for value in variable.initializers)
    return replace(variable, name=names.get(variable.name, variable.name), initializers=values)


def _initializer(value: Initializer, names: Mapping[str, str]) -> Initializer:
    return replace(value, name=names.get(value.name, value.name)) if isinstance(value, Symbol) else value


def _function(function: Function, names: Mapping[str, str]) -> Function:
    renamed = replace(function, name=names.get(function.name, function.name))
    body = function.body
    if body is None or not names:
        return renamed
    hidden = {v.name for v in body.variables} | {p.name for p in (*function.params, *function.returns)}
    visible = {old: new for old, new in names.items() if old not in hidden}
    statements = tuple(_statement(statement, visible) for statement in body.statements)
    variables = tuple(
        replace(v, initializers=tuple(_initializer(value, visible) for value in v.initializers))
        for v in body.variables
    )
    return replace(renamed, body=Body(body.registers, variables, statements, body.branch_targets))


def _statement(statement: Statement, names: Mapping[str, str]) -> Statement:
    if not isinstance(statement, Instruction) or statement.opcode in ("bra", "brx"):
        return statement
    return replace(statement, operands=tuple(_operand(operand, names) for operand in statement.operands))


def _operand(operand: Operand, names: Mapping[str, str]) -> Operand:
    if isinstance(operand, Symbol):
        return replace(operand, name=names.get(operand.name, operand.name))
    if isinstance(operand, Address) and isinstance(operand.base, Symbol):
        base = operand.base
        return replace(operand, base=replace(base, name=names.get(base.name, base.name)))
    if isinstance(operand, Vector):
        return Vector(tuple(_operand(element, names) for element in operand.elements))
    if isinstance(operand, Arguments):
        return Arguments(tuple(_operand(element, names) for element in operand.elements))
    if isinstance(operand, Pair):
        return Pair(_operand(operand.first, names), _operand(operand.second, names))
    return operand
