"""The coroutine model: each thread is an LLVM coroutine that suspends where it waits.

LLVM saves only what is live across a suspension. Frames live in the context's scratch memory, laid out here
and read by the scheduler (`scheduler.py`):

    header    128 bytes                     barrier reductions and arrivals
    warps     WARP_BYTES per warp           published words, wait masks, states
    handles   8 bytes per lane
    frames    one per thread, 64-aligned
"""

from __future__ import annotations

from gpudisagg.device.cpu import ast
from gpudisagg.device.cpu.analysis import CallGraph
from gpudisagg.device.cpu.driver import block_range
from gpudisagg.device.cpu.emitter import INVARIANT, Emitter, ModuleText, Value, quoted
from gpudisagg.device.cpu.functions import ATTRIBUTES, THREAD_PARAMETERS, FunctionLowering, params_size
from gpudisagg.device.cpu.layout import ModuleLayout, frame_symbol
from gpudisagg.device.cpu.lowering import context as c
from gpudisagg.device.cpu.lowering.asynchronous import YIELD
from gpudisagg.device.cpu.lowering.special import lane, linear
from gpudisagg.device.cpu.scheduler import (
    AT_BARRIER,
    AT_PLACE,
    AT_WARP,
    DONE,
    GROUP,
    HEADER_BYTES,
    PENDING,
    PUBLISHED,
    SCHEDULER,
    SCHEDULER_DECLARATIONS,
    STATE,
    WAIT,
    WARP_BYTES,
)

# Per block: the header, one warp record and 32 handles for a ragged last warp, and room to align.
SCRATCH_FIXED = HEADER_BYTES + WARP_BYTES + 32 * 8 + 64
SCRATCH_PER_THREAD = WARP_BYTES // 32 + 8


class CoroutineLowering(FunctionLowering):
    """Waiting is: publish, set a state, suspend."""

    def _warp(self) -> Value:
        """The record of this thread's warp."""
        em = self.em
        pointer = em.offset(Value("%ctx", "ptr"), c.SCRATCH)
        scratch = em.load("ptr", pointer, 8, metadata=INVARIANT)
        warp = em.resize(em.binary("lshr", linear(self), em.const("i32", 5)), 64)
        record = em.offset(scratch, em.binary("mul", warp, em.const("i64", WARP_BYTES)))
        return em.offset(record, HEADER_BYTES)

    def _scratch(self) -> Value:
        em = self.em
        return em.load("ptr", em.offset(Value("%ctx", "ptr"), c.SCRATCH), 8, metadata=INVARIANT)

    def _suspend(self, record: Value, state: int) -> None:
        em = self.em
        index = em.resize(lane(self), 64)
        em.store(em.const("i8", state), em.offset(em.offset(record, STATE), index), 1)
        em.module.declarations.add("declare i8 @llvm.coro.suspend(token, i1)")
        resumed = em.value("call i8 @llvm.coro.suspend(token none, i1 false)", "i8")
        after = em.new_label("resumed")
        em.line(f'switch {resumed.typed}, label %"suspend" [ i8 0, label {after} i8 1, label %"cleanup" ]')
        em.place(after)

    def _post(self, record: Value, field: int, value: Value) -> None:
        em = self.em
        index = em.resize(em.binary("shl", lane(self), em.const("i32", 2)), 64)
        em.store(value, em.offset(em.offset(record, field), index), 4)

    def exchange(self, value: Value, mask: Value) -> Value:
        """Publish a word and wait for the lanes of `mask`."""
        record = self._warp()
        self._post(record, PENDING, self.em.bitcast(value, "i32"))
        self._post(record, WAIT, mask)
        self._suspend(record, AT_WARP)
        return self.em.offset(self._warp(), PUBLISHED)

    def warp_group(self) -> Value:
        """The lanes released together."""
        return self.em.load("i32", self.em.offset(self._warp(), GROUP), 4)

    def converged(self, place: int) -> Value:
        """Wait until no lane of the warp can get further, then count those here as converged."""
        record = self._warp()
        self._post(record, WAIT, self.em.const("i32", place))
        self._suspend(record, AT_PLACE)
        return self.warp_group()

    def pause(self) -> None:
        """Let the other threads of the block run, and other blocks."""
        self.block_barrier(self.em.const("i32", YIELD), self.em.const("i32", 1))
        super().pause()

    def block_barrier(self, barrier: Value, count: Value) -> None:
        """Wait at a block barrier."""
        em = self.em
        record = self._warp()
        key = em.binary("or", barrier, em.binary("shl", count, em.const("i32", 8)))
        self._post(record, WAIT, key)
        self._suspend(record, AT_BARRIER)

    def _add(self, pointer: Value, amount: Value) -> None:
        em = self.em
        em.store(em.binary("add", em.load("i32", pointer, 4), amount), pointer, 4)

    def barrier_arrive(self, barrier: Value) -> None:
        """Count towards a barrier without waiting."""
        em = self.em
        cells = em.offset(self._scratch(), 64)
        index = em.resize(em.binary("shl", barrier, em.const("i32", 2)), 64)
        self._add(em.offset(cells, index), em.const("i32", 1))

    def barrier_reduce(self, predicate: Value) -> None:
        """Add to the sums that the barrier's release publishes."""
        em = self.em
        scratch = self._scratch()
        self._add(scratch, em.resize(predicate, 32))
        self._add(em.offset(scratch, 4), em.const("i32", 1))

    def barrier_result(self) -> tuple[Value, Value]:
        """How many threads had a true predicate, and how many there were."""
        em = self.em
        scratch = self._scratch()
        trues = em.load("i32", em.offset(scratch, 8), 4)
        return trues, em.load("i32", em.offset(scratch, 12), 4)


_DECLARATIONS = (
    "declare token @llvm.coro.id(i32, ptr, ptr, ptr)",
    "declare i64 @llvm.coro.size.i64()",
    "declare ptr @llvm.coro.begin(token, ptr)",
    "declare i8 @llvm.coro.suspend(token, i1)",
    "declare void @llvm.coro.end(ptr, i1, token)",
    "declare void @llvm.coro.resume(ptr)",
)


def coroutine(name: str, ramp: str, parameters: str, size: int, em: Emitter, tail: list[str]) -> list[str]:
    """The coroutine `ramp` around what `em` holds, `tail` run as it ends; and the function that tells how
    large its frame is. `size`: bytes of parameters that may be read.
    """
    # What the frame's size is asked with: the coroutine's pointers are promised to be readable.
    blank, frame = quoted(name + ".blank"), quoted(frame_symbol(name))
    # In the entry block proper: LLVM makes values only of cells that it finds there.
    cells = [line for line in em.entry if " = alloca " in line]
    first = [line for line in em.entry if " = alloca " not in line]
    return [
        f"@{blank} = internal constant [{max(size, 192)} x i8] zeroinitializer, align 64",
        f"define internal ptr @{ramp}({parameters}, ptr %frame) presplitcoroutine {ATTRIBUTES} {{",
        '"entry":',
        *cells,
        "  %id = call token @llvm.coro.id(i32 64, ptr null, ptr null, ptr null)",
        "  %size = call i64 @llvm.coro.size.i64()",
        "  %asking = icmp eq ptr %frame, null",
        '  br i1 %asking, label %"ask", label %"start"',
        '"ask":',
        "  %size.p = inttoptr i64 %size to ptr",
        "  ret ptr %size.p",
        '"start":',
        "  %handle = call ptr @llvm.coro.begin(token %id, ptr %frame)",
        # Whoever made it resumes it at once: so all of the kernel's code is in the resumed part, once.
        "  %begun = call i8 @llvm.coro.suspend(token none, i1 false)",
        '  switch i8 %begun, label %"suspend" [ i8 0, label %"first" i8 1, label %"cleanup" ]',
        '"first":',
        *first,
        '  br label %"body"',
        '"body":',
        *em.code,
        '"return":',
        *tail,
        "  %last = call i8 @llvm.coro.suspend(token none, i1 true)",
        '  switch i8 %last, label %"suspend" [ i8 0, label %"never" i8 1, label %"cleanup" ]',
        '"never":',
        "  unreachable",
        '"cleanup":',
        '  br label %"suspend"',
        '"suspend":',
        "  call void @llvm.coro.end(ptr %handle, i1 false, token none)",
        "  ret ptr %handle",
        "}",
        f"""define i64 @{frame}() nounwind {{
  %size.p = call ptr @{ramp}(ptr @{blank}, ptr @{blank}, \
i32 0, i32 0, i32 0, i32 0, i32 0, i32 0, i32 0, ptr null)
  %size = ptrtoint ptr %size.p to i64
  %up = add i64 %size, 63
  %stride = and i64 %up, -64
  ret i64 %stride
}}""",
    ]


def kernel(layout: ModuleLayout, graph: CallGraph, text: ModuleText, function: ast.Function) -> None:
    """Define the kernel: the coroutine, its frame size, the start of a block, its range of blocks."""
    em = Emitter(text, parallel=False)
    low = CoroutineLowering(layout, graph, em, function, '%"return"')
    low.body()
    # The last state is set here, then the final suspension.
    tail = Emitter(text, parallel=False)
    tail._values, tail._labels = em._values, em._labels
    low.em = tail
    record = low._warp()
    tail.store(tail.const("i8", DONE), tail.offset(tail.offset(record, STATE), tail.resize(lane(low), 64)), 1)
    text.declarations.update((*_DECLARATIONS, *SCHEDULER_DECLARATIONS))
    text.helpers["scheduler"] = SCHEDULER
    name = function.name
    size = max(params_size(function), 8)
    parameters = THREAD_PARAMETERS.format(params=f"dereferenceable({size})")
    ramp, frame = quoted(name + ".thread"), quoted(frame_symbol(name))
    text.definitions += [
        *coroutine(name, ramp, parameters, size, em, tail.code),
        f"""define internal void @{quoted(name + ".block")}(\
ptr noalias align 16 dereferenceable({size}) %params, \
ptr align 8 dereferenceable(192) %ctx, i32 %ctaidx, i32 %ctaidy, i32 %ctaidz) noinline {ATTRIBUTES} {{
entry:
  %nx.p = getelementptr i8, ptr %ctx, i64 {c.BLOCK}
  %nx = load i32, ptr %nx.p, align 4
  %ny.p = getelementptr i8, ptr %ctx, i64 {c.BLOCK + 4}
  %ny = load i32, ptr %ny.p, align 4
  %nz.p = getelementptr i8, ptr %ctx, i64 {c.BLOCK + 8}
  %nz = load i32, ptr %nz.p, align 4
  %nxy = mul i32 %nx, %ny
  %n = mul i32 %nxy, %nz
  %scratch.p = getelementptr i8, ptr %ctx, i64 {c.SCRATCH}
  %scratch = load ptr, ptr %scratch.p, align 8
  %handles = call ptr @gpud.prepare(ptr %scratch, i32 %n)
  %lanes.a = add i32 %n, 31
  %lanes.b = and i32 %lanes.a, -32
  %lanes = zext i32 %lanes.b to i64
  %frames = getelementptr ptr, ptr %handles, i64 %lanes
  %stride = call i64 @{frame}()
  %thread.p = getelementptr i8, ptr %ctx, i64 {c.CURRENT_THREAD}
  br label %start
start:
  %t = phi i32 [ 0, %entry ], [ %t1, %start ]
  %x = phi i32 [ 0, %entry ], [ %x2, %start ]
  %y = phi i32 [ 0, %entry ], [ %y3, %start ]
  %z = phi i32 [ 0, %entry ], [ %z2, %start ]
  %frame = phi ptr [ %frames, %entry ], [ %frame1, %start ]
  store i32 %t, ptr %thread.p, align 4
  %handle = call ptr @{ramp}(ptr %params, ptr %ctx, i32 %x, i32 %y, i32 %z, i32 %t, \
i32 %ctaidx, i32 %ctaidy, i32 %ctaidz, ptr %frame)
  %handle.p = getelementptr ptr, ptr %handles, i32 %t
  store ptr %handle, ptr %handle.p, align 8
  call void @llvm.coro.resume(ptr %handle)
  %frame1 = getelementptr i8, ptr %frame, i64 %stride
  %x1 = add i32 %x, 1
  %xwrap = icmp eq i32 %x1, %nx
  %x2 = select i1 %xwrap, i32 0, i32 %x1
  %y1 = add i32 %y, 1
  %y2 = select i1 %xwrap, i32 %y1, i32 %y
  %ywrap = icmp eq i32 %y2, %ny
  %y3 = select i1 %ywrap, i32 0, i32 %y2
  %z1 = add i32 %z, 1
  %z2 = select i1 %ywrap, i32 %z1, i32 %z
  %t1 = add i32 %t, 1
  %more = icmp ult i32 %t1, %n
  br i1 %more, label %start, label %run
run:
  call void @gpud.schedule(ptr %scratch, ptr %handles, i32 %n, ptr %thread.p)
  ret void
}}""",
        *block_range(text, layout, name, size),
    ]
