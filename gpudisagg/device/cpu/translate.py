"""A parsed module to LLVM IR and the facts a launch needs."""

from __future__ import annotations

from dataclasses import dataclass

from gpudisagg.device.cpu import coroutines, lanes, threads, warp_kernel
from gpudisagg.device.cpu.analysis import CallGraph
from gpudisagg.device.cpu.ast import Module
from gpudisagg.device.cpu.checks import MARGIN, Checks
from gpudisagg.device.cpu.emitter import DeviceFunction, ModuleText
from gpudisagg.device.cpu.functions import device_function, params_size, stand_in
from gpudisagg.device.cpu.layout import ModuleLayout
from gpudisagg.device.cpu.models import gains, has_barriers, lockstep_plan, scatters
from gpudisagg.device.cpu.sources import SourceLines


@dataclass(frozen=True)
class KernelFacts:
    """All of a kernel but its addresses. `frame_threads`: threads per coroutine frame, 0 without."""

    name: str
    params: tuple[tuple[int, int, str], ...]
    params_size: int
    static_shared: int
    max_threads: int
    frame_threads: int


def _device_functions(
    layout: ModuleLayout, graph: CallGraph, text: ModuleText, called: set[str]
) -> dict[str, DeviceFunction]:
    """Those that are called or have an address somewhere. Lowering one may show that others are needed."""
    done: set[str] = set()
    functions: dict[str, DeviceFunction] = {}
    while True:
        for name in layout.addressed:
            called |= graph.reachable(name)
        missing = sorted(called - done)
        if not missing:
            return functions
        for name in missing:
            done.add(name)
            function = layout.module.functions[name]
            if function.entry or function.body is None:
                continue
            if not graph.waits(name):
                functions[name] = device_function(layout, graph, text, function)
            elif name in layout.addressed:
                functions[name] = stand_in(text, function)


@dataclass(frozen=True)
class Translation:
    """LLVM IR (without target lines) and what it defines. Two modules, either of which may be "": `loops` has
    the kernels that LLVM is to vectorise, `warps` the others, which are vectors or coroutines already.
    """

    loops: str
    warps: str
    kernels: tuple[KernelFacts, ...]
    variables: tuple[tuple[str, int], ...]


def translate(
    module: Module, lines: SourceLines | None = None, places: SourceLines | None = None
) -> Translation:
    """Lower every kernel, each in the model that `analysis` picks for it. With `lines`: checked, thread by
    thread. `places`: where in the source what stops a kernel is.
    """
    checked = lines is not None
    layout = ModuleLayout(module, MARGIN if checked else 0)
    graph = CallGraph(module)
    text = ModuleText(places=lines or places)
    if lines is not None:
        text.checks = Checks(text, lines)
    loops: list[str] = []
    kernels: list[KernelFacts] = []
    called: set[str] = set()
    for function in module.functions.values():
        if not function.entry or function.body is None:
            continue
        needs = graph.needs(function)
        plan = None if checked else lockstep_plan(function)
        if plan is not None and (scatters(plan) if needs.waits else not gains(plan)):
            plan = None
        frame = 0
        if plan is not None:
            barriers = has_barriers(function)
            warp_kernel.kernel(layout, graph, text, function, plan, barriers=barriers)
            frame = lanes.WIDTH if barriers else 0
        elif needs.waits:
            frame = 1
            coroutines.kernel(layout, graph, text, function)
        else:
            warped, text.definitions = text.definitions, []
            threads.kernel(layout, graph, text, function, independent=needs.independent and not checked)
            loops, text.definitions = loops + text.definitions, warped
        called |= graph.reachable(function.name)
        kernels.append(
            KernelFacts(
                name=function.name,
                params=tuple((p.offset, p.size, p.kind) for p in function.params),
                params_size=params_size(function),
                static_shared=layout.kernel_shared[function.name],
                max_threads=function.max_threads,
                frame_threads=frame,
            )
        )
    warped, text.definitions = text.definitions, []
    functions = _device_functions(layout, graph, text, called)
    variables = tuple((v.name, v.size) for v in layout.globals.values())
    if checked:  # nothing to vectorise
        loops, warped = [], loops + warped
    shared: list[str] = []
    if loops and warped:  # a variable has one place in memory, and a function one address
        shared = [v.declaration for v in layout.globals.values()]
        shared += [functions[name].declared() for name in sorted(layout.addressed & functions.keys())]
    owned = [v.definition for v in layout.globals.values()]
    owned += [
        function.defined("hidden" if shared and name in layout.addressed else "internal")
        for name, function in functions.items()
    ]
    inner = [f.defined("internal") for name, f in functions.items() if name not in layout.addressed]
    return Translation(
        text.render(*owned, *loops) if loops or not warped else "",
        text.render(*(shared + inner if loops else owned), *warped) if warped else "",
        tuple(kernels),
        variables,
    )
