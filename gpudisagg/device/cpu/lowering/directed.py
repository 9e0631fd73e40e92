"""What rounding an f64 operation to nearest lost, in sign: with it a result is corrected in any direction.

The error of a product, a quotient or a root is a fused multiply-add away, unless it is too small for an f64
or something on the way is too large. Then the operands are scaled by powers of two, which is exact.
"""

from __future__ import annotations

from collections.abc import Sequence

from gpudisagg.device.cpu.emitter import Emitter, Value
from gpudisagg.device.cpu.lowering import numeric

_INFINITY = 0x7FF0000000000000
# Operands below 2^-100 are scaled by 2^600, where the result is below 2^-200.
_SMALL, _TINY, _UP = 2.0**-100, 2.0**-200, 2.0**600
_HUGE, _DOWN, _FAINT = 2.0**900, 2.0**-200, 2.0**-900


def _below(em: Emitter, value: Value, limit: float) -> Value:
    return em.fcmp("olt", numeric.absolute(em, value), em.real("double", limit))


def _scaled(em: Emitter, value: Value, condition: Value, factor: float) -> Value:
    return em.select(condition, em.binary("fmul", value, em.real("double", factor)), value)


def _both(em: Emitter, a: Value, b: Value) -> Value:
    return em.binary("and", a, b)


def product_error(em: Emitter, a: Value, b: Value, result: Value) -> Value:
    """a * b - result."""
    tiny = _below(em, result, _TINY)
    up_a, up_b = (_both(em, tiny, _below(em, v, _SMALL)) for v in (a, b))
    scaled = _scaled(em, _scaled(em, result, up_a, _UP), up_b, _UP)
    factors = _scaled(em, a, up_a, _UP), _scaled(em, b, up_b, _UP)
    return em.intrinsic("fma", "double", *factors, em.fneg(scaled))


def quotient_error(em: Emitter, numerator: Value, divisor: Value, result: Value) -> Value:
    """numerator / divisor - result."""
    tiny = _below(em, numerator, _TINY)
    smaller = em.fcmp("ole", numeric.absolute(em, result), numeric.absolute(em, divisor))
    q = _scaled(em, result, _both(em, tiny, smaller), _UP)
    d = _scaled(em, divisor, _both(em, tiny, em.invert(smaller)), _UP)
    residual = em.intrinsic("fma", "double", em.fneg(q), d, _scaled(em, numerator, tiny, _UP))
    negative = em.icmp("slt", em.bitcast(divisor, "i64"), em.const("i64", 0))
    return em.select(negative, em.fneg(residual), residual)


def root_error(em: Emitter, x: Value, result: Value) -> Value:
    """sqrt(x) - result."""
    tiny = _below(em, x, _TINY)
    root = _scaled(em, result, tiny, 2.0**300)
    return em.intrinsic("fma", "double", em.fneg(root), root, _scaled(em, x, tiny, _UP))


def _overflowed(em: Emitter, result: Value, error: Value, operands: Sequence[Value]) -> Value:
    """The error where finite operands gave an infinity: it is towards zero."""
    infinity = em.const("double", _INFINITY)
    over = em.fcmp("oeq", numeric.absolute(em, result), infinity)
    for value in operands:
        over = _both(em, over, em.fcmp("olt", numeric.absolute(em, value), infinity))
    return em.select(over, em.fneg(result), error)


def sum_error(em: Emitter, a: Value, b: Value) -> tuple[Value, Value]:
    """a + b, and what rounding lost."""
    result, error = numeric.two_sum(em, a, b)
    return result, _overflowed(em, result, error, (a, b))


def fused_error(em: Emitter, a: Value, b: Value, c: Value, result: Value) -> Value:
    """a * b + c - result."""
    zero = em.real("double", 0.0)
    product = em.binary("fmul", a, b)
    tiny = _below(em, product, 2.0**-500)
    huge = em.invert(_below(em, product, _HUGE))
    up_a, up_b = (_both(em, tiny, _below(em, v, _SMALL)) for v in (a, b))
    larger = em.fcmp("oge", numeric.absolute(em, a), numeric.absolute(em, b))
    x = _scaled(em, _scaled(em, a, up_a, _UP), _both(em, huge, larger), _DOWN)
    y = _scaled(em, _scaled(em, b, up_b, _UP), _both(em, huge, em.invert(larger)), _DOWN)
    # A sum that is faint beside a huge product counts by its sign alone.
    z, r = (_scaled(em, _scaled(em, v, up_a, _UP), up_b, _UP) for v in (c, result))
    faint = em.intrinsic("copysign", "double", em.real("double", _FAINT), c)
    lost = _both(em, huge, _both(em, _below(em, c, _FAINT), em.fcmp("one", c, zero)))
    z = em.select(lost, faint, _scaled(em, z, huge, _DOWN))
    r = _scaled(em, r, huge, _DOWN)
    exact = em.binary("fmul", x, y)
    rest = em.intrinsic("fma", "double", x, y, em.fneg(exact))
    high, low = numeric.two_sum(em, exact, z)
    middle, last = numeric.two_sum(em, low, rest)
    error = em.binary("fadd", em.binary("fsub", high, r), middle)
    error = em.select(em.fcmp("oeq", error, zero), last, error)
    # And a product that is tiny beside the sum by its own: the result is the sum.
    large = em.fcmp("oge", numeric.absolute(em, c), em.real("double", 2.0**-400))
    beside = _both(em, tiny, large)
    nonzero = _both(em, em.fcmp("one", a, zero), em.fcmp("one", b, zero))
    sign = em.intrinsic("copysign", "double", em.real("double", 1.0), product)
    error = em.select(beside, em.select(nonzero, sign, zero), error)
    return _overflowed(em, result, error, (a, b, c))


def exact_zero(em: Emitter, result: Value, error: Value, a: Value, b: Value) -> Value:
    """Rounded down, a sum of exactly zero is -0, unless both addends are +0."""
    zero = em.real("double", 0.0)
    none = _both(em, em.fcmp("oeq", result, zero), em.fcmp("oeq", error, zero))
    bits = em.binary("or", em.bitcast(a, "i64"), em.bitcast(b, "i64"))
    plus = em.icmp("eq", bits, em.const("i64", 0))
    negative = _both(em, none, em.invert(plus))
    return em.select(negative, em.const("double", 1 << 63), result)
