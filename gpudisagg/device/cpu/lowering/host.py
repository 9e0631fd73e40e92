"""Functions that CUDA's runtime defines and programs only declare: printf, what a failed assert calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from gpudisagg.device.cpu.ast import Address, Instruction, Operand, Symbol
from gpudisagg.device.cpu.emitter import INVARIANT, ModuleText, Value
from gpudisagg.device.cpu.lowering import context as c
from gpudisagg.device.cpu.lowering.context import Lowering
from gpudisagg.device.cpu.sources import Place
from gpudisagg.device.cpu.spinning import workspace_registers
from gpudisagg.device.cpu.types import U32, U64, ScalarType

HostFunction: TypeAlias = Callable[[Lowering, Instruction, Sequence[Operand], Sequence[Operand]], None]

# What is known and isn't there, with what to do about it.
REFUSED = {
    "cudaLaunchDeviceV2": "dynamic parallelism isn't supported: launch from the host",
    "cudaGetParameterBufferV2": "dynamic parallelism isn't supported: launch from the host",
    "cudaGetParameterBuffer": "dynamic parallelism isn't supported: launch from the host",
    "cudaLaunchDevice": "dynamic parallelism isn't supported: launch from the host",
}


def _argument(low: Lowering, operand: Operand, scalar: ScalarType) -> Value:
    """An argument: a register or constant, or the cell of a `.param` variable."""
    if isinstance(operand, Symbol) and operand.name in (*low.frame.locals, *low.frame.params):
        return low.em.load(scalar.storage, low.address(Address(operand, 0), "param"), scalar.bytes)
    return low.read(operand, scalar)


def _result(low: Lowering, operands: Sequence[Operand], value: Value, scalar: ScalarType = U32) -> None:
    for operand in operands:
        if isinstance(operand, Symbol):
            low.em.store(value, low.address(Address(operand, 0), "param"), 4)
        else:
            low.write(operand, value, scalar)


def _engine_function(low: Lowering, field: int) -> Value:
    pointer = low.em.offset(Value("%ctx", "ptr"), field)
    return low.em.load("ptr", pointer, 8, metadata=INVARIANT)


def _string(module: ModuleText, text: str) -> str:
    data = text.encode("ascii", "replace")[:200]
    name = f'@"gpud.words.{data.hex()}"'
    escaped = "".join(f"\\{byte:02X}" for byte in data)
    module.helpers[name] = f'{name} = internal constant [{len(data) + 1} x i8] c"{escaped}\\00", align 1'
    return name


def _site(low: Lowering, what: str, line: int) -> Value:
    """A `gpud_check_site` that says where an instruction is, in the PTX and in the source. Its kind is 1 in a
    kernel that synchronises its grid.
    """
    module = low.em.module
    place = (module.places.at(line) if module.places is not None else None) or Place("", 0)
    name = f'@"gpud.site.{what}.{line}"'
    body = low.frame.function.body
    grid = body is not None and bool(workspace_registers(body))
    numbers = ", ".join(f"i32 {n}" for n in (0, int(grid), 1, line, place.line, place.inlined))
    texts = f"ptr {_string(module, place.file) if place.file else 'null'}, ptr {_string(module, what)}"
    module.helpers[name] = (
        f"{name} = internal constant {{ i32, i32, i32, i32, i32, i32, ptr, ptr }} {{ {numbers}, {texts} }}"
    )
    return Value(name, "ptr", True)


def trap_at(low: Lowering, line: int, what: str = "trap") -> None:
    """Say which thread stops and where, and stop."""
    low.em.store(_site(low, what, line), low.em.offset(Value("%ctx", "ptr"), c.SITE), 8)
    stop(low, low.first_thread(), low.em.const("i32", line))


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
    function = _engine_function(low, c.PRINT)

    def once(one: Sequence[Value]) -> Value:
        passed = ", ".join(em.pointer(value).typed for value in one)
        return em.value(f"call i32 {function.text}(ptr %ctx, {passed})", "i32")

    _result(low, returns, low.each_lane(values, once, always=True))


def malloc(low: Lowering, ins: Instruction, returns: Sequence[Operand], arguments: Sequence[Operand]) -> None:
    """`malloc(size)`: from the session's heap; null where that is spent."""
    em = low.em
    if len(arguments) != 1 or len(returns) != 1:
        raise low.error("malloc takes an argument and gives a result")
    function = _engine_function(low, c.TAKE)

    def once(one: Sequence[Value]) -> Value:
        return em.cast(
            "ptrtoint", em.value(f"call ptr {function.text}(ptr %ctx, {one[0].typed})", "ptr"), "i64"
        )

    _result(low, returns, low.each_lane([_argument(low, arguments[0], U64)], once, always=True), U64)


def free(low: Lowering, ins: Instruction, returns: Sequence[Operand], arguments: Sequence[Operand]) -> None:
    """`free(pointer)`: what isn't malloc's ends the launch."""
    em = low.em
    if len(arguments) != 1 or returns:
        raise low.error("free takes an argument and gives no result")
    function = _engine_function(low, c.GIVE)
    site = _site(low, "free", ins.line)

    def once(one: Sequence[Value]) -> Value:
        given = f"{em.pointer(one[0]).typed}, {one[1].typed}, {site.typed}"
        em.line(f"call void {function.text}(ptr %ctx, {given})")
        return em.const("i32", 0)

    low.each_lane([_argument(low, arguments[0], U64), low.linear()], once, always=True)


HOST_FUNCTIONS: dict[str, HostFunction] = {
    "malloc": malloc,
    "free": free,
    "vprintf": vprintf,
    "__assertfail": assertion,
    "__assert_fail": assertion,
}
ASSERTIONS = frozenset({"__assertfail", "__assert_fail"})
