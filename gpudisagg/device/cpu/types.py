"""PTX scalar types, and the LLVM type that each is held in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """How the bits of a value are read."""

    PREDICATE = "predicate"
    BITS = "bits"
    UNSIGNED = "unsigned"
    SIGNED = "signed"
    FLOAT = "float"
    BFLOAT = "bfloat"


@dataclass(frozen=True)
class ScalarType:
    """A PTX fundamental type. `packed` is the number of elements: 2 for f16x2 and its like."""

    name: str
    kind: Kind
    bits: int
    packed: int = 1

    @property
    def bytes(self) -> int:
        """Size in memory."""
        return max(self.bits // 8, 1)

    @property
    def signed(self) -> bool:
        """Whether integer operations on it are signed."""
        return self.kind is Kind.SIGNED

    @property
    def floating(self) -> bool:
        """Whether it is one of the floating types, half precision included."""
        return self.kind in (Kind.FLOAT, Kind.BFLOAT)

    @property
    def half(self) -> bool:
        """Whether arithmetic on it goes through f32: f16, bf16 and their packed pairs."""
        return self.floating and (self.bits // self.packed) == 16

    @property
    def storage(self) -> str:
        """The LLVM type of a register or memory cell: halves are kept as integers.

        No LLVM `half` or `bfloat` outlives one operation, so no rounding depends on how LLVM
        legalises them.
        """
        if self.kind is Kind.PREDICATE:
            return "i1"
        if self.kind is Kind.FLOAT and self.bits == 32 and self.packed == 1:
            return "float"
        if self.kind is Kind.FLOAT and self.bits == 64 and self.packed == 1:
            return "double"
        return f"i{self.bits}"

    @property
    def element(self) -> ScalarType:
        """The type of one element of a packed pair; the type itself otherwise."""
        return self if self.packed == 1 else TYPES[self.name.removesuffix("x2")]


def _table() -> dict[str, ScalarType]:
    table = {"pred": ScalarType("pred", Kind.PREDICATE, 1)}
    for letter, kind in (("b", Kind.BITS), ("u", Kind.UNSIGNED), ("s", Kind.SIGNED)):
        for bits in (8, 16, 32, 64):
            table[f"{letter}{bits}"] = ScalarType(f"{letter}{bits}", kind, bits)
    for bits in (16, 32, 64):
        table[f"f{bits}"] = ScalarType(f"f{bits}", Kind.FLOAT, bits)
    table["bf16"] = ScalarType("bf16", Kind.BFLOAT, 16)
    table["tf32"] = ScalarType("tf32", Kind.BITS, 32)
    table["b128"] = ScalarType("b128", Kind.BITS, 128)
    for name in ("e4m3x2", "e5m2x2"):
        table[name] = ScalarType(name, Kind.BITS, 16, packed=2)
    table["f32x2"] = ScalarType("f32x2", Kind.FLOAT, 64, packed=2)
    table["f16x2"] = ScalarType("f16x2", Kind.FLOAT, 32, packed=2)
    table["bf16x2"] = ScalarType("bf16x2", Kind.BFLOAT, 32, packed=2)
    table["u16x2"] = ScalarType("u16x2", Kind.UNSIGNED, 32, packed=2)
    table["s16x2"] = ScalarType("s16x2", Kind.SIGNED, 32, packed=2)
    return table


TYPES: dict[str, ScalarType] = _table()

PRED = TYPES["pred"]
B16 = TYPES["b16"]
B32 = TYPES["b32"]
B64 = TYPES["b64"]
U32 = TYPES["u32"]
U64 = TYPES["u64"]
F32 = TYPES["f32"]
F64 = TYPES["f64"]


def llvm_bits(llvm_type: str) -> int:
    """Width of an LLVM scalar type."""
    named = {"float": 32, "double": 64, "half": 16, "bfloat": 16, "ptr": 64}.get(llvm_type)
    return named if named is not None else int(llvm_type[1:])
