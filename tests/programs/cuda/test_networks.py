"""What trains and runs a transformer."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.device.harness import launch
from tests.programs.cuda.source import Source, few, rng, seeds

source = Source("networks.cu")
rows = st.integers(1, 20)


def normal(seed: int, *shape: int) -> np.ndarray:
    return rng(seed).normal(size=shape).astype(np.float32)


def ints(*values: int) -> list[np.generic]:
    return [np.int32(v) for v in values]


def near(got: np.ndarray, want: np.ndarray, error: float = 2e-5) -> None:
    np.testing.assert_allclose(got, want, error, error)


@few
@given(b=st.integers(1, 3), t=st.integers(1, 9), c=st.integers(1, 10), seed=seeds)
def test_embedding(b: int, t: int, c: int, seed: int) -> None:
    tokens = rng(seed).integers(0, 11, (b, t)).astype(np.int32)
    words, places, out = (
        normal(seed, 11, 4 * c),
        normal(seed + 1, t, 4 * c),
        np.zeros((b, t, 4 * c), np.float32),
    )
    launch(source["encoder_forward"], -(-b * t * c // 64), 64, out, tokens, words, places, *ints(b, t, 4 * c))
    np.testing.assert_array_equal(out, words[tokens] + places)


@few
@given(n=rows, c=st.integers(1, 200), seed=seeds)
def test_layer_norm(n: int, c: int, seed: int) -> None:
    x, w, b = normal(seed, n, c), normal(seed + 1, c), normal(seed + 2, c)
    out, mean, rstd = np.zeros_like(x), np.zeros(n, np.float32), np.zeros(n, np.float32)
    launch(source["layernorm_forward"], -(-n // 4), 128, out, mean, rstd, x, w, b, *ints(n, c))
    wide = x.astype(float)
    r = 1 / np.sqrt(wide.var(1) + 1e-5)
    norm = (wide - wide.mean(1)[:, None]) * r[:, None]
    near(mean, wide.mean(1))
    np.testing.assert_allclose(rstd, r, 1e-3)
    np.testing.assert_allclose(out, norm * w + b, 2e-3, 2e-3)
    dout = normal(seed + 3, n, c)
    dx, dw, db = np.ones_like(x), np.zeros_like(w), np.zeros_like(b)
    launch(
        source["layernorm_backward"],
        -(-n // 4),
        128,
        dx,
        dw,
        db,
        dout,
        x,
        w,
        mean,
        rstd,
        *ints(n, c),
        dynamic_shared=8 * c,
    )
    norm = (wide - mean[:, None]) * rstd[:, None]
    d = w * dout.astype(float)
    near(db, dout.sum(0), 1e-4)
    near(dw, (dout * norm).sum(0), 1e-3)
    want = (d - d.mean(1)[:, None] - norm * (d * norm).mean(1)[:, None]) * rstd[:, None]
    np.testing.assert_allclose(dx, 1 + want, 1e-2, 1e-2)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@few
@given(n=rows, c=st.integers(1, 300), seed=seeds)
def test_online_softmax(n: int, c: int, seed: int) -> None:
    x = normal(seed, n, c) * 5
    out = np.zeros_like(x)
    launch(source["softmax_online"], -(-n // 2), 64, out, x, *ints(n, c))
    near(out, softmax(x.astype(float)))


@few
@given(
    b=st.integers(1, 2), t=st.integers(1, 20), heads=st.integers(1, 3), size=st.integers(1, 16), seed=seeds
)
def test_causal_attention(b: int, t: int, heads: int, size: int, seed: int) -> None:
    qkv, out = normal(seed, b, t, 3, heads, size), np.zeros((b, t, heads, size), np.float32)
    launch(
        source["attention_causal"], (t, heads, b), 64, out, qkv, *ints(t, heads, size), dynamic_shared=4 * t
    )
    q, k, v = np.moveaxis(qkv.astype(float), 2, 0)
    scores = np.einsum("bthi,bshi->bhts", q, k) / np.sqrt(size)
    scores[..., np.triu(np.ones((t, t), bool), 1)] = -np.inf
    near(out, np.einsum("bhts,bshi->bthi", softmax(scores), v), 1e-4)


def widened(x: np.ndarray) -> np.ndarray:
    return (x.astype(np.uint32) << 16).view(np.float32)


@few
@given(n=st.integers(1, 300), seed=seeds)
def test_gelu_in_bfloat16(n: int, seed: int) -> None:
    x, dout = ((normal(seed + i, n).view(np.uint32) >> 16).astype(np.uint16) for i in (0, 1))
    out, dx = np.zeros(n, np.uint16), np.zeros(n, np.uint16)
    launch(source["gelu"], -(-n // 128), 128, out, x, dx, dout, np.int32(n))
    v = widened(x).astype(float)
    s = np.sqrt(2 / np.pi)
    th = np.tanh(s * (v + 0.044715 * v**3))
    np.testing.assert_allclose(widened(out), 0.5 * v * (1 + th), 2**-8, 1e-6)
    grad = 0.5 * (1 + th) + 0.5 * v * (1 - th**2) * s * (1 + 3 * 0.044715 * v**2)
    np.testing.assert_allclose(widened(dx), grad * widened(dout), 2**-7, 1e-5)


@few
@given(n=st.integers(0, 300), seed=seeds)
def test_adamw(n: int, seed: int) -> None:
    p, g, m, v = normal(seed, 4, n)
    v = abs(v)
    want_m = 0.9 * m.astype(float) + 0.1 * g
    want_v = 0.95 * v.astype(float) + 0.05 * g.astype(float) ** 2
    want = p - 0.01 * (want_m / 0.5 / (np.sqrt(want_v / 0.7) + 1e-8) + 0.1 * p)
    numbers = [np.float32(k) for k in (0.01, 0.9, 0.95, 0.5, 0.7, 1e-8, 0.1)]
    p, m, v = p.copy(), m.copy(), v.copy()
    launch(source["adamw"], -(-n // 64), 64, p, g, m, v, np.int64(n), *numbers)
    near(p, want)
    near(m, want_m)
    near(v, want_v)


@few
@given(n=st.integers(1, 6), v=st.integers(1, 600), seed=seeds)
def test_fused_classifier(n: int, v: int, seed: int) -> None:
    x = normal(seed, n, v + 5) * 3
    targets, losses, logits = rng(seed).integers(0, v, n).astype(np.int32), np.zeros(n, np.float32), x.copy()
    launch(source["fused_classifier"], n, 256, logits, losses, np.float32(0.25), targets, *ints(v, v + 5))
    p = softmax(x[:, :v].astype(float))
    i = np.arange(n)
    near(losses, -np.log(p[i, targets]), 1e-4)
    p[i, targets] -= 1
    near(logits[:, :v], p / 4)
    np.testing.assert_array_equal(logits[:, v:], x[:, v:])


@few
@given(c=st.integers(1, 3), oc=st.integers(1, 2), biased=st.booleans(), seed=seeds)
def test_product_in_registers(c: int, oc: int, biased: bool, seed: int) -> None:
    x, w, b = normal(seed, 128, 32 * c), normal(seed + 1, 128 * oc, 32 * c), normal(seed + 2, 128 * oc)
    out = np.zeros((128, 128 * oc), np.float32)
    launch(
        source["matmul_forward"],
        (1, oc),
        (16, 16),
        out,
        x,
        w,
        b if biased else np.uint64(0),
        *ints(32 * c, 128 * oc),
    )
    near(out, x.astype(float) @ w.T + (b if biased else 0), 1e-4)
