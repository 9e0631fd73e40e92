"""Floating-point building blocks: half precision, rounding, flushing, saturation.

f16 is widened to f32 for arithmetic and narrowed once. For +, -, *, / and sqrt that is exact: f32 has more
than 2p+2 bits. A fused multiply-add needs more care (`fused_half`). bf16 is rounded with integer
operations: the host's bf16 instructions flush subnormals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gpudisagg.device.cpu.emitter import Emitter, Value
from gpudisagg.device.cpu.types import Kind, ScalarType, llvm_bits

ROUNDINGS = ("rn", "rz", "rm", "rp")


def split(em: Emitter, value: Value) -> tuple[Value, Value]:
    """The low and high halves of a packed pair."""
    half = llvm_bits(value.type) // 2
    return em.resize(value, half), em.resize(em.binary("lshr", value, em.const(value.type, half)), half)


def join(em: Emitter, low: Value, high: Value) -> Value:
    """A packed pair."""
    half = llvm_bits(low.type)
    whole = 2 * half
    shifted = em.binary("shl", em.resize(high, whole), em.const(f"i{whole}", half))
    return em.binary("or", em.resize(low, whole), shifted)


def elementwise(
    em: Emitter, scalar: ScalarType, values: Sequence[Value], function: Callable[[Sequence[Value]], Value]
) -> Value:
    """Apply `function` to each element of packed values, or once to plain ones."""
    if scalar.packed == 1:
        return function(values)
    pairs = [split(em, value) for value in values]
    if scalar.bits == 64:
        first, second = ([em.bitcast(p[i], "float") for p in pairs] for i in range(2))
        return join(em, em.bitcast(function(first), "i32"), em.bitcast(function(second), "i32"))
    return join(em, function([p[0] for p in pairs]), function([p[1] for p in pairs]))


def widen(em: Emitter, value: Value, scalar: ScalarType) -> Value:
    """A half (as i16) as f32, exactly. Other values pass."""
    if not scalar.half:
        return value
    if scalar.kind is Kind.BFLOAT:
        return em.bitcast(em.binary("shl", em.resize(value, 32), em.const("i32", 16)), "float")
    return em.cast("fpext", em.bitcast(value, "half"), "float")


def narrow(em: Emitter, value: Value, scalar: ScalarType) -> Value:
    """An f32 rounded to nearest even into a half (as i16). Other values pass."""
    if not scalar.half:
        return value
    if scalar.kind is Kind.FLOAT:
        return em.bitcast(em.cast("fptrunc", value, "half"), "i16")
    bits = em.bitcast(value, "i32")
    lowest = em.binary("and", em.binary("lshr", bits, em.const("i32", 16)), em.const("i32", 1))
    rounded = em.binary("add", bits, em.binary("add", lowest, em.const("i32", 0x7FFF)))
    nan = em.fcmp("uno", value, value)
    return em.resize(
        em.select(nan, em.const("i32", 0x7FFF), em.binary("lshr", rounded, em.const("i32", 16))), 16
    )


def absolute(em: Emitter, value: Value) -> Value:
    """|x| of a float or double."""
    return em.intrinsic("fabs", value.type, value)


def flush(em: Emitter, value: Value) -> Value:
    """A subnormal to zero of the same sign."""
    smallest = em.const(value.type, 0x00800000 if value.type == "float" else 0x0010000000000000)
    small = em.fcmp("olt", absolute(em, value), smallest)
    zero = em.intrinsic("copysign", value.type, em.const(value.type, 0), value)
    return em.select(small, zero, value)


def flush_as(em: Emitter, value: Value, scalar: ScalarType) -> Value:
    """A widened value that is subnormal in `scalar` to zero of the same sign."""
    if not scalar.half or scalar.kind is Kind.BFLOAT:
        return flush(em, value)  # bf16 has the exponents of f32
    small = em.fcmp("olt", absolute(em, value), em.real("float", 2.0**-14))
    zero = em.intrinsic("copysign", value.type, em.const(value.type, 0), value)
    return em.select(small, zero, value)


def saturate(em: Emitter, value: Value) -> Value:
    """Clamp to [0, 1]; NaN gives 0."""
    zero, one = em.real(value.type, 0.0), em.real(value.type, 1.0)
    positive = em.select(em.fcmp("ogt", value, zero), value, zero)
    return em.select(em.fcmp("olt", positive, one), positive, one)


def two_sum(em: Emitter, a: Value, b: Value) -> tuple[Value, Value]:
    """`a + b` rounded, and exactly what the rounding lost (Knuth)."""
    total = em.binary("fadd", a, b)
    bb = em.binary("fsub", total, a)
    error = em.binary(
        "fadd",
        em.binary("fsub", a, em.binary("fsub", total, bb)),
        em.binary("fsub", b, bb),
    )
    return total, error


def step(em: Emitter, value: Value, upward: Value) -> Value:
    """The neighbour of a float above it (`upward`) or below it. Correct for zero too."""
    bits_type = f"i{llvm_bits(value.type)}"
    bits = em.bitcast(value, bits_type)
    one = em.const(bits_type, 1)
    negative = em.icmp("slt", bits, em.const(bits_type, 0))
    away = em.binary("xor", negative, upward)
    moved = em.select(away, em.binary("add", bits, one), em.binary("sub", bits, one))
    zero = em.fcmp("oeq", value, em.real(value.type, 0.0))
    sign = em.const(bits_type, 1 << (llvm_bits(value.type) - 1))
    smallest = em.select(upward, one, em.binary("or", one, sign))
    return em.bitcast(em.select(zero, smallest, moved), value.type)


def to_odd(em: Emitter, value: Value, error: Value) -> Value:
    """A rounded-to-nearest result and its error, turned into round-to-odd.

    Rounding such a value again, into a type at least two bits narrower, equals rounding the exact result
    once.
    """
    bits_type = f"i{llvm_bits(value.type)}"
    even = em.icmp(
        "eq",
        em.binary("and", em.bitcast(value, bits_type), em.const(bits_type, 1)),
        em.const(bits_type, 0),
    )
    zero = em.real(value.type, 0.0)
    inexact = em.fcmp("one", error, zero)
    adjust = em.binary("and", even, inexact)
    return em.select(adjust, step(em, value, em.fcmp("ogt", error, zero)), value)


def fused_half(em: Emitter, a: Value, b: Value, c: Value, scalar: ScalarType) -> Value:
    """`a * b + c` of widened halves, ready for one rounding by `narrow`.

    f16: the product of two 11-bit significands is exact in f32 and so is its exponent; the sum is rounded
    to odd. bf16: the exponent of the product may leave f32, so the same is done in f64 and rounded to odd
    into f32.
    """
    if scalar.kind is Kind.FLOAT:
        total, error = two_sum(em, em.binary("fmul", a, b), c)
        return to_odd(em, total, error)
    x, y, z = (em.cast("fpext", v, "double") for v in (a, b, c))
    total, error = two_sum(em, em.binary("fmul", x, y), z)
    return odd_to_single(em, to_odd(em, total, error))


def odd_to_single(em: Emitter, value: Value) -> Value:
    """An f64 rounded to odd into f32."""
    single = em.cast("fptrunc", value, "float")
    back = em.cast("fpext", single, "double")
    even = em.icmp("eq", em.binary("and", em.bitcast(single, "i32"), em.const("i32", 1)), em.const("i32", 0))
    inexact = em.fcmp("one", back, value)
    # An infinite f32 from a finite f64 is even: it steps down to the largest finite, which is odd.
    adjust = em.binary("and", even, inexact)
    return em.select(adjust, step(em, single, em.fcmp("olt", back, value)), single)


def directed(em: Emitter, value: Value, error: Value, rounding: str) -> Value:
    """Correct a rounded-to-nearest result in the direction asked for, given the sign of its error."""
    zero = em.real(value.type, 0.0)
    above, below = em.fcmp("ogt", error, zero), em.fcmp("olt", error, zero)
    if rounding == "rp":
        return em.select(above, step(em, value, em.const("i1", 1)), value)
    if rounding == "rm":
        return em.select(below, step(em, value, em.const("i1", 0)), value)
    bits_type = f"i{llvm_bits(value.type)}"
    negative = em.icmp("slt", em.bitcast(value, bits_type), em.const(bits_type, 0))
    too_far = em.select(negative, above, below)
    return em.select(too_far, step(em, value, negative), value)


def single_directed(em: Emitter, value: Value, rounding: str) -> Value:
    """An f64 (exact, or rounded to odd) as f32, rounded as asked."""
    single = em.cast("fptrunc", value, "float")
    if rounding == "rn":
        return single
    back = em.cast("fpext", single, "double")
    infinite = em.fcmp("oeq", absolute(em, value), em.const("double", 0x7FF0000000000000))
    error = em.select(infinite, em.real("double", 0.0), em.binary("fsub", value, back))
    zero = em.real("double", 0.0)
    sign = em.select(
        em.fcmp("ogt", error, zero),
        em.real("float", 1.0),
        em.select(em.fcmp("olt", error, zero), em.real("float", -1.0), em.real("float", 0.0)),
    )
    return directed(em, single, sign, rounding)


def half_directed(em: Emitter, value: Value, scalar: ScalarType, rounding: str) -> Value:
    """An f32 as a half (i16), rounded as asked."""
    nearest = narrow(em, value, scalar)
    if rounding == "rn":
        return nearest
    back = widen(em, nearest, scalar)
    above, below = em.fcmp("olt", back, value), em.fcmp("ogt", back, value)
    negative = em.icmp("slt", nearest, em.const("i16", 0))
    one = em.const("i16", 1)
    larger, smaller = em.binary("add", nearest, one), em.binary("sub", nearest, one)
    toward = em.binary("and", em.select(negative, above, below), em.const("i1", 1))
    if rounding == "rz":
        return em.select(toward, smaller, nearest)
    zero = em.icmp("eq", em.binary("and", nearest, em.const("i16", 0x7FFF)), em.const("i16", 0))
    if rounding == "rp":
        up = em.select(zero, one, em.select(negative, smaller, larger))
        return em.select(above, up, nearest)
    down = em.select(zero, em.const("i16", 0x8001), em.select(negative, larger, smaller))
    return em.select(below, down, nearest)
