"""Random programs for the threads of a block, as PTX and as a reference interpreter runs them.

The interpreter is the textbook one: statements run for a mask of threads, both sides of a branch one after
the other, loops until nobody is left. A statement is a tuple whose first element names it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from tests.device.elementwise import HEADER

VARIABLES = 4
CELLS = 8
Statement = tuple[Any, ...]
Words = npt.NDArray[np.uint32]
Lanes = npt.NDArray[np.bool_]

_variables = st.integers(0, VARIABLES - 1)
_operations = st.sampled_from(["add", "sub", "xor", "and", "or", "mul"])
_conditions = st.tuples(st.sampled_from(["bit", "less", "lane"]), _variables, st.integers(0, 40))
_warp = st.one_of(
    st.tuples(st.just("shfl"), _variables, _variables, st.sampled_from(["up", "down", "bfly", "idx"]),
              st.integers(0, 31), st.sampled_from([2, 8, 32]), st.booleans()),
    st.tuples(st.just("vote"), _variables, _variables, st.sampled_from(["all", "any", "uni", "ballot"])),
    st.tuples(st.just("match"), _variables, _variables, st.sampled_from(["any", "all"]), st.booleans()),
    st.tuples(st.just("redux"), _variables, _variables,
              st.sampled_from(["add", "min", "max", "and", "or", "xor"]), st.booleans()),
    st.tuples(st.just("elect"), _variables),
    st.tuples(st.just("activemask"), _variables),
    st.tuples(st.just("warpsync")),
)  # fmt: skip
_simple = st.one_of(
    st.tuples(_operations, _variables, _variables, st.one_of(_variables, st.integers(100, 1000))),
    st.tuples(st.just("atomic"), _variables, st.sampled_from(["shared", "global"])),
    st.tuples(st.just("table"), _variables, _variables, st.sampled_from([1, 2, 4])),
    st.tuples(st.just("local"), _variables, _variables),
    _warp,
)


def _nested(inner: st.SearchStrategy[Statement]) -> st.SearchStrategy[Statement]:
    bodies = st.lists(inner, max_size=3)
    return st.one_of(
        st.tuples(st.just("if"), _conditions, bodies, bodies),
        st.tuples(st.just("loop"), _variables, bodies),
        st.tuples(st.just("while"), _conditions, bodies),
    )


_inside = st.recursive(
    st.one_of(_simple, _warp, st.tuples(st.just("return"), _conditions)), _nested, max_leaves=8
)
_outside = st.one_of(
    st.tuples(st.just("exchange"), _variables, _variables, st.integers(0, 40)),
    st.tuples(st.just("count"), _variables, _variables, st.sampled_from(["popc", "and", "or"])),
)
programs = st.lists(st.one_of(_inside, _inside, _outside), min_size=1, max_size=8)


@dataclass
class Writer:
    """A program as PTX. `tracked`: warp operations name the lanes that branched here; else those that are
    active.
    """

    tracked: bool
    lines: list[str] = field(default_factory=list)
    count: int = 0

    def new(self, kind: str) -> str:
        self.count += 1
        name = f"%{kind}x{self.count}"
        self.lines.append(f".reg .{'pred' if kind == 'p' else 'b64' if kind == 'd' else 'b32'} {name};")
        return name

    def emit(self, text: str) -> None:
        self.lines.append(text)

    def condition(self, condition: tuple[str, int, int]) -> str:
        kind, variable, amount = condition
        p, r = self.new("p"), self.new("r")
        if kind == "bit":
            self.emit(f"shr.u32 {r}, %v{variable}, {amount & 31}; and.b32 {r}, {r}, 1;")
            self.emit(f"setp.ne.u32 {p}, {r}, 0;")
        elif kind == "less":
            self.emit(f"and.b32 {r}, %v{variable}, 63; setp.lt.u32 {p}, {r}, {amount};")
        else:
            self.emit(f"setp.lt.u32 {p}, %lane, {amount};")
        return p

    def mask(self, tracked: str) -> str:
        if self.tracked:
            return tracked
        mask = self.new("r")
        self.emit(f"activemask.b32 {mask};")
        return mask

    def body(self, statements: list[Statement], mask: str) -> None:
        for statement in statements:
            getattr(self, f"s_{statement[0]}", self.arithmetic)(statement, mask)

    def arithmetic(self, s: Statement, mask: str) -> None:
        operation, a, b, c = s
        kind = {"and": "b32", "or": "b32", "xor": "b32", "mul": "lo.u32"}.get(operation, "u32")
        self.emit(f"{operation}.{kind} %v{a}, %v{b}, {f'%v{c}' if c < VARIABLES else c};")

    def s_if(self, s: Statement, mask: str) -> None:
        p, other, end = self.condition(s[1]), f"L{self.count}_else", f"L{self.count}_end"
        yes, no = mask, mask
        if self.tracked:
            yes, no = self.new("r"), self.new("r")
            self.emit(f"vote.sync.ballot.b32 {yes}, {p}, {mask}; xor.b32 {no}, {mask}, {yes};")
        self.emit(f"@!{p} bra {other};")
        self.body(s[2], yes)
        self.emit(f"bra {end}; {other}:")
        self.body(s[3], no)
        self.emit(f"{end}:")

    def _loop(self, counter: str, body: list[Statement], mask: str, condition: Any) -> None:
        p, head, end = self.new("p"), f"L{self.count}_head", f"L{self.count}_out"
        inner = mask
        if self.tracked:
            inner = self.new("r")
            self.emit(f"mov.b32 {inner}, {mask};")
        self.emit(f"{head}: setp.ne.u32 {p}, {counter}, 0;")
        if condition is not None:
            self.emit(f"and.pred {p}, {p}, {self.condition(condition)};")
        if self.tracked:
            self.emit(f"vote.sync.ballot.b32 {inner}, {p}, {inner};")
        self.emit(f"@!{p} bra {end}; sub.u32 {counter}, {counter}, 1;")
        self.body(body, inner)
        self.emit(f"bra {head}; {end}:")

    def s_loop(self, s: Statement, mask: str) -> None:
        counter = self.new("r")
        self.emit(f"and.b32 {counter}, %v{s[1]}, 3;")
        self._loop(counter, s[2], mask, None)

    def s_while(self, s: Statement, mask: str) -> None:
        counter = self.new("r")
        self.emit(f"mov.b32 {counter}, 4;")
        self._loop(counter, s[2], mask, s[1])

    def s_return(self, s: Statement, mask: str) -> None:
        p, stay = self.condition(s[1]), f"L{self.count}_stay"
        self.emit(f"@!{p} bra {stay};")
        self.finish()
        self.emit(f"ret; {stay}:")

    def finish(self) -> None:
        for index in range(VARIABLES):
            self.emit(f"st.global.u32 [%out+{4 * index}], %v{index};")

    def s_atomic(self, s: Statement, mask: str) -> None:
        r, d = self.new("r"), self.new("d")
        self.emit(f"and.b32 {r}, %v{s[1]}, {CELLS - 1}; shl.b32 {r}, {r}, 2;")
        if s[2] == "shared":
            self.emit(f"red.shared.add.u32 [{r}], %v{s[1]};")
        else:
            self.emit(f"cvt.u64.u32 {d}, {r}; add.u64 {d}, {d}, %sums; red.global.add.u32 [{d}], %v{s[1]};")

    def s_table(self, s: Statement, mask: str) -> None:
        r, d = self.new("r"), self.new("d")
        kind = {1: "u8", 2: "u16", 4: "u32"}[s[3]]
        self.emit(f"and.b32 {r}, %v{s[2]}, 63; mul.wide.u32 {d}, {r}, {s[3]};")
        self.emit(f"add.u64 {d}, {d}, %table; ld.global.{kind} %v{s[1]}, [{d}];")

    def s_local(self, s: Statement, mask: str) -> None:
        r, q, base = self.new("r"), self.new("d"), self.new("d")
        self.emit(f"and.b32 {r}, %v{s[2]}, 3; mul.wide.u32 {q}, {r}, 4; mov.u64 {base}, mine;")
        self.emit(f"add.u64 {q}, {q}, {base}; st.local.u32 [{q}], %v{s[1]};")
        self.emit(f"ld.local.u32 %v{s[2]}, [mine+4];")

    def s_warpsync(self, s: Statement, mask: str) -> None:
        self.emit(f"bar.warp.sync {self.mask(mask)};")

    def s_activemask(self, s: Statement, mask: str) -> None:
        self.emit(f"activemask.b32 %v{s[1]};")

    def s_elect(self, s: Statement, mask: str) -> None:
        p, r = self.new("p"), self.new("r")
        self.emit(f"elect.sync {r}|{p}, {self.mask(mask)}; selp.b32 %v{s[1]}, {r}, 77, {p};")

    def s_vote(self, s: Statement, mask: str) -> None:
        p, q, r = self.new("p"), self.new("p"), self.new("r")
        self.emit(f"and.b32 {r}, %v{s[2]}, 1; setp.eq.u32 {p}, {r}, 1;")
        if s[3] == "ballot":
            self.emit(f"vote.sync.ballot.b32 %v{s[1]}, {p}, {self.mask(mask)};")
        else:
            self.emit(f"vote.sync.{s[3]}.pred {q}, {p}, {self.mask(mask)}; selp.b32 %v{s[1]}, 1, 0, {q};")

    def s_match(self, s: Statement, mask: str) -> None:
        r, d, p = self.new("r"), self.new("d"), self.new("p")
        self.emit(f"and.b32 {r}, %v{s[2]}, 3;")
        source, kind = r, "b32"
        if s[4]:
            self.emit(f"cvt.u64.u32 {d}, {r}; shl.b64 {d}, {d}, 31;")
            source, kind = d, "b64"
        if s[3] == "any":
            self.emit(f"match.any.sync.{kind} %v{s[1]}, {source}, {self.mask(mask)};")
        else:
            self.emit(f"match.all.sync.{kind} %v{s[1]}|{p}, {source}, {self.mask(mask)};")
            self.emit(f"@{p} add.u32 %v{s[1]}, %v{s[1]}, 5;")

    def s_redux(self, s: Statement, mask: str) -> None:
        kind = "b32" if s[3] in ("and", "or", "xor") else "s32" if s[4] else "u32"
        self.emit(f"redux.sync.{s[3]}.{kind} %v{s[1]}, %v{s[2]}, {self.mask(mask)};")

    def s_shfl(self, s: Statement, mask: str) -> None:
        _, to, value, mode, distance, width, known = s
        r, b, source, p, q = (self.new(k) for k in ("r", "r", "r", "p", "p"))
        segment = 32 - width
        clamp = segment << 8 | (0 if mode == "up" else 31)
        amount = str(distance)
        if not known:
            self.emit(f"add.u32 {b}, %lane, {distance}; and.b32 {b}, {b}, 31;")
            amount = b
        group = self.mask(mask)
        if self.tracked:
            group = self.new("r")
            self.emit(f"mov.b32 {group}, {mask};")
        self.emit(f"shfl.sync.{mode}.b32 {r}|{p}, %v{value}, {amount}, {clamp}, {group};")
        operation = {"up": "sub.u32", "down": "add.u32", "bfly": "xor.b32"}.get(mode)
        if operation:
            self.emit(f"{operation} {source}, %lane, {amount};")
        else:
            low, high = self.new("r"), self.new("r")
            self.emit(f"and.b32 {low}, %lane, {segment}; mov.b32 {high}, {amount};")
            self.emit(f"and.b32 {high}, {high}, {31 - segment}; or.b32 {source}, {low}, {high};")
        # What a lane gets from one that isn't taking part is undefined: don't look.
        self.emit(f"activemask.b32 {group};" if self.tracked else "")
        self.emit(f"selp.b32 {source}, {source}, %lane, {p}; shr.u32 {source}, {group}, {source};")
        self.emit(f"and.b32 {source}, {source}, 1; setp.ne.u32 {q}, {source}, 0;")
        self.emit(f"selp.b32 %v{to}, {r}, 123, {q}; @{p} add.u32 %v{to}, %v{to}, 1;")

    def s_exchange(self, s: Statement, mask: str) -> None:
        r = self.new("r")
        self.emit(f"bar.sync 0; shl.b32 {r}, %t, 2; st.shared.u32 [{r}+{4 * CELLS}], %v{s[2]}; bar.sync 0;")
        self.emit(f"add.u32 {r}, %t, {s[3]}; rem.u32 {r}, {r}, %n; shl.b32 {r}, {r}, 2;")
        self.emit(f"ld.shared.u32 %v{s[1]}, [{r}+{4 * CELLS}];")

    def s_count(self, s: Statement, mask: str) -> None:
        p, q, r = self.new("p"), self.new("p"), self.new("r")
        self.emit(f"and.b32 {r}, %v{s[2]}, 1; setp.eq.u32 {p}, {r}, 1;")
        if s[3] == "popc":
            self.emit(f"bar.red.popc.u32 %v{s[1]}, 0, {p};")
        else:
            self.emit(f"bar.red.{s[3]}.pred {q}, 0, {p}; selp.b32 %v{s[1]}, 1, 0, {q};")


def to_ptx(program: list[Statement], *, tracked: bool) -> str:
    """A kernel `k(in, table, out, sums)`: a thread reads its variables and writes them back. Atomics add to
    cells in `sums` and in shared memory; those that get to the end add the latter to their first variable.
    """
    writer = Writer(tracked)
    writer.body(program, "%all")
    body = "\n".join(writer.lines)
    writer.lines = []
    writer.finish()
    clear = "".join(f"@%first st.shared.u32 [{4 * i}], 0;\n" for i in range(CELLS))
    total = "".join(f"ld.shared.u32 %a0, [{4 * i}]; add.u32 %v0, %v0, %a0;\n" for i in range(CELLS))
    load = "".join(f"ld.global.u32 %v{i}, [%from+{4 * i}];\n" for i in range(VARIABLES))
    return f"""{HEADER}.visible .entry k(
.param .u64 from, .param .u64 tab, .param .u64 to, .param .u64 cells) {{
.reg .b32 %v<{VARIABLES}>; .reg .b32 %t; .reg .b32 %n; .reg .b32 %lane; .reg .b32 %all; .reg .b32 %a<4>;
.reg .b64 %from; .reg .b64 %out; .reg .b64 %sums; .reg .b64 %table; .reg .b64 %o; .reg .pred %first;
.shared .align 4 .b8 room[{4 * (CELLS + 1024)}];
.local .align 4 .b8 mine[16];
mov.u32 %a0, %tid.y; mov.u32 %a1, %ntid.x; mov.u32 %a2, %tid.x; mad.lo.u32 %a2, %a0, %a1, %a2;
mov.u32 %a0, %tid.z; mov.u32 %a3, %ntid.y; mul.lo.u32 %a3, %a1, %a3; mad.lo.u32 %t, %a0, %a3, %a2;
mov.u32 %a0, %ntid.z; mul.lo.u32 %n, %a3, %a0; mov.u32 %lane, %laneid;
ld.param.u64 %from, [from]; ld.param.u64 %table, [tab]; ld.param.u64 %out, [to]; ld.param.u64 %sums, [cells];
mul.wide.u32 %o, %t, {4 * VARIABLES}; add.u64 %from, %from, %o; add.u64 %out, %out, %o;
{load}
st.local.u32 [mine], 0; st.local.u32 [mine+4], 0; st.local.u32 [mine+8], 0; st.local.u32 [mine+12], 0;
setp.eq.u32 %first, %t, 0; shl.b32 %a0, %t, 2;
{clear}
st.shared.u32 [%a0+{4 * CELLS}], 0;
bar.sync 0; activemask.b32 %all;
{body}
bar.sync 0;
{total}
{"".join(writer.lines)}
ret; }}"""


class Reference:
    """Runs a program for all threads of a block."""

    def __init__(self, values: Words, table: Words) -> None:
        self.n = len(values)
        self.v = values.T.copy()
        self.table = table
        self.lane = np.arange(self.n) % 32
        self.gone = np.zeros(self.n, bool)
        self.sums = {"shared": np.zeros(CELLS, np.uint32), "global": np.zeros(CELLS, np.uint32)}
        self.room = np.zeros(self.n, np.uint32)
        self.mine = np.zeros((self.n, 4), np.uint32)

    def warps(self, mask: Lanes) -> list[npt.NDArray[np.intp]]:
        found = [np.flatnonzero(mask[s : s + 32]) + s for s in range(0, self.n, 32)]
        return [threads for threads in found if threads.size]

    def condition(self, condition: tuple[str, int, int]) -> Lanes:
        kind, variable, amount = condition
        if kind == "bit":
            return (self.v[variable] >> np.uint32(amount & 31) & 1) != 0
        return self.v[variable] & 63 < amount if kind == "less" else self.lane < amount

    def run(self, program: list[Statement]) -> None:
        """The whole kernel."""
        self.body(program, np.ones(self.n, bool))
        self.v[0][~self.gone] += self.sums["shared"].sum(dtype=np.uint32)

    def body(self, statements: list[Statement], mask: Lanes) -> None:
        for statement in statements:
            here = mask & ~self.gone
            if here.any():
                getattr(self, f"s_{statement[0]}", self.arithmetic)(statement, here)

    def arithmetic(self, s: Statement, mask: Lanes) -> None:
        operation, a, b, c = s
        x, y = self.v[b], self.v[c] if c < VARIABLES else np.uint32(c)
        result = {
            "add": x + y, "sub": x - y, "xor": x ^ y, "and": x & y, "or": x | y, "mul": x * y,
        }[operation]  # fmt: skip
        self.v[a] = np.where(mask, result, self.v[a])

    def s_if(self, s: Statement, mask: Lanes) -> None:
        taken = self.condition(s[1])
        self.body(s[2], mask & taken)
        self.body(s[3], mask & ~taken)

    def s_loop(self, s: Statement, mask: Lanes) -> None:
        counter = self.v[s[1]] & 3
        for step in range(4):
            self.body(s[2], mask & (counter > step))

    def s_while(self, s: Statement, mask: Lanes) -> None:
        for _ in range(4):
            mask = mask & ~self.gone & self.condition(s[1])
            self.body(s[2], mask)

    def s_return(self, s: Statement, mask: Lanes) -> None:
        self.gone |= mask & self.condition(s[1])

    def s_atomic(self, s: Statement, mask: Lanes) -> None:
        values = self.v[s[1]][mask]
        np.add.at(self.sums[s[2]], values & (CELLS - 1), values)

    def s_table(self, s: Statement, mask: Lanes) -> None:
        kind = {1: np.uint8, 2: np.uint16, 4: np.uint32}[s[3]]
        self.v[s[1]] = np.where(mask, self.table.view(kind)[self.v[s[2]] & 63], self.v[s[1]])

    def s_local(self, s: Statement, mask: Lanes) -> None:
        threads = np.flatnonzero(mask)
        self.mine[threads, self.v[s[2]][threads] & 3] = self.v[s[1]][threads]
        self.v[s[2]][threads] = self.mine[threads, 1]

    def s_warpsync(self, s: Statement, mask: Lanes) -> None:
        pass

    def each_warp(self, to: int, mask: Lanes, function: Any) -> None:
        results = [(threads, function(threads)) for threads in self.warps(mask)]
        for threads, result in results:
            self.v[to][threads] = result

    def bits(self, threads: npt.NDArray[np.intp]) -> int:
        return int(sum(1 << int(lane) for lane in self.lane[threads]))

    def s_activemask(self, s: Statement, mask: Lanes) -> None:
        self.each_warp(s[1], mask, self.bits)

    def s_elect(self, s: Statement, mask: Lanes) -> None:
        self.each_warp(s[1], mask, lambda t: np.where(t == t[0], self.lane[t[0]], 77))

    def s_vote(self, s: Statement, mask: Lanes) -> None:
        def result(threads: npt.NDArray[np.intp]) -> int:
            yes = self.v[s[2]][threads] & 1 == 1
            return {
                "all": int(yes.all()), "any": int(yes.any()), "ballot": self.bits(threads[yes]),
                "uni": int(yes.all() or not yes.any()),
            }[s[3]]  # fmt: skip

        self.each_warp(s[1], mask, result)

    def s_match(self, s: Statement, mask: Lanes) -> None:
        def result(threads: npt.NDArray[np.intp]) -> Any:
            x = self.v[s[2]][threads] & 3
            if s[3] == "any":
                return [self.bits(threads[x == value]) for value in x]
            return (self.bits(threads) + 5) & 0xFFFFFFFF if (x == x[0]).all() else 0

        self.each_warp(s[1], mask, result)

    def s_redux(self, s: Statement, mask: Lanes) -> None:
        def result(threads: npt.NDArray[np.intp]) -> int:
            x = self.v[s[2]][threads]
            if s[3] in ("and", "or", "xor"):
                return int(getattr(np, f"bitwise_{s[3]}").reduce(x))
            x = x.view(np.int32) if s[4] else x
            return int({"add": x.sum, "min": x.min, "max": x.max}[s[3]]()) & 0xFFFFFFFF

        self.each_warp(s[1], mask, result)

    def s_shfl(self, s: Statement, mask: Lanes) -> None:
        _, to, value, mode, distance, width, known = s
        before = self.v[value].copy()

        def result(threads: npt.NDArray[np.intp]) -> list[int]:
            active, found = set(self.lane[threads].tolist()), []
            for thread in threads:
                lane = int(self.lane[thread])
                amount = distance if known else (lane + distance) & 31
                least = lane & (32 - width)
                most = least if mode == "up" else least | (31 & ~(32 - width))
                source = {
                    "up": lane - amount, "down": lane + amount, "bfly": lane ^ amount,
                    "idx": least | (amount & ~(32 - width) & 31),
                }[mode]  # fmt: skip
                valid = source >= most if mode == "up" else source <= most
                source = source if valid else lane
                got = int(before[thread - lane + source]) if source in active else 123
                found.append((got + int(valid)) & 0xFFFFFFFF)
            return found

        self.each_warp(to, mask, result)

    def s_exchange(self, s: Statement, mask: Lanes) -> None:
        room = self.room
        room[mask] = self.v[s[2]][mask]
        source = (np.arange(self.n) + s[3]) % self.n
        self.v[s[1]] = np.where(mask, room[source], self.v[s[1]])

    def s_count(self, s: Statement, mask: Lanes) -> None:
        yes = self.v[s[2]][mask] & 1 == 1
        self.v[s[1]][mask] = {"popc": yes.sum(), "and": yes.all(), "or": yes.any()}[s[3]]
