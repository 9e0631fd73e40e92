"""The exported entry of a kernel: a loop over its range of blocks."""

from __future__ import annotations

from gpudisagg.device.cpu.emitter import ModuleText, quoted
from gpudisagg.device.cpu.layout import RESERVED_SHARED, ModuleLayout, kernel_symbol
from gpudisagg.device.cpu.lowering import context as c

# Shared memory that a block of a module with reserved memory finds zero.
_CLEAR = f"""\
  %shared.p = getelementptr i8, ptr %ctx, i64 {c.SHARED}
  %shared = load ptr, ptr %shared.p, align 8
  call void @llvm.memset.p0.i64(ptr align 16 %shared, i8 0, i64 {RESERVED_SHARED}, i1 false)
"""


def block_range(text: ModuleText, layout: ModuleLayout, name: str, params: int) -> list[str]:
    """`void f(params, ctx, first_block, block_count)` around `<name>.block`, as kernel_abi.h has it."""
    clear = ""
    if layout.reserved:
        clear = _CLEAR
        text.declarations.add("declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)")
    return [
        f"""define void @{quoted(kernel_symbol(name))}( \
ptr noalias align 16 dereferenceable({params}) %params, \
ptr noalias align 8 dereferenceable(192) %ctx, i64 %first, i64 %count) nounwind null_pointer_is_valid {{
entry:
  %gx.i = load i32, ptr %ctx, align 4
  %gx = zext i32 %gx.i to i64
  %gy.p = getelementptr i8, ptr %ctx, i64 {c.GRID + 4}
  %gy.i = load i32, ptr %gy.p, align 4
  %gy = zext i32 %gy.i to i64
  %any = icmp ne i64 %count, 0
  br i1 %any, label %begin, label %done
begin:
  %x.0 = urem i64 %first, %gx
  %rows.0 = udiv i64 %first, %gx
  %y.0 = urem i64 %rows.0, %gy
  %z.0 = udiv i64 %rows.0, %gy
  %bx.p = getelementptr i8, ptr %ctx, i64 {c.CURRENT_BLOCK}
  %by.p = getelementptr i8, ptr %ctx, i64 {c.CURRENT_BLOCK + 4}
  %bz.p = getelementptr i8, ptr %ctx, i64 {c.CURRENT_BLOCK + 8}
  %bt.p = getelementptr i8, ptr %ctx, i64 {c.CURRENT_THREAD}
  store i32 -1, ptr %bt.p, align 4
  br label %loop
loop:
  %left = phi i64 [ %count, %begin ], [ %left1, %loop ]
  %x = phi i64 [ %x.0, %begin ], [ %x2, %loop ]
  %y = phi i64 [ %y.0, %begin ], [ %y3, %loop ]
  %z = phi i64 [ %z.0, %begin ], [ %z2, %loop ]
  %xi = trunc i64 %x to i32
  %yi = trunc i64 %y to i32
  %zi = trunc i64 %z to i32
  store i32 %xi, ptr %bx.p, align 4
  store i32 %yi, ptr %by.p, align 4
  store i32 %zi, ptr %bz.p, align 4
{clear}  call void @{quoted(name + ".block")}(ptr %params, ptr %ctx, i32 %xi, i32 %yi, i32 %zi)
  %x1 = add i64 %x, 1
  %xwrap = icmp eq i64 %x1, %gx
  %x2 = select i1 %xwrap, i64 0, i64 %x1
  %y1 = add i64 %y, 1
  %y2 = select i1 %xwrap, i64 %y1, i64 %y
  %ywrap = icmp eq i64 %y2, %gy
  %y3 = select i1 %ywrap, i64 0, i64 %y2
  %z1 = add i64 %z, 1
  %z2 = select i1 %ywrap, i64 %z1, i64 %z
  %left1 = add i64 %left, -1
  %more = icmp ne i64 %left1, 0
  br i1 %more, label %loop, label %done
done:
  ret void
}}"""
    ]
