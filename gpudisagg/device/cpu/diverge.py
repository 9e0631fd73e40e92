"""The lockstep model: the 32 lanes of a warp run each instruction together, as LLVM vectors.

Every block of the control flow (`flow.py`) is written twice. The *whole* form runs all 32 lanes and knows
it: no masks, and a branch that all lanes take the same way is a jump. Where lanes part, or some are missing
from the start, the *masked* form goes on: `places[b]` holds the lanes that wait to run block b, and the
first block with any runs next. A block where all 32 come together again goes back to the whole form, at the
head of a loop or outside loops.
"""

from __future__ import annotations

from gpudisagg.device.cpu import ast
from gpudisagg.device.cpu.analysis import MATRIX_OPERATIONS, WARP_OPERATIONS, CallGraph
from gpudisagg.device.cpu.emitter import Value
from gpudisagg.device.cpu.flow import Block
from gpudisagg.device.cpu.lane_memory import LaneEmitter
from gpudisagg.device.cpu.layout import ModuleLayout
from gpudisagg.device.cpu.lockstep import RETURN, LockstepLowering
from gpudisagg.device.cpu.lowering import handler_of, unsupported
from gpudisagg.device.cpu.lowering.host import trap_at
from gpudisagg.device.cpu.spinning import on_workspace, workspace_registers
from gpudisagg.device.cpu.types import PRED, U32
from gpudisagg.device.cpu.uniform import Uniformity

# Instructions of a branch's side that is run by the way, in a loop and elsewhere: each costs code.
SHORT, SHORT_ONCE = 12, 4


def _label(form: str, block: int) -> str:
    return f'%"{form}.{block}"'


class WarpLowering(LockstepLowering):
    """Lowers the control flow of a kernel for a warp."""

    def __init__(
        self,
        layout: ModuleLayout,
        graph: CallGraph,
        em: LaneEmitter,
        function: ast.Function,
        plan: Uniformity,
    ) -> None:
        super().__init__(layout, graph, em, function, plan)
        self.places: dict[int, Value] = {}
        self._live = em.slot("i32")
        self._workspace = workspace_registers(plan.body)

    def body(self) -> None:
        """All blocks in both forms."""
        em = self.em
        flow = self.plan.flow
        for index in range(len(flow.blocks)):
            self.places[index] = em.slot("i32")
        mask = Value("%mask", "i32")
        em.store(mask, self._live, 4)
        em.store(mask, self.places[0], 4)
        full = em.icmp("eq", mask, em.const("i32", -1))
        em.branch_if(full, _label("whole", 0), _label("masked", 0))
        for index, block in enumerate(flow.blocks):
            self.block = index
            self._whole(index, block)
            self.block = index
            self._masked(index, block)

    def _instructions(self, block: Block) -> None:
        self.em.looping = self.plan.flow.depth(self.block) > 0
        self._held.clear()
        self.affines.clear()
        for instruction in block.instructions:
            self.line = instruction.line
            handler = handler_of(instruction)
            if handler is None:
                raise unsupported(instruction)
            if instruction.opcode == "ld" and on_workspace(instruction, self._workspace):
                self.pause()
            found = self.affines.before(self.em, instruction) if self.em.mask is None else None
            handler(self, instruction)
            self.affines.after(instruction, found)

    def _condition(self, block: Block) -> Value:
        assert block.condition is not None
        return self.read(block.condition, PRED)

    def _switch(self, block: Block, labels: list[str]) -> None:
        em = self.em
        assert block.condition is not None
        index = self.read(block.condition, U32)
        wild = em.new_label("brx.wild")
        cases = " ".join(f"i32 {i}, label {label}" for i, label in enumerate(labels))
        em.line(f"switch {index.typed}, label {wild} [ {cases} ]")
        em.place(wild)
        self._trap()

    def _trap(self, line: int = 0) -> None:
        trap_at(self, line)
        self.em.line("unreachable")

    def _whole(self, index: int, block: Block) -> None:
        em = self.em
        em.place(_label("whole", index))
        em.enter(None)
        self._instructions(block)
        labels = [_label("whole", t) for t in block.targets]
        if block.ends == "exit":
            em.branch(RETURN)
        elif block.ends == "trap":
            self._trap(block.line)
        elif block.ends == "switch":
            self._switch(block, labels)
        elif block.ends == "branch" and len(set(labels)) > 1:
            condition = self._condition(block)
            if condition.lanes == 1:
                em.branch_if(condition, labels[0], labels[1])
                return
            taken = em.ballot(condition)
            mixed, parted = em.new_label("mixed"), em.new_label("parted")
            em.branch_if(em.icmp("eq", taken, em.const("i32", -1)), labels[0], mixed)
            em.place(mixed)
            em.branch_if(em.icmp("eq", taken, em.const("i32", 0)), labels[1], parted)
            em.place(parted)
            if self._by_the_way(block, taken):
                return
            self._go(block.targets[0], taken)
            self._go(block.targets[1], em.invert(taken))
            self._next(set(block.targets))
        else:
            em.branch(labels[0])

    def _by_the_way(self, block: Block, taken: Value) -> bool:
        """Where the sides of a branch are short and soon together again: run them one after the other with
        masks, and go on with all 32 lanes.
        """
        em, blocks = self.em, self.plan.flow.blocks
        first, second = block.targets
        if self._short(first) and blocks[first].targets == [second]:
            sides, after = [(first, taken)], second
        elif self._short(second) and blocks[second].targets == [first]:
            sides, after = [(second, em.invert(taken))], first
        elif self._short(first) and self._short(second) and blocks[first].targets == blocks[second].targets:
            sides, after = sorted([(first, taken), (second, em.invert(taken))]), blocks[first].targets[0]
        else:
            return False
        for side, lanes in sides:
            em.enter(lanes)
            self.block = side
            self._instructions(blocks[side])
        em.branch(_label("whole", after))
        return True

    def _short(self, index: int) -> bool:
        block = self.plan.flow.blocks[index]
        return (
            block.ends == "jump"
            and len(block.targets) == 1
            and block.targets[0] > index
            and len(block.instructions) <= (SHORT if self.plan.flow.depth(index) else SHORT_ONCE)
            and not block.waits
            and index not in self.plan.flow.heads
            and not any(
                i.opcode in WARP_OPERATIONS or i.opcode in ("bar", "barrier") for i in block.instructions
            )
        )

    def _masked(self, index: int, block: Block) -> None:
        em = self.em
        flow, waiting = self.plan.flow, self.plan.waiting[index]
        em.place(_label("masked", index))
        mask = em.load("i32", self.places[index], 4)
        em.store(em.const("i32", 0), self.places[index], 4)
        if index in flow.heads or flow.depth(index) == 0:
            partial = em.new_label("partial")
            em.branch_if(em.icmp("eq", mask, em.const("i32", -1)), _label("whole", index), partial)
            em.place(partial)
        em.enter(mask)
        if block.waits and waiting:
            self._let_others_come(index, block, mask)
        self._instructions(block)
        if block.ends == "exit":
            live = em.load("i32", self._live, 4)
            em.store(em.binary("and", live, em.invert(mask)), self._live, 4)
            self._next(waiting | {index})
        elif block.ends == "trap":
            self._trap(block.line)
        elif block.ends == "switch":
            sides = [em.new_label("side") for _ in block.targets]
            self._switch(block, sides)
            for side, target in zip(sides, block.targets, strict=True):
                em.place(side)
                self._go(target, mask)
                self._next({target, *waiting})
        elif block.ends == "branch" and len(set(block.targets)) > 1:
            condition = self._condition(block)
            if condition.lanes == 1:
                yes, no = em.new_label("yes"), em.new_label("no")
                em.branch_if(condition, yes, no)
                for side, target in zip((yes, no), block.targets, strict=True):
                    em.place(side)
                    self._go(target, mask)
                    self._next({target, *waiting})
                return
            taken = em.ballot(condition)
            self._go(block.targets[0], taken)
            self._go(block.targets[1], em.binary("xor", mask, taken))
            self._next({*block.targets, *waiting})
        else:
            self._go(block.targets[0], mask)
            self._next({block.targets[0], *waiting})

    def _go(self, target: int, lanes: Value) -> None:
        """The lanes wait to run the target next."""
        em = self.em
        if target in self.plan.flow.ends:
            live = em.load("i32", self._live, 4)
            em.store(em.binary("and", live, em.invert(lanes)), self._live, 4)
            return
        cell = self.places[target]
        em.store(em.binary("or", em.load("i32", cell, 4), lanes), cell, 4)

    def _any(self, block: int) -> Value:
        em = self.em
        return em.icmp("ne", em.load("i32", self.places[block], 4), em.const("i32", 0))

    def _next(self, candidates: set[int]) -> None:
        """Run the first of the blocks that has lanes. One has, unless lanes just went to an end."""
        em = self.em
        ends = {b for b in candidates if self.plan.flow.blocks[b].ends == "exit"} & (
            self.plan.flow.ends | {self.block}
        )
        ordered, ended = sorted(candidates - ends), bool(ends)
        for at, candidate in enumerate(ordered):
            if at == len(ordered) - 1 and not ended:
                em.branch(_label("masked", candidate))
                return
            skip = em.new_label("none")
            em.branch_if(self._any(candidate), _label("masked", candidate), skip)
            em.place(skip)
        em.branch(RETURN)

    # warp operations under divergence

    def _missing(self, block: Block, here: Value) -> Value:
        """Whether lanes that this warp operation names are still elsewhere."""
        self._held.clear()
        em = self.em
        instruction = block.instructions[0]
        names = "sync" in instruction.modifiers and instruction.opcode not in MATRIX_OPERATIONS
        mask = self.read(instruction.operands[-1], U32) if names else None
        live = em.load("i32", self._live, 4)
        absent = em.binary("and", live, em.invert(here))
        if mask is None:
            return em.icmp("ne", absent, em.const("i32", 0))
        absent = em.binary("and", absent, mask)
        some = em.icmp("ne", absent, em.const("i32", 0))
        if some.lanes == 1:
            return some
        found = em.value(f"bitcast {some.typed} to i32", "i32")
        return em.icmp("ne", em.binary("and", found, here), em.const("i32", 0))

    def _let_others_come(self, index: int, block: Block, mask: Value) -> None:
        """Let lanes that wait elsewhere go on until those named by the operation are here, or none can
        get here before they wait themselves.
        """
        em = self.em
        flow, waiting = self.plan.flow, self.plan.waiting
        perform, look = em.new_label("perform"), em.new_label("look")
        em.branch_if(self._missing(block, mask), look, perform)
        em.place(look)
        for other in sorted(waiting[index]):
            if not waiting[other]:
                continue
            turn, skip = em.new_label("turn"), em.new_label("skip")
            em.branch_if(self._any(other), turn, skip)
            em.place(turn)
            if flow.blocks[other].waits:
                ready = em.new_label("ready")
                there = em.load("i32", self.places[other], 4)
                em.branch_if(self._missing(flow.blocks[other], there), skip, ready)
                em.place(ready)
            em.store(mask, self.places[index], 4)
            em.branch(_label("masked", other))
            em.place(skip)
        em.branch(perform)
        em.place(perform)
