"""Operations of a warp: shuffle, vote, match, reduction, warp barrier.

Each publishes a word, waits for the lanes of its mask, and reads what they published.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from gpudisagg.device.cpu.ast import Instruction, Integer, Operand, Pair
from gpudisagg.device.cpu.emitter import Value
from gpudisagg.device.cpu.lowering.context import Handler, Lowering
from gpudisagg.device.cpu.lowering.special import lane
from gpudisagg.device.cpu.types import B32, F32, PRED, U32, U64

_LANES = "<32 x i32>"


def shuffle(low: Lowering, ins: Instruction) -> None:
    """shfl.sync (and shfl, which waits for the whole warp)."""
    em = low.em
    options = low.options(ins)
    options.type()
    sync = options.flag("sync")
    mode = options.required("up", "down", "bfly", "idx")
    options.done()
    operands = low.operands(ins, 5 if sync else 4)
    value, b, c = low.read(operands[1], B32), low.read(operands[2], U32), low.read(operands[3], U32)
    mask = low.read(operands[4], U32) if sync else em.const("i32", -1)
    me, distance = lane(low), em.binary("and", b, em.const("i32", 31))
    segment = em.binary("and", em.binary("lshr", c, em.const("i32", 8)), em.const("i32", 31))
    inverse = em.binary("xor", segment, em.const("i32", 31))
    least = em.binary("and", me, segment)
    clamp = em.binary("and", em.binary("and", c, em.const("i32", 31)), inverse)
    most = em.binary("or", least, clamp)
    if mode == "up":
        source = em.binary("sub", me, distance)
        valid = em.icmp("sge", source, most)
    else:
        if mode == "down":
            source = em.binary("add", me, distance)
        elif mode == "bfly":
            source = em.binary("xor", me, distance)
        else:
            source = em.binary("or", least, em.binary("and", distance, inverse))
        valid = em.icmp("sle", source, most)
    source = em.select(valid, source, me)
    result = low.shuffled(value, mask, source, _known_sources(mode, operands[2], operands[3]))
    destination = operands[0]
    if isinstance(destination, Pair):
        low.write(destination.second, valid, PRED)
        destination = destination.first
    low.write(destination, result, B32)


def _known_sources(mode: str, b: Operand, c: Operand) -> list[int] | None:
    """Where each lane's word comes from, if the instruction says."""
    if not isinstance(b, Integer) or not isinstance(c, Integer):
        return None
    distance, segment = b.value & 31, c.value >> 8 & 31
    found = []
    for me in range(32):
        least = me & segment
        most = least | (c.value & 31 & ~segment)
        source = {
            "up": me - distance,
            "down": me + distance,
            "bfly": me ^ distance,
            "idx": least | (distance & ~segment),
        }[mode]
        valid = source >= most if mode == "up" else source <= most
        found.append(source if valid else me)
    return found


def _equal_lanes(low: Lowering, published: Value, value: Value) -> Value:
    """The lanes whose published word is `value`, as a mask."""
    em = low.em
    words = em.value(f"load {_LANES}, {published.typed}, align 4", _LANES)
    first = em.value(f"insertelement {_LANES} poison, {value.typed}, i32 0", _LANES)
    splat = em.value(f"shufflevector {first.typed}, {_LANES} poison, {_LANES} zeroinitializer", _LANES)
    same = em.value(f"icmp eq {words.typed}, {splat.text}", "<32 x i1>")
    return em.value(f"bitcast {same.typed} to i32", "i32")


def _equal_to_first(low: Lowering, published: Value, values: Sequence[Value]) -> Value:
    return _equal_lanes(low, published, values[0])


def vote(low: Lowering, ins: Instruction) -> None:
    """vote.sync.all, any, uni, ballot."""
    em = low.em
    options = low.options(ins)
    options.type()
    sync = options.flag("sync")
    mode = options.required("all", "any", "uni", "ballot")
    options.done()
    operands = low.operands(ins, 3 if sync else 2)
    predicate = low.read(operands[1], PRED)
    mask = low.read(operands[2], U32) if sync else em.const("i32", -1)
    published = low.exchange(em.resize(predicate, 32), mask)
    group = em.binary("and", low.warp_group(), mask)
    ballot = em.binary("and", _equal_lanes(low, published, em.const("i32", 1)), group)
    if mode == "ballot":
        low.write(operands[0], ballot, B32)
        return
    none = em.icmp("eq", ballot, em.const("i32", 0))
    every = em.icmp("eq", ballot, group)
    result = {"all": every, "any": em.invert(none), "uni": em.binary("or", none, every)}[mode]
    low.write(operands[0], result, PRED)


def match(low: Lowering, ins: Instruction) -> None:
    """match.sync.any and .all; 64-bit values are exchanged in two words."""
    em = low.em
    options = low.options(ins)
    scalar = options.type()
    mode = options.required("any", "all")
    options.flag("sync")
    options.done()
    operands = low.operands(ins, 3)
    value, mask = low.read(operands[1], scalar), low.read(operands[2], U32)
    words = [em.resize(value, 32)]
    if scalar.bits == 64:
        words.append(em.resize(em.binary("lshr", value, em.const("i64", 32)), 32))
    same = mask
    for word in words:
        published = low.exchange(word, mask)
        equal = low.each_lane([word], functools.partial(_equal_to_first, low, published))
        same = em.binary("and", same, equal)
        group = em.binary("and", low.warp_group(), mask)
        same = em.binary("and", same, group)
    destination = operands[0]
    if mode == "any":
        low.write(destination, same, B32)
        return
    every = em.icmp("eq", same, group)
    if isinstance(destination, Pair):
        low.write(destination.second, every, PRED)
        destination = destination.first
    low.write(destination, em.select(every, group, em.const("i32", 0)), B32)


_NEUTRAL = {
    "add": 0,
    "or": 0,
    "xor": 0,
    "and": -1,
    "umin": -1,
    "umax": 0,
    "smin": 0x7FFFFFFF,
    "smax": 0x80000000,
}


def redux(low: Lowering, ins: Instruction) -> None:
    """redux.sync: an integer reduction over the warp."""
    em = low.em
    options = low.options(ins)
    scalar = options.type()
    options.flag("sync")
    operation = options.required("add", "min", "max", "and", "or", "xor")
    absolute, propagate = options.flag("abs"), options.flag("NaN")
    options.done()
    if scalar.floating or absolute or propagate:
        if scalar != F32 or operation not in ("min", "max"):
            raise options.unsupported()
        redux_float(low, ins, operation, absolute=absolute, propagate=propagate)
        return
    operands = low.operands(ins, 3)
    value, mask = low.read(operands[1], scalar), low.read(operands[2], U32)
    published = low.exchange(value, mask)
    group = em.binary("and", low.warp_group(), mask)
    if operation in ("min", "max"):
        operation = ("s" if scalar.signed else "u") + operation
    neutral = em.const("i32", _NEUTRAL[operation])

    def reduced(values: Sequence[Value]) -> Value:
        words = em.value(f"load {_LANES}, {published.typed}, align 4", _LANES)
        taking = em.value(f"bitcast {values[0].typed} to <32 x i1>", "<32 x i1>")
        kept = em.value(f"select {taking.typed}, {words.typed}, {_LANES} splat (i32 {neutral.text})", _LANES)
        return em.call(f"llvm.vector.reduce.{operation}.v32i32", "i32", [kept])

    low.write(operands[0], low.each_lane([group], reduced), scalar)


def redux_float(low: Lowering, ins: Instruction, operation: str, *, absolute: bool, propagate: bool) -> None:
    """redux.sync of f32, as integers in the order of the floats; NaN is beyond all of them, on one side."""
    em = low.em
    operands = low.operands(ins, 3)
    value, mask = low.read(operands[1], F32), low.read(operands[2], U32)
    bits = em.bitcast(em.intrinsic("fabs", "float", value) if absolute else value, "i32")

    def flipped(key: Value) -> Value:
        negative = em.binary("ashr", key, em.const("i32", 31))
        return em.binary("xor", key, em.binary("and", negative, em.const("i32", 0x7FFFFFFF)))

    wins = propagate == (operation == "max")
    most, least = em.const("i32", 0x7FFFFFFF), em.const("i32", 0x80000000)
    nan, neutral = most if wins else least, most if operation == "min" else least
    key = em.select(em.fcmp("uno", value, value), nan, flipped(bits))
    published = low.exchange(key, mask)
    group = em.binary("and", low.warp_group(), mask)

    def reduced(values: Sequence[Value]) -> Value:
        words = em.value(f"load {_LANES}, {published.typed}, align 4", _LANES)
        taking = em.value(f"bitcast {values[0].typed} to <32 x i1>", "<32 x i1>")
        kept = em.value(f"select {taking.typed}, {words.typed}, {_LANES} splat (i32 {neutral.text})", _LANES)
        return em.call(f"llvm.vector.reduce.s{operation}.v32i32", "i32", [kept])

    found = low.each_lane([group], reduced)
    result = em.select(em.icmp("eq", found, nan), em.const("i32", 0x7FFFFFFF), flipped(found))
    low.write(operands[0], em.bitcast(result, "float"), F32)


def elect(low: Lowering, ins: Instruction) -> None:
    """elect.sync: the lowest lane of the mask."""
    em = low.em
    operands = low.operands(ins, 2)
    mask = low.read(operands[1], U32)
    low.exchange(em.const("i32", 0), mask)
    leader = em.intrinsic("cttz", "i32", em.binary("and", low.warp_group(), mask), em.const("i1", 0))
    if not isinstance(operands[0], Pair):
        raise low.error("elect.sync has two results")
    low.write(operands[0].first, leader, B32)
    low.write(operands[0].second, em.icmp("eq", leader, lane(low)), PRED)


def activemask(low: Lowering, ins: Instruction) -> None:
    """The lanes that are here together."""
    operands = low.operands(ins, 1)
    low.write(operands[0], low.converged(ins.line), B32)


WARP: dict[str, Handler] = {
    "shfl": shuffle,
    "vote": vote,
    "match": match,
    "redux": redux,
    "elect": elect,
    "activemask": activemask,
}

__all__ = ["U64", "WARP"]
