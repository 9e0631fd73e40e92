"""Triton kernels as people write them, most after Triton's own tutorials. Read by `generate.py` only."""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import libdevice


@triton.jit
def add(x, y, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    tl.store(out + i, tl.load(x + i, mask=inside) + tl.load(y + i, mask=inside), mask=inside)


@triton.jit
def persistent_add(x, y, out, n, BLOCK: tl.constexpr):
    for block in range(tl.program_id(0), tl.cdiv(n, BLOCK), tl.num_programs(0)):
        i = block * BLOCK + tl.arange(0, BLOCK)
        inside = i < n
        tl.store(out + i, tl.load(x + i, mask=inside) + tl.load(y + i, mask=inside), mask=inside)


@triton.jit
def gelu(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + i, mask=i < n).to(tl.float32)
    tl.store(out + i, (0.5 * v * (1.0 + tl.math.erf(v * 0.7071067811865476))), mask=i < n)


@triton.jit
def elementary(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + i, mask=i < n, other=1.0)
    tl.store(out + i, tl.exp(v), mask=i < n)
    tl.store(out + n + i, tl.log(tl.abs(v) + 0.5), mask=i < n)
    tl.store(out + 2 * n + i, tl.sin(v) * tl.cos(v), mask=i < n)
    tl.store(out + 3 * n + i, tl.sqrt_rn(tl.abs(v)), mask=i < n)
    tl.store(out + 4 * n + i, tl.sigmoid(v), mask=i < n)
    tl.store(out + 5 * n + i, libdevice.tanh(v), mask=i < n)
    tl.store(out + 6 * n + i, libdevice.pow(tl.abs(v), 1.7), mask=i < n)
    tl.store(out + 7 * n + i, libdevice.atan2(v, 0.75), mask=i < n)
    tl.store(out + 8 * n + i, tl.floor(v) + libdevice.rint(v), mask=i < n)


@triton.jit
def integers(x, y, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    a = tl.load(x + i, mask=i < n)
    b = tl.load(y + i, mask=i < n, other=1)
    tl.store(out + i, a // b, mask=i < n)
    tl.store(out + n + i, a % b, mask=i < n)
    tl.store(out + 2 * n + i, tl.umulhi(a, b), mask=i < n)
    tl.store(out + 3 * n + i, (a << (b & 31)) ^ (a >> (b & 31)), mask=i < n)
    tl.store(out + 4 * n + i, tl.minimum(tl.maximum(a, -1000), b), mask=i < n)


@triton.jit
def softmax(x, out, x_row, out_row, rows, columns, BLOCK: tl.constexpr):
    for row in tl.range(tl.program_id(0), rows, tl.num_programs(0), num_stages=2):
        i = tl.arange(0, BLOCK)
        v = tl.load(x + row * x_row + i, mask=i < columns, other=-float("inf"))
        v = tl.exp(v - tl.max(v, axis=0))
        tl.store(out + row * out_row + i, v / tl.sum(v, axis=0), mask=i < columns)


@triton.jit
def layer_norm(x, out, weight, bias, mean_out, rstd_out, row, n, epsilon, BLOCK: tl.constexpr):
    r = tl.program_id(0)
    x += r * row
    out += r * row
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(0, n, BLOCK):
        i = start + tl.arange(0, BLOCK)
        total += tl.load(x + i, mask=i < n, other=0.0).to(tl.float32)
    mean = tl.sum(total, axis=0) / n
    square = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(0, n, BLOCK):
        i = start + tl.arange(0, BLOCK)
        v = tl.load(x + i, mask=i < n, other=0.0).to(tl.float32)
        v = tl.where(i < n, v - mean, 0.0)
        square += v * v
    rstd = 1 / tl.sqrt(tl.sum(square, axis=0) / n + epsilon)
    tl.store(mean_out + r, mean)
    tl.store(rstd_out + r, rstd)
    for start in range(0, n, BLOCK):
        i = start + tl.arange(0, BLOCK)
        w = tl.load(weight + i, mask=i < n)
        b = tl.load(bias + i, mask=i < n)
        v = tl.load(x + i, mask=i < n, other=0.0).to(tl.float32)
        tl.store(out + i, (v - mean) * rstd * w + b, mask=i < n)


@triton.jit
def layer_norm_backward(
    dx, dy, dw, db, x, w, mean_in, rstd_in, lock, stride, n, GROUP: tl.constexpr, BLOCK: tl.constexpr
):
    """The tutorial's: programs add into GROUP rows of partial sums, each behind a lock."""
    row = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    inside = i < n
    x += row * stride
    dy += row * stride
    dx += row * stride
    lock_id = row % GROUP
    lock += lock_id
    count = lock + GROUP
    dw = dw + lock_id * n + i
    db = db + lock_id * n + i
    v = tl.load(x + i, mask=inside, other=0).to(tl.float32)
    g = tl.load(dy + i, mask=inside, other=0).to(tl.float32)
    weight = tl.load(w + i, mask=inside).to(tl.float32)
    mean = tl.load(mean_in + row)
    rstd = tl.load(rstd_in + row)
    xhat = tl.where(inside, (v - mean) * rstd, 0.0)
    wdy = tl.where(inside, weight * g, 0.0)
    c1 = tl.sum(xhat * wdy, axis=0) / n
    c2 = tl.sum(wdy, axis=0) / n
    tl.store(dx + i, (wdy - (xhat * c1 + c2)) * rstd, mask=inside)
    partial_dw = (g * xhat).to(w.dtype.element_ty)
    partial_db = g.to(w.dtype.element_ty)
    while tl.atomic_cas(lock, 0, 1) == 1:
        pass
    if tl.load(count) == 0:
        tl.atomic_xchg(count, 1)
    else:
        partial_dw += tl.load(dw, mask=inside)
        partial_db += tl.load(db, mask=inside)
    tl.store(dw, partial_dw, mask=inside)
    tl.store(db, partial_db, mask=inside)
    tl.debug_barrier()
    tl.atomic_xchg(lock, 0)


@triton.jit
def matmul(
    a, b, c, M, N, K, a_row, a_column, b_row, b_column, c_row, c_column,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    rows = tl.cdiv(M, BLOCK_M)
    columns = tl.cdiv(N, BLOCK_N)
    in_group = GROUP * columns
    first = program // in_group * GROUP
    size = min(rows - first, GROUP)
    row = first + program % in_group % size
    column = program % in_group // size
    m = (row * BLOCK_M + tl.arange(0, BLOCK_M)) % M
    n = (column * BLOCK_N + tl.arange(0, BLOCK_N)) % N
    k = tl.arange(0, BLOCK_K)
    a += m[:, None] * a_row + k[None, :] * a_column
    b += k[:, None] * b_row + n[None, :] * b_column
    SUM: tl.constexpr = tl.int32 if a.dtype.element_ty == tl.int8 else tl.float32
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=SUM)
    for step in range(tl.cdiv(K, BLOCK_K)):
        left = K - step * BLOCK_K
        total = tl.dot(
            tl.load(a, mask=k[None, :] < left, other=0),
            tl.load(b, mask=k[:, None] < left, other=0),
            total,
            input_precision=PRECISION,
            out_dtype=SUM,
        )
        a += BLOCK_K * a_column
        b += BLOCK_K * b_row
    m = row * BLOCK_M + tl.arange(0, BLOCK_M)
    n = column * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (m[:, None] < M) & (n[None, :] < N)
    tl.store(c + c_row * m[:, None] + c_column * n[None, :], total.to(c.dtype.element_ty), mask=inside)


@triton.jit
def attention(
    q, k, v, out, lse, scale, head_stride, n,
    HEAD: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """Flash attention, forward: online softmax over blocks of keys."""
    block = tl.program_id(0)
    offset = tl.program_id(1).to(tl.int64) * head_stride
    m = block * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.arange(0, HEAD)
    query = tl.load(q + offset + m[:, None] * HEAD + d[None, :], mask=m[:, None] < n, other=0.0)
    top = tl.full([BLOCK_M], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    weighted = tl.zeros([BLOCK_M, HEAD], tl.float32)
    end = n
    if CAUSAL:
        end = min(n, (block + 1) * BLOCK_M)
    for start in range(0, end, BLOCK_N):
        j = start + tl.arange(0, BLOCK_N)
        key = tl.load(k + offset + j[None, :] * HEAD + d[:, None], mask=j[None, :] < n, other=0.0)
        score = tl.dot(query, key) * (scale * 1.4426950408889634)
        seen = j[None, :] < n
        if CAUSAL:
            seen = seen & (j[None, :] <= m[:, None])
        score = tl.where(seen, score, -1.0e30)
        higher = tl.maximum(top, tl.max(score, 1))
        weight = tl.math.exp2(score - higher[:, None])
        shrink = tl.math.exp2(top - higher)
        value = tl.load(v + offset + j[:, None] * HEAD + d[None, :], mask=j[:, None] < n, other=0.0)
        weighted = tl.dot(weight.to(value.dtype), value, weighted * shrink[:, None])
        total = total * shrink + tl.sum(weight, 1)
        top = higher
    tl.store(lse + tl.program_id(1) * n + m, top + tl.math.log2(total), mask=m < n)
    result = weighted / total[:, None]
    tl.store(
        out + offset + m[:, None] * HEAD + d[None, :], result.to(out.dtype.element_ty), mask=m[:, None] < n
    )


@triton.jit
def dropout(x, out, n, p, seed, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + i, mask=i < n)
    keep = tl.rand(seed, i) > p
    tl.store(out + i, tl.where(keep, v / (1 - p), 0.0), mask=i < n)


@triton.jit
def random_numbers(words, normal, n, seed, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    a, b, c, d = tl.randint4x(seed, i)
    tl.store(words + i, a, mask=i < n)
    tl.store(words + n + i, b, mask=i < n)
    tl.store(words + 2 * n + i, c, mask=i < n)
    tl.store(words + 3 * n + i, d, mask=i < n)
    tl.store(normal + i, tl.randn(seed, i), mask=i < n)


@triton.jit
def row_sums(x, out, rows, columns, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """A reduction that keeps one tile in registers however long the rows are."""
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    for start in range(0, columns, BLOCK):
        i = start + tl.arange(0, BLOCK)
        inside = (r[:, None] < rows) & (i[None, :] < columns)
        total += tl.load(x + r[:, None] * columns + i[None, :], mask=inside, other=0.0)
    tl.store(out + r, tl.sum(total, 1), mask=r < rows)


@triton.jit
def column_sums(x, out, rows, columns, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    r = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    inside = (r[:, None] < rows) & (i[None, :] < columns)
    v = tl.load(x + r[:, None] * columns + i[None, :], mask=inside, other=0.0)
    tl.atomic_add(out + i, tl.sum(v, 0), mask=i < columns, sem="relaxed")


@triton.jit
def _welford(mean_a, m2_a, n_a, mean_b, m2_b, n_b):
    n = n_a + n_b
    share = tl.where(n == 0, 0.0, n_b / tl.maximum(n, 1.0))
    delta = mean_b - mean_a
    return mean_a + delta * share, m2_a + m2_b + delta * delta * n_a * share, n


@triton.jit
def welford(x, mean_out, var_out, n, BLOCK: tl.constexpr):
    """A reduction of three values with a function of one's own."""
    i = tl.arange(0, BLOCK)
    v = tl.load(x + tl.program_id(0) * n + i, mask=i < n, other=0.0)
    count = tl.where(i < n, 1.0, 0.0)
    mean, m2, number = tl.reduce((v, tl.zeros_like(v), count), 0, _welford)
    tl.store(mean_out + tl.program_id(0), mean)
    tl.store(var_out + tl.program_id(0), m2 / number)


@triton.jit
def extremes(x, where_max, where_min, columns, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    r = tl.program_id(0)
    row = x + r * columns + i
    tl.store(where_max + r, tl.argmax(tl.load(row, mask=i < columns, other=-2147483648), 0))
    tl.store(where_min + r, tl.argmin(tl.load(row, mask=i < columns, other=2147483647), 0))


@triton.jit
def cumulative_sum(x, out, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    r = tl.program_id(0)
    v = tl.load(x + r * n + i, mask=i < n, other=0)
    tl.store(out + r * n + i, tl.cumsum(v, 0), mask=i < n)


@triton.jit
def _linear(a1, b1, a2, b2):
    return a1 * a2, b1 * a2 + b2


@triton.jit
def recurrence(a, b, out, n, BLOCK: tl.constexpr):
    """h[i] = a[i] h[i-1] + b[i] by an associative scan, as state-space models do."""
    i = tl.arange(0, BLOCK)
    r = tl.program_id(0)
    decay = tl.load(a + r * n + i, mask=i < n, other=1.0)
    value = tl.load(b + r * n + i, mask=i < n, other=0.0)
    _, h = tl.associative_scan((decay, value), 0, _linear)
    tl.store(out + r * n + i, h, mask=i < n)


@triton.jit
def sort(x, out, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    r = tl.program_id(0)
    v = tl.load(x + r * n + i, mask=i < n, other=2147483647)
    tl.store(out + r * n + i, tl.sort(v), mask=i < n)


@triton.jit
def histogram(x, out, n, BLOCK: tl.constexpr, BINS: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + i, mask=i < n, other=0)
    counts = tl.histogram(v, BINS, mask=i < n)
    tl.atomic_add(out + tl.arange(0, BINS), counts)


@triton.jit
def atomics(x, slots, sums, halves, highest, lowest, bits, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    v = tl.load(x + i, mask=inside, other=0)
    slot = tl.load(slots + i, mask=inside, other=0)
    tl.atomic_add(sums + slot, v.to(tl.float32), mask=inside)
    tl.atomic_add(halves + slot, (v % 4).to(tl.float16), mask=inside)
    tl.atomic_max(highest + slot, v, mask=inside)
    tl.atomic_min(lowest + slot, v.to(tl.float32), mask=inside)
    tl.atomic_xor(bits + slot, v, mask=inside)


@triton.jit
def stencil(x, out, rows, columns, BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr):
    """Five points, zero outside."""
    i = tl.program_id(0) * BLOCK_X + tl.arange(0, BLOCK_X)[None, :]
    j = tl.program_id(1) * BLOCK_Y + tl.arange(0, BLOCK_Y)[:, None]
    inside = (i < columns) & (j < rows)
    at = x + j * columns + i
    total = -4.0 * tl.load(at, mask=inside, other=0.0)
    total += tl.load(at - 1, mask=inside & (i > 0), other=0.0)
    total += tl.load(at + 1, mask=inside & (i + 1 < columns), other=0.0)
    total += tl.load(at - columns, mask=inside & (j > 0), other=0.0)
    total += tl.load(at + columns, mask=inside & (j + 1 < rows), other=0.0)
    tl.store(out + j * columns + i, total, mask=inside)


@triton.jit
def transpose(x, out, rows, columns, BLOCK: tl.constexpr):
    r = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + r[:, None] * columns + c[None, :], mask=(r[:, None] < rows) & (c[None, :] < columns))
    tl.store(
        out + c[:, None] * rows + r[None, :], tl.trans(v), mask=(c[:, None] < columns) & (r[None, :] < rows)
    )


@triton.jit
def cross_entropy(logits, labels, loss, gradient, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels + row)
    logits += row * columns
    gradient += row * columns
    top = -float("inf")
    total = 0.0
    for start in range(0, columns, BLOCK):
        i = start + tl.arange(0, BLOCK)
        v = tl.load(logits + i, mask=i < columns, other=-float("inf")).to(tl.float32)
        higher = tl.maximum(top, tl.max(v))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(v - higher))
        top = higher
    for start in range(0, columns, BLOCK):
        i = start + tl.arange(0, BLOCK)
        v = tl.load(logits + i, mask=i < columns, other=-float("inf")).to(tl.float32)
        share = tl.exp(v - top) / total
        tl.store(gradient + i, tl.where(i == label, share - 1.0, share), mask=i < columns)
    tl.store(loss + row, tl.log(total) + top - tl.load(logits + label).to(tl.float32))


@triton.jit
def gather(x, indices, out, n, BLOCK: tl.constexpr):
    """Within a tile, by shuffles or through shared memory."""
    i = tl.arange(0, BLOCK)
    v = tl.load(x + i)
    at = tl.load(indices + i, mask=i < n, other=0)
    tl.store(out + i, tl.gather(v, at, 0), mask=i < n)


@triton.jit
def quantise(x, out, scale, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + i, mask=i < n, other=0.0).to(tl.float32) / scale
    v = tl.clamp(libdevice.rint(v), -128.0, 127.0)
    tl.store(out + i, v.to(tl.int8), mask=i < n)


@triton.jit
def narrow(x, as_bf16, as_fp8, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + i, mask=i < n, other=0.0)
    tl.store(as_bf16 + i, v.to(tl.bfloat16), mask=i < n)
    tl.store(as_fp8 + i, v.to(tl.float8e5), mask=i < n)


@triton.jit
def rotary(x, cosine, sine, out, heads, half, BLOCK: tl.constexpr):
    token = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    c = tl.load(cosine + token * half + i, mask=i < half)
    s = tl.load(sine + token * half + i, mask=i < half)
    for head in range(heads):
        at = (token * heads + head) * 2 * half + i
        a = tl.load(x + at, mask=i < half)
        b = tl.load(x + at + half, mask=i < half)
        tl.store(out + at, a * c - b * s, mask=i < half)
        tl.store(out + at + half, b * c + a * s, mask=i < half)


@triton.jit
def descriptors(x, out, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Tensor descriptors, which a device without tensor memory takes apart."""
    source = tl.make_tensor_descriptor(x, [rows, columns], [columns, 1], [ROWS, COLUMNS])
    target = tl.make_tensor_descriptor(out, [rows, columns], [columns, 1], [ROWS, COLUMNS])
    at = [tl.program_id(0) * ROWS, tl.program_id(1) * COLUMNS]
    target.store(at, source.load(at) * 2)


@triton.jit
def top(x, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    r = tl.program_id(0)
    tl.store(out + r * 8 + tl.arange(0, 8), tl.topk(tl.load(x + r * BLOCK + i), 8))


@triton.jit
def inline_assembly(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + i, mask=i < n, other=0)
    w = tl.inline_asm_elementwise(
        "{ .reg .b32 t; shf.l.wrap.b32 t, $1, $1, 7; xor.b32 $0, t, $1; }", "=r,r", [v], tl.int32, True, 1
    )
    tl.store(out + i, w, mask=i < n)


@triton.jit
def dot_fp64(a, b, out, n: tl.constexpr):
    i = tl.arange(0, n)
    at = i[:, None] * n + i[None, :]
    tl.store(out + at, tl.dot(tl.load(a + at), tl.load(b + at), out_dtype=tl.float64))
