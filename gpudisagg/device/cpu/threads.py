"""The thread-loop model: a kernel whose threads never wait is a loop over threads, which LLVM vectorises."""

from __future__ import annotations

from gpudisagg.device.cpu import ast
from gpudisagg.device.cpu.analysis import CallGraph
from gpudisagg.device.cpu.driver import block_range
from gpudisagg.device.cpu.emitter import INVARIANT, PARALLEL_LOOP, Emitter, ModuleText, Value, quoted
from gpudisagg.device.cpu.functions import ATTRIBUTES, THREAD_PARAMETERS, FunctionLowering, params_size
from gpudisagg.device.cpu.layout import ModuleLayout
from gpudisagg.device.cpu.lowering import context as c


class ThreadLowering(FunctionLowering):
    """Launch-wide values are loaded once, in the entry block, so that they leave the thread loop."""

    def _entry_load(self, base: str, type_: str, offset: int, align: int) -> Value:
        key = (base, type_, offset)
        cache = self.__dict__.setdefault("_entry_loads", {})
        if key not in cache:
            pointer = self.em.entry_value(f"getelementptr i8, ptr {base}, i64 {offset}", "ptr")
            cache[key] = self.em.entry_value(
                f"load {type_}, {pointer.typed}, align {align}{INVARIANT}{self.em.parallel}", type_
            )
        found: Value = cache[key]
        return found

    def launch_field(self, offset: int) -> Value:
        """A launch-wide u32."""
        return self._entry_load("%ctx", "i32", offset, 4)

    def shared_base(self) -> Value:
        """Pointer to shared memory."""
        return self._entry_load("%ctx", "ptr", c.SHARED, 8)

    def load_param(self, type_: str, offset: int, align: int) -> Value:
        """A kernel parameter."""
        return self._entry_load("%params", type_, offset, align)


def kernel(
    layout: ModuleLayout, graph: CallGraph, text: ModuleText, function: ast.Function, *, independent: bool
) -> None:
    """Define the kernel: one thread, its block as nested loops, its range of blocks."""
    em = Emitter(text, parallel=independent)
    low = ThreadLowering(layout, graph, em, function, '%"return"')
    low.body()
    size = max(params_size(function), 8)
    parameters = THREAD_PARAMETERS.format(params=f"dereferenceable({size})")
    name = function.name
    loop = PARALLEL_LOOP if independent else ""
    text.definitions += [
        f"define internal void @{quoted(name + '.thread')}({parameters}) alwaysinline {ATTRIBUTES} {{",
        "entry:",
        *em.entry,
        '  br label %"body"',
        '"body":',
        *em.code,
        '"return":',
        "  ret void",
        "}",
        f"""define internal void @{quoted(name + ".block")}( \
ptr noalias align 16 dereferenceable({size}) %params, ptr noalias align 8 dereferenceable(192) %ctx, \
i32 %ctaidx, i32 %ctaidy, i32 %ctaidz) noinline {ATTRIBUTES} {{
entry:
  %nx.p = getelementptr i8, ptr %ctx, i64 {c.BLOCK}
  %nx = load i32, ptr %nx.p, align 4{INVARIANT}
  %ny.p = getelementptr i8, ptr %ctx, i64 {c.BLOCK + 4}
  %ny = load i32, ptr %ny.p, align 4{INVARIANT}
  %nz.p = getelementptr i8, ptr %ctx, i64 {c.BLOCK + 8}
  %nz = load i32, ptr %nz.p, align 4{INVARIANT}
  br label %zloop
zloop:
  %z = phi i32 [ 0, %entry ], [ %z1, %zend ]
  %zn = mul nuw nsw i32 %z, %ny
  br label %yloop
yloop:
  %y = phi i32 [ 0, %zloop ], [ %y1, %yend ]
  %row = add nuw nsw i32 %zn, %y
  %start = mul nuw nsw i32 %row, %nx
  br label %xloop
xloop:
  %x = phi i32 [ 0, %yloop ], [ %x1, %xloop ]
  %linear = add nuw nsw i32 %start, %x
  call void @{quoted(name + ".thread")}(ptr %params, ptr %ctx, i32 %x, i32 %y, i32 %z, i32 %linear, \
i32 %ctaidx, i32 %ctaidy, i32 %ctaidz)
  %x1 = add nuw nsw i32 %x, 1
  %xmore = icmp ult i32 %x1, %nx
  br i1 %xmore, label %xloop, label %yend{loop}
yend:
  %y1 = add nuw nsw i32 %y, 1
  %ymore = icmp ult i32 %y1, %ny
  br i1 %ymore, label %yloop, label %zend
zend:
  %z1 = add nuw nsw i32 %z, 1
  %zmore = icmp ult i32 %z1, %nz
  br i1 %zmore, label %zloop, label %done
done:
  ret void
}}""",
        *block_range(text, layout, name, size),
    ]
