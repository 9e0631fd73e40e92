"""A kernel in the lockstep model: its warp, its block, its range of blocks."""

from __future__ import annotations

from gpudisagg.device.cpu import ast, warps
from gpudisagg.device.cpu.analysis import CallGraph
from gpudisagg.device.cpu.diverge import WarpLowering
from gpudisagg.device.cpu.driver import block_range
from gpudisagg.device.cpu.emitter import ModuleText, quoted
from gpudisagg.device.cpu.functions import ATTRIBUTES, params_size
from gpudisagg.device.cpu.lane_memory import LaneEmitter
from gpudisagg.device.cpu.layout import ModuleLayout, frame_symbol
from gpudisagg.device.cpu.uniform import Uniformity

_PARAMETERS = (
    "ptr noalias align 16 dereferenceable({size}) %params, ptr noalias align 8 dereferenceable(128) %ctx, "
    "i32 %warp, i32 %mask, i32 %nx, i32 %nxy, i32 %ctaidx, i32 %ctaidy, i32 %ctaidz"
)
_DECLARATIONS = (
    "declare token @llvm.coro.id(i32, ptr, ptr, ptr)",
    "declare i64 @llvm.coro.size.i64()",
    "declare ptr @llvm.coro.begin(token, ptr)",
    "declare i8 @llvm.coro.suspend(token, i1)",
    "declare void @llvm.coro.end(ptr, i1, token)",
)


def kernel(
    layout: ModuleLayout,
    graph: CallGraph,
    text: ModuleText,
    function: ast.Function,
    plan: Uniformity,
    *,
    barriers: bool,
) -> None:
    """Define the kernel: its warp, its block, its range of blocks."""
    em = LaneEmitter(text)
    low = WarpLowering(layout, graph, em, function, plan)
    low.body()
    name = function.name
    size = max(params_size(function), 8)
    warp = quoted(name + ".warp")
    parameters = _PARAMETERS.format(size=size)
    if not barriers:
        text.definitions += [
            f"define internal void @{warp}({parameters}) {ATTRIBUTES} {{",
            '"entry":',
            *em.entry,
            '  br label %"body"',
            '"body":',
            *em.code,
            '"return":',
            "  ret void",
            "}",
            warps.block_function(name, warp, size, ATTRIBUTES, frame=None),
            *block_range(name, size),
        ]
        return
    code, em.code = em.code, []
    low.set_state(em.const("i32", warps.DONE))
    tail, em.code = em.code, code
    text.declarations.update((*_DECLARATIONS, *warps.SCHEDULER_DECLARATIONS))
    text.helpers["warps"] = warps.SCHEDULER
    blank, frame = quoted(name + ".blank"), quoted(frame_symbol(name))
    text.definitions += [
        f"@{blank} = internal constant [{max(size, 128)} x i8] zeroinitializer, align 64",
        f"define internal ptr @{warp}({parameters}, ptr %frame) presplitcoroutine {ATTRIBUTES} {{",
        '"entry":',
        "  %id = call token @llvm.coro.id(i32 64, ptr null, ptr null, ptr null)",
        "  %size = call i64 @llvm.coro.size.i64()",
        "  %asking = icmp eq ptr %frame, null",
        '  br i1 %asking, label %"ask", label %"start"',
        '"ask":',
        "  %size.p = inttoptr i64 %size to ptr",
        "  ret ptr %size.p",
        '"start":',
        "  %handle = call ptr @llvm.coro.begin(token %id, ptr %frame)",
        *em.entry,
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
  %size.p = call ptr @{warp}(ptr @{blank}, ptr @{blank}, \
i32 0, i32 0, i32 0, i32 0, i32 0, i32 0, i32 0, ptr null)
  %size = ptrtoint ptr %size.p to i64
  %up = add i64 %size, 63
  %stride = and i64 %up, -64
  ret i64 %stride
}}""",
        warps.block_function(name, warp, size, ATTRIBUTES, frame=frame),
        *block_range(name, size),
    ]
