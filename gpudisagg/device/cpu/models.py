"""Which execution model a kernel gets, and the scratch memory each takes."""

from __future__ import annotations

from gpudisagg.device.cpu import ast, coroutines, warps
from gpudisagg.device.cpu.flow import Flow, Unstructured, host_call, warp_wait
from gpudisagg.device.cpu.lanes import WIDTH
from gpudisagg.device.cpu.spinning import read_registers, spins_of
from gpudisagg.device.cpu.uniform import Uniformity
from gpudisagg.device.cpu.walks import walks

# Blocks beyond which the two forms of a kernel would take too long to compile.
MAX_BLOCKS = 400
# So are those where lanes may wait at too many places: each is asked for lanes after each block.
MAX_WAITING = 4000
# Statements beyond which compiling twice costs more than it is likely to give where threads needn't wait.
MAX_UNFORCED = 1000
# Branches beyond which a loop over threads isn't vectorised, or runs everything for everyone.
MANY_BRANCHES = 4
# Bytes of .local memory per thread: a warp's may be on the host's stack.
MAX_LOCAL = 4096


def _block_barrier(instruction: ast.Instruction) -> bool:
    return instruction.opcode in ("bar", "barrier") and "warp" not in instruction.modifiers


def has_barriers(function: ast.Function) -> bool:
    """Whether the warps of a block wait for one another."""
    statements = function.body.statements if function.body is not None else ()
    return any(isinstance(s, ast.Instruction) and _block_barrier(s) for s in statements)


def lockstep_plan(function: ast.Function) -> Uniformity | None:
    """The plan by which the kernel runs in lockstep, or None where that isn't exact.

    It is not for kernels that call, whose control flow isn't reducible, where only some lanes of a warp may
    come to a block barrier or take an indexed branch, or where lanes may wait in a loop for one another.
    """
    body = function.body
    if body is None:
        return None
    if sum(v.size for v in body.variables if v.space in ("local", "param")) > MAX_LOCAL:
        return None
    if spins_of(function).others:
        return None
    try:
        flow = Flow(body)
    except Unstructured:
        return None
    if len(flow.blocks) > MAX_BLOCKS:
        return None
    # The worst case first: every branch parts lanes.
    if sum(len(others) for others in flow.waiting(set(range(len(flow.blocks))))) > MAX_WAITING:
        return None
    plan = Uniformity(function, flow)
    for index, block in enumerate(flow.blocks):
        for instruction in block.instructions:
            if instruction.opcode == "call" and host_call(instruction) is None:
                return None
            # A lane that waits for another of its warp to arrive; memory of which a lane takes as it likes.
            if instruction.opcode in ("mbarrier", "alloca", "stacksave", "stackrestore"):
                return None
            if _block_barrier(instruction):
                uniform = not any(plan.varies(o) for o in instruction.operands if isinstance(o, ast.Register))
                reduces = "red" in instruction.modifiers
                if plan.waiting[index] or not (uniform or reduces):
                    return None
        if block.ends == "switch" and index in plan.divergent():
            return None
    return None if plan.spins() else plan


def gains(plan: Uniformity) -> bool:
    """Whether a kernel that needn't wait is better off in lockstep: LLVM vectorises a loop over threads only
    where a thread has no loops of its own and few branches. Lanes gather what a thread would read in a row.
    """
    if len(plan.body.statements) > MAX_UNFORCED or walks(plan):
        return False
    return bool(plan.flow.loops) or len(plan.divergent()) > MANY_BRANCHES


def scatters(plan: Uniformity) -> bool:
    """Whether a kernel, in a loop, stores packets (v2, v4) where data tells it to, and its lanes need not
    wait for one another but at block barriers: a thread of its own moves a packet in one go, lanes in
    lockstep gather and scatter it element by element (a histogram of float4 sums took 2.5 times as long).
    """
    loaded = _from_memory(plan)
    found = False
    for index, block in enumerate(plan.flow.blocks):
        for instruction in block.instructions:
            if warp_wait(instruction):
                return False
            packet = instruction.opcode == "st" and not {"v2", "v4"}.isdisjoint(instruction.modifiers)
            if packet and plan.flow.depth(index):
                found = found or any(
                    isinstance(o, ast.Address) and isinstance(o.base, ast.Register) and o.base.name in loaded
                    for o in instruction.operands
                )
    return found


def _from_memory(plan: Uniformity) -> set[str]:
    """Registers whose values depend on what was loaded, parameters aside."""
    found: set[str] = set()
    grown = True
    while grown:
        grown = False
        for name, definitions in plan.definitions.items():
            if name not in found and any(
                (i.opcode == "ld" and "param" not in i.modifiers) or not found.isdisjoint(read_registers(i))
                for _, i in definitions
            ):
                found.add(name)
                grown = True
    return found


def scratch_sizes(frame_threads: int, frame: int) -> tuple[int, int]:
    """Scratch memory of a block: fixed, and per thread. `frame` is for that many threads."""
    if frame_threads == WIDTH:
        return warps.SCRATCH_FIXED + frame, -(-frame // WIDTH) + warps.SCRATCH_PER_THREAD
    return coroutines.SCRATCH_FIXED, coroutines.SCRATCH_PER_THREAD + frame
