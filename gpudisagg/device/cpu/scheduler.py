"""The scheduler of the coroutine model, in LLVM IR: who may go on, and in which order.

A warp is settled first: a group of lanes that wait at a warp operation with one mask goes on when every
lane of the mask that hasn't exited has arrived. Only when no group is complete do lanes at `activemask` go
on, then (lenient, as programs written for lockstep hardware expect) incomplete groups, unless a lane of the
warp is but pausing in a loop: it may come yet. When every thread of the block waits at a block barrier or
has exited, a barrier with enough arrivals is released. If there is none the block can never go on: trap.

Threads of a block run on one host thread, so plain loads and stores suffice throughout.
"""

from __future__ import annotations

from gpudisagg.device.cpu.lowering.asynchronous import YIELD

HEADER_BYTES = 128
WARP_BYTES = 448
PENDING, PUBLISHED, WAIT, STATE, GROUP = 0, 128, 256, 384, 416
AT_WARP, AT_BARRIER, DONE, AT_PLACE = 1, 2, 3, 5

_PREPARE = f"""
define internal ptr @gpud.prepare(ptr %scratch, i32 %n) nounwind {{
entry:
  %up = add i32 %n, 31
  %warps = lshr i32 %up, 5
  %warps.w = zext i32 %warps to i64
  call void @llvm.memset.p0.i64(ptr align 16 %scratch, i8 0, i64 {HEADER_BYTES}, i1 false)
  %first = getelementptr i8, ptr %scratch, i64 {HEADER_BYTES}
  br label %loop
loop:
  %w = phi i64 [ 0, %entry ], [ %w1, %loop ]
  %o = mul i64 %w, {WARP_BYTES}
  %record = getelementptr i8, ptr %first, i64 %o
  %state = getelementptr i8, ptr %record, i64 {STATE}
  store <32 x i8> splat (i8 {DONE}), ptr %state, align 1
  %w1 = add i64 %w, 1
  %more = icmp ult i64 %w1, %warps.w
  br i1 %more, label %loop, label %done
done:
  %bytes = mul i64 %warps.w, {WARP_BYTES}
  %handles = getelementptr i8, ptr %first, i64 %bytes
  ret ptr %handles
}}
"""

_SETTLE = f"""
define internal void @gpud.settle(ptr %record, ptr %handles, i32 %base, ptr %thread.p) nounwind {{
entry:
  %state.p = getelementptr i8, ptr %record, i64 {STATE}
  %wait.p = getelementptr i8, ptr %record, i64 {WAIT}
  %group.p = getelementptr i8, ptr %record, i64 {GROUP}
  %published.p = getelementptr i8, ptr %record, i64 {PUBLISHED}
  br label %look
look:
  %states = load <32 x i8>, ptr %state.p, align 1
  %w.v = icmp eq <32 x i8> %states, splat (i8 {AT_WARP})
  %waiting = bitcast <32 x i1> %w.v to i32
  %a.v = icmp eq <32 x i8> %states, splat (i8 {AT_PLACE})
  %placed = bitcast <32 x i1> %a.v to i32
  %d.v = icmp eq <32 x i8> %states, splat (i8 {DONE})
  %gone = bitcast <32 x i1> %d.v to i32
  %here = xor i32 %gone, -1
  %both = or i32 %waiting, %placed
  %idle = icmp eq i32 %both, 0
  br i1 %idle, label %done, label %search
search:
  %waits = load <32 x i32>, ptr %wait.p, align 4
  br label %candidate
candidate:
  %rest = phi i32 [ %waiting, %search ], [ %rest1, %incomplete ]
  %none = icmp eq i32 %rest, 0
  br i1 %none, label %stuck, label %try
try:
  %l = call i32 @llvm.cttz.i32(i32 %rest, i1 false)
  %mask = extractelement <32 x i32> %waits, i32 %l
  %m.0 = insertelement <32 x i32> poison, i32 %mask, i32 0
  %m.s = shufflevector <32 x i32> %m.0, <32 x i32> poison, <32 x i32> zeroinitializer
  %m.v = icmp eq <32 x i32> %waits, %m.s
  %m.b = bitcast <32 x i1> %m.v to i32
  %same = and i32 %m.b, %waiting
  %wanted = and i32 %mask, %here
  %arrived = xor i32 %same, -1
  %missing = and i32 %wanted, %arrived
  %complete = icmp eq i32 %missing, 0
  br i1 %complete, label %release, label %incomplete
incomplete:
  %rest1 = and i32 %rest, %arrived
  br label %candidate
stuck:
  %some = icmp ne i32 %placed, 0
  br i1 %some, label %force, label %look.paused
look.paused:
  %p.b = icmp eq <32 x i8> %states, splat (i8 {AT_BARRIER})
  %p.id = and <32 x i32> %waits, splat (i32 15)
  %p.y = icmp eq <32 x i32> %p.id, splat (i32 {YIELD})
  %p.v = and <32 x i1> %p.b, %p.y
  %paused = bitcast <32 x i1> %p.v to i32
  %later = icmp ne i32 %paused, 0
  br i1 %later, label %done, label %force
force:
  %pool = select i1 %some, i32 %placed, i32 %waiting
  %sl = call i32 @llvm.cttz.i32(i32 %pool, i1 false)
  %smask = extractelement <32 x i32> %waits, i32 %sl
  %s.0 = insertelement <32 x i32> poison, i32 %smask, i32 0
  %s.s = shufflevector <32 x i32> %s.0, <32 x i32> poison, <32 x i32> zeroinitializer
  %s.v = icmp eq <32 x i32> %waits, %s.s
  %s.b = bitcast <32 x i1> %s.v to i32
  %ssame = and i32 %s.b, %pool
  br label %release
release:
  %group = phi i32 [ %same, %try ], [ %ssame, %force ]
  %words = load <32 x i32>, ptr %record, align 4
  store <32 x i32> %words, ptr %published.p, align 4
  store i32 %group, ptr %group.p, align 4
  br label %lane
lane:
  %left = phi i32 [ %group, %release ], [ %left1, %lane ]
  %i = call i32 @llvm.cttz.i32(i32 %left, i1 true)
  %t = add i32 %base, %i
  store i32 %t, ptr %thread.p, align 4
  %handle.p = getelementptr ptr, ptr %handles, i32 %t
  %handle = load ptr, ptr %handle.p, align 8
  call void @llvm.coro.resume(ptr %handle)
  %less = add i32 %left, -1
  %left1 = and i32 %left, %less
  %again = icmp ne i32 %left1, 0
  br i1 %again, label %lane, label %look
done:
  ret void
}}
"""

_SCHEDULE = f"""
define internal void @gpud.schedule(ptr %scratch, ptr %handles, i32 %n, ptr %thread.p) noinline nounwind {{
entry:
  %counts = alloca [16 x i32], align 64
  %needs = alloca [16 x i32], align 64
  %first = getelementptr i8, ptr %scratch, i64 {HEADER_BYTES}
  %arrivals = getelementptr i8, ptr %scratch, i64 64
  %up = add i32 %n, 31
  %warps = lshr i32 %up, 5
  br label %phase
phase:
  br label %warp
warp:
  %base = phi i32 [ 0, %phase ], [ %base1, %warp ]
  %wi = lshr i32 %base, 5
  %wo = mul i32 %wi, {WARP_BYTES}
  %record = getelementptr i8, ptr %first, i32 %wo
  call void @gpud.settle(ptr %record, ptr %handles, i32 %base, ptr %thread.p)
  %base1 = add i32 %base, 32
  %wmore = icmp ult i32 %base1, %n
  br i1 %wmore, label %warp, label %tally
tally:
  store <16 x i32> zeroinitializer, ptr %counts, align 64
  store <16 x i32> zeroinitializer, ptr %needs, align 64
  br label %tloop
tloop:
  %tw = phi i32 [ 0, %tally ], [ %tw1, %tnext ]
  %live = phi i32 [ 0, %tally ], [ %live1, %tnext ]
  %two = mul i32 %tw, {WARP_BYTES}
  %tr = getelementptr i8, ptr %first, i32 %two
  %ts.p = getelementptr i8, ptr %tr, i64 {STATE}
  %ts = load <32 x i8>, ptr %ts.p, align 1
  %tat.v = icmp eq <32 x i8> %ts, splat (i8 {AT_BARRIER})
  %tat = bitcast <32 x i1> %tat.v to i32
  %tpop = call i32 @llvm.ctpop.i32(i32 %tat)
  %tk.p = getelementptr i8, ptr %tr, i64 {WAIT}
  %tk = load <32 x i32>, ptr %tk.p, align 4
  %tnone = icmp eq i32 %tat, 0
  br i1 %tnone, label %tnext, label %tkey
tkey:
  %tleft = phi i32 [ %tat, %tloop ], [ %tleft1, %tkey ]
  %tl = call i32 @llvm.cttz.i32(i32 %tleft, i1 true)
  %key = extractelement <32 x i32> %tk, i32 %tl
  %key.0 = insertelement <32 x i32> poison, i32 %key, i32 0
  %key.s = shufflevector <32 x i32> %key.0, <32 x i32> poison, <32 x i32> zeroinitializer
  %key.v = icmp eq <32 x i32> %tk, %key.s
  %key.b = bitcast <32 x i1> %key.v to i32
  %tsame = and i32 %key.b, %tleft
  %tsum = call i32 @llvm.ctpop.i32(i32 %tsame)
  %tid = and i32 %key, 15
  %tneed = lshr i32 %key, 8
  %tc.p = getelementptr i32, ptr %counts, i32 %tid
  %tc = load i32, ptr %tc.p, align 4
  %tc1 = add i32 %tc, %tsum
  store i32 %tc1, ptr %tc.p, align 4
  %tn.p = getelementptr i32, ptr %needs, i32 %tid
  store i32 %tneed, ptr %tn.p, align 4
  %tleft1 = xor i32 %tleft, %tsame
  %tmorekeys = icmp ne i32 %tleft1, 0
  br i1 %tmorekeys, label %tkey, label %tnext
tnext:
  %live1 = add i32 %live, %tpop
  %tw1 = add i32 %tw, 1
  %tmore = icmp ult i32 %tw1, %warps
  br i1 %tmore, label %tloop, label %decide
decide:
  %over = icmp eq i32 %live1, 0
  br i1 %over, label %done, label %bloop
bloop:
  %b = phi i32 [ 0, %decide ], [ %b1, %bnext ]
  %bc.p = getelementptr i32, ptr %counts, i32 %b
  %bc = load i32, ptr %bc.p, align 4
  %bn.p = getelementptr i32, ptr %needs, i32 %b
  %bn.0 = load i32, ptr %bn.p, align 4
  %bwhole = icmp eq i32 %bn.0, 0
  %bn = select i1 %bwhole, i32 %live1, i32 %bn.0
  %ba.p = getelementptr i32, ptr %arrivals, i32 %b
  %ba = load i32, ptr %ba.p, align 4
  %bsum = add i32 %bc, %ba
  %benough = icmp uge i32 %bsum, %bn
  %bsome = icmp ne i32 %bc, 0
  %bgo = and i1 %benough, %bsome
  br i1 %bgo, label %release, label %bnext
bnext:
  %b1 = add i32 %b, 1
  %bmore = icmp ult i32 %b1, 16
  br i1 %bmore, label %bloop, label %deadlock
deadlock:
  call void @llvm.trap()
  unreachable
release:
  store i32 0, ptr %ba.p, align 4
  %sums = load <2 x i32>, ptr %scratch, align 8
  %sums.p = getelementptr i8, ptr %scratch, i64 8
  store <2 x i32> %sums, ptr %sums.p, align 8
  store <2 x i32> zeroinitializer, ptr %scratch, align 8
  br label %rloop
rloop:
  %rw = phi i32 [ 0, %release ], [ %rw1, %rnext ]
  %rwo = mul i32 %rw, {WARP_BYTES}
  %rr = getelementptr i8, ptr %first, i32 %rwo
  %rs.p = getelementptr i8, ptr %rr, i64 {STATE}
  %rs = load <32 x i8>, ptr %rs.p, align 1
  %rat = icmp eq <32 x i8> %rs, splat (i8 {AT_BARRIER})
  %rk.p = getelementptr i8, ptr %rr, i64 {WAIT}
  %rk = load <32 x i32>, ptr %rk.p, align 4
  %rid = and <32 x i32> %rk, splat (i32 15)
  %b.0 = insertelement <32 x i32> poison, i32 %b, i32 0
  %b.s = shufflevector <32 x i32> %b.0, <32 x i32> poison, <32 x i32> zeroinitializer
  %rmine = icmp eq <32 x i32> %rid, %b.s
  %rgo.v = and <32 x i1> %rat, %rmine
  %rgo = bitcast <32 x i1> %rgo.v to i32
  %rbase = shl i32 %rw, 5
  %rnone = icmp eq i32 %rgo, 0
  br i1 %rnone, label %rnext, label %rlane
rlane:
  %rleft = phi i32 [ %rgo, %rloop ], [ %rleft1, %rlane ]
  %rl = call i32 @llvm.cttz.i32(i32 %rleft, i1 true)
  %ri = or i32 %rbase, %rl
  store i32 %ri, ptr %thread.p, align 4
  %rh.p = getelementptr ptr, ptr %handles, i32 %ri
  %rh = load ptr, ptr %rh.p, align 8
  call void @llvm.coro.resume(ptr %rh)
  %rless = add i32 %rleft, -1
  %rleft1 = and i32 %rleft, %rless
  %ragain = icmp ne i32 %rleft1, 0
  br i1 %ragain, label %rlane, label %rnext
rnext:
  %rw1 = add i32 %rw, 1
  %rmore = icmp ult i32 %rw1, %warps
  br i1 %rmore, label %rloop, label %phase
done:
  ret void
}}
"""

SCHEDULER = _PREPARE + _SETTLE + _SCHEDULE
SCHEDULER_DECLARATIONS = (
    "declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)",
    "declare i32 @llvm.cttz.i32(i32, i1)",
    "declare i32 @llvm.ctpop.i32(i32)",
    "declare void @llvm.trap()",
)
