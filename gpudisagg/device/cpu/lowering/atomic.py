"""atom and red.

A block runs on one host thread and its threads only switch at barriers, so atomics on shared memory are plain
reads and writes. Those on global memory are host atomics.
"""

from __future__ import annotations

from collections.abc import Sequence

from gpudisagg.device.cpu.ast import Instruction, Operand, Sink, Vector
from gpudisagg.device.cpu.emitter import ORDERINGS, Value
from gpudisagg.device.cpu.lowering import numeric
from gpudisagg.device.cpu.lowering.context import Handler, Lowering
from gpudisagg.device.cpu.lowering.floating import _minmax
from gpudisagg.device.cpu.lowering.memory import SCOPES, space_of
from gpudisagg.device.cpu.lowering.options import Options
from gpudisagg.device.cpu.types import ScalarType

_OPERATIONS = ("add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec")


def atom(low: Lowering, ins: Instruction) -> None:
    """Every operation, on integers, floats and halves."""
    options = low.options(ins)
    scalar = options.type()
    space = space_of(options)
    ordering = ORDERINGS[options.choice("relaxed", "acquire", "release", "acq_rel") or "relaxed"]
    operation = options.required(*_OPERATIONS)
    options.ignore("noftz", *SCOPES, "L2::cache_hint")
    width = options.choice("v2", "v4", "v8")
    options.done()
    operands = ins.operands if ins.opcode == "atom" else (Sink(), *ins.operands)
    if len(operands) < (4 if operation == "cas" else 3):
        raise options.unsupported("missing operands")
    if width is not None:
        _vector(low, options, operands, int(width[1:]), operation, space, scalar, ordering)
        return
    a = low.read(operands[2], scalar)
    b = low.read(operands[3], scalar) if operation == "cas" else a
    pointer = low.address(operands[1], space)

    def once(values: Sequence[Value]) -> Value:
        return _perform(low, operation, space, values, scalar, ordering)

    low.write(operands[0], low.each_lane([pointer, a, b], once, always=True), scalar)


def _vector(
    low: Lowering,
    options: Options,
    operands: Sequence[Operand],
    width: int,
    operation: str,
    space: str,
    scalar: ScalarType,
    ordering: str,
) -> None:
    """Several side by side: each is atomic, all together are not."""
    em = low.em
    values, results = operands[2], operands[0]
    if (
        not isinstance(values, Vector)
        or len(values.elements) != width
        or operation not in ("add", "min", "max")
    ):
        raise options.unsupported()
    if isinstance(results, Sink):
        results = Vector((Sink(),) * width)
    if not isinstance(results, Vector) or len(results.elements) != width:
        raise options.unsupported()
    pointer = low.address(operands[1], space)

    def once(one: Sequence[Value]) -> Value:
        return _perform(low, operation, space, [one[0], one[1], one[1]], scalar, ordering)

    found = [
        low.each_lane([em.offset(pointer, index * scalar.bytes), low.read(value, scalar)], once, always=True)
        for index, value in enumerate(values.elements)
    ]
    for result, value in zip(results.elements, found, strict=True):
        low.write(result, value, scalar)


def _perform(
    low: Lowering, operation: str, space: str, values: Sequence[Value], scalar: ScalarType, ordering: str
) -> Value:
    """One thread's operation; gives the old value."""
    em = low.em
    pointer, a, b = values
    if space == "shared":
        old = em.load(scalar.storage, pointer, scalar.bytes)
        em.store(_combined(low, operation, old, a, b, scalar), pointer, scalar.bytes)
        return old
    if operation == "cas":
        return _compare_exchange(low, pointer, a, b, scalar, ordering)
    if scalar.half or (scalar.floating and operation in ("min", "max")):
        return _loop(low, operation, pointer, a, scalar, ordering)
    name = {"exch": "xchg", "inc": "uinc_wrap", "dec": "udec_wrap"}.get(operation, operation)
    if scalar.floating and operation == "add":
        name = "fadd"
    elif operation in ("min", "max") and not scalar.signed:
        name = f"u{operation}"
    return em.value(
        f"atomicrmw {name} {pointer.typed}, {a.typed} {ordering}, align {scalar.bytes}", scalar.storage
    )


def _combined(low: Lowering, operation: str, old: Value, a: Value, b: Value, scalar: ScalarType) -> Value:
    em = low.em
    if operation == "exch":
        return a
    if operation == "cas":
        bits = f"i{scalar.bits}"
        same = em.icmp("eq", em.bitcast(old, bits), em.bitcast(a, bits))
        return em.select(same, b, old)
    if operation == "inc":
        past = em.icmp("uge", old, a)
        return em.select(past, em.const(a.type, 0), em.binary("add", old, em.const(a.type, 1)))
    if operation == "dec":
        wraps = em.binary("or", em.icmp("eq", old, em.const(a.type, 0)), em.icmp("ugt", old, a))
        return em.select(wraps, a, em.binary("sub", old, em.const(a.type, 1)))
    if not scalar.floating:
        if operation in ("min", "max"):
            return em.intrinsic(("s" if scalar.signed else "u") + operation, a.type, old, a)
        return em.binary(operation, old, a)

    def element(values: object) -> Value:
        x, y = (numeric.widen(em, v, scalar) for v in values)  # type: ignore[attr-defined]
        result = (
            em.binary("fadd", x, y) if operation == "add" else _minmax(low, operation, x, y, propagate=False)
        )
        return numeric.narrow(em, result, scalar)

    return numeric.elementwise(em, scalar, [old, a], element)


def _compare_exchange(
    low: Lowering, pointer: Value, expected: Value, desired: Value, scalar: ScalarType, ordering: str
) -> Value:
    em = low.em
    bits = f"i{scalar.bits}"
    expected, desired = em.bitcast(expected, bits), em.bitcast(desired, bits)
    failure = {"release": "monotonic", "acq_rel": "acquire"}.get(ordering, ordering)
    pair = em.value(
        f"cmpxchg {pointer.typed}, {expected.typed}, {desired.typed} {ordering} {failure}, "
        f"align {scalar.bytes}",
        f"{{ {bits}, i1 }}",
    )
    old = em.value(f"extractvalue {pair.typed}, 0", bits)
    return em.bitcast(old, scalar.storage)


def _loop(
    low: Lowering, operation: str, pointer: Value, a: Value, scalar: ScalarType, ordering: str
) -> Value:
    em = low.em
    cell = em.slot(scalar.storage)
    em.store(em.load(scalar.storage, pointer, scalar.bytes, ordering="monotonic"), cell, scalar.bytes)
    again, done = em.new_label("atom"), em.new_label("atom.done")
    em.branch(again)
    em.place(again)
    old = em.load(scalar.storage, cell, scalar.bytes)
    found = _compare_exchange(
        low, pointer, old, _combined(low, operation, old, a, a, scalar), scalar, ordering
    )
    em.store(found, cell, scalar.bytes)
    bits = f"i{scalar.bits}"
    em.branch_if(em.icmp("eq", em.bitcast(found, bits), em.bitcast(old, bits)), done, again)
    em.place(done)
    return old


ATOMIC: dict[str, Handler] = {"atom": atom, "red": atom}
