"""A PTX module as the parser hands it on: names resolved, scopes flattened, nothing interpreted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from gpudisagg.device.cpu.types import ScalarType


@dataclass(frozen=True, slots=True)
class Register:
    """A register by its resolved name, or a special register such as `%tid.x`. `part`: the bytes or halfwords
    that a video instruction takes of it ("b0", "h10").
    """

    name: str
    negated: bool = False
    part: str = ""


@dataclass(frozen=True, slots=True)
class Integer:
    """An integer literal, or the value of a constant expression."""

    value: int


@dataclass(frozen=True, slots=True)
class Float:
    """A floating literal by its bits; `width` is 32 or 64."""

    bits: int
    width: int


@dataclass(frozen=True, slots=True)
class Symbol:
    """The address of a variable, parameter, function or label, plus bytes."""

    name: str
    offset: int = 0
    generic: bool = False
    mask: int = 0  # of an initial value: which byte of the address, as 0xFF of it; 0: all


@dataclass(frozen=True, slots=True)
class Address:
    """A memory operand: `[base + offset]`."""

    base: Register | Symbol | Integer
    offset: int


@dataclass(frozen=True, slots=True)
class Vector:
    """`{a, b, ...}`: several registers or immediates as one operand."""

    elements: tuple[Operand, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """`d|p`: two destinations."""

    first: Operand
    second: Operand


@dataclass(frozen=True, slots=True)
class Arguments:
    """`(a, b, ...)`: the argument or return list of a call."""

    elements: tuple[Operand, ...]


@dataclass(frozen=True, slots=True)
class Sink:
    """`_`: a destination that is thrown away."""


Operand: TypeAlias = Register | Integer | Float | Symbol | Address | Vector | Pair | Arguments | Sink
Initializer: TypeAlias = Integer | Float | Symbol


@dataclass(frozen=True, slots=True)
class Guard:
    """`@p` or `@!p`."""

    register: Register


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction. Modifiers are in source order and include types, without their dots."""

    opcode: str
    modifiers: tuple[str, ...]
    operands: tuple[Operand, ...]
    guard: Guard | None
    line: int

    @property
    def text(self) -> str:
        """The mnemonic as written, for error messages."""
        return ".".join((self.opcode, *self.modifiers))


@dataclass(frozen=True, slots=True)
class Label:
    """A place to branch to."""

    name: str
    line: int


@dataclass(frozen=True, slots=True)
class BranchTargets:
    """`.branchtargets`: the list a `brx.idx` picks from."""

    name: str
    targets: tuple[str, ...]


Statement: TypeAlias = Instruction | Label


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable in a memory space. `count` is None for `extern x[]`: dynamic shared memory."""

    name: str
    space: str
    type: ScalarType
    count: int | None
    align: int
    line: int
    external: bool = False
    initializers: tuple[Initializer, ...] = ()
    linkage: str = ""  # "visible", "weak", "common", "extern"; "": the module's own

    @property
    def size(self) -> int:
        """Bytes; 0 for unsized."""
        return (self.count or 0) * self.type.bytes


@dataclass(frozen=True, slots=True)
class Param:
    """A parameter of an entry or function, with its place in the packed parameter buffer."""

    name: str
    type: ScalarType
    size: int
    align: int
    offset: int
    register: bool = False

    @property
    def kind(self) -> str:
        """What a launch may pass here, as far as the declaration says: "bits", "float" or "blob" (an
        aggregate).
        """
        if self.size != self.type.bytes:
            return "blob"
        return "float" if self.type.floating and self.type.packed == 1 else "bits"


@dataclass(frozen=True)
class Body:
    """What is between a function's braces."""

    registers: dict[str, ScalarType]
    variables: tuple[Variable, ...]
    statements: tuple[Statement, ...]
    branch_targets: dict[str, BranchTargets] = field(default_factory=dict)


@dataclass(frozen=True)
class Function:
    """An `.entry` or a `.func`; a prototype has no body."""

    name: str
    entry: bool
    params: tuple[Param, ...]
    returns: tuple[Param, ...]
    body: Body | None
    max_threads: int
    line: int
    linkage: str = ""  # as a variable's


@dataclass(frozen=True)
class Module:
    """A whole PTX file."""

    version: tuple[int, int]
    target: str
    variables: dict[str, Variable]
    functions: dict[str, Function]
