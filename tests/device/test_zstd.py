"""Zstandard frames, against the C library where there is one."""

from __future__ import annotations

import base64
import ctypes
import ctypes.util
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpudisagg.device.zstd import decompress

_NAME = ctypes.util.find_library("zstd")
needs_library = pytest.mark.skipif(_NAME is None, reason="the zstd library isn't installed")


def compress(data: bytes, level: int) -> bytes:
    library = ctypes.CDLL(_NAME)
    library.ZSTD_compressBound.restype = library.ZSTD_compress.restype = ctypes.c_size_t
    library.ZSTD_compressBound.argtypes = [ctypes.c_size_t]
    library.ZSTD_compress.argtypes = [
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_int,
    ]
    room = library.ZSTD_compressBound(len(data))
    buffer = ctypes.create_string_buffer(room)
    size = library.ZSTD_compress(buffer, room, data, len(data), level)
    assert size <= room
    return buffer.raw[:size]


def text(seed: int, words: int) -> bytes:
    """Something like PTX: few words, numbers, repetition."""
    source = random.Random(seed)
    names = ["ld.global.f32", "st.global.f32", "add.s64", "%rd", "%f", "mad.lo.s32", "bra", "\n", ", ", ";"]
    return "".join(source.choice(names) + str(source.randrange(50)) for _ in range(words)).encode()


contents = st.one_of(
    st.binary(max_size=2000),
    st.builds(lambda b, n: b * n, st.binary(max_size=40), st.integers(0, 500)),
    st.builds(text, st.integers(0, 1000), st.integers(0, 3000)),
)


@needs_library
@settings(max_examples=80, deadline=None)
@given(contents, st.sampled_from([-5, 1, 3, 9, 19, 22]))
def test_what_the_library_compresses(data: bytes, level: int) -> None:
    assert decompress(compress(data, level), len(data)) == data


@needs_library
@pytest.mark.parametrize("level", [1, 3, 19])
def test_frames_of_several_blocks(level: int) -> None:
    data = text(level, 60_000) + random.Random(level).randbytes(150_000) + bytes(300_000)
    assert decompress(compress(data, level), len(data)) == data


@needs_library
@settings(max_examples=300, deadline=None)
@given(st.integers(0, 50), st.data())
def test_damaged_frames_are_refused_or_read_but_nothing_else(seed: int, data: st.DataObject) -> None:
    original = text(seed, 300)
    frame = bytearray(compress(original, 19))
    for _ in range(data.draw(st.integers(0, 3))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    cut = frame[: data.draw(st.integers(0, len(frame)))]
    try:
        assert len(decompress(bytes(cut), len(original))) == len(original)
    except ValueError as error:
        assert str(error).startswith("zstd: ")


def test_a_frame_from_a_file() -> None:
    assert decompress(base64.b64decode(FRAME), len(CONTENT)) == CONTENT


CONTENT = b"".join(b"ld.global.f32 %%f%d, [%%rd%d+%d];\n" % (i, i % 7, 4 * i) for i in range(60))
FRAME = """
KLUv/WBaBi0JAFaULheAK2kOoLWYFGIGi9CoiQiRvck7k4p+AjEAJAAjAJ3ohWQbdnT4XSmCSjMpq2wSdc4cW+IDFBwIReFBwCBg
QBYEAjoLBA0ICQ4NDAQKDQFPZ2Wej6ecTBMyy+SqDWrH9K6lu3JSE+OK+0xMZovVVnRrPgo3p8QskZgP2ZSSTZtsllBNGjXnaFbQ
3GhKzTSamTXTSZ3OCQAFBzbljCl7LRctxVpaXRbVJU1JOS0pe0m51JgyxrS7WeImWXaoEfBw4vufAdAbxQERmAVSeETI5QMQFeKq
SooplikLu7Vqa6uaLKYsk3hu2txceUyxTIUd4Vu0qaFmBfX12R4/jBrnmCr8GIm7ie3lafmUXQns867sZN1IpInnypoMm/XYPwo2
AJIq
"""
