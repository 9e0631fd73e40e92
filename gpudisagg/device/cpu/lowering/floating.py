"""Arithmetic on f32, f64 and the half types."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from gpudisagg.device.cpu.ast import Instruction
from gpudisagg.device.cpu.emitter import Value
from gpudisagg.device.cpu.lowering import directed, numeric
from gpudisagg.device.cpu.lowering.context import Handler, Lowering
from gpudisagg.device.cpu.lowering.options import Options
from gpudisagg.device.cpu.types import F32, ScalarType


def arithmetic(low: Lowering, ins: Instruction) -> None:
    """add, sub, mul, fma, mad, div, rcp, sqrt with their roundings."""
    em = low.em
    options = low.options(ins)
    if len(options.types) == 2:
        mixed(low, ins, options)
        return
    scalar = options.type()
    operation = "fma" if ins.opcode == "mad" else ins.opcode
    count = {"fma": 3, "rcp": 1, "sqrt": 1}.get(operation, 2)
    rounding = options.choice(*numeric.ROUNDINGS) or "rn"
    if options.choice("approx", "full"):
        rounding = "rn"
    ftz, sat, relu = options.flag("ftz"), options.flag("sat"), options.flag("relu")
    options.done()
    operands = low.operands(ins, count + 1)
    if scalar.half and rounding != "rn":
        raise options.unsupported("half arithmetic rounds to nearest")

    def element(values: Sequence[Value]) -> Value:
        wide = [numeric.widen(em, v, scalar) for v in values]
        if ftz:
            wide = [numeric.flush_as(em, v, scalar) for v in wide]
        if scalar.half and operation == "fma":
            result = numeric.fused_half(em, wide[0], wide[1], wide[2], scalar)
        elif rounding != "rn":
            result = _directed(low, operation, wide, rounding)
        else:
            result = nearest(low, operation, wide)
        if ftz:
            # Of halves, flushed is what would be subnormal after rounding.
            result = _rounded(low, result, scalar) if scalar.half else result
            result = numeric.flush_as(em, result, scalar)
        if sat:
            result = numeric.saturate(em, result)
        if relu:
            zero = em.real(result.type, 0.0)
            result = em.select(em.fcmp("olt", result, zero), zero, result)
        return numeric.narrow(em, result, scalar)

    values = [low.read(operand, scalar) for operand in operands[1:]]
    low.write(operands[0], numeric.elementwise(em, scalar, values, element), scalar)


def _rounded(low: Lowering, value: Value, scalar: ScalarType) -> Value:
    """A widened half, rounded to what it will be."""
    return numeric.widen(low.em, numeric.narrow(low.em, value, scalar), scalar)


def mixed(low: Lowering, ins: Instruction, options: Options) -> None:
    """add, sub and fma whose factors are halves and whose sum is f32."""
    em = low.em
    wide, half = options.types
    if wide != F32 or not half.half or half.packed != 1 or ins.opcode not in ("add", "sub", "fma"):
        raise options.unsupported("expected one type")
    rounding = options.choice(*numeric.ROUNDINGS) or "rn"
    sat = options.flag("sat")
    options.done()
    operands = low.operands(ins, 4 if ins.opcode == "fma" else 3)
    values = [numeric.widen(em, low.read(operand, half), half) for operand in operands[1:-1]]
    values.append(low.read(operands[-1], F32))
    if rounding == "rn":
        result = nearest(low, ins.opcode, values)
    else:
        result = _directed(low, ins.opcode, values, rounding)
    low.write(operands[0], numeric.saturate(em, result) if sat else result, F32)


def nearest(low: Lowering, operation: str, v: Sequence[Value]) -> Value:
    """The operation on f32 or f64, rounded to nearest even."""
    em = low.em
    if operation == "fma":
        return em.intrinsic("fma", v[0].type, *v)
    if operation == "sqrt":
        return em.intrinsic("sqrt", v[0].type, v[0])
    if operation == "rcp":
        return em.binary("fdiv", em.real(v[0].type, 1.0), v[0])
    return em.binary(f"f{operation}", v[0], v[1])


def _directed(low: Lowering, operation: str, v: list[Value], rounding: str) -> Value:
    em = low.em
    single = v[0].type == "float"
    # Every f32 operation done in f64 and rounded to odd can be rounded again in any direction.
    wide = [em.cast("fpext", x, "double") if single else x for x in v]
    result, error = _with_error(low, operation, wide)
    if rounding == "rm" and operation in ("add", "sub", "fma"):
        addends = wide[-2:] if operation != "fma" else [em.binary("fmul", wide[0], wide[1]), wide[2]]
        other = em.fneg(addends[1]) if operation == "sub" else addends[1]
        result = directed.exact_zero(em, result, error, addends[0], other)
    if single:
        return numeric.single_directed(em, numeric.to_odd(em, result, error), rounding)
    return numeric.directed(em, result, error, rounding)


def _with_error(low: Lowering, operation: str, v: Sequence[Value]) -> tuple[Value, Value]:
    """A double result, and a value with the sign of what rounding it to nearest lost."""
    em = low.em
    if operation in ("add", "sub"):
        return directed.sum_error(em, v[0], v[1] if operation == "add" else em.fneg(v[1]))
    result = nearest(low, operation, v)
    if operation == "mul":
        return result, directed.product_error(em, v[0], v[1], result)
    if operation == "fma":
        return result, directed.fused_error(em, v[0], v[1], v[2], result)
    if operation == "sqrt":
        return result, directed.root_error(em, v[0], result)
    numerator, divisor = (em.real("double", 1.0), v[0]) if operation == "rcp" else (v[0], v[1])
    return result, directed.quotient_error(em, numerator, divisor, result)


def minmax(low: Lowering, ins: Instruction) -> None:
    """min and max: the number wins over NaN, unless .NaN."""
    em = low.em
    options = low.options(ins)
    scalar = options.type()
    ftz, propagate, xorsign = options.flag("ftz"), options.flag("NaN"), options.flag("xorsign")
    options.ignore("abs")
    options.done()
    operands = low.operands(ins, 3, 4)

    def element(values: Sequence[Value]) -> Value:
        wide = [numeric.widen(em, v, scalar) for v in values]
        if ftz:
            wide = [numeric.flush_as(em, v, scalar) for v in wide]
        compared = [numeric.absolute(em, v) for v in wide] if xorsign else wide
        result = compared[0]
        for other in compared[1:]:
            result = _minmax(low, ins.opcode, result, other, propagate=propagate)
        if xorsign:
            bits = "i64" if wide[0].type == "double" else "i32"
            signs = em.binary("xor", em.bitcast(wide[0], bits), em.bitcast(wide[1], bits))
            result = em.intrinsic("copysign", result.type, result, em.bitcast(signs, result.type))
        return numeric.narrow(em, result, scalar)

    values = [low.read(operand, scalar) for operand in operands[1:]]
    low.write(operands[0], numeric.elementwise(em, scalar, values, element), scalar)


def _minmax(low: Lowering, opcode: str, a: Value, b: Value, *, propagate: bool) -> Value:
    em = low.em
    if propagate:
        return em.intrinsic(f"{opcode}imum", a.type, a, b)
    # Compare and select keeps the vectoriser happy; -0 counts as below +0, as PTX has it.
    bits = f"i{64 if a.type == 'double' else 32}"
    ab, bb = em.bitcast(a, bits), em.bitcast(b, bits)
    both = em.bitcast(em.binary("or" if opcode == "min" else "and", ab, bb), a.type)
    ordered = em.select(em.fcmp("olt" if opcode == "min" else "ogt", a, b), a, b)
    result = em.select(em.fcmp("oeq", a, b), both, ordered)
    result = em.select(em.fcmp("uno", b, b), a, result)
    return em.select(em.fcmp("uno", a, a), b, result)


def _flushed_half(low: Lowering, scalar: ScalarType, values: Sequence[Value]) -> Value:
    em = low.em
    wide = numeric.widen(em, values[0], scalar)
    return numeric.narrow(em, numeric.flush_as(em, wide, scalar), scalar)


def sign(low: Lowering, ins: Instruction) -> None:
    """neg and abs."""
    em = low.em
    options = low.options(ins)
    scalar = options.type()
    ftz = options.flag("ftz")
    options.done()
    operands = low.operands(ins, 2)
    value = low.read(operands[1], scalar)
    if scalar.half:
        if ftz:
            value = numeric.elementwise(em, scalar, [value], functools.partial(_flushed_half, low, scalar))
        mask = 0x8000 if scalar.packed == 1 else 0x80008000
        constant = em.const(value.type, mask if ins.opcode == "neg" else ~mask)
        result = em.binary("xor" if ins.opcode == "neg" else "and", value, constant)
    else:
        value = numeric.flush(em, value) if ftz else value
        result = em.fneg(value) if ins.opcode == "neg" else numeric.absolute(em, value)
    low.write(operands[0], result, scalar)


def copysign(low: Lowering, ins: Instruction) -> None:
    """copysign d, a, b: the sign of a on b."""
    options = low.options(ins)
    scalar = options.type()
    options.done()
    operands = low.operands(ins, 3)
    a, b = low.read(operands[1], scalar), low.read(operands[2], scalar)
    low.write(operands[0], low.em.intrinsic("copysign", b.type, b, a), scalar)


def testp(low: Lowering, ins: Instruction) -> None:
    """testp.<class>: what kind of number it is."""
    from gpudisagg.device.cpu.types import PRED

    options = low.options(ins)
    scalar = options.type()
    kind = options.required("finite", "infinite", "number", "notanumber", "normal", "subnormal")
    options.done()
    operands = low.operands(ins, 2)
    em = low.em
    value = numeric.absolute(em, low.read(operands[1], scalar))
    infinity = em.const(value.type, 0x7F800000 if scalar.bits == 32 else 0x7FF0000000000000)
    normal = em.const(value.type, 0x00800000 if scalar.bits == 32 else 0x0010000000000000)
    zero = em.real(value.type, 0.0)
    result = {
        "finite": lambda: em.fcmp("olt", value, infinity),
        "infinite": lambda: em.fcmp("oeq", value, infinity),
        "number": lambda: em.fcmp("ord", value, value),
        "notanumber": lambda: em.fcmp("uno", value, value),
        "normal": lambda: em.binary("and", em.fcmp("oge", value, normal), em.fcmp("olt", value, infinity)),
        "subnormal": lambda: em.binary("and", em.fcmp("olt", value, normal), em.fcmp("ogt", value, zero)),
    }[kind]()
    low.write(operands[0], result, PRED)


FLOATING: dict[str, Handler] = {
    "add": arithmetic,
    "sub": arithmetic,
    "mul": arithmetic,
    "fma": arithmetic,
    "mad": arithmetic,
    "div": arithmetic,
    "rcp": arithmetic,
    "sqrt": arithmetic,
    "min": minmax,
    "max": minmax,
    "neg": sign,
    "abs": sign,
    "copysign": copysign,
    "testp": testp,
}
