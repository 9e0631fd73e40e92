"""What an image is, by its content, and PTX out of fat binaries."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from enum import Enum

from gpudisagg.device.errors import CompileError
from gpudisagg.device.zstd import decompress

_FATBIN_MAGIC = 0xBA55ED50
_HEADER = struct.Struct("<IHHQ")
# kind, version, header size, payload size, compressed size, options, minor, major, arch, name offset and
# size, flags
_ENTRY = struct.Struct("<HHIQIIHHIIIQQQ")
_KIND_PTX = 1
_LZ4, _ZSTD = 0x2000, 0x8000
_LARGEST = 256 << 20
_BLANK = re.compile(rb"(?:\s+|//[^\n]*\n?|/\*.*?\*/)*", re.DOTALL)


class ImageKind(Enum):
    """The forms device code comes in."""

    CUDA = "CUDA C++"
    PTX = "PTX"
    FATBIN = "fatbin"
    CUBIN = "cubin"


def classify(image: bytes) -> ImageKind:
    """Tell the forms apart; text that isn't PTX is taken for CUDA C++."""
    if image[:4] == b"\x7fELF":
        return ImageKind.CUBIN
    if image[:4] == struct.pack("<I", _FATBIN_MAGIC):
        return ImageKind.FATBIN
    blank = _BLANK.match(image)
    start = blank.end() if blank is not None else 0
    return ImageKind.PTX if image.startswith(b".version", start) else ImageKind.CUDA


def extract_ptx(image: bytes) -> bytes:
    """The PTX in a fatbin, or in those of an ELF file's `.nv_fatbin` section (a module for each file it was
    made of); the newest architecture's wins.
    """
    if classify(image) is ImageKind.CUBIN:
        magic = struct.pack("<I", _FATBIN_MAGIC)
        start = image.find(magic)
        if start < 0:
            raise CompileError(
                "the cubin has machine code for a GPU (SASS) only, which can't run on a CPU: "
                "pass PTX or CUDA C++, or build with -gencode arch=compute_80,code=compute_80"
            )
        found: list[bytes] = []
        while image[start : start + 4] == magic:
            size = _size(image[start:])
            text = _newest(image[start : start + size])
            if text is not None and text not in found:
                found.append(text)
            start += -(-size // 8) * 8
        if found:
            return b"\n".join(found)
    text = None if classify(image) is ImageKind.CUBIN else _newest(image)
    if text is None:
        raise CompileError(
            "the fatbin has no PTX, only machine code for GPUs (SASS), which can't run on a CPU: "
            "build with -gencode arch=compute_80,code=compute_80"
        )
    return text


def _newest(image: bytes) -> bytes | None:
    best: tuple[int, bytes] | None = None
    for arch, text in _ptx_entries(image):
        if best is None or arch >= best[0]:
            best = (arch, text)
    return None if best is None else best[1]


def _size(image: bytes) -> int:
    """Of the fatbin at the beginning."""
    if len(image) < _HEADER.size:
        raise CompileError("truncated fatbin")
    _, _, header_size, size = _HEADER.unpack_from(image)
    if header_size < _HEADER.size or header_size + size > len(image):
        raise CompileError("truncated fatbin")
    return int(header_size + size)


def _ptx_entries(image: bytes) -> Iterator[tuple[int, bytes]]:
    end = _size(image)
    position = int(_HEADER.unpack_from(image)[2])
    while position + _ENTRY.size <= end:
        fields = _ENTRY.unpack_from(image, position)
        kind, entry_header, payload, stored = fields[0], fields[2], fields[3], fields[4]
        arch, flags, unpacked = fields[8], fields[11], fields[13]
        start = position + entry_header
        if entry_header < _ENTRY.size or start + payload > end:
            raise CompileError("malformed fatbin")
        if kind == _KIND_PTX:
            data = image[start : start + payload]
            if flags & (_ZSTD | _LZ4):
                if unpacked > _LARGEST:
                    raise CompileError("malformed fatbin")
                data = data[:stored] if stored else data
                data = zstd_frame(data, unpacked) if flags & _ZSTD else lz4_block(data, unpacked)
            yield arch, data.rstrip(b"\0")
        position = start + payload


def zstd_frame(data: bytes, size: int) -> bytes:
    """Decompress a zstd frame of known size."""
    try:
        return decompress(data, size)
    except ValueError as error:
        raise CompileError(f"malformed fatbin: {error}") from None


def lz4_block(data: bytes, size: int) -> bytes:
    """Decompress an LZ4 block of known size."""
    if size > _LARGEST:
        raise CompileError("malformed fatbin")
    out = bytearray()
    position = 0
    try:
        while position < len(data):
            token = data[position]
            position += 1
            literals = token >> 4
            if literals == 15:
                position, literals = _lz4_length(data, position, literals)
            if position + literals > len(data):
                raise CompileError("malformed fatbin: LZ4 literals run out")
            out += data[position : position + literals]
            position += literals
            if position >= len(data) or len(out) >= size:
                break
            offset = data[position] | data[position + 1] << 8
            position += 2
            length = token & 15
            if length == 15:
                position, length = _lz4_length(data, position, length)
            length += 4
            if offset == 0 or offset > len(out) or len(out) + length > size:
                raise CompileError("malformed fatbin: bad LZ4 match")
            for _ in range(length):
                out.append(out[-offset])
    except IndexError:
        raise CompileError("malformed fatbin: LZ4 data run out") from None
    if len(out) != size:
        raise CompileError("malformed fatbin: wrong LZ4 size")
    return bytes(out)


def _lz4_length(data: bytes, position: int, length: int) -> tuple[int, int]:
    while True:
        more = data[position]
        position += 1
        length += more
        if more != 255:
            return position, length
