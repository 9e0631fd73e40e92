"""Arguments: checked against the kernel's parameters, packed as the device reads them, refused by name."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpudisagg import geometry
from gpudisagg.array import DeviceArray
from gpudisagg.errors import ProtocolError
from gpudisagg.params import Parameter, Signature
from transport import wire

BITS, FLOAT, BLOB = wire.PARAM_BITS, wire.PARAM_FLOAT, wire.PARAM_BLOB
SESSION: Any = SimpleNamespace(device="none")


def pack(parameters: Sequence[tuple[int, int, int]], *args: object, size: int | None = None) -> bytes:
    checked = [Parameter(*p) for p in parameters]
    whole = max((p.offset + p.size for p in checked), default=0) if size is None else size
    signature = Signature(SESSION, "f", checked, whole, 0)
    signature.check_count(len(args))
    values = [convert(arg) for convert, arg in zip(signature.converters, args, strict=True)]
    try:
        packed: bytes = signature.layout.pack(b"", *values)
    except OverflowError:
        signature.refuse(values)
    return packed


def one(size: int, kind: int, arg: object) -> bytes:
    return pack([(0, size, kind)], arg)


def array(session: Any = SESSION) -> DeviceArray:
    return DeviceArray(session, geometry.contiguous(0x123400, (4, 4), 4), np.dtype("f4"), None)


def test_a_launch_of_every_kind_lies_where_the_kernel_reads_it() -> None:
    parameters = [(0, 4, BITS), (8, 8, BITS), (16, 4, FLOAT), (24, 8, FLOAT), (32, 2, BITS), (48, 16, BLOB)]
    blob = bytes(range(16))
    packed = pack(parameters, -5, array(), 1.5, 2.25, 65535, blob, size=64)
    assert packed == struct.pack("<i4xQf4xdH14x16s", -5, 0x123400, 1.5, 2.25, 65535, blob)


@given(st.sampled_from([1, 2, 4, 8]), st.integers(-(1 << 64), 1 << 65))
def test_an_integer_fits_as_signed_or_as_unsigned_or_is_refused(size: int, value: int) -> None:
    bits = 8 * size
    if -(1 << (bits - 1)) <= value < 1 << bits:
        assert one(size, BITS, value) == (value % (1 << bits)).to_bytes(size, "little")
    else:
        with pytest.raises(OverflowError, match=r"argument 0 of f: .* does not fit"):
            one(size, BITS, value)


@given(st.sampled_from(["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "?"]), st.sampled_from([1, 2, 4, 8]))
def test_a_numpy_integer_fits_a_parameter_of_its_own_size_only(code: str, size: int) -> None:
    value = np.ones((), code)[()]
    if value.itemsize == size:
        assert one(size, BITS, value) == value.tobytes()
    else:
        with pytest.raises(TypeError, match=rf"argument 0 of f: expected {size}-byte integer.*, got numpy"):
            one(size, BITS, value)


@given(st.floats(allow_nan=False))
def test_a_float_becomes_what_the_parameter_holds_or_is_refused(value: float) -> None:
    assert one(8, FLOAT, value) == struct.pack("<d", value)
    for size, code in ((4, "f"), (2, "e")):
        try:
            wanted = struct.pack("<" + code, value)
        except OverflowError:
            with pytest.raises(OverflowError, match="does not fit a float"):
                one(size, FLOAT, value)
        else:
            assert one(size, FLOAT, value) == wanted


def test_a_python_int_is_a_float_where_the_kernel_takes_one() -> None:
    assert one(4, FLOAT, 2) == struct.pack("<f", 2.0)


def test_a_numpy_float_fits_a_parameter_of_its_own_size_only() -> None:
    for code in ("f2", "f4", "f8"):
        value = np.array(1.5, code)[()]
        assert one(value.itemsize, FLOAT, value) == value.tobytes()
    with pytest.raises(TypeError, match="expected float32, got numpy float64 of 8 bytes"):
        one(4, FLOAT, np.asarray(1.5, "f8")[()].astype("f8"))


@pytest.mark.parametrize(
    ("size", "kind", "argument", "got"),
    [
        (4, BITS, 1.0, "expected 4-byte integer, got float"),
        (4, BITS, np.float32(1), "expected 4-byte integer, got numpy float32"),
        (4, FLOAT, np.int32(1), "expected float32, got numpy int32"),
        (4, FLOAT, True, "expected float32, got bool"),
        (4, FLOAT, None, "expected float32, got NoneType"),
        (4, BITS, None, "expected 4-byte integer, got NoneType"),
        (8, BITS, "x", "expected 8-byte integer or pointer, got str"),
        (8, BITS, np.zeros(3), r"got numpy array of shape \(3,\), out of the device's reach; use asarray"),
        (4, BITS, b"123", "expected 4-byte integer, got 3 bytes"),
        (16, BLOB, b"123", "expected 16-byte aggregate, got 3 bytes"),
        (16, BLOB, 1, "expected 16-byte aggregate, got int"),
        (8, FLOAT, 1j, "expected float64, got complex"),
    ],
)
def test_the_wrong_kind_is_refused_with_place_expectation_and_what_came(
    size: int, kind: int, argument: object, got: str
) -> None:
    with pytest.raises(TypeError, match="argument 0 of f: .*" + got):
        one(size, kind, argument)


def test_an_array_is_a_pointer_and_nothing_else() -> None:
    assert one(8, BITS, array()) == (0x123400).to_bytes(8, "little")
    for size, kind in ((4, BITS), (8, FLOAT), (16, BLOB)):
        with pytest.raises(TypeError, match=r"DeviceArray, a pointer|got DeviceArray"):
            one(size, kind, array())


def test_a_view_points_at_its_first_element() -> None:
    assert one(8, BITS, array()[::-1, 2]) == (0x123400 + 3 * 16 + 8).to_bytes(8, "little")


def test_none_is_the_null_pointer() -> None:
    assert one(8, BITS, None) == bytes(8)


def test_an_array_of_another_session_is_refused() -> None:
    with pytest.raises(ValueError, match=r"argument 0 of f: the array belongs to another session"):
        one(8, BITS, array(SimpleNamespace()))


class Point(ctypes.Structure):
    _fields_ = (("x", ctypes.c_float), ("y", ctypes.c_float), ("i", ctypes.c_int32), ("j", ctypes.c_int32))


def test_anything_of_the_right_size_is_an_aggregate() -> None:
    record = np.zeros((), [("x", "f4"), ("y", "f4"), ("i", "i4"), ("j", "i4")])
    record["y"], record["j"] = 2.5, 7
    wanted = struct.pack("<ffii", 0, 2.5, 0, 7)
    for argument in (wanted, bytearray(wanted), record[()], Point(0, 2.5, 0, 7), np.frombuffer(wanted, "f4")):
        assert one(16, BLOB, argument) == wanted
    assert one(16, BLOB, np.complex128(1 + 2j)) == struct.pack("<dd", 1, 2)
    assert one(2, BLOB, np.float16(1.5)) == struct.pack("<e", 1.5)


def test_bytes_of_the_right_length_fit_anywhere_as_they_are() -> None:
    assert one(4, BITS, b"\x01\x02\x03\x04") == b"\x01\x02\x03\x04"
    assert one(4, FLOAT, struct.pack("<f", 2.5)) == struct.pack("<f", 2.5)


def test_too_few_or_too_many_are_refused_with_what_the_kernel_takes() -> None:
    parameters = [(0, 4, BITS), (8, 8, BITS)]
    for args in ((), (1,), (1, None, 3)):
        with pytest.raises(
            TypeError, match=rf"f takes 2 arguments, {len(args)} given; it takes: 4-byte integer, 8-byte"
        ):
            pack(parameters, *args)


@pytest.mark.parametrize(
    ("parameters", "size"),
    [
        ([(0, 8, BITS), (4, 8, BITS)], 16),
        ([(0, 8, BITS)], 4),
        ([(0, 0, BITS)], 0),
        ([(0, 8, BITS)], 5000),
        ([(8, 4, BITS), (0, 4, BITS)], 12),
    ],
)
def test_a_server_that_describes_an_impossible_kernel_is_not_believed(
    parameters: list[tuple[int, int, int]], size: int
) -> None:
    with pytest.raises(ProtocolError):
        Signature(SESSION, "f", [Parameter(*p) for p in parameters], size, 0)
