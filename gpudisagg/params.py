"""A kernel's arguments: checked against its real parameters, then packed as the device will read them.

Checking is by exact type first, because a launch costs little more than its checks do.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np

from gpudisagg.array import DeviceArray
from gpudisagg.errors import ProtocolError
from gpudisagg.hostarray import HostArray
from transport import wire

if TYPE_CHECKING:
    from gpudisagg.session import Session

_INTEGERS = {1: "B", 2: "H", 4: "I", 8: "Q"}
_FLOATS = {2: "e", 4: "f", 8: "d"}
_POINTER_SIZE = 8

Converter = Callable[[Any], Any]


class Parameter(NamedTuple):
    """Where a parameter lies in the packed buffer (bytes), and what it is: PARAM_BITS, PARAM_FLOAT or
    PARAM_BLOB.
    """

    offset: int
    size: int
    kind: int

    def __str__(self) -> str:
        if self.kind == wire.PARAM_FLOAT and self.size in _FLOATS:
            return f"float{8 * self.size}"
        if self.kind == wire.PARAM_BITS and self.size in _INTEGERS:
            return "8-byte integer or pointer" if self.size == _POINTER_SIZE else f"{self.size}-byte integer"
        return f"{self.size}-byte aggregate"


class Signature:
    """The parameters of one kernel, ready to convert and pack arguments.

    `layout` packs `prefix_size` bytes of the caller's and then one value for each parameter. ProtocolError:
    the parameters overlap or leave their buffer.
    """

    def __init__(
        self, session: Session, kernel: str, parameters: Sequence[Parameter], size: int, prefix_size: int
    ) -> None:
        self.kernel = kernel
        self.parameters = tuple(parameters)
        self.size = size
        self.converters: tuple[Converter, ...] = tuple(
            _converter(session, f"argument {index} of {kernel}", parameter)
            for index, parameter in enumerate(self.parameters)
        )
        self.layout = struct.Struct(f"<{prefix_size}s" + self._format())

    def check_count(self, count: int) -> None:
        """TypeError unless `count` arguments are what the kernel takes."""
        if count != len(self.parameters):
            takes = ", ".join(map(str, self.parameters)) or "none"
            raise TypeError(
                f"{self.kernel} takes {len(self.parameters)} arguments, {count} given; it takes: {takes}"
            )

    def refuse(self, values: Sequence[Any]) -> NoReturn:
        """Raises for the first of the converted values that could not be packed: a float out of range."""
        for index, (parameter, value) in enumerate(zip(self.parameters, values, strict=True)):
            try:
                struct.pack("<" + _code(parameter), value)
            except (OverflowError, struct.error):
                where = f"argument {index} of {self.kernel}"
                raise OverflowError(f"{where}: {value} does not fit a {parameter}") from None
        raise AssertionError("every value can be packed")

    def _format(self) -> str:
        codes, end = [], 0
        for parameter in self.parameters:
            if parameter.offset < end or parameter.size == 0:
                raise ProtocolError(
                    f"the server describes overlapping parameters for {self.kernel}; update it"
                )
            end = parameter.offset + parameter.size
            codes.append((parameter.offset, _code(parameter), end))
        if end > self.size or self.size > wire.MAX_PARAMS:
            raise ProtocolError(f"the server describes parameters of {self.kernel} past their end; update it")
        text, at = "", 0
        for offset, code, behind in codes:
            text += f"{offset - at}x{code}"
            at = behind
        return text + f"{self.size - at}x"


def _code(parameter: Parameter) -> str:
    if parameter.kind == wire.PARAM_FLOAT and parameter.size in _FLOATS:
        return _FLOATS[parameter.size]
    if parameter.kind == wire.PARAM_BITS and parameter.size in _INTEGERS:
        return _INTEGERS[parameter.size]
    return f"{parameter.size}s"


def _converter(session: Session, place: str, parameter: Parameter) -> Converter:
    code = _code(parameter)
    if code in _FLOATS.values():
        return _float_converter(place, parameter)
    if code not in _INTEGERS.values():
        return _blob_converter(place, parameter)
    if parameter.size == _POINTER_SIZE:
        return _pointer_converter(session, place, parameter)
    return _integer_converter(place, parameter)


def _integer_converter(place: str, parameter: Parameter) -> Converter:
    size = parameter.size
    low, mask = -(1 << (8 * size - 1)), (1 << (8 * size)) - 1

    def convert(argument: Any) -> int:
        if type(argument) is int or type(argument) is bool:
            if low <= argument <= mask:
                return argument & mask
            raise OverflowError(f"{place}: {argument} does not fit a {parameter}")
        if isinstance(argument, np.integer | np.bool_) and argument.itemsize == size:
            return int(argument) & mask
        if isinstance(argument, bytes) and len(argument) == size:
            return int.from_bytes(argument, "little")
        raise _mismatch(place, parameter, argument)

    return convert


def _pointer_converter(session: Session, place: str, parameter: Parameter) -> Converter:
    integer = _integer_converter(place, parameter)

    def convert(argument: Any) -> int:
        if type(argument) is DeviceArray or isinstance(argument, DeviceArray | HostArray):
            if argument.session is session:
                return argument.ptr
            raise _foreign(place, argument)
        return 0 if argument is None else int(integer(argument))

    return convert


def _float_converter(place: str, parameter: Parameter) -> Converter:
    size = parameter.size

    def convert(argument: Any) -> float:
        kind = type(argument)
        if kind is float or kind is int:
            return argument  # type: ignore[no-any-return]  # packing checks its range: Signature.refuse()
        if isinstance(argument, np.floating) and argument.itemsize == size:
            return float(argument)
        if isinstance(argument, bytes) and len(argument) == size:
            return float(np.frombuffer(argument, f"<f{size}")[0])
        raise _mismatch(place, parameter, argument)

    return convert


def _blob_converter(place: str, parameter: Parameter) -> Converter:
    def convert(argument: Any) -> bytes:
        try:
            view = memoryview(argument)
        except TypeError:
            raise _mismatch(place, parameter, argument) from None
        if isinstance(argument, HostArray) or view.nbytes != parameter.size or not view.c_contiguous:
            raise _mismatch(place, parameter, argument)
        return view.tobytes()

    return convert


def _foreign(place: str, argument: DeviceArray | HostArray) -> Exception:
    if argument.session is None:
        return TypeError(
            f"{place}: this HostArray is not in a session's memory (it is a copy); "
            "write into one made by host_empty() instead"
        )
    return ValueError(
        f"{place}: the array belongs to another session; copy it through the host: other.asarray(a.get())"
    )


def _mismatch(place: str, parameter: Parameter, argument: Any) -> TypeError:
    if isinstance(argument, np.generic):
        got = f"numpy {argument.dtype} of {argument.itemsize} bytes"
    elif isinstance(argument, DeviceArray | HostArray):
        got = f"{type(argument).__name__}, a pointer of 8 bytes"
    elif isinstance(argument, np.ndarray):
        got = (
            f"numpy array of shape {argument.shape}, out of the device's reach; use asarray() or host_array()"
        )
    elif isinstance(argument, bytes | bytearray):
        got = f"{len(argument)} bytes"
    else:
        got = type(argument).__name__
    return TypeError(f"{place}: expected {parameter}, got {got}")
