"""Conversions to and from what registers hold several of: fp8 pairs, packed integers; and to tf32."""

from __future__ import annotations

from dataclasses import dataclass

from gpudisagg.device.cpu.ast import Instruction
from gpudisagg.device.cpu.emitter import Emitter, Value
from gpudisagg.device.cpu.lowering import numeric
from gpudisagg.device.cpu.lowering.context import Lowering
from gpudisagg.device.cpu.lowering.options import Options
from gpudisagg.device.cpu.types import B32, F32, TYPES, ScalarType

_PACKED_INTEGERS = ("u16", "s16", "u8", "s8", "u4", "s4", "u2", "s2")


@dataclass(frozen=True)
class Minifloat:
    """An 8-bit float: bits of mantissa, exponent of the least normal number, code of the greatest finite."""

    mantissa: int
    least: int
    greatest: int


MINIFLOATS = {"e4m3x2": Minifloat(3, -6, 0x7E), "e5m2x2": Minifloat(2, -14, 0x7B)}


def encoded(em: Emitter, value: Value, kind: Minifloat) -> Value:
    """An f32 as an 8-bit float in an i32: to nearest even, what is too large to the greatest, NaN as 0x7F."""
    bits = em.bitcast(value, "i32")
    magnitude = em.intrinsic("minnum", "float", numeric.absolute(em, value), em.real("float", 2.0**17))
    field = em.binary("lshr", em.bitcast(magnitude, "i32"), em.const("i32", 23))
    exponent = em.binary("sub", field, em.const("i32", 127))
    exponent = em.intrinsic("smax", "i32", exponent, em.const("i32", kind.least))
    # In units of the last place: a power of two, so that only rint rounds.
    scale = em.binary("sub", em.const("i32", 127 + kind.mantissa), exponent)
    unit = em.bitcast(em.binary("shl", scale, em.const("i32", 23)), "float")
    whole = em.intrinsic("rint", "float", em.binary("fmul", magnitude, unit))
    units = em.call("llvm.fptosi.sat.i32.f32", "i32", [whole])
    binade = em.binary("sub", exponent, em.const("i32", kind.least))
    code = em.binary("add", em.binary("shl", binade, em.const("i32", kind.mantissa)), units)
    code = em.intrinsic("smin", "i32", code, em.const("i32", kind.greatest))
    sign = em.binary("and", em.binary("lshr", bits, em.const("i32", 24)), em.const("i32", 0x80))
    return em.select(em.fcmp("uno", value, value), em.const("i32", 0x7F), em.binary("or", code, sign))


def decoded(em: Emitter, code: Value, name: str) -> Value:
    """An 8-bit float (an i32) as f16 bits (an i16)."""
    if name == "e5m2x2":
        return em.resize(em.binary("shl", code, em.const("i32", 8)), 16)
    # e4m3 where f16 has exponent and mantissa is 2^-8 of it, subnormals included.
    low = em.binary("and", code, em.const("i32", 0x7F))
    half = em.bitcast(em.resize(em.binary("shl", low, em.const("i32", 7)), 16), "half")
    scaled = em.binary("fmul", em.cast("fpext", half, "float"), em.real("float", 256.0))
    bits = em.bitcast(em.cast("fptrunc", scaled, "half"), "i16")
    bits = em.select(em.icmp("eq", low, em.const("i32", 0x7F)), em.const("i16", 0x7FFF), bits)
    sign = em.binary("shl", em.binary("and", code, em.const("i32", 0x80)), em.const("i32", 8))
    return em.binary("or", bits, em.resize(sign, 16))


def minifloat(low: Lowering, ins: Instruction, options: Options) -> None:
    """cvt between pairs of 8-bit floats and pairs of f32, f16 or bf16."""
    em = low.em
    target, source = options.types
    options.required("rn")
    relu, satfinite = options.flag("relu"), options.flag("satfinite")
    options.done()
    zero = em.real("float", 0.0)

    def kept(value: Value) -> Value:
        return em.select(em.fcmp("olt", value, zero), zero, value) if relu else value

    if source.name in MINIFLOATS:
        if target.name != "f16x2":
            raise options.unsupported()
        operands = low.operands(ins, 2)
        pair = em.resize(low.read(operands[1], TYPES["b16"]), 32)
        codes = (em.binary("and", pair, em.const("i32", 0xFF)), em.binary("lshr", pair, em.const("i32", 8)))
        halves = [decoded(em, code, source.name) for code in codes]
        if relu:
            f16 = TYPES["f16"]
            halves = [numeric.narrow(em, kept(numeric.widen(em, half, f16)), f16) for half in halves]
        low.write(operands[0], numeric.join(em, halves[0], halves[1]), target)
        return
    if not satfinite or target.name not in MINIFLOATS:
        raise options.unsupported()
    if source == F32:
        operands = low.operands(ins, 3)
        values = [low.read(operand, F32) for operand in (operands[2], operands[1])]
    elif source.half and source.packed == 2:
        operands = low.operands(ins, 2)
        pair = low.read(operands[1], source)
        values = [numeric.widen(em, half, source) for half in numeric.split(em, pair)]
    else:
        raise options.unsupported()
    first, second = (encoded(em, kept(value), MINIFLOATS[target.name]) for value in values)
    both = em.binary("or", first, em.binary("shl", second, em.const("i32", 8)))
    low.write(operands[0], em.resize(both, 16), target)


def pack(low: Lowering, ins: Instruction) -> None:
    """cvt.pack: two integers saturated and put side by side, in front of what a third register holds."""
    em = low.em
    options = low.options(ins)
    options.required("pack")
    options.required("sat")
    names = [m for m in ins.modifiers[2:] if m in (*_PACKED_INTEGERS, "s32", "b32")]
    if len(names) != len(ins.modifiers) - 2 or names[1:2] != ["s32"] or names[0] not in _PACKED_INTEGERS:
        raise options.unsupported()
    bits, signed = int(names[0][1:]), names[0][0] == "s"
    operands = low.operands(ins, 3 if bits == 16 else 4)
    least = -(1 << (bits - 1)) if signed else 0
    most = (1 << (bits - 1)) - 1 if signed else (1 << bits) - 1

    def saturated(value: Value) -> Value:
        bounded = em.intrinsic("smin", "i32", value, em.const("i32", most))
        bounded = em.intrinsic("smax", "i32", bounded, em.const("i32", least))
        return em.binary("and", bounded, em.const("i32", (1 << bits) - 1))

    a, b = (saturated(low.read(operand, TYPES["s32"])) for operand in operands[1:3])
    result = em.binary("or", b, em.binary("shl", a, em.const("i32", bits)))
    if bits < 16:
        rest = em.binary("shl", low.read(operands[3], B32), em.const("i32", 2 * bits))
        result = em.binary("or", result, rest)
    low.write(operands[0], result, B32)


def tf32(em: Emitter, value: Value, rounding: str, *, satfinite: bool = False) -> Value:
    """An f32 with 10 bits of mantissa left, as an i32. `rna`: halfway away from zero."""
    bits = em.bitcast(value, "i32")
    if rounding == "rna":
        bits = em.binary("add", bits, em.const("i32", 0x1000))
    elif rounding == "rn":
        odd = em.binary("and", em.binary("lshr", bits, em.const("i32", 13)), em.const("i32", 1))
        bits = em.binary("add", bits, em.binary("add", odd, em.const("i32", 0xFFF)))
    rounded = em.binary("and", bits, em.const("i32", ~0x1FFF))
    if satfinite:
        magnitude = em.binary("and", rounded, em.const("i32", 0x7FFFFFFF))
        sign = em.binary("and", rounded, em.const("i32", 0x80000000))
        bounded = em.intrinsic("umin", "i32", magnitude, em.const("i32", 0x7F7FE000))
        rounded = em.binary("or", bounded, sign)
    return em.select(em.fcmp("uno", value, value), em.const("i32", 0x7FFFFFFF), rounded)


def finite_half(em: Emitter, half: Value, value: Value, scalar: ScalarType) -> Value:
    """A rounded half (i16) with infinities replaced by the greatest finite; NaN is the canonical one."""
    greatest = 0x7BFF if scalar.name.startswith("f16") else 0x7F7F
    magnitude = em.binary("and", half, em.const("i16", 0x7FFF))
    sign = em.binary("and", half, em.const("i16", 0x8000))
    bounded = em.binary("or", em.intrinsic("umin", "i16", magnitude, em.const("i16", greatest)), sign)
    return em.select(em.fcmp("uno", value, value), em.const("i16", 0x7FFF), bounded)
