"""math.h against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.device.harness import launch
from tests.programs.cuda.source import Source, few, rng, seeds

special = pytest.importorskip("scipy.special")
source = Source("mathematics.cu")
approximate = Source("fast.cu")
quick = Source("fast.cu", "-use_fast_math")

UNARY = {
    "LIST_ELEMENTARY": (-30, 30, [
        np.exp, np.exp2, lambda x: 10.0**x, np.expm1, np.log, np.log2, np.log10, np.log1p, np.sqrt,
        lambda x: 1 / np.sqrt(x), np.cbrt, lambda x: 1 / np.cbrt(x),
    ]),
    "LIST_TRIGONOMETRIC": (-3, 3, [
        np.sin, np.cos, np.tan, np.arcsin, np.arccos, np.arctan, np.sinh, np.cosh, np.tanh, np.arcsinh,
        np.arccosh, np.arctanh, special.sindg, special.cosdg,
    ]),
    "LIST_SPECIAL": (-4, 4, [
        special.erf, special.erfc, special.erfcx, special.erfinv, special.erfcinv, special.gammaln,
        special.gamma, special.ndtr, special.ndtri,
    ]),
    "LIST_BESSEL": (0.1, 20, [special.j0, special.j1, special.y0, special.y1, special.i0, special.i1]),
    "LIST_ROUNDING": (-20, 20, [
        np.floor, np.ceil, np.trunc, lambda x: np.copysign(np.floor(abs(x) + 0.5), x), np.rint, np.rint,
        lambda x: np.floor(np.log2(abs(x))), abs,
    ]),
}  # fmt: skip
UNARY["LIST_TRIGONOMETRIC"][2][-2:] = [lambda x: special.sindg(180 * x), lambda x: special.cosdg(180 * x)]
BINARY = [
    np.power, np.arctan2, np.hypot, lambda x, y: 1 / np.hypot(x, y), np.fmod,
    lambda x, y: x - np.rint(x / y) * y, lambda x, y: np.maximum(x - y, 0), np.fmax, np.fmin, np.copysign,
    np.nextafter,
]  # fmt: skip
PRECISIONS = {"double": (np.float64, 1e-13, 1e-14), "float": (np.float32, 4e-6, 1e-6)}


def sample(seed: int, n: int, low: float, high: float, kind: type[np.generic]) -> np.ndarray:
    """Random numbers of a range, halves of whole ones among them."""
    x = rng(seed).uniform(low, high, n)
    x[::3] = np.maximum(np.round(x[::3] * 2) / 2, low)
    return x.astype(kind)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", UNARY)
@few
@given(n=st.integers(1, 300), seed=seeds)
def test_functions_of_one_number(name: str, precision: str, n: int, seed: int) -> None:
    kind, rtol, atol = PRECISIONS[precision]
    low, high, functions = UNARY[name]
    x = sample(seed, n, low, high, kind)
    out = np.full((len(functions), n), 777, kind)
    launch(source[f"{name}_{precision}"], -(-n // 128), 128, x, out, np.int32(n))
    with np.errstate(all="ignore"):
        for got, function in zip(out, functions, strict=True):
            wide = x.astype(float)
            want = function(wide)
            # A pole, and the sign of zero there, is as the function's author likes it.
            poles = (
                (wide <= 0) & (wide == np.floor(wide))
                if function in (special.gammaln, special.gamma)
                else wide != wide
            )
            if name == "LIST_BESSEL":  # near their zeros
                atol = 10 * atol
            np.testing.assert_allclose(
                got[~poles], want[~poles].astype(kind), rtol, atol, err_msg=str(function)
            )


@pytest.mark.parametrize("precision", PRECISIONS)
@few
@given(n=st.integers(1, 300), seed=seeds)
def test_functions_of_two_numbers(precision: str, n: int, seed: int) -> None:
    kind, rtol, atol = PRECISIONS[precision]
    x, y = sample(seed, n, -9, 9, kind), sample(seed + 1, n, 0.1, 5, kind)
    out = np.zeros((len(BINARY), n), kind)
    launch(source[f"LIST_BINARY_{precision}"], -(-n // 128), 128, x, y, out, np.int32(n))
    with np.errstate(all="ignore"):
        for got, function in zip(out, BINARY, strict=True):
            narrow = function is np.nextafter
            want = function(x, y) if narrow else function(x.astype(float), y.astype(float)).astype(kind)
            np.testing.assert_allclose(
                got, want, 0 if narrow else rtol, 0 if narrow else 4 * atol, err_msg=str(function)
            )


@pytest.mark.parametrize("precision", PRECISIONS)
@few
@given(n=st.integers(1, 200), seed=seeds)
def test_parts_of_numbers(precision: str, n: int, seed: int) -> None:
    kind, rtol, atol = PRECISIONS[precision]
    x, y = sample(seed, n, -90, 90, kind), sample(seed + 1, n, 0.1, 5, kind)
    x[x == 0] = 1
    out, whole = np.zeros((15, n), kind), np.zeros((6, n), np.int32)
    launch(
        source["partsId" if precision == "double" else "partsIf"],
        -(-n // 64),
        64,
        x,
        y,
        out,
        whole,
        np.int32(n),
    )
    mantissa, exponent = np.frexp(x)
    fraction, integer = np.modf(x)
    a, b = x.astype(float), y.astype(float)
    quotient = np.rint(a / b)
    want = [
        mantissa, fraction, integer, np.ldexp(y, exponent), a - quotient * b, x / 8, np.sin(b), np.cos(b),
        special.sindg(180 * b), special.cosdg(180 * b), a * b + 1, np.sqrt(a**2 + b**2 + 4),
        1 / np.sqrt(a**2 + b**2 + 5), special.jn(3, b), special.yn(2, b + 1),
    ]  # fmt: skip
    for index, row in enumerate(want):
        exact = index < 4 or index == 5
        np.testing.assert_allclose(
            out[index], row, 0 if exact else 4 * rtol, 0 if exact else 20 * atol, err_msg=str(index)
        )
    np.testing.assert_array_equal(whole[0], exponent)
    np.testing.assert_array_equal(whole[1], quotient.astype(np.int64) & 7)
    np.testing.assert_array_equal(whole[2], exponent - 1)
    np.testing.assert_array_equal(whole[3], np.rint(x))
    np.testing.assert_array_equal(whole[4], np.copysign(np.floor(abs(x) + 0.5), x))
    np.testing.assert_array_equal(whole[5], 4 + 8 * np.signbit(x))


@few
@given(n=st.integers(1, 200), seed=seeds)
def test_fast_functions(n: int, seed: int) -> None:
    x, y = sample(seed, n, -3, 3, np.float32), sample(seed + 1, n, 0.1, 5, np.float32)
    out = np.zeros((14, n), np.float32)
    launch(approximate["fast"], -(-n // 64), 64, x, y, out, np.int32(n))
    a, b = x.astype(float), y.astype(float)
    want = [np.sin(a), np.cos(a), np.tan(a), np.exp(a), 10**a, np.log(b), np.log2(b), np.log10(b),
        b**a, a / b,
            np.clip(a, 0, 1), 1 / np.sqrt(b), 1 / b, np.sin(a) + np.cos(a)]  # fmt: skip
    for index, row in enumerate(want):
        np.testing.assert_allclose(out[index], row, 1e-4, 1e-5, err_msg=str(index))


@few
@given(st.lists(st.tuples(st.floats(1, 100, width=32), st.floats(1, 100, width=32)), min_size=1, max_size=40))
def test_directions_of_rounding(pairs: list[tuple[float, float]]) -> None:
    x, y = np.array(pairs, np.float32).T.copy()
    n = len(x)
    out = np.zeros((5, 4, n), np.float32)
    launch(source["rounded"], 1, 64, x, y, out, np.int32(n))
    a, b = x.astype(np.longdouble), y.astype(np.longdouble)
    for got, exact in zip(out, [a + b, a * b, a / b, a * a + b, np.sqrt(a)], strict=True):
        nearest = exact.astype(np.float32)
        below = np.where(nearest > exact, np.nextafter(nearest, np.float32(0)), nearest)
        above = np.where(nearest < exact, np.nextafter(nearest, np.float32(np.inf)), nearest)
        np.testing.assert_array_equal(got, [nearest, below, above, below])


@few
@given(st.lists(st.floats(-2e9, 2e9), min_size=1, max_size=40))
def test_conversions(numbers: list[float]) -> None:
    x = np.array(numbers)
    n = len(x)
    f, s, wide = np.zeros((4, n), np.float32), np.zeros((8, n), np.int32), np.zeros((3, n), np.int64)
    launch(source["converted"], 1, 64, x, f, s, wide, np.int32(n))
    nearest = x.astype(np.float32)
    toward = {way: np.nextafter(nearest, np.float32(way)) for way in (-np.inf, 0, np.inf)}
    down, up = (
        np.where(nearest > x, toward[-np.inf], nearest),
        np.where(nearest < x, toward[np.inf], nearest),
    )
    np.testing.assert_array_equal(f, [nearest, np.where(x < 0, up, down), up, down])
    narrow = np.clip(np.rint(nearest.astype(float)), -(2**31), 2**31 - 1)
    bits = x.view(np.int32).reshape(n, 2)
    np.testing.assert_array_equal(
        s,
        [
            np.rint(x),
            np.trunc(x),
            np.ceil(x),
            np.floor(x),
            narrow,
            bits[:, 1],
            bits[:, 0],
            nearest.view(np.int32),
        ],
    )
    np.testing.assert_array_equal(wide[:2], [np.floor(x), np.trunc(x)])
    swapped = bits[:, ::-1].copy().view(np.int64).ravel()
    np.testing.assert_array_equal(wide[2], swapped)


@few
@given(n=st.integers(1, 200), seed=seeds)
def test_fast_mathematics_as_an_option(n: int, seed: int) -> None:
    x, y = sample(seed, n, -3, 3, np.float32), sample(seed + 1, n, 0.1, 5, np.float32)
    out = np.zeros((2, n), np.float32)
    launch(quick["plain"], -(-n // 64), 64, x, y, out, np.int32(n))
    a, b = x.astype(float), y.astype(float)
    np.testing.assert_allclose(
        out[0], np.sin(a) / b + np.exp(a) * np.log(b) + b**1.5 - np.sqrt(b) * np.tanh(a), 1e-3, 1e-3
    )
    tiny = x * np.float32(1.2e-38)
    np.testing.assert_array_equal(out[1], np.where(abs(tiny) < 1.1754944e-38, 0, tiny))
