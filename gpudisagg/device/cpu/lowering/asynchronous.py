"""cp.async and mbarrier.

A copy is done where it is issued, which is one of the times at which it may be done: waiting for copies is
nothing then. An mbarrier is a word of shared memory, of which PTX leaves the layout open:

    bits 0-19    arrivals that a phase needs
    bits 20-39   arrivals that this phase still needs
    bits 40-61   bytes that this phase still waits for, signed
    bit 63       the phase's parity

Threads of a block share one host thread, so plain reads and writes do. A thread that finds its phase open
lets the others of its block run before it looks again.
"""

from __future__ import annotations

from collections.abc import Sequence

from gpudisagg.device.cpu.ast import Instruction, Integer, Operand, Register, Sink
from gpudisagg.device.cpu.emitter import Value
from gpudisagg.device.cpu.lowering.context import Handler, Lowering
from gpudisagg.device.cpu.lowering.memory import SCOPES
from gpudisagg.device.cpu.lowering.options import Options
from gpudisagg.device.cpu.types import B64, PRED, U32, U64

_SHARED = ("shared", "shared::cta", "shared::cluster")
_COUNT = (1 << 20) - 1
_PENDING, _BYTES, _PHASE = 20, 40, 63
# The block barrier that threads wait at to let others run: it needs one thread.
YIELD = 15


def copy(low: Lowering, ins: Instruction) -> None:
    """cp.async: 4, 8 or 16 bytes, of which the first few come from memory and the rest are zero."""
    options = low.options(ins)
    options.required("async")
    if any(flag in ("bulk", "tensor") or flag.startswith("reduce") for flag in options.flags):
        raise options.unsupported(
            "bulk copies (TMA) need compute capability 9.0; this device has 8.0: use cp.async"
        )
    if options.flag("commit_group") or options.flag("wait_group") or options.flag("wait_all"):
        options.done()
        return
    if options.flag("mbarrier"):
        copies_arrive(low, ins, options)
        return
    options.required("ca", "cg")
    options.required(*_SHARED)
    options.required("global")
    hint = options.flag("L2::cache_hint")
    options.ignore("L2::64B", "L2::128B", "L2::256B")
    options.done()
    operands = list(low.operands(ins, 3, 5))
    if hint:
        operands.pop()
    if not isinstance(operands[2], Integer) or operands[2].value not in (4, 8, 16):
        raise options.unsupported("4, 8 or 16 bytes can be copied")
    size = operands[2].value
    target, source = low.address(operands[0], "shared"), low.address(operands[1], "global")
    if len(operands) == 3:
        words = low.em.load_row("i32", source, size // 4, 4)
        low.em.store_row(words, target, 4)
        return
    _copy_some(low, target, source, size, _wanted(low, operands[3], size))


def _wanted(low: Lowering, operand: Operand, size: int) -> Value:
    """How many bytes come from memory."""
    em = low.em
    if isinstance(operand, Register):
        body = low.frame.function.body
        scalar = body.registers.get(operand.name) if body is not None else None
        if scalar == PRED:  # a predicate: ignore the source
            return em.select(low.read(operand, PRED), em.const("i32", 0), em.const("i32", size))
    return em.intrinsic("umin", "i32", low.read(operand, U32), em.const("i32", size))


def _copy_some(low: Lowering, target: Value, source: Value, size: int, wanted: Value) -> None:
    em = low.em
    kind = f"i{8 * size}"

    def once(one: Sequence[Value]) -> Value:
        to, from_, count = one
        whole, part, done = (em.new_label(hint) for hint in ("copy", "copy.part", "copied"))
        em.branch_if(em.icmp("eq", count, em.const("i32", size)), whole, part)
        em.place(whole)
        em.store(em.load(kind, from_, 4), to, 4)
        em.branch(done)
        em.place(part)
        em.store(em.const(kind, 0), to, 4)
        em.module.declarations.add("declare void @llvm.memcpy.p0.p0.i32(ptr, ptr, i32, i1)")
        em.line(f"call void @llvm.memcpy.p0.p0.i32({to.typed}, {from_.typed}, {count.typed}, i1 false)")
        em.branch(done)
        em.place(done)
        return em.const("i32", 0)

    low.each_lane([target, source, wanted], once, always=True)


# mbarrier


_PARITY = 1 << _PHASE
_OPERATIONS = ("init", "inval", "arrive", "arrive_drop", "test_wait", "try_wait", "expect_tx", "complete_tx",
               "pending_count")  # fmt: skip


def _part(low: Lowering, word: Value, shift: int) -> Value:
    em = low.em
    return em.binary("and", em.binary("lshr", word, em.const("i64", shift)), em.const("i64", _COUNT))


def _settled(low: Lowering, word: Value) -> Value:
    """The word after a change: the next phase's, if nothing is pending."""
    em = low.em
    pending = em.binary("and", word, em.const("i64", ((1 << _PHASE) - 1) & ~_COUNT))
    expected = em.binary("and", word, em.const("i64", _COUNT))
    parity = em.binary("and", word, em.const("i64", _PARITY))
    phase = em.binary("xor", parity, em.const("i64", _PARITY))
    again = em.binary("or", expected, em.binary("shl", expected, em.const("i64", _PENDING)))
    following = em.binary("or", phase, again)
    return em.select(em.icmp("eq", pending, em.const("i64", 0)), following, word)


def _with_bytes(low: Lowering, word: Value, amount: Value) -> Value:
    """The word with that many more bytes to wait for."""
    em = low.em
    field = ((1 << _PHASE) - 1) & ~((1 << _BYTES) - 1)
    more = em.binary("shl", em.resize(amount, 64, signed=True), em.const("i64", _BYTES))
    moved = em.binary("add", word, more)
    kept = em.binary("and", word, em.const("i64", ~field))
    return em.binary("or", kept, em.binary("and", moved, em.const("i64", field)))


def _arrived(low: Lowering, word: Value, count: Value, *, drop: bool) -> Value:
    em = low.em
    wide = em.resize(count, 64)
    word = em.binary("sub", word, em.binary("shl", wide, em.const("i64", _PENDING)))
    if drop:
        word = em.binary("sub", word, wide)
    return _settled(low, word)


def copies_arrive(low: Lowering, ins: Instruction, options: Options) -> None:
    """cp.async.mbarrier.arrive: copies are done already. Without .noinc it counts itself up first."""
    options.required("arrive")
    noinc = options.flag("noinc")
    options.choice(*_SHARED)
    options.type()
    options.done()
    operands = low.operands(ins, 1)
    if not noinc:
        return
    pointer = low.address(operands[0], _space(ins))

    def once(one: Sequence[Value]) -> Value:
        word = low.em.load("i64", one[0], 8)
        low.em.store(_arrived(low, word, low.em.const("i32", 1), drop=False), one[0], 8)
        return word

    low.each_lane([pointer], once, always=True)


def _space(ins: Instruction) -> str:
    return "shared" if any(m.startswith("shared") for m in ins.modifiers) else "generic"


def barrier(low: Lowering, ins: Instruction) -> None:
    """mbarrier."""
    em = low.em
    options = low.options(ins)
    options.type()
    operation = options.required(*_OPERATIONS)
    options.ignore("release", "acquire", "relaxed", *SCOPES)
    options.choice(*_SHARED)
    no_complete = options.flag("noComplete")
    expects = options.flag("expect_tx")
    parity = options.flag("parity")
    options.done()
    if operation == "pending_count":
        operands = low.operands(ins, 2)
        low.write(operands[0], em.resize(_part(low, low.read(operands[1], B64), _PENDING), 32), U32)
        return
    if operation in ("test_wait", "try_wait"):
        _wait(low, ins, parity)
        return
    arrives = operation in ("arrive", "arrive_drop")
    if arrives:
        operands = low.operands(ins, 2, 3)
        destination, place, rest = operands[0], operands[1], operands[2:]
    else:
        operands = low.operands(ins, 1, 2)
        destination, place, rest = Sink(), operands[0], operands[1:]
    optional = operation == "inval" or (arrives and not (expects or no_complete))
    if not rest and not optional:
        raise options.unsupported("missing operand")
    amount = low.read(rest[0], U32) if rest else em.const("i32", 1)

    def once(one: Sequence[Value]) -> Value:
        pointer, count = one
        word = em.load("i64", pointer, 8)
        if operation == "init":
            wide = em.resize(count, 64)
            after = em.binary("or", wide, em.binary("shl", wide, em.const("i64", _PENDING)))
        elif operation == "inval":
            after = em.const("i64", 0)
        elif operation == "expect_tx":
            after = _with_bytes(low, word, count)
        elif operation == "complete_tx":
            after = _settled(low, _with_bytes(low, word, em.binary("sub", em.const("i32", 0), count)))
        elif expects:
            after = _with_bytes(low, word, count)
            after = _arrived(low, after, em.const("i32", 1), drop=operation == "arrive_drop")
        else:
            after = _arrived(low, word, count, drop=operation == "arrive_drop")
        em.store(after, pointer, 8)
        return word

    old = low.each_lane([low.address(place, _space(ins)), amount], once, always=True)
    low.write(destination, old, U64)


def _wait(low: Lowering, ins: Instruction, parity: bool) -> None:
    """test_wait and try_wait: whether the phase is over. Where it isn't, others run first."""
    em = low.em
    operands = low.operands(ins, 3, 4)
    cell = em.slot("i1")

    def look() -> Value:
        word = em.load("i64", low.address(operands[1], _space(ins)), 8, volatile=True)
        if parity:
            state = em.binary("shl", em.resize(low.read(operands[2], U32), 64), em.const("i64", _PHASE))
        else:
            state = low.read(operands[2], B64)
        return em.icmp("slt", em.binary("xor", word, state), em.const("i64", 0))

    over = look()
    em.store(over, cell, 1)
    again, done = em.new_label("again"), em.new_label("waited")
    em.branch_if(over, done, again)
    em.place(again)
    low.block_barrier(em.const("i32", YIELD), em.const("i32", 1))
    em.store(look(), cell, 1)
    em.branch(done)
    em.place(done)
    low.write(operands[0], em.load("i1", cell, 1), PRED)


ASYNCHRONOUS: dict[str, Handler] = {"cp": copy, "mbarrier": barrier}
