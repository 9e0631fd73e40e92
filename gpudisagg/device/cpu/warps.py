"""Runs the warps of a block: one after the other, or as coroutines that meet at barriers.

Scratch memory of a block whose warps wait:

    header    HEADER_BYTES     barrier reductions, arrivals, who waits
    warps     16 bytes each    coroutine handle, state
    frames    one per warp, 64-aligned
"""

from __future__ import annotations

from gpudisagg.device.cpu.emitter import quoted
from gpudisagg.device.cpu.lowering import context as c

# Header: sums being made (0), sums of the last barrier (8), threads that came to each barrier without
# waiting (64), that wait (128), how many each barrier needs (192; 0: all), waiting threads in all (256).
SUMS, PUBLISHED, ARRIVALS, COUNTS, NEEDS, WAITING = 0, 8, 64, 128, 192, 256
HEADER_BYTES = 320
WARP_BYTES = 16
STATE = 8
RUNNABLE, DONE = 0, -1  # 1 + barrier: waits there

# Of a block: the header, the record of a ragged last warp, room to align.
SCRATCH_FIXED = HEADER_BYTES + WARP_BYTES + 64
SCRATCH_PER_THREAD = 1  # 32 of them hold a record and half as much again

SCHEDULER = f"""
define internal void @gpud.warps(ptr %scratch, i32 %warps, ptr %thread.p) noinline nounwind {{
entry:
  %records = getelementptr i8, ptr %scratch, i64 {HEADER_BYTES}
  %waiting.p = getelementptr i8, ptr %scratch, i64 {WAITING}
  br label %tally
run:
  %w = phi i32 [ 0, %release ], [ %w1, %next ]
  %w.w = zext i32 %w to i64
  %w.o = mul nuw nsw i64 %w.w, {WARP_BYTES}
  %record = getelementptr i8, ptr %records, i64 %w.o
  %state.p = getelementptr i8, ptr %record, i64 {STATE}
  %state = load i32, ptr %state.p, align 8
  %mine = icmp eq i32 %state, %released
  br i1 %mine, label %resume, label %next
resume:
  %base = shl i32 %w, 5
  store i32 %base, ptr %thread.p, align 4
  %handle = load ptr, ptr %record, align 8
  call void @llvm.coro.resume(ptr %handle)
  br label %next
next:
  %w1 = add i32 %w, 1
  %more = icmp ult i32 %w1, %warps
  br i1 %more, label %run, label %tally
tally:
  %waiting = load i32, ptr %waiting.p, align 4
  %over = icmp eq i32 %waiting, 0
  br i1 %over, label %done, label %look
look:
  %b = phi i32 [ 0, %tally ], [ %b1, %other ]
  %b.w = zext i32 %b to i64
  %b.o = shl i64 %b.w, 2
  %cells = getelementptr i8, ptr %scratch, i64 %b.o
  %arrivals.p = getelementptr i8, ptr %cells, i64 {ARRIVALS}
  %counts.p = getelementptr i8, ptr %cells, i64 {COUNTS}
  %needs.p = getelementptr i8, ptr %cells, i64 {NEEDS}
  %count = load i32, ptr %counts.p, align 4
  %arrived = load i32, ptr %arrivals.p, align 4
  %need.0 = load i32, ptr %needs.p, align 4
  %all = icmp eq i32 %need.0, 0
  %need = select i1 %all, i32 %waiting, i32 %need.0
  %sum = add i32 %count, %arrived
  %enough = icmp uge i32 %sum, %need
  %some = icmp ne i32 %count, 0
  %go = and i1 %enough, %some
  br i1 %go, label %release, label %other
other:
  %b1 = add i32 %b, 1
  %left = icmp ult i32 %b1, 16
  br i1 %left, label %look, label %deadlock
deadlock:
  call void @llvm.trap()
  unreachable
release:
  %released = add i32 %b, 1
  %rest = sub i32 %waiting, %count
  store i32 %rest, ptr %waiting.p, align 4
  store i32 0, ptr %counts.p, align 4
  store i32 0, ptr %arrivals.p, align 4
  %sums = load i64, ptr %scratch, align 8
  %published = getelementptr i8, ptr %scratch, i64 {PUBLISHED}
  store i64 %sums, ptr %published, align 8
  store i64 0, ptr %scratch, align 8
  br label %run
done:
  ret void
}}
"""
SCHEDULER_DECLARATIONS = (
    "declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)",
    "declare void @llvm.trap()",
    "declare void @llvm.coro.resume(ptr)",
)

_SIZES = f"""\
  %nx.p = getelementptr i8, ptr %ctx, i64 {c.BLOCK}
  %nx = load i32, ptr %nx.p, align 4
  %ny.p = getelementptr i8, ptr %ctx, i64 {c.BLOCK + 4}
  %ny = load i32, ptr %ny.p, align 4
  %nz.p = getelementptr i8, ptr %ctx, i64 {c.BLOCK + 8}
  %nz = load i32, ptr %nz.p, align 4
  %nxy = mul i32 %nx, %ny
  %n = mul i32 %nxy, %nz
  %up = add i32 %n, 31
  %warps = lshr i32 %up, 5
  %thread.p = getelementptr i8, ptr %ctx, i64 {c.CURRENT_THREAD}
"""
_RAGGED = """\
  %base = shl i32 %w, 5
  store i32 %base, ptr %thread.p, align 4
  %rest = sub i32 %n, %base
  %whole = icmp uge i32 %rest, 32
  %some = shl i32 -1, %rest
  %few = xor i32 %some, -1
  %mask = select i1 %whole, i32 -1, i32 %few
"""


def block_function(name: str, warp: str, size: int, attributes: str, *, frame: str | None) -> str:
    """The function that runs one block. `frame` is the function that gives the size of a warp's frame, or
    None if warps don't wait.
    """
    head = (
        f"define internal void @{quoted(name + '.block')}("
        f"ptr noalias align 16 dereferenceable({size}) %params, ptr align 8 dereferenceable(192) %ctx, "
        f"i32 %ctaidx, i32 %ctaidy, i32 %ctaidz) noinline {attributes} {{\nentry:\n{_SIZES}"
    )
    arguments = "ptr %params, ptr %ctx, i32 %w, i32 %mask, i32 %nx, i32 %nxy, "
    arguments += "i32 %ctaidx, i32 %ctaidy, i32 %ctaidz"
    more = "  %w1 = add i32 %w, 1\n  %more = icmp ult i32 %w1, %warps\n"
    if frame is None:
        return f"""{head}  br label %loop
loop:
  %w = phi i32 [ 0, %entry ], [ %w1, %loop ]
{_RAGGED}  call void @{warp}({arguments})
{more}  br i1 %more, label %loop, label %done
done:
  ret void
}}"""
    return f"""{head}  %scratch.p = getelementptr i8, ptr %ctx, i64 {c.SCRATCH}
  %scratch = load ptr, ptr %scratch.p, align 8
  call void @llvm.memset.p0.i64(ptr align 16 %scratch, i8 0, i64 {HEADER_BYTES}, i1 false)
  %records = getelementptr i8, ptr %scratch, i64 {HEADER_BYTES}
  %warps.w = zext i32 %warps to i64
  %bytes = mul i64 %warps.w, {WARP_BYTES}
  %end = add i64 %bytes, {HEADER_BYTES + 63}
  %aligned = and i64 %end, -64
  %frames = getelementptr i8, ptr %scratch, i64 %aligned
  %stride = call i64 @{frame}()
  br label %loop
loop:
  %w = phi i32 [ 0, %entry ], [ %w1, %loop ]
  %frame = phi ptr [ %frames, %entry ], [ %frame1, %loop ]
{_RAGGED}  %w.w = zext i32 %w to i64
  %w.o = mul nuw nsw i64 %w.w, {WARP_BYTES}
  %record = getelementptr i8, ptr %records, i64 %w.o
  %handle = call ptr @{warp}({arguments}, ptr %frame)
  store ptr %handle, ptr %record, align 8
  call void @llvm.coro.resume(ptr %handle)
  %frame1 = getelementptr i8, ptr %frame, i64 %stride
{more}  br i1 %more, label %loop, label %run
run:
  call void @gpud.warps(ptr %scratch, i32 %warps, ptr %thread.p)
  ret void
}}"""
