"""Functions that CUDA's runtime defines and programs only declare: printf, what a failed assert calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from gpudisagg.device.cpu.ast import Address, Instruction, Operand, Symbol
from gpudisagg.device.cpu.emitter import INVARIANT, Value
from gpudisagg.device.cpu.lowering import context as c
from gpudisagg.device.cpu.lowering.context import Lowering
from gpudisagg.device.cpu.types import U32, U64, ScalarType

HostFunction: TypeAlias = Callable[[Lowering, Instruction, Sequence[Operand], Sequence[Operand]], None]

# What is known and isn't there, with what to do about it.
REFUSED = {
    "malloc": "device malloc isn't supported: allocate before the launch",
    "free": "device free isn't supported: allocate before the launch",
    "cudaLaunchDeviceV2": "dynamic parallelism isn't supported: launch from the host",
    "cudaGetParameterBufferV2": "dynamic parallelism isn't supported: launch from the host",
    "cudaGetParameterBuffer": "dynamic parallelism isn't supported: launch from the host",
    "cudaLaunchDevice": "dynamic parallelism isn't supported: launch from the host",
    "cudaCGGetIntrinsicHandle": "grid synchronisation across devices isn't supported",
}


def _argument(low: Lowering, operand: Operand, scalar: ScalarType) -> Value:
    """An argument: a register or constant, or the cell of a `.param` variable."""
    if isinstance(operand, Symbol) and operand.name in (*low.frame.locals, *low.frame.params):
        return low.em.load(scalar.storage, low.address(Address(operand, 0), "param"), scalar.bytes)
    return low.read(operand, scalar)


def _result(low: Lowering, operands: Sequence[Operand], value: Value) -> None:
    for operand in operands:
        if isinstance(operand, Symbol):
            low.em.store(value, low.address(Address(operand, 0), "param"), 4)
        else:
            low.write(operand, value, U32)


def stop(low: Lowering, linear: Value, line: Value) -> None:
    """Say which thread stops and at which line, and stop. Code that follows is unreachable."""
    em = low.em
    context = Value("%ctx", "ptr")
    em.store(linear, em.offset(context, c.CURRENT_THREAD), 4)
    em.store(line, em.offset(context, c.LINE), 4)
    em.call("llvm.trap", "void", [])
    em.line("unreachable")
    em.place(em.new_label("after.trap"))


def assertion(
    low: Lowering, ins: Instruction, returns: Sequence[Operand], arguments: Sequence[Operand]
) -> None:
    """`__assertfail(message, file, line, function, size of a character)`: the first thread that fails says
    so and traps.
    """
    em = low.em
    if len(arguments) != 5:
        raise low.error("__assertfail takes 5 arguments")
    scalars = (U64, U64, U32, U64)
    values = [_argument(low, operand, scalar) for operand, scalar in zip(arguments, scalars, strict=False)]

    def once(one: Sequence[Value]) -> Value:
        context = Value("%ctx", "ptr")
        message, file, line, function, linear = one
        for value, field in ((message, c.FAILED), (file, c.FILE), (function, c.FUNCTION)):
            em.store(value, em.offset(context, field), 8)
        stop(low, linear, line)
        return em.const("i32", 0)

    low.each_lane([*values, low.linear()], once, always=True)


def vprintf(
    low: Lowering, ins: Instruction, returns: Sequence[Operand], arguments: Sequence[Operand]
) -> None:
    """`vprintf(format, buffer)`: the engine makes the text; lanes print one after the other."""
    em = low.em
    if len(arguments) != 2 or len(returns) > 1:
        raise low.error("vprintf takes 2 arguments")
    values = [_argument(low, operand, U64) for operand in arguments]
    pointer = em.offset(Value("%ctx", "ptr"), c.PRINT)
    function = em.load("ptr", pointer, 8, metadata=INVARIANT)

    def once(one: Sequence[Value]) -> Value:
        passed = ", ".join(em.pointer(value).typed for value in one)
        return em.value(f"call i32 {function.text}(ptr %ctx, {passed})", "i32")

    _result(low, returns, low.each_lane(values, once, always=True))


HOST_FUNCTIONS: dict[str, HostFunction] = {
    "vprintf": vprintf,
    "__assertfail": assertion,
    "__assert_fail": assertion,
}
ASSERTIONS = frozenset({"__assertfail", "__assert_fail"})
