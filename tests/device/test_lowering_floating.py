"""Floating-point instructions against numpy: rounded once, in the direction asked for, NaN and subnormals
included.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest

from tests.device.elementwise import Array, edge_floats, elementwise, same_floats

TYPES = {"f32": np.float32, "f64": np.float64}
LOAD = {"f16": "", "f32": "", "f64": ""}


def pairs(dtype: npt.DTypeLike) -> tuple[Array, Array]:
    values = edge_floats(dtype)
    edges = values[:15]
    a, b = (v.ravel() for v in np.meshgrid(edges, edges))
    return np.concatenate([a, values, values]), np.concatenate([b, values[::-1], np.roll(values, 7)])


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("operation", ["add", "sub", "mul", "div"])
def test_arithmetic_rounds_to_nearest(operation: str, name: str) -> None:
    a, b = pairs(TYPES[name])
    with np.errstate(all="ignore"):
        want = {"add": a + b, "sub": a - b, "mul": a * b, "div": a / b}[operation]  # type: ignore[operator]
    same_floats(elementwise(f"{operation}.rn.{name} %out, %a, %b;", [a, b], TYPES[name]), want)


@pytest.mark.parametrize("operation", ["add", "sub", "mul"])
def test_half_arithmetic_rounds_once(operation: str) -> None:
    a, b = pairs(np.float16)
    with np.errstate(all="ignore"):
        want = {"add": a + b, "sub": a - b, "mul": a * b}[operation]  # type: ignore[operator]
    same_floats(elementwise(f"{operation}.f16 %out, %a, %b;", [a, b], np.float16), want)


def exact(value: float) -> Fraction:
    return Fraction(float(value))


def nearest_half(value: Fraction) -> float:
    """Round a fraction to f16, to nearest even, by hand."""
    if value == 0:
        return 0.0
    exponent = max(math.floor(math.log2(abs(value))), -14)
    while abs(value) >= Fraction(2) ** (exponent + 1):
        exponent += 1
    while exponent > -14 and abs(value) < Fraction(2) ** exponent:
        exponent -= 1
    unit = Fraction(2) ** (exponent - 10)
    rounded = round(value / unit) * unit
    return math.inf * (1 if rounded > 0 else -1) if abs(rounded) >= 65520 else float(rounded)


def test_half_fma_rounds_once() -> None:
    rng = np.random.default_rng(1)
    a, b, c = (rng.integers(0, 1 << 16, 3000, dtype=np.uint16).view(np.float16) for _ in range(3))
    finite = np.isfinite(a) & np.isfinite(b) & np.isfinite(c)
    a, b, c = a[finite], b[finite], c[finite]
    # Half of the cases lie next to a midpoint of two halves, where rounding twice goes wrong.
    c[::2] = np.float16(2048.0)
    b[::2] = np.float16(1.0)
    a[::2] = (1 + rng.integers(-3, 4, len(a[::2])) * 2.0**-10).astype(np.float16)
    got = elementwise("fma.rn.f16 %out, %a, %b, %c;", [a, b, c], np.float16)
    want = np.array([nearest_half(exact(x) * exact(y) + exact(z)) for x, y, z in zip(a, b, c, strict=True)])
    np.testing.assert_array_equal(got.astype(np.float64), want)


def bfloat(values: Array) -> Array:
    """uint16 bf16 patterns as f32."""
    return (values.astype(np.uint32) << 16).view(np.float32)


def to_bfloat(values: npt.NDArray[np.float32]) -> Array:
    bits = values.view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + (bits >> np.uint64(16) & np.uint64(1))) >> np.uint64(16)).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FFF), rounded)


def test_bfloat_conversion_keeps_subnormals() -> None:
    values = edge_floats(np.float32, 3000)
    out = elementwise("cvt.rn.bf16.f32 %out, %a;", [values], np.uint16)
    np.testing.assert_array_equal(out, to_bfloat(values))


def test_bfloat_fma_rounds_once() -> None:
    rng = np.random.default_rng(2)
    a, b, c = (rng.integers(0x3000, 0x4800, 2000, dtype=np.uint16) for _ in range(3))
    got = bfloat(elementwise("fma.rn.bf16 %out, %a, %b, %c;", [a, b, c], np.uint16))
    for x, y, z, g in zip(bfloat(a), bfloat(b), bfloat(c), got, strict=True):
        value = exact(x) * exact(y) + exact(z)
        unit = Fraction(2) ** (math.frexp(float(value))[1] - 8)
        assert exact(g) == round(value / unit) * unit


def test_packed_halves_are_two_halves() -> None:
    a, b = (v.view(np.uint32) for v in np.random.default_rng(3).standard_normal((2, 512)).astype(np.float16))
    got = elementwise("add.f16x2 %out, %a, %b;", [a, b], np.uint32)
    np.testing.assert_array_equal(got.view(np.float16), a.view(np.float16) + b.view(np.float16))


def rounded(value: Fraction, mode: str) -> np.float32:
    """A fraction to f32 in a directed mode."""
    near = np.float32(float(value)) if abs(value) < Fraction(2) ** 200 else np.float32(np.inf)
    down, up = near, near
    if np.isinf(near):
        return near
    if exact(near) > value:
        down = np.nextafter(near, np.float32(-np.inf))
    if exact(near) < value:
        up = np.nextafter(near, np.float32(np.inf))
    return {"rm": down, "rp": up, "rz": down if value > 0 else up}[mode]


@pytest.mark.parametrize("mode", ["rz", "rm", "rp"])
@pytest.mark.parametrize("operation", ["add", "mul", "div", "fma"])
def test_directed_rounding_of_singles(operation: str, mode: str) -> None:
    rng = np.random.default_rng(4)
    a, b, c = (rng.standard_normal((3, 400)) * 10.0 ** rng.integers(-3, 4, (3, 400))).astype(np.float32)
    a[:10] *= np.float32(1e-41)
    text = f"{operation}.{mode}.f32 %out, %a, %b{', %c' if operation == 'fma' else ''};"
    got = elementwise(text, [a, b, c], np.float32)
    for x, y, z, g in zip(a, b, c, got, strict=True):
        p, q, r = exact(x), exact(y), exact(z)
        value = {"add": p + q, "mul": p * q, "div": p / q, "fma": p * q + r}[operation]
        assert g == rounded(value, mode), (x, y, z)


@pytest.mark.parametrize("mode", ["rz", "rm", "rp"])
@pytest.mark.parametrize("operation", ["add", "mul", "div", "fma"])
def test_directed_rounding_of_doubles(operation: str, mode: str) -> None:
    rng = np.random.default_rng(5)
    a, b, c = rng.standard_normal((3, 300)) * 10.0 ** rng.integers(-3, 4, (3, 300))
    text = f"{operation}.{mode}.f64 %out, %a, %b{', %c' if operation == 'fma' else ''};"
    got = elementwise(text, [a, b, c], np.float64)
    for x, y, z, g in zip(a, b, c, got, strict=True):
        p, q, r = exact(x), exact(y), exact(z)
        value = {"add": p + q, "mul": p * q, "div": p / q, "fma": p * q + r}[operation]
        low, high = exact(np.nextafter(g, -np.inf)), exact(np.nextafter(g, np.inf))
        below, above = exact(g) <= value < high, low < value <= exact(g)
        assert {"rm": below, "rp": above, "rz": below if value > 0 else above}[mode], (x, y, z)


@pytest.mark.parametrize("name", TYPES)
def test_min_max_prefer_numbers(name: str) -> None:
    a, b = pairs(TYPES[name])
    for operation, function in (("min", np.fmin), ("max", np.fmax)):
        got = elementwise(f"{operation}.{name} %out, %a, %b;", [a, b], TYPES[name])
        np.testing.assert_array_equal(got, function(a, b))
    signs = elementwise(f"min.{name} %out, %a, %b;", [a[:4], -a[:4]], TYPES[name])
    assert np.signbit(signs[0])
    got = elementwise(f"max.NaN.{name} %out, %a, %b;", [a, b], TYPES[name])
    np.testing.assert_array_equal(got, np.maximum(a, b))


def test_flushing_and_saturating() -> None:
    a = edge_floats(np.float32)
    tiny = np.finfo(np.float32).tiny

    def flush(v: Array) -> Array:
        return np.where(np.abs(v) < tiny, np.copysign(np.float32(0), v), v)  # type: ignore[no-any-return]

    one = np.full_like(a, 0.5)
    with np.errstate(all="ignore"):
        same_floats(elementwise("mul.ftz.f32 %out, %a, %b;", [a, one], np.float32), flush(flush(a) * one))
        got = elementwise("add.sat.f32 %out, %a, %b;", [a, one], np.float32)
        np.testing.assert_array_equal(got, np.nan_to_num(np.clip(a + one, 0, 1), nan=0.0))


RANGES = {
    "ex2": (np.exp2, -140, 127, 2e-7, 0),
    "lg2": (np.log2, 1e-40, 1e38, 2e-7, 3e-7),
    "sin": (np.sin, -1000, 1000, 0, 5e-7),
    "cos": (np.cos, -1000, 1000, 0, 5e-7),
    "tanh": (np.tanh, -12, 12, 5e-4, 0),
    "rsqrt": (lambda v: 1 / np.sqrt(v), 1e-38, 1e38, 3e-7, 0),
    "rcp": (lambda v: 1 / v, 1e-30, 1e30, 1e-7, 0),
    "sqrt": (np.sqrt, 0, 1e38, 1e-7, 0),
}


@pytest.mark.parametrize("name", RANGES)
def test_special_functions_are_as_accurate_as_promised(name: str) -> None:
    function, low, high, relative, absolute = RANGES[name]
    rng = np.random.default_rng(6)
    x = rng.uniform(low, high, 4000)
    if name in ("lg2", "rsqrt", "rcp", "tanh", "sqrt"):
        x = np.concatenate([x, 10.0 ** rng.uniform(-8, 0, 2000), 1 + rng.uniform(-1e-2, 1e-2, 1000)])
    x = x.astype(np.float32)
    got = elementwise(f"{name}.approx.f32 %out, %a;", [x], np.float32)
    np.testing.assert_allclose(
        got, function(x.astype(np.float64)), rtol=relative + 1e-7, atol=absolute + 1e-38
    )


def test_special_functions_at_the_edges() -> None:
    edges = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, -1.0], np.float32)
    with np.errstate(all="ignore"):
        for name, function in (("ex2", np.exp2), ("lg2", np.log2), ("tanh", np.tanh), ("sin", np.sin)):
            got = elementwise(f"{name}.approx.f32 %out, %a;", [edges], np.float32)
            np.testing.assert_allclose(got, function(edges), rtol=1e-3, atol=1e-6)


def test_copysign_and_testp() -> None:
    a, b = pairs(np.float32)
    same_floats(elementwise("copysign.f32 %out, %a, %b;", [a, b], np.float32), np.copysign(b, a))
    for name, function in (("finite", np.isfinite), ("infinite", np.isinf), ("notanumber", np.isnan)):
        got = elementwise(f"testp.{name}.f32 %p1, %a; selp.u32 %out, 1, 0, %p1;", [a], np.uint32)
        np.testing.assert_array_equal(got, function(a))
