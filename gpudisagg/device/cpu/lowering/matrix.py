"""mma, and how matrices move between lanes: ldmatrix, stmatrix, movmatrix.

A fragment's registers hold `32 / bits` neighbours along k each. Products are exact; they are added to f32
(f64, i32) accumulators one after the other, and an f16 result is rounded once at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from gpudisagg.device.cpu.ast import Address, Instruction, Operand, Vector
from gpudisagg.device.cpu.emitter import Emitter, Value
from gpudisagg.device.cpu.lowering import narrow, numeric
from gpudisagg.device.cpu.lowering.context import Gather, Handler, Lowering
from gpudisagg.device.cpu.lowering.options import Options
from gpudisagg.device.cpu.types import B32, F32, F64, TYPES, ScalarType

# Bits of an element of A or B.
BITS = {"f16": 16, "bf16": 16, "tf32": 32, "f64": 64, "s8": 8, "u8": 8, "s4": 4, "u4": 4, "b1": 1,
        "e4m3": 8, "e5m2": 8}  # fmt: skip
_HALVES = ("f16", "bf16")
_INTEGERS = ("s8", "u8", "s4", "u4", "b1")
# The shapes that exist, with the types of A and B they exist for.
SHAPES: dict[str, tuple[str, ...]] = {
    "m8n8k4": ("f64",),
    "m16n8k4": ("tf32", "f64"),
    "m16n8k8": ("f16", "bf16", "tf32", "f64"),
    "m16n8k16": ("f16", "bf16", "s8", "u8", "f64"),
    "m8n8k16": ("s8", "u8"),
    "m16n8k32": ("s8", "u8", "s4", "u4", "e4m3", "e5m2"),
    "m8n8k32": ("s4", "u4"),
    "m16n8k64": ("s4", "u4"),
    "m8n8k128": ("b1",),
    "m16n8k128": ("b1",),
    "m16n8k256": ("b1",),
}
LANES = range(32)
Sources: TypeAlias = list[int]


def dimensions(shape: str) -> tuple[int, int, int]:
    """m16n8k16 as numbers."""
    m, _, rest = shape[1:].partition("n")
    n, _, k = rest.partition("k")
    return int(m), int(n), int(k)


@dataclass(frozen=True)
class Product:
    """What is multiplied: types of A, B, C and D, and how bits are combined."""

    a: str
    b: str
    c: str
    d: str
    satfinite: bool = False
    bits: str = ""  # for b1: xor or and

    @property
    def accumulator(self) -> str:
        """The LLVM type that sums are made in."""
        return "double" if self.a == "f64" else "i32" if self.a in _INTEGERS else "float"

    @property
    def name(self) -> str:
        """As a part of a helper's name."""
        return ".".join((self.a, self.b, self.c, self.d, self.bits, str(int(self.satfinite))))


def storage(type_: str) -> ScalarType:
    """What a register of a fragment is: f32 and f64 as such, all else words."""
    return {"f32": F32, "f64": F64}.get(type_, B32)


def elements(em: Emitter, word: Value, type_: str) -> list[Value]:
    """The elements in a register of A or B, ready to be multiplied."""
    if type_ == "f64":
        return [word]
    if type_ == "tf32":
        return [em.bitcast(em.binary("and", word, em.const("i32", ~0x1FFF)), "float")]
    if type_ == "b1":
        return [word]  # 32 at a time
    bits = BITS[type_]
    found = []
    for index in range(32 // bits):
        if type_ in _HALVES:
            piece = em.resize(em.binary("lshr", word, em.const("i32", 16 * index)), 16)
            found.append(numeric.widen(em, piece, TYPES[type_]))
        elif type_ in ("e4m3", "e5m2"):
            byte = em.binary("and", em.binary("lshr", word, em.const("i32", 8 * index)), em.const("i32", 255))
            found.append(numeric.widen(em, narrow.decoded(em, byte, type_ + "x2"), TYPES["f16"]))
        else:
            up = em.binary("shl", word, em.const("i32", 32 - bits * (index + 1)))
            shift = "ashr" if type_[0] == "s" else "lshr"
            found.append(em.binary(shift, up, em.const("i32", 32 - bits)))
    return found


def added(em: Emitter, total: Value, a: Value, b: Value, product: Product) -> Value:
    """total + a * b."""
    if product.a == "b1":
        return em.binary("add", total, em.intrinsic("ctpop", "i32", em.binary(product.bits, a, b)))
    if product.accumulator == "i32":
        return em.binary("add", total, em.binary("mul", a, b))
    return em.intrinsic("fma", product.accumulator, a, b, total)


def unpacked(em: Emitter, words: Sequence[Value], type_: str) -> list[Value]:
    """The numbers in the registers of C."""
    if type_ != "f16":
        return list(words)
    halves = [half for word in words for half in numeric.split(em, word)]
    return [numeric.widen(em, half, TYPES["f16"]) for half in halves]


def packed(em: Emitter, values: Sequence[Value], type_: str) -> list[Value]:
    """The registers of D."""
    if type_ != "f16":
        return list(values)
    halves = [numeric.narrow(em, value, TYPES["f16"]) for value in values]
    return [numeric.join(em, halves[i], halves[i + 1]) for i in range(0, len(halves), 2)]


def finished(em: Emitter, c: Value, total: Value, product: Product) -> Value:
    """The accumulator and the sum of integer products; of floats the sum began with the accumulator."""
    if product.accumulator != "i32":
        return total
    return em.intrinsic("sadd.sat", "i32", c, total) if product.satfinite else em.binary("add", c, total)


def start(em: Emitter, c: Value, product: Product) -> Value:
    """What a sum begins with."""
    return em.const("i32", 0) if product.accumulator == "i32" else c


def _mma_body(shape: str, product: Product) -> Callable[[Emitter, Gather, Sequence[Value]], list[Value]]:
    m, _, k = dimensions(shape)
    per = max(32 // BITS[product.a], 1)
    rows = m // 8
    blocks = k // (4 * per)

    def build(em: Emitter, gather: Gather, values: Sequence[Value]) -> list[Value]:
        a, b = values[: rows * blocks], values[rows * blocks : rows * blocks + blocks]
        c = unpacked(em, values[rows * blocks + blocks :], product.c)
        totals = [start(em, value, product) for value in c]
        for block in range(blocks):
            by_row = [[lane // 4 * 4 + t for lane in LANES] for t in range(4)]
            by_column = [[(lane % 4 * 2 + j) * 4 + t for lane in LANES] for t in range(4) for j in range(2)]
            left = [gather(a[block * rows + half], by_row) for half in range(rows)]
            right = gather(b[block], by_column)
            for t in range(4):
                xs = [elements(em, left[half][t], product.a) for half in range(rows)]
                ys = [elements(em, right[2 * t + j], product.b) for j in range(2)]
                for i in range(len(xs[0])):
                    for half in range(rows):
                        for j in range(2):
                            at = 2 * half + j
                            totals[at] = added(em, totals[at], xs[half][i], ys[j][i], product)
        done = [finished(em, x, total, product) for x, total in zip(c, totals, strict=True)]
        return packed(em, done, product.d)

    return build


def mma(low: Lowering, ins: Instruction) -> None:
    """mma.sync."""
    options = low.options(ins)
    flags = list(ins.modifiers)
    if "sp" in flags or any(flag.startswith(("sp::", "kind", "block_scale", "scale_vec")) for flag in flags):
        raise options.unsupported("sparse and scaled products aren't supported")
    for flag in ("sync", "aligned"):
        if flag not in flags:
            raise options.unsupported(f"expected .{flag}")
        flags.remove(flag)
    satfinite = "satfinite" in flags
    bits = next((flag for flag in ("xor", "and") if flag in flags), "")
    rest = [flag for flag in flags if flag not in ("satfinite", "xor", "and", "popc")]
    shape, types = rest[0] if rest else "", rest[3:]
    if rest[1:3] != ["row", "col"] or shape not in SHAPES or len(types) != 4:
        raise options.unsupported("this shape, or order of the matrices, isn't supported")
    product = Product(types[1], types[2], types[3], types[0], satfinite, bits)
    if shape == "m8n8k4" and product.a == "f16":
        raise options.unsupported(
            "the form for compute capability 7.0 isn't supported: use m16n8k8 or m16n8k16"
        )
    check(options, product, SHAPES[shape])
    operands = low.operands(ins, 4)
    m, _, k = dimensions(shape)
    blocks = k // (4 * max(32 // BITS[product.a], 1))
    values = [
        *fragment(low, operands[1], m // 8 * blocks, product.a),
        *fragment(low, operands[2], blocks, product.b),
        *fragment(low, operands[3], m // 4 // (2 if product.c == "f16" else 1), product.c),
    ]
    results = low.outlined(f"mma.{shape}.{product.name}", values, _mma_body(shape, product))
    write_fragment(low, operands[0], results, product.d)


def check(options: Options, product: Product, known: Sequence[str]) -> None:
    """Refuse combinations of types that don't exist."""
    families = (
        ("f16",),
        ("bf16",),
        ("tf32",),
        ("f64",),
        ("s8", "u8"),
        ("s4", "u4"),
        ("b1",),
        ("e4m3", "e5m2"),
    )
    family = next((f for f in families if product.a in f), ())
    if product.a not in known or product.b not in family:
        raise options.unsupported("this shape doesn't exist for these types")
    sums = {"f64": ("f64",), "f16": ("f16", "f32")}.get(product.a, ("f32",))
    if product.a in _INTEGERS:
        sums = ("s32",)
    if product.c not in sums or product.d not in sums or (product.a == "b1") != bool(product.bits):
        raise options.unsupported("these types don't go together")


def fragment(low: Lowering, operand: Operand, count: int, type_: str) -> list[Value]:
    """The registers of a fragment."""
    names = operand.elements if isinstance(operand, Vector) else (operand,)
    if len(names) != count:
        raise low.error(f"a fragment of {len(names)} registers where {count} are expected")
    return [low.read(name, storage(type_)) for name in names]


def write_fragment(low: Lowering, operand: Operand, values: Sequence[Value], type_: str) -> None:
    """Assign the registers of a fragment."""
    names = operand.elements if isinstance(operand, Vector) else (operand,)
    if len(names) != len(values):
        raise low.error(f"a fragment of {len(names)} registers where {len(values)} are expected")
    for name, value in zip(names, values, strict=True):
        low.write(name, value, storage(type_))


# between memory and lanes


def _rows(low: Lowering, operand: Operand, space: str, sources: list[Sources]) -> list[Value]:
    """The addresses of the rows that the lanes in each of `sources` name."""
    if not isinstance(operand, Address):
        raise low.error("expected an address")
    em = low.em
    pointer = low.address(operand, space)
    words = low.gather(em.cast("ptrtoint", pointer, "i64"), sources)
    return [em.cast("inttoptr", word, "ptr") for word in words]


def _matrices(low: Lowering, ins: Instruction) -> tuple[int, bool, str]:
    """How many matrices, whether transposed, and the space."""
    options = low.options(ins)
    options.required("sync")
    options.required("aligned")
    options.required("m8n8")
    count = int(options.required("x1", "x2", "x4")[1:])
    trans = options.flag("trans")
    space = options.choice("shared", "shared::cta")
    scalar = options.type()
    options.done()
    if scalar.name != "b16":
        raise options.unsupported("elements of 16 bits only")
    return count, trans, "shared" if space else "generic"


def load_matrix(low: Lowering, ins: Instruction) -> None:
    """ldmatrix: 8x8 halves; lane 8 i + r gives the address of row r of matrix i."""
    em = low.em
    count, trans, space = _matrices(low, ins)
    operands = low.operands(ins, 2)
    results = []
    if trans:
        # Two rows a lane; the word that its column is in.
        column = low.lane_constant([lane // 4 // 2 * 4 for lane in LANES], "i64")
        shift = low.lane_constant([lane // 4 % 2 * 16 for lane in LANES], "i32")
        sources = [[8 * i + lane % 4 * 2 + j for lane in LANES] for i in range(count) for j in range(2)]
        rows = _rows(low, operands[1], space, sources)
        words = [em.load("i32", em.offset(row, column), 4) for row in rows]
        halves = [em.resize(em.binary("lshr", word, shift), 16) for word in words]
        results = [numeric.join(em, halves[2 * i], halves[2 * i + 1]) for i in range(count)]
    else:
        column = low.lane_constant([lane % 4 * 4 for lane in LANES], "i64")
        rows = _rows(low, operands[1], space, [[8 * i + lane // 4 for lane in LANES] for i in range(count)])
        results = [em.load("i32", em.offset(row, column), 4) for row in rows]
    write_fragment(low, operands[0], results, "b16")


def store_matrix(low: Lowering, ins: Instruction) -> None:
    """stmatrix: the reverse."""
    em = low.em
    count, trans, space = _matrices(low, ins)
    operands = low.operands(ins, 2)
    values = fragment(low, operands[1], count, "b16")
    if trans:
        column = low.lane_constant([lane // 4 * 2 for lane in LANES], "i64")
        sources = [[8 * i + lane % 4 * 2 + j for lane in LANES] for i in range(count) for j in range(2)]
        rows = _rows(low, operands[0], space, sources)
        for i, value in enumerate(values):
            for j, half in enumerate(numeric.split(em, value)):
                em.store(half, em.offset(rows[2 * i + j], column), 2)
        return
    column = low.lane_constant([lane % 4 * 4 for lane in LANES], "i64")
    rows = _rows(low, operands[0], space, [[8 * i + lane // 4 for lane in LANES] for i in range(count)])
    for row, value in zip(rows, values, strict=True):
        em.store(value, em.offset(row, column), 4)


def move_matrix(low: Lowering, ins: Instruction) -> None:
    """movmatrix: an 8x8 matrix of halves in registers, transposed."""
    em = low.em
    options = low.options(ins)
    for flag in ("sync", "aligned", "m8n8", "trans"):
        options.required(flag)
    options.type()
    options.done()
    operands = low.operands(ins, 2)
    sources = [[(lane % 4 * 2 + j) * 4 + lane // 8 for lane in LANES] for j in range(2)]
    words = low.gather(low.read(operands[1], B32), sources)
    shift = low.lane_constant([lane // 4 % 2 * 16 for lane in LANES], "i32")
    halves = [em.resize(em.binary("lshr", word, shift), 16) for word in words]
    low.write(operands[0], numeric.join(em, halves[0], halves[1]), B32)


MATRIX: dict[str, Handler] = {
    "mma": mma,
    "ldmatrix": load_matrix,
    "stmatrix": store_matrix,
    "movmatrix": move_matrix,
}
