"""wmma: matrices of a warp whose layout in registers PTX leaves open.

Here word `w` of a matrix is in lane `w mod 32` of register `w div 32`, a word being neighbours along k: of A
row by row, of B along its columns' first words first. An element of C and D is where its row-major index
says. Fragments of halves have more registers than words: the rest are copies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gpudisagg.device.cpu.ast import Instruction
from gpudisagg.device.cpu.emitter import Emitter, Value
from gpudisagg.device.cpu.lowering import numeric
from gpudisagg.device.cpu.lowering.context import Gather, Handler, Lowering
from gpudisagg.device.cpu.lowering.matrix import (
    BITS,
    LANES,
    Product,
    added,
    check,
    dimensions,
    elements,
    finished,
    fragment,
    packed,
    start,
    unpacked,
    write_fragment,
)
from gpudisagg.device.cpu.lowering.memory import space_of
from gpudisagg.device.cpu.types import U32

_LARGE = ("f16", "bf16", "s8", "u8")
SHAPES: dict[str, tuple[str, ...]] = {
    "m16n16k16": _LARGE,
    "m32n8k16": _LARGE,
    "m8n32k16": _LARGE,
    "m16n16k8": ("tf32",),
    "m8n8k4": ("f64",),
    "m8n8k32": ("s4", "u4"),
    "m8n8k128": ("b1",),
}


@dataclass(frozen=True)
class Shape:
    """A shape and the type of A and B."""

    shape: str
    type: str

    @property
    def per(self) -> int:
        """Elements in a word."""
        return max(32 // BITS[self.type], 1)

    @property
    def words(self) -> int:
        """Words along k."""
        return dimensions(self.shape)[2] // self.per

    def used(self, matrix: str) -> int:
        """Registers that hold the words of A or B."""
        m, n, _ = dimensions(self.shape)
        return (m if matrix == "a" else n) * self.words // 32

    def registers(self, matrix: str) -> int:
        """Registers of a fragment of A or B."""
        return 8 if self.type == "f16" else self.used(matrix)


def _accumulators(shape: str, type_: str) -> int:
    m, n, _ = dimensions(shape)
    return m * n // 32 // (2 if type_ == "f16" else 1)


def _body(shape: Shape, product: Product) -> Callable[[Emitter, Gather, Sequence[Value]], list[Value]]:
    _, n, _ = dimensions(shape.shape)
    words, first, second = shape.words, shape.used("a"), shape.used("b")

    def build(em: Emitter, gather: Gather, values: Sequence[Value]) -> list[Value]:
        a, b = values[:first], values[first : first + second]
        c = unpacked(em, values[first + second :], product.c)
        totals = [start(em, value, product) for value in c]
        wanted: list[list[tuple[int, int]]] = [[] for _ in a]
        for j in range(len(c)):
            for q in range(words):
                wanted[(32 * j // n * words + q) // 32].append((j, q))
        left: dict[tuple[int, int], Value] = {}
        for register, pairs in zip(a, wanted, strict=True):
            sources = [[((32 * j + lane) // n * words + q) % 32 for lane in LANES] for j, q in pairs]
            left.update(zip(pairs, gather(register, sources), strict=True))
        right: list[Value] = []
        for number, value in enumerate(b):
            mine = [q for q in range(words) if q * n // 32 == number]
            right += gather(value, [[(q * n + lane % n) % 32 for lane in LANES] for q in mine])
        for q in range(words):
            ys = elements(em, right[q], product.b)
            for j in range(len(c)):
                for x, y in zip(elements(em, left[j, q], product.a), ys, strict=True):
                    totals[j] = added(em, totals[j], x, y, product)
        done = [finished(em, x, total, product) for x, total in zip(c, totals, strict=True)]
        return packed(em, done, product.d)

    return build


def multiply(low: Lowering, ins: Instruction) -> None:
    """wmma.mma."""
    options = low.options(ins)
    bits = next((m for m in ins.modifiers if m in ("xor", "and")), "")
    rest = [m for m in ins.modifiers if m not in ("mma", "sync", "aligned", "satfinite", "rn", "popc", bits)]
    satfinite = "satfinite" in ins.modifiers
    if len(rest) not in (5, 7) or rest[2] not in SHAPES or not {"row", "col"}.issuperset(rest[:2]):
        raise options.unsupported("this shape isn't supported")
    types = rest[3:]
    product = (
        Product("f16", "f16", types[1], types[0], satfinite)
        if len(types) == 2
        else Product(types[1], types[2], types[3], types[0], satfinite, bits)
    )
    check(options, product, SHAPES[rest[2]])
    shape = Shape(rest[2], product.a)
    operands = low.operands(ins, 4)
    values = [
        *fragment(low, operands[1], shape.registers("a"), product.a)[: shape.used("a")],
        *fragment(low, operands[2], shape.registers("b"), product.b)[: shape.used("b")],
        *fragment(low, operands[3], _accumulators(shape.shape, product.c), product.c),
    ]
    name = f"wmma.{shape.shape}.{product.name}"
    write_fragment(low, operands[0], low.outlined(name, values, _body(shape, product)), product.d)


def _offset(low: Lowering, outer: list[int], inner: list[int], stride: Value, bits: int) -> Value:
    """Bytes to the element at `outer * stride + inner` of each lane."""
    em = low.em
    place = em.binary("mul", low.lane_constant(outer, "i64"), stride)
    place = em.binary("add", place, low.lane_constant(inner, "i64"))
    bytes_ = em.binary("mul", place, em.const("i64", bits))
    return em.binary("lshr", bytes_, em.const("i64", 3))


def _touch(
    low: Lowering, ins: Instruction, places: Sequence[Value], size: int, *, writes: bool = False
) -> None:
    """In a checked kernel: asks for each of a lane's elements."""
    checks = low.em.module.checks
    for place in places if checks is not None else ():
        assert checks is not None
        checks.touch(low, ins, place, size, writes=writes)


def move(low: Lowering, ins: Instruction) -> None:
    """wmma.load and wmma.store."""
    em = low.em
    options = low.options(ins)
    loads = options.choice("load", "store") == "load"
    matrix = options.required("a", "b", "c") if loads else options.required("d")
    options.required("sync")
    options.required("aligned")
    layout = options.required("row", "col")
    shape = options.required(*SHAPES)
    space = space_of(options)
    type_ = ins.modifiers[-1]
    options.ignore(type_)
    options.done()
    operands = low.operands(ins, 2, 3)
    place = operands[1] if loads else operands[0]
    m, n, k = dimensions(shape)
    rows, columns = {"a": (m, k), "b": (k, n)}.get(matrix, (m, n))
    stride = em.const("i64", columns if layout == "row" else rows)
    if len(operands) == 3:
        stride = em.resize(low.read(operands[2], U32), 64)
    low.exchange(em.const("i32", 0), em.const("i32", -1))
    pointer = low.address(place, space)
    if matrix in ("a", "b"):
        if type_ not in SHAPES[shape]:
            raise options.unsupported("this shape doesn't exist for this type")
        _load_factor(low, ins, Shape(shape, type_), matrix, layout, pointer, stride)
        return
    if type_ not in ("f16", "f32", "s32", "f64"):
        raise options.unsupported()
    count = m * n // 32
    bits = {"f16": 16, "f64": 64}.get(type_, 32)
    places = []
    for j in range(count):
        row, column = [(32 * j + lane) // n for lane in LANES], [(32 * j + lane) % n for lane in LANES]
        outer, inner = (row, column) if layout == "row" else (column, row)
        places.append(em.offset(pointer, _offset(low, outer, inner, stride, bits)))
    kind = {"f16": "i16", "f32": "float", "f64": "double", "s32": "i32"}[type_]
    _touch(low, ins, places, bits // 8, writes=not loads)
    if loads:
        values = [em.load(kind, at, bits // 8) for at in places]
        if type_ == "f16":
            values = [numeric.join(em, values[i], values[i + 1]) for i in range(0, count, 2)]
        write_fragment(low, operands[0], values, type_)
        return
    values = fragment(low, operands[1], _accumulators(shape, type_), type_)
    if type_ == "f16":
        values = [half for word in values for half in numeric.split(em, word)]
    for at, value in zip(places, values, strict=True):
        em.store(value, at, bits // 8)


def _load_factor(
    low: Lowering, ins: Instruction, shape: Shape, matrix: str, layout: str, pointer: Value, stride: Value
) -> None:
    em = low.em
    n, words, per, bits = dimensions(shape.shape)[1], shape.words, shape.per, BITS[shape.type]
    together = layout == ("row" if matrix == "a" else "col")  # neighbours along k are neighbours in memory
    if not together and bits < 8:
        raise low.options(ins).unsupported("elements of less than a byte are laid out along k")
    results = []
    for register in range(shape.used(matrix)):
        index = [32 * register + lane for lane in LANES]
        line = [w // words if matrix == "a" else w % n for w in index]
        along = [(w % words if matrix == "a" else w // n) * per for w in index]
        if together:
            at = em.offset(pointer, _offset(low, line, along, stride, bits))
            _touch(low, ins, [at], max(bits, 32) // 8)
            results.append(em.load("double" if bits == 64 else "i32", at, max(bits, 32) // 8))
            continue
        result: Value | None = None
        for i in range(per):
            at = em.offset(pointer, _offset(low, [k + i for k in along], line, stride, bits))
            _touch(low, ins, [at], bits // 8)
            if bits == 64:
                result = em.load("double", at, 8)
                break
            piece = em.resize(em.load(f"i{bits}", at, bits // 8), 32)
            shifted = em.binary("shl", piece, em.const("i32", bits * i))
            result = shifted if result is None else em.binary("or", result, shifted)
        assert result is not None
        results.append(result)
    copies = [results[i % len(results)] for i in range(shape.registers(matrix))]
    write_fragment(low, ins.operands[0], copies, shape.type)


def wmma(low: Lowering, ins: Instruction) -> None:
    """wmma.load, .mma and .store."""
    if "mma" in ins.modifiers:
        multiply(low, ins)
    else:
        move(low, ins)


WMMA: dict[str, Handler] = {"wmma": wmma}
