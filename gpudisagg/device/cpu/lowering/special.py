"""Special registers."""

from __future__ import annotations

from collections.abc import Callable

from gpudisagg.device.cpu.emitter import Value
from gpudisagg.device.cpu.layout import RESERVED_REGISTERS
from gpudisagg.device.cpu.lowering import context as c
from gpudisagg.device.cpu.lowering.context import Lowering

_AXES = {"x": 0, "y": 1, "z": 2}
_FIELDS = {
    "%smid": c.THREAD_SLOT,
    "%nsmid": c.THREAD_COUNT,
    "%gridid": c.GRID_ID,
    "%dynamic_smem_size": c.DYNAMIC_SHARED,
}
# Of the hardware's counters there is nothing. A cluster is one block.
_CONSTANTS = {
    **{f"%pm{i}": ("i32", 0) for i in range(8)},
    **{f"%pm{i}_64": ("i64", 0) for i in range(8)},
    **{name: ("i32", offset) for name, offset in RESERVED_REGISTERS.items()},
    "%cluster_ctarank": ("i32", 0),
    "%cluster_nctarank": ("i32", 1),
    "%is_explicit_cluster": ("i1", 0),
    "%current_graph_exec": ("i64", 0),
}


def special_register(low: Lowering, name: str) -> Value:
    """The value of a special register: i32, or i64 for the wide clocks."""
    em = low.em
    base, dot, axis = name.partition(".")
    if dot:
        base = {"%clusterid": "%ctaid", "%nclusterid": "%nctaid"}.get(base, base)
        if base in ("%cluster_ctaid", "%cluster_nctaid"):
            return em.const("i32", int(base == "%cluster_nctaid"))
        if axis not in _AXES:
            if axis == "w" and base in ("%tid", "%ctaid", "%ntid", "%nctaid"):
                return em.const("i32", int(base.startswith("%n")))
            raise low.error(f"unknown register {name}")
        if base == "%tid":
            return low.thread_index(axis)
        if base == "%ctaid":
            return Value(f"%ctaid{axis}", "i32")
        if base == "%ntid":
            return low.launch_field(c.BLOCK + 4 * _AXES[axis])
        if base == "%nctaid":
            return low.launch_field(c.GRID + 4 * _AXES[axis])
        raise low.error(f"unknown register {name}")
    if name in _CONSTANTS:
        return em.const(*_CONSTANTS[name])
    if name in _FIELDS:
        return low.launch_field(_FIELDS[name])
    if name.startswith("%lanemask_"):
        return _lane_mask(low, name.removeprefix("%lanemask_"))
    if name in ("%envreg1", "%envreg2"):
        # The address, high and low half, of what the blocks of a cooperative launch meet at; null in others.
        return low.launch_field(c.WORKSPACE + 4 * (name == "%envreg1"))
    if name.startswith("%envreg"):
        return em.const("i32", 0)
    maker = _MAKERS.get(name)
    if maker is None:
        raise low.error(f"unknown register {name}")
    return maker(low)


def linear(low: Lowering) -> Value:
    """The thread's index in its block, x fastest."""
    return low.linear()


def lane(low: Lowering) -> Value:
    """%laneid."""
    return low.em.binary("and", linear(low), low.em.const("i32", 31))


def block_threads(low: Lowering) -> Value:
    """Threads in the block."""
    x, y, z = (low.launch_field(c.BLOCK + 4 * axis) for axis in range(3))
    return low.em.binary("mul", low.em.binary("mul", x, y), z)


def _lane_mask(low: Lowering, kind: str) -> Value:
    em = low.em
    own = em.binary("shl", em.const("i32", 1), lane(low))
    below = em.binary("sub", own, em.const("i32", 1))
    if kind == "eq":
        return own
    if kind == "lt":
        return below
    if kind == "le":
        return em.binary("or", own, below)
    if kind == "gt":
        return em.invert(em.binary("or", own, below))
    if kind == "ge":
        return em.invert(below)
    raise low.error(f"unknown register %lanemask_{kind}")


def _warps(low: Lowering) -> Value:
    em = low.em
    return em.binary("lshr", em.binary("add", block_threads(low), em.const("i32", 31)), em.const("i32", 5))


def _clock(low: Lowering) -> Value:
    return low.em.call("llvm.readcyclecounter", "i64", [])


def _clock_high(low: Lowering) -> Value:
    return low.em.binary("lshr", _clock(low), low.em.const("i64", 32))


def _global_timer(low: Lowering) -> Value:
    """Nanoseconds of CLOCK_REALTIME."""
    em = low.em
    cell = em.entry_value("alloca [2 x i64]", "ptr")
    em.call("clock_gettime", "i32", [em.const("i32", 0), cell])
    seconds = em.load("i64", cell, 8)
    nanoseconds = em.load("i64", em.offset(cell, 8), 8)
    return em.binary("add", em.binary("mul", seconds, em.const("i64", 10**9)), nanoseconds)


def _total_shared(low: Lowering) -> Value:
    em = low.em
    dynamic = low.launch_field(c.DYNAMIC_SHARED)
    return em.binary("add", dynamic, em.const("i32", low.layout.dynamic_offset))


_MAKERS: dict[str, Callable[[Lowering], Value]] = {
    "%laneid": lane,
    "%warpid": lambda low: low.warp_index(),
    "%nwarpid": _warps,
    "%clock": lambda low: low.em.resize(_clock(low), 32),
    "%clock_hi": lambda low: low.em.resize(_clock_high(low), 32),
    "%clock64": _clock,
    "%globaltimer": _global_timer,
    "%globaltimer_lo": lambda low: low.em.resize(_global_timer(low), 32),
    "%globaltimer_hi": lambda low: low.em.resize(
        low.em.binary("lshr", _global_timer(low), low.em.const("i64", 32)), 32
    ),
    "%total_smem_size": _total_shared,
    "%aggr_smem_size": _total_shared,
}
