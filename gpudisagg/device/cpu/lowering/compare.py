"""Comparison and selection."""

from __future__ import annotations

from collections.abc import Callable

from gpudisagg.device.cpu.ast import Instruction, Pair
from gpudisagg.device.cpu.emitter import Value
from gpudisagg.device.cpu.lowering import numeric
from gpudisagg.device.cpu.lowering.context import Handler, Lowering
from gpudisagg.device.cpu.lowering.options import Options
from gpudisagg.device.cpu.types import F32, PRED, TYPES, ScalarType

_ORDERED = {"eq": "oeq", "ne": "one", "lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge", "num": "ord"}
_UNORDERED = {
    "equ": "ueq",
    "neu": "une",
    "ltu": "ult",
    "leu": "ule",
    "gtu": "ugt",
    "geu": "uge",
    "nan": "uno",
}
_FLOAT = _ORDERED | _UNORDERED
_EITHER = {"eq": "eq", "ne": "ne", "lo": "ult", "ls": "ule", "hi": "ugt", "hs": "uge"}
_SIGNED = {"lt", "le", "gt", "ge"}
COMPARISONS = (*_FLOAT, "lo", "ls", "hi", "hs")


def compare(low: Lowering, comparison: str, a: Value, b: Value, scalar: ScalarType, *, ftz: bool) -> Value:
    """One comparison of plain (not packed) values."""
    em = low.em
    if scalar.floating:
        if comparison not in _FLOAT:
            raise low.error(f"{comparison} doesn't compare floating-point values")
        a, b = numeric.widen(em, a, scalar), numeric.widen(em, b, scalar)
        if ftz:
            a, b = numeric.flush_as(em, a, scalar), numeric.flush_as(em, b, scalar)
        return em.fcmp(_FLOAT[comparison], a, b)
    if comparison in _SIGNED:
        return em.icmp(("s" if scalar.signed else "u") + comparison, a, b)
    if comparison not in _EITHER:
        raise low.error(f"{comparison} doesn't compare integers")
    return em.icmp(_EITHER[comparison], a, b)


def _combine(low: Lowering, options: Options, ins: Instruction) -> Callable[[Value], Value]:
    """The boolean operation with a third predicate, if the instruction has one."""
    operation = options.choice("and", "or", "xor")
    if operation is None:
        low.operands(ins, 3)
        return lambda value: value
    operands = low.operands(ins, 4)
    other = low.read(operands[3], PRED)
    return lambda value: low.em.binary(operation, value, other)


def setp(low: Lowering, ins: Instruction) -> None:
    """setp: one or two predicates. The second is the complement (or the other half of a pair)."""
    em = low.em
    options = low.options(ins)
    scalar = options.type()
    comparison = options.required(*COMPARISONS)
    ftz = options.flag("ftz")
    combine = _combine(low, options, ins)
    options.done()
    destination = ins.operands[0]
    first, second = (
        (destination.first, destination.second) if isinstance(destination, Pair) else (destination, None)
    )
    a, b = low.read(ins.operands[1], scalar), low.read(ins.operands[2], scalar)
    if scalar.packed == 2:
        if second is None:
            raise options.unsupported("a packed comparison has two results")
        pairs = zip(numeric.split(em, a), numeric.split(em, b), strict=True)
        results = [compare(low, comparison, x, y, scalar, ftz=ftz) for x, y in pairs]
        results = [combine(result) for result in results]
    else:
        result = compare(low, comparison, a, b, scalar, ftz=ftz)
        results = [combine(result)]
        if second is not None:
            results.append(combine(em.invert(result)))
    low.write(first, results[0], PRED)
    if second is not None:
        low.write(second, results[1], PRED)


def set_(low: Lowering, ins: Instruction) -> None:
    """set: all ones (or 1.0) where the comparison holds."""
    em = low.em
    options = low.options(ins)
    if len(options.types) != 2:
        raise options.unsupported("expected two types")
    result_type, scalar = options.types
    comparison = options.required(*COMPARISONS)
    ftz = options.flag("ftz")
    combine = _combine(low, options, ins)
    options.done()
    a, b = low.read(ins.operands[1], scalar), low.read(ins.operands[2], scalar)

    def element(x: Value, y: Value) -> Value:
        holds = combine(compare(low, comparison, x, y, scalar, ftz=ftz))
        if not result_type.floating:
            bits = result_type.bits // max(scalar.packed, 1)
            return em.select(holds, em.const(f"i{bits}", -1), em.const(f"i{bits}", 0))
        if result_type.half:
            one = 0x3C00 if result_type.name.startswith("f16") else 0x3F80
            return em.select(holds, em.const("i16", one), em.const("i16", 0))
        storage = result_type.storage
        return em.select(holds, em.real(storage, 1.0), em.real(storage, 0.0))

    if scalar.packed == 2:
        (al, ah), (bl, bh) = numeric.split(em, a), numeric.split(em, b)
        result = numeric.join(em, element(al, bl), element(ah, bh))
    else:
        result = element(a, b)
    low.write(ins.operands[0], result, result_type)


def selp(low: Lowering, ins: Instruction) -> None:
    """selp: choose by a predicate."""
    options = low.options(ins)
    scalar = options.type()
    options.done()
    operands = low.operands(ins, 4)
    a, b = low.read(operands[1], scalar), low.read(operands[2], scalar)
    low.write(operands[0], low.em.select(low.read(operands[3], PRED), a, b), scalar)


def slct(low: Lowering, ins: Instruction) -> None:
    """slct: choose by the sign of a third value."""
    em = low.em
    options = low.options(ins)
    if len(options.types) != 2:
        raise options.unsupported("expected two types")
    scalar, chooser = options.types
    ftz = options.flag("ftz")
    options.done()
    operands = low.operands(ins, 4)
    a, b = low.read(operands[1], scalar), low.read(operands[2], scalar)
    c = low.read(operands[3], chooser)
    if chooser == F32:
        c = numeric.flush(em, c) if ftz else c
        positive = em.fcmp("oge", c, em.real("float", 0.0))
    elif chooser == TYPES["s32"]:
        positive = em.icmp("sge", c, em.const("i32", 0))
    else:
        raise options.unsupported()
    low.write(operands[0], em.select(positive, a, b), scalar)


COMPARE: dict[str, Handler] = {"setp": setp, "set": set_, "selp": selp, "slct": slct}
