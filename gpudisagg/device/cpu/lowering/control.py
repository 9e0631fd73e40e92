"""Branches, calls, barriers, ends."""

from __future__ import annotations

from collections.abc import Callable

from gpudisagg.device.cpu.ast import Arguments, Function, Instruction, Operand, Register, Sink, Symbol
from gpudisagg.device.cpu.emitter import Value
from gpudisagg.device.cpu.lowering.context import Handler, Lowering
from gpudisagg.device.cpu.lowering.host import HOST_FUNCTIONS, REFUSED, trap_at
from gpudisagg.device.cpu.lowering.refused import reason
from gpudisagg.device.cpu.types import PRED, TYPES, U32, U64


def _end_block(low: Lowering, hint: str) -> None:
    """Code after a jump is unreachable but still needs a block."""
    low.em.place(low.em.new_label(hint))


def branch(low: Lowering, ins: Instruction) -> None:
    """bra."""
    operands = low.operands(ins, 1)
    if not isinstance(operands[0], Symbol):
        raise low.error("bra takes a label")
    if low.waits_at(ins):
        low.pause()
    low.em.branch(low.label(operands[0].name))
    _end_block(low, "after.bra")


def indexed(low: Lowering, ins: Instruction) -> None:
    """brx.idx: through a list of labels; an index past its end is undefined in PTX and traps here."""
    operands = low.operands(ins, 2)
    body = low.frame.function.body
    name = operands[1].name if isinstance(operands[1], Symbol) else ""
    table = body.branch_targets.get(name) if body is not None else None
    if table is None:
        raise low.error(f"unknown branch targets {name}")
    index = low.read(operands[0], U32)
    wild = low.em.new_label("brx.wild")
    cases = " ".join(f"i32 {i}, label {low.label(t)}" for i, t in enumerate(table.targets))
    low.em.line(f"switch {index.typed}, label {wild} [ {cases} ]")
    low.em.place(wild)
    trap(low, ins)


def leave(low: Lowering, ins: Instruction) -> None:
    """ret and exit."""
    low.operands(ins, 0)
    if ins.opcode == "exit":
        if low.thread_exit is None:
            raise low.error("exit inside a function that isn't inlined")
        low.em.branch(low.thread_exit)
    else:
        low.em.branch(low.frame.exit_label)
    _end_block(low, "after.ret")


def trap(low: Lowering, ins: Instruction) -> None:
    """trap: an illegal instruction, which the device reports as the kernel's failure."""
    trap_at(low, ins.line, ins.opcode)


def barrier(low: Lowering, ins: Instruction) -> None:
    """bar and barrier: sync, arrive, red, and the warp barrier."""
    em = low.em
    options = low.options(ins)
    if "cluster" in options.flags:
        raise options.unsupported(reason(ins).removeprefix(": "))
    options.ignore("cta", "aligned")
    if options.flag("warp"):
        options.required("sync")
        operands = low.operands(ins, 1)
        low.exchange(em.const("i32", 0), low.read(operands[0], U32))
        return
    mode = options.required("sync", "red", "arrive")
    reduction = options.required("popc", "and", "or") if mode == "red" else None
    options.done()
    operands = low.operands(ins, 1, 4)
    destination: Operand = Sink()
    waits = operands
    if reduction is not None:
        destination, predicate = operands[0], low.read(operands[-1], PRED)
        waits = operands[1:-1]
        low.barrier_reduce(predicate)
    if not waits:
        raise options.unsupported("no barrier named")
    number = em.binary("and", low.read(waits[0], U32), em.const("i32", 15))
    count = low.read(waits[1], U32) if len(waits) > 1 else em.const("i32", 0)
    if mode == "arrive":
        low.barrier_arrive(number)
        return
    low.block_barrier(number, count)
    if reduction is not None:
        trues, total = low.barrier_result()
        if reduction == "popc":
            low.write(destination, trues, U32)
        elif reduction == "or":
            low.write(destination, em.icmp("ne", trues, em.const("i32", 0)), PRED)
        else:
            low.write(destination, em.icmp("eq", trues, total), PRED)


def call(low: Lowering, ins: Instruction) -> None:
    """A call: `call (ret), f, (args)`, where f is a name or a register."""
    options = low.options(ins)
    options.ignore("uni")
    options.done()
    operands = list(ins.operands)
    returns = operands.pop(0) if operands and isinstance(operands[0], Arguments) else Arguments(())
    if not operands:
        raise low.error("call of nothing")
    target = operands.pop(0)
    arguments = operands.pop(0) if operands and isinstance(operands[0], Arguments) else Arguments(())
    if isinstance(target, Register):
        _indirect(low, target, returns, arguments)
        return
    if not isinstance(target, Symbol) or operands or not isinstance(returns, Arguments):
        raise options.unsupported()
    function = low.layout.module.functions.get(target.name)
    if function is None or function.body is None:
        given = arguments.elements if isinstance(arguments, Arguments) else ()
        if target.name in HOST_FUNCTIONS:
            HOST_FUNCTIONS[target.name](low, ins, returns.elements, given)
            return
        if target.name in REFUSED:
            raise low.error(f"call of {target.name}: {REFUSED[target.name]}")
    if function is None or function.body is None or function.entry:
        raise low.error(f"call of {target.name}, which isn't defined in this module")
    _with_cells(low, function, returns, arguments, lambda cells: low.call(function, cells))


def _indirect(low: Lowering, target: Register, returns: Operand, arguments: Operand) -> None:
    """A call through a register: of one of the functions whose addresses are taken."""
    counts = [len(v.elements) if isinstance(v, Arguments) else 0 for v in (returns, arguments)]
    candidates = low.candidates(*counts)
    address = low.read(target, U64)
    if not candidates:
        trap_at(low, low.line, "call")
        return
    # All have the same parameters as far as a call can tell.
    _with_cells(
        low, candidates[0], returns, arguments, lambda cells: low.indirect_call(address, candidates, cells)
    )


def _with_cells(
    low: Lowering,
    function: Function,
    returns: Operand,
    arguments: Operand,
    perform: Callable[[list[Value]], None],
) -> None:
    """Perform a call with a cell per result and argument, and take the results."""
    results = returns.elements if isinstance(returns, Arguments) else ()
    passed = [*results, *(arguments.elements if isinstance(arguments, Arguments) else ())]
    expected = [*function.returns, *function.params]
    if len(passed) != len(expected):
        raise low.error(f"call of {function.name} with the wrong number of arguments")
    cells: list[Value] = []
    copies: list[tuple[Operand, Value, str]] = []
    for at, (operand, param) in enumerate(zip(passed, expected, strict=True)):
        if isinstance(operand, Symbol) and operand.name in (*low.frame.locals, *low.frame.params):
            cells.append(low.frame.locals.get(operand.name) or low.frame.params[operand.name])
            continue
        # A register or constant as an argument: through a cell of its own.
        cell = low.em.entry_value(f"alloca [{max(param.size, 1)} x i8], align 16", "ptr")
        if at < len(results):  # by place: the same register may be an argument too
            copies.append((operand, cell, param.type.name))
        else:
            low.em.store(low.read(operand, param.type), cell, 1)
        cells.append(cell)
    perform(cells)
    for operand, cell, type_name in copies:
        scalar = TYPES[type_name]
        low.write(operand, low.em.load(scalar.storage, cell, 1), scalar)


def nothing(low: Lowering, ins: Instruction) -> None:
    """Hints."""


def nanosleep(low: Lowering, ins: Instruction) -> None:
    """nanosleep may sleep for no time at all; whoever sleeps waits for others."""
    low.pause()


CONTROL: dict[str, Handler] = {
    "bra": branch,
    "brx": indexed,
    "ret": leave,
    "exit": leave,
    "trap": trap,
    "bar": barrier,
    "barrier": barrier,
    "call": call,
    "nanosleep": nanosleep,
    "brkpt": trap,
    "pmevent": nothing,
    "setmaxnreg": nothing,
}
