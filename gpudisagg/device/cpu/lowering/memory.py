"""Loads, stores, fences."""

from __future__ import annotations

from gpudisagg.device.cpu.ast import Address, Instruction, Operand, Sink, Symbol, Vector
from gpudisagg.device.cpu.emitter import ORDERINGS
from gpudisagg.device.cpu.lowering.context import Handler, Lowering
from gpudisagg.device.cpu.lowering.options import Options
from gpudisagg.device.cpu.types import B64

SPACES = ("global", "shared", "local", "const", "param")
SCOPES = ("cta", "cluster", "gpu", "sys")
_HINTS = ("nc", "ca", "cg", "cs", "lu", "cv", "wb", "wt", "L1::evict_normal", "L1::evict_unchanged",
          "L1::evict_first", "L1::evict_last", "L1::no_allocate", "L2::evict_normal", "L2::evict_first",
          "L2::evict_last", "L2::64B", "L2::128B", "L2::256B", "weak", "mmio", *SCOPES)  # fmt: skip


def space_of(options: Options) -> str:
    """The state space; generic where none is named. `.shared::cta` and `.param::func` are plain here."""
    for flag in options.flags:
        space = flag.partition("::")[0]
        if space in SPACES and flag != "shared::cluster":
            options.flags.remove(flag)
            return space
    return "generic"


def _elements(low: Lowering, options: Options, operand: Operand) -> tuple[Operand, ...]:
    width = {"v2": 2, "v4": 4, "v8": 8, None: 1}[options.choice("v2", "v4", "v8")]
    if width == 1:
        if isinstance(operand, Vector):
            if len(operand.elements) != 1:
                raise low.error("a vector operand without .v2 or .v4")
            return operand.elements
        return (operand,)
    if not isinstance(operand, Vector) or len(operand.elements) != width:
        raise low.error(f"expected a vector of {width}")
    return operand.elements


def load(low: Lowering, ins: Instruction) -> None:
    """ld, ldu and their vector forms."""
    em = low.em
    options = low.options(ins)
    scalar = options.type()
    space = space_of(options)
    operands = low.operands(ins, 2, 3)
    elements = _elements(low, options, operands[0])
    volatile = options.flag("volatile")
    ordering = ORDERINGS.get(options.choice("relaxed", "acquire") or "")
    options.ignore(*_HINTS)
    options.flags = [flag for flag in options.flags if flag != "L2::cache_hint"]
    options.done()
    address = operands[1]
    if space == "param" and isinstance(address, Address) and isinstance(address.base, Symbol):
        offset = low.layout.param_offset(low.frame.function, address.base.name)
        if offset is not None:
            for index, element in enumerate(elements):
                at = offset + address.base.offset + address.offset + index * scalar.bytes
                if not 0 <= at <= low.params_size() - scalar.bytes:
                    raise low.error("a load past the parameters")
                value = low.load_param(scalar.storage, at, scalar.bytes if at % scalar.bytes == 0 else 1)
                low.write(element, value, scalar)
            return
    pointer = low.address(address, space)
    metadata = em.parallel if space in ("global", "generic", "const") else ""
    values = em.load_row(
        scalar.storage,
        pointer,
        len(elements),
        scalar.bytes if space != "param" else 1,
        volatile=volatile,
        ordering=ordering,
        metadata=metadata,
    )
    for element, value in zip(elements, values, strict=True):
        if not isinstance(element, Sink):
            low.write(element, value, scalar)


def store(low: Lowering, ins: Instruction) -> None:
    """st and its vector forms."""
    em = low.em
    options = low.options(ins)
    scalar = options.type()
    space = space_of(options)
    operands = low.operands(ins, 2, 3)
    elements = _elements(low, options, operands[1])
    volatile = options.flag("volatile")
    ordering = ORDERINGS.get(options.choice("relaxed", "release") or "")
    options.ignore(*_HINTS, "L2::cache_hint")
    options.done()
    values = [low.read(element, scalar) for element in elements]
    pointer = low.address(operands[0], space)
    metadata = em.parallel if space in ("global", "generic") else ""
    em.store_row(
        values,
        pointer,
        scalar.bytes if space != "param" else 1,
        volatile=volatile,
        ordering=ordering,
        metadata=metadata,
    )


def fence(low: Lowering, ins: Instruction) -> None:
    """membar and fence."""
    low.em.line("fence seq_cst" if "sc" in ins.modifiers or ins.opcode == "membar" else "fence acq_rel")


def hint(low: Lowering, ins: Instruction) -> None:
    """prefetch and its like: nothing to do. Launches run one after another, so griddepcontrol is one too."""


def policy(low: Lowering, ins: Instruction) -> None:
    """createpolicy: a cache hint, which is ignored where it is used."""
    low.write(ins.operands[0], low.em.const("i64", 0), B64)


MEMORY: dict[str, Handler] = {
    "ld": load,
    "ldu": load,
    "st": store,
    "membar": fence,
    "fence": fence,
    "prefetch": hint,
    "prefetchu": hint,
    "applypriority": hint,
    "discard": hint,
    "createpolicy": policy,
    "griddepcontrol": hint,
}
