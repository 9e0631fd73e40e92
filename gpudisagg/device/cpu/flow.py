"""Control flow of a kernel for lanes that run together: blocks, their order, and who may wait where.

Lanes of a warp that part at a branch wait at the blocks they go to, and the first of those blocks (in
`Flow.order`) runs next. The order is topological and keeps loops together, so the lanes of a branch are
together again at its immediate post-dominator at the latest, and a loop goes on until none is left in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from gpudisagg.device.cpu import ast
from gpudisagg.device.cpu.analysis import WARP_OPERATIONS
from gpudisagg.device.cpu.lowering.host import ASSERTIONS, HOST_FUNCTIONS

# Instructions up to which the end of a kernel is worth having several times.
_SMALL_END = 12
_ENDS = frozenset({"ret", "exit", "trap", "brkpt"})


@dataclass
class Block:
    """Straight-line code. `ends` is how: "jump", "branch" (on `condition`), "switch", "exit" or "trap"."""

    instructions: list[ast.Instruction] = field(default_factory=list)
    ends: str = "jump"
    targets: list[int] = field(default_factory=list)
    condition: ast.Register | None = None
    waits: bool = False
    line: int = 0  # of the trap that ends it


class Unstructured(Exception):
    """The control flow isn't what lanes can run together."""


def host_call(instruction: ast.Instruction) -> str | None:
    """The function of the runtime that the instruction calls."""
    if instruction.opcode != "call":
        return None
    names = (o.name for o in instruction.operands if isinstance(o, ast.Symbol))
    return next((name for name in names if name in HOST_FUNCTIONS), None)


def is_trap(instruction: ast.Instruction) -> bool:
    """A trap, or the call that ends a failed assertion."""
    return instruction.opcode in ("trap", "brkpt") or host_call(instruction) in ASSERTIONS


def warp_wait(instruction: ast.Instruction) -> bool:
    """Whether lanes wait for other lanes here."""
    if instruction.opcode in ("bar", "barrier"):
        return "warp" in instruction.modifiers
    return instruction.opcode in WARP_OPERATIONS and instruction.opcode != "activemask"


class _Builder:
    """Splits a body into blocks; a guarded instruction becomes a branch around it."""

    def __init__(self, body: ast.Body) -> None:
        self.body = body
        self.blocks: list[Block] = [Block()]
        self.places: dict[str, int] = {}
        self.pending: list[tuple[Block, int, str]] = []

    def build(self) -> list[Block]:
        for statement in self.body.statements:
            if isinstance(statement, ast.Label):
                self.places[statement.name] = self.follow()
            elif statement.guard is not None:
                self.guarded(statement)
            else:
                self.plain(statement)
        last = self.blocks[-1]
        last.ends = "exit"
        for block, slot, label in self.pending:
            if label not in self.places:
                raise Unstructured(f"unknown label {label}")
            block.targets[slot] = self.places[label]
        return self.blocks

    def start(self) -> int:
        self.blocks.append(Block())
        return len(self.blocks) - 1

    def follow(self) -> int:
        """A new block that the last one falls into."""
        before = self.blocks[-1]
        index = self.start()
        before.targets = [index]
        return index

    def target(self, block: Block, label: str) -> None:
        block.targets.append(-1)
        self.pending.append((block, len(block.targets) - 1, label))

    def guarded(self, instruction: ast.Instruction) -> None:
        assert instruction.guard is not None
        block = self.blocks[-1]
        block.ends, block.condition = "branch", instruction.guard.register
        if instruction.opcode == "bra":
            if len(instruction.operands) != 1 or not isinstance(instruction.operands[0], ast.Symbol):
                raise Unstructured("bra takes a label")
            self.target(block, instruction.operands[0].name)
            block.targets.append(self.start())
            return
        block.targets = [self.start()]
        self.plain(instruction)
        if self.blocks[-1].targets or self.blocks[-1].ends != "jump" or self.blocks[-1].instructions:
            after = self.follow()
        else:
            after = len(self.blocks) - 1
        block.targets.append(after)

    def plain(self, instruction: ast.Instruction) -> None:
        block = self.blocks[-1]
        opcode = instruction.opcode
        if opcode == "bra":
            if len(instruction.operands) != 1 or not isinstance(instruction.operands[0], ast.Symbol):
                raise Unstructured("bra takes a label")
            self.target(block, instruction.operands[0].name)
            self.start()
        elif opcode == "brx":
            self.indexed(block, instruction)
        elif opcode in _ENDS or is_trap(instruction):
            block.ends = "trap" if is_trap(instruction) else "exit"
            block.line = instruction.line
            if instruction.opcode == "call":
                block.instructions.append(instruction)
            self.start()
        elif warp_wait(instruction):
            self.follow()
            self.blocks[-1].waits = True
            self.blocks[-1].instructions.append(instruction)
        else:
            block.instructions.append(instruction)

    def indexed(self, block: Block, instruction: ast.Instruction) -> None:
        index, table = (*instruction.operands, None, None)[:2]
        name = table.name if isinstance(table, ast.Symbol) else ""
        if not isinstance(index, ast.Register) or name not in self.body.branch_targets:
            raise Unstructured("unknown branch targets")
        block.ends, block.condition = "switch", index
        for label in self.body.branch_targets[name].targets:
            self.target(block, label)
        self.start()


class Flow:
    """Blocks in the order in which waiting lanes run them; entry first. Targets are places in that order."""

    def __init__(self, body: ast.Body) -> None:
        found = _Builder(body).build()
        _split_ends(found)
        reached = _reach(found)
        dominators = _dominators(found, reached)
        order, heads = _order(found, reached, dominators)
        place = {index: at for at, index in enumerate(order)}
        self.blocks = [found[index] for index in order]
        for block in self.blocks:
            block.targets = [place[t] for t in block.targets]
        self.heads = {place[h] for h in heads}
        self.loops = {place[h]: {place[b] for b in members} for h, members in heads.items()}
        # Lanes don't wait at a block that only ends them: they end where they branch to it.
        self.ends = {i for i, b in enumerate(self.blocks) if b.ends == "exit" and not b.instructions}
        self.dominators = {place[b]: {place[d] for d in dominators[b]} for b in order}

    def depth(self, block: int) -> int:
        """How many loops the block is in."""
        return sum(block in members for members in self.loops.values())

    def waiting(self, divergent: set[int]) -> list[set[int]]:
        """For each block, the blocks where other lanes may wait while it runs, if the branches at the ends
        of `divergent` may part lanes.
        """
        # Sets of blocks as bits, the first block lowest.
        found = [0] * len(self.blocks)
        targets = [sum(1 << t for t in {*b.targets} - self.ends) for b in self.blocks]
        todo = set(range(len(self.blocks)))

        def add(block: int, others: int) -> None:
            more = others & ~(1 << block)
            if more & ~found[block]:
                found[block] |= more
                todo.add(block)

        def choose(candidates: int) -> None:
            rest = candidates
            while rest:
                lowest = rest & -rest
                rest ^= lowest
                # Picked only when no earlier one has lanes.
                add(lowest.bit_length() - 1, rest)

        while todo:
            index = min(todo)
            todo.remove(index)
            block, others = self.blocks[index], found[index]
            if index in divergent or not block.targets:
                choose(targets[index] | others)
            else:
                for target in set(block.targets):
                    choose((0 if target in self.ends else 1 << target) | others)
            if block.waits:
                for other in _bits(others):
                    if found[other]:
                        add(other, 1 << index | others)
        return [set(_bits(others)) for others in found]


def _bits(mask: int) -> Iterator[int]:
    while mask:
        yield (mask & -mask).bit_length() - 1
        mask &= mask - 1


def _reach(blocks: list[Block]) -> list[int]:
    """Reachable blocks in reverse post-order."""
    seen: set[int] = {0}
    post: list[int] = []
    stack = [(0, iter(blocks[0].targets))]
    while stack:
        index, targets = stack[-1]
        for target in targets:
            if target not in seen:
                seen.add(target)
                stack.append((target, iter(blocks[target].targets)))
                break
        else:
            post.append(index)
            stack.pop()
    return post[::-1]


def _predecessors(blocks: list[Block], reached: Iterable[int]) -> dict[int, set[int]]:
    before: dict[int, set[int]] = {index: set() for index in reached}
    for index in before:
        for target in blocks[index].targets:
            before[target].add(index)
    return before


def _dominators(blocks: list[Block], reached: list[int]) -> dict[int, set[int]]:
    before = _predecessors(blocks, reached)
    everything = set(reached)
    found = dict.fromkeys(reached, everything)
    found[0] = {0}
    changed = True
    while changed:
        changed = False
        for index in reached:
            if index == 0:
                continue
            new = set.intersection(*(found[p] for p in before[index])) | {index}
            if new != found[index]:
                found[index], changed = new, True
    return found


def _meets(block: Block) -> bool:
    """Whether lanes must come to the block together."""
    return any(i.opcode in ("bar", "barrier") or i.opcode in WARP_OPERATIONS for i in block.instructions)


def _split_ends(blocks: list[Block]) -> None:
    """Give each way to a small end an end of its own, so that it can be taken early."""
    for block in blocks:
        if block.ends == "jump" and len(block.targets) == 1:
            after = blocks[block.targets[0]]
            if after.ends == "exit" and not after.instructions:
                block.ends, block.targets = "exit", []
    before = _predecessors(blocks, _reach(blocks))
    if sum(not blocks[index].targets for index in before) < 2 or not any(map(_meets, blocks)):
        return
    for index, ways in before.items():
        end = blocks[index]
        if end.targets or not 0 < len(end.instructions) <= _SMALL_END or _meets(end):
            continue
        for way in sorted(ways)[1:]:
            blocks.append(replace(end))
            blocks[way].targets = [len(blocks) - 1 if t == index else t for t in blocks[way].targets]


def _early_ends(blocks: list[Block], reached: list[int], before: dict[int, set[int]]) -> set[int]:
    """Ends that lanes come to while others go on to another end. They had better end at once: lanes that
    wait for their end would keep the rest from barriers.
    """
    ends = [index for index in reached if not blocks[index].targets]
    if len(ends) < 2:
        return set()
    leads: dict[int, set[int]] = {}
    for end in ends:
        found: set[int] = set()
        todo = [end]
        while todo:
            current = todo.pop()
            if current not in found:
                found.add(current)
                todo += before[current]
        leads[end] = found
    return {
        end
        for end in ends
        if not _meets(blocks[end]) and any(leads[other] & before[end] for other in ends if other != end)
    }


def _order(
    blocks: list[Block], reached: list[int], dominators: dict[int, set[int]]
) -> tuple[list[int], dict[int, set[int]]]:
    """A topological order that keeps loops together, and the loops by their heads."""
    before = _predecessors(blocks, reached)
    loops: dict[int, set[int]] = {}
    left: dict[int, int] = dict.fromkeys(reached, 0)
    for index in reached:
        for target in set(blocks[index].targets):
            if target not in dominators[index]:
                left[target] += 1
                continue
            members = loops.setdefault(target, {target})
            todo = [index]
            while todo:
                current = todo.pop()
                if current not in members:
                    members.add(current)
                    todo += before[current]
    rank = {index: at for at, index in enumerate(reached)}
    inside = {index: {h for h, members in loops.items() if index in members} for index in reached}
    early = _early_ends(blocks, reached, before)
    ready, order = [0], []
    around: set[int] = set()
    while ready:
        chosen = max(
            ready,
            key=lambda b: (
                b in early,
                len(inside[b] & around) - len(around - inside[b]),
                -rank[b],
            ),
        )
        ready.remove(chosen)
        order.append(chosen)
        around = inside[chosen]
        for target in set(blocks[chosen].targets):
            if target not in dominators[chosen]:
                left[target] -= 1
                if left[target] == 0:
                    ready.append(target)
    if len(order) != len(reached):
        raise Unstructured("irreducible control flow")
    return order, loops
