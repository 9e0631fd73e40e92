"""Binary floating-point formats by definition: what a bit pattern stands for, and how a number is rounded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

NAN = "nan"
Number = Fraction | float | str  # a finite value; an infinity or -0.0 as a float; NAN


@dataclass(frozen=True)
class Format:
    """`mantissa` stored bits after the point; `least` and `most`: exponents of the normal numbers."""

    bits: int
    mantissa: int
    least: int
    most: int
    infinities: bool = True

    @property
    def greatest(self) -> Fraction:
        if not self.infinities:  # the pattern of all ones is NaN
            return (2 - Fraction(2) ** (1 - self.mantissa)) * Fraction(2) ** self.most
        return (2 - Fraction(2) ** -self.mantissa) * Fraction(2) ** self.most

    def decode(self, code: int) -> Number:
        sign = -1 if code >> (self.bits - 1) else 1
        exponent = code >> self.mantissa & ((1 << (self.bits - 1 - self.mantissa)) - 1)
        fraction = code & ((1 << self.mantissa) - 1)
        full = (1 << (self.bits - 1 - self.mantissa)) - 1
        if self.infinities and exponent == full:
            return NAN if fraction else sign * math.inf
        if not self.infinities and exponent == full and fraction == (1 << self.mantissa) - 1:
            return NAN
        if exponent == 0:
            value = Fraction(fraction) * Fraction(2) ** (self.least - self.mantissa)
        else:
            value = (Fraction(fraction, 1 << self.mantissa) + 1) * Fraction(2) ** (exponent - 1 + self.least)
        return -0.0 if value == 0 and sign < 0 else sign * value

    def round(self, value: Number, mode: str = "rn") -> Number:
        """The number of this format for `value`: rn (even), rna (away), rz, rm, rp."""
        if not isinstance(value, Fraction) or value == 0:
            return value
        size = abs(value)
        exponent = self.least
        while size >= Fraction(2) ** (exponent + 1):
            exponent += 1
        unit = Fraction(2) ** (exponent - self.mantissa)
        quotient, rest = divmod(size / unit, 1)
        negative = value < 0
        up = {
            "rn": rest > Fraction(1, 2) or (rest == Fraction(1, 2) and quotient % 2 == 1),
            "rna": rest >= Fraction(1, 2),
            "rz": False,
            "rm": negative and rest > 0,
            "rp": not negative and rest > 0,
        }[mode]
        result = (quotient + up) * unit
        if result > self.greatest:
            outward = mode in ("rn", "rna") or mode == ("rm" if negative else "rp")
            limit: Number = math.inf if outward else self.greatest
            return -limit if negative else limit
        if result == 0:
            return -0.0 if negative else Fraction(0)
        return -result if negative else result

    def encode(self, value: Number) -> int | None:
        """The bits of a number of this format; None for NaN."""
        if value == NAN:
            return None
        full = ((1 << (self.bits - 1 - self.mantissa)) - 1) << self.mantissa
        if isinstance(value, float):
            sign = math.copysign(1, value) < 0
            return sign << (self.bits - 1) | (full if math.isinf(value) else 0)
        assert isinstance(value, Fraction)
        sign, size = value < 0, abs(value)
        exponent = self.least
        while size >= Fraction(2) ** (exponent + 1):
            exponent += 1
        units = int(size / Fraction(2) ** (exponent - self.mantissa))
        return sign << (self.bits - 1) | (((exponent - self.least) << self.mantissa) + units)

    def flush(self, value: Number) -> Number:
        """A subnormal as a zero."""
        if isinstance(value, Fraction) and value != 0 and abs(value) < Fraction(2) ** self.least:
            return -0.0 if value < 0 else Fraction(0)
        return value


F16 = Format(16, 10, -14, 15)
BF16 = Format(16, 7, -126, 127)
F32 = Format(32, 23, -126, 127)
F64 = Format(64, 52, -1022, 1023)
TF32 = Format(32, 23, -126, 127)
E4M3 = Format(8, 3, -6, 8, infinities=False)
E5M2 = Format(8, 2, -14, 15)
BY_NAME = {"f16": F16, "bf16": BF16, "f32": F32, "f64": F64, "e4m3": E4M3, "e5m2": E5M2}


def negated(x: Number) -> Number:
    if x == NAN:
        return NAN
    if isinstance(x, float):
        return Fraction(0) if x == 0 else -x
    assert isinstance(x, Fraction)
    return -0.0 if x == 0 else -x


def _sign(x: Number) -> int:
    assert not isinstance(x, str)
    return -1 if (math.copysign(1, x) if isinstance(x, float) else x) < 0 else 1


def multiply(x: Number, y: Number) -> Number:
    """Exactly."""
    if NAN in (x, y):
        return NAN
    sign = _sign(x) * _sign(y)
    if any(isinstance(v, float) and math.isinf(v) for v in (x, y)):
        return NAN if 0 in (x, y) else sign * math.inf
    if 0 in (x, y):
        return Fraction(0) if sign > 0 else -0.0
    assert isinstance(x, Fraction) and isinstance(y, Fraction)
    return x * y


def add(x: Number, y: Number, mode: str = "rn") -> Number:
    """Exactly; a zero that is no sum of equal zeros has the sign that the rounding gives it."""
    if NAN in (x, y):
        return NAN
    infinite = [v for v in (x, y) if isinstance(v, float) and math.isinf(v)]
    if infinite:
        return infinite[0] if len(set(infinite)) == 1 else NAN
    if x == 0 and y == 0:
        if _sign(x) == _sign(y):
            return x
        return -0.0 if mode == "rm" else Fraction(0)
    if x == 0:
        return y
    if y == 0:
        return x
    assert isinstance(x, Fraction) and isinstance(y, Fraction)
    total = x + y
    return total if total else (-0.0 if mode == "rm" else total)


def less(x: Number, y: Number) -> bool:
    """Ordered comparison of numbers."""
    assert not isinstance(x, str) and not isinstance(y, str)
    return x < y
