"""A kernel in the lockstep model: its warp, its block, its range of blocks."""

from __future__ import annotations

from gpudisagg.device.cpu import ast, warps
from gpudisagg.device.cpu.analysis import CallGraph
from gpudisagg.device.cpu.coroutines import coroutine
from gpudisagg.device.cpu.diverge import WarpLowering
from gpudisagg.device.cpu.driver import block_range
from gpudisagg.device.cpu.emitter import ModuleText, quoted
from gpudisagg.device.cpu.functions import ATTRIBUTES, params_size
from gpudisagg.device.cpu.lane_memory import LaneEmitter
from gpudisagg.device.cpu.layout import ModuleLayout, frame_symbol
from gpudisagg.device.cpu.uniform import Uniformity

_PARAMETERS = (
    "ptr noalias align 16 dereferenceable({size}) %params, ptr noalias align 8 dereferenceable(192) %ctx, "
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
            *block_range(text, layout, name, size),
        ]
        return
    code, em.code = em.code, []
    low.set_state(em.const("i32", warps.DONE))
    tail, em.code = em.code, code
    text.declarations.update((*_DECLARATIONS, *warps.SCHEDULER_DECLARATIONS))
    text.helpers["warps"] = warps.SCHEDULER
    frame = quoted(frame_symbol(name))
    text.definitions += [
        *coroutine(name, warp, parameters, size, em, tail),
        warps.block_function(name, warp, size, ATTRIBUTES, frame=frame),
        *block_range(text, layout, name, size),
    ]
