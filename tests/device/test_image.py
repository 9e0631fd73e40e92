"""Images are told apart by content, and PTX is found in fat binaries; damaged ones are refused."""

from __future__ import annotations

import base64
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpudisagg.device import CompileError
from gpudisagg.device.image import ImageKind, classify, extract_ptx, lz4_block
from tests.device.elementwise import HEADER
from tests.device.harness import compiler, launch

PTX = (HEADER + ".entry k() { ret; }").encode()


def entry(
    payload: bytes, *, kind: int = 1, arch: int = 80, flags: int = 0, stored: int = 0, size: int = 0
) -> bytes:
    head = struct.pack(
        "<HHIQIIHHIIIQQQ", kind, 0, 72, len(payload), stored, 0, 0, 8, arch, 0, 0, flags, 0, size
    )
    return head + bytes(72 - len(head)) + payload


def fatbin(*entries: bytes) -> bytes:
    body = b"".join(entries)
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


def test_kinds() -> None:
    assert classify(PTX) is ImageKind.PTX
    assert classify(b"// comment\n/* another */\n" + PTX) is ImageKind.PTX
    assert classify(b"__global__ void k() {}") is ImageKind.CUDA
    assert classify(b"") is ImageKind.CUDA
    assert classify(fatbin()) is ImageKind.FATBIN
    assert classify(b"\x7fELF...") is ImageKind.CUBIN


def test_the_newest_ptx_is_taken() -> None:
    image = fatbin(entry(b"old", arch=70), entry(b"machine code", kind=2), entry(PTX, arch=80))
    assert extract_ptx(image) == PTX
    assert "k" in compiler().load(image).kernels


def test_ptx_embedded_in_an_executable() -> None:
    assert extract_ptx(b"\x7fELF" + bytes(60) + fatbin(entry(PTX)) + bytes(10)) == PTX


def test_compressed_ptx() -> None:
    # One literal run, then a match that overlaps itself: "abc" and 9 bytes more at distance 3.
    packed = bytes([0x35]) + b"abc" + bytes([3, 0])
    assert lz4_block(packed, 12) == b"abcabcabcabc"
    image = fatbin(entry(packed, flags=0x2000, stored=len(packed), size=12))
    assert extract_ptx(image) == b"abcabcabcabc"
    with pytest.raises(CompileError, match="zstd"):
        extract_ptx(fatbin(entry(b"x", flags=0x8000)))


# nvcc 13 -fatbin -gencode arch=compute_80,code=compute_80 of the kernel below, compressed with zstd and LZ4.
# extern "C" __global__ void scale(float *x, float a, int n) {
#   int i = blockIdx.x * blockDim.x + threadIdx.x; if (i < n) x[i] *= a; }
ZSTD = """\
UO1VugEAEACwAQAAAAAAAAEAAQFQAAAAYAEAAAAAAABgAQAAQAAAAAAACQBQAAAAAAAAAAAAAAARgAAAAAAAAAAAAAAAAAAAnAIA
AAAAAABIAAAAAAAAAAAAAAAAAAAAKLUv/WCcAbUKAIaROCMwa6wD2DYLIwRogQyhS8U908AkyymAZL8S/UtVl4sGBioMWS4ALgAv
ALChxBeQEzLoMnR1SF45m4c+bVnZ8NBHqewYIT8heBDdKp2GlZ9wwTqih7Z88ANukbDIiq3i/O8SCCa22rYsTDeNaSiXYIykNsqW
eB3ZfIcPnE2LKQ0kea8tEy8UivcQAhZ2s0tSB3dMkg5LVdI7RCOLcjQ5QrUIojrUIm2B4wMrQy2iPCLobsFYTysA/8Pvquwb/E6p
9G411EJplGOEd02JHR8FnhN0tyKbsImmw1FlWB+M37GXKAI0KHACkYSmAxAwRpW0MMMBMUAugDSo1RpA04AEpnapCIYMLwNIUVjI
wzDgysmpd0zVrRZmghRCMrNRZ/uriW0JG4kky6KhDw+jkMUiYhiAGDjQ4hOZgRhYfzW7iyCCmADWoynXZ2/nwBEFLL3JkYJWQg=="""
LZ4 = """\
UO1VugEAEAAQAgAAAAAAAAEAAQFQAAAAwAEAAAAAAAC9AQAAQAAAAAAACQBQAAAAAAAAAAAAAAARIAAAAAAAAAAAAAAAAAAAnAIA
AAAAAABIAAAAAAAAAAAAAAAAAAAAEwoBAPAcLnZlcnNpb24gOS4wCi50YXJnZXQgc21fODAKLmFkZHJlc3Nfc2l6ZSA2NDEA8hMu
dmlzaWJsZSAuZW50cnkgc2NhbGUoCi5wYXJhbSAudTY0EwARXxEANV8wLBsAOWYzMhsAFjEbABt1GwDzCDIKKQp7Ci5yZWcgLnBy
ZWQgJXA8Mj47EgAASQBFJWY8NBEAEGIRADZyPDYRAPIANjQgJXJkPDU+OwoKCmxkgwABnQB4JXJkMSwgW4kANjBdOyQAAl0ADCMA
GDEjAACuADslcjIjAHMyXTsKbW92HgC4MywgJWN0YWlkLngXAGw0LCAlbnQWAEQ1LCAlFQBxYWQubG8uc2MAIzEsSgABOACycjU7
CnNldHAuZ2UgABFwIAABBQD0FzI7CkAlcDEgYnJhICRMX19CQjBfMjsKCmN2dGEudG8uZ2xvYmFsAQEQMjMAs2QxOwptdWwud2lk
UAAzcmQzUQCCNDsKYWRkLnNHAQF9AAM1ABEzCAEDTwACLAEACQFSJXJkNF1QAAIVAABKAAAaAHglZjE7CnN0MgACLQAAGwBFMzsK
Cq4AwDoKcmV0OwoKfQoKAAAAAA=="""


@pytest.mark.parametrize("image", [ZSTD, LZ4], ids=["zstd", "lz4"])
def test_what_nvcc_makes(image: str) -> None:
    x = np.arange(100, dtype=np.float32)
    module = compiler().load(base64.b64decode(image))
    try:
        launch(module.kernels["scale"], 4, 32, x, np.float32(3), np.int32(90))
    finally:
        module.close()
    t = np.arange(100, dtype=np.float32)
    np.testing.assert_array_equal(x, np.where(t < 90, 3 * t, t))


def test_no_ptx_is_said() -> None:
    with pytest.raises(CompileError, match="SASS"):
        extract_ptx(fatbin(entry(b"machine code", kind=2)))


@given(st.binary(max_size=120))
def test_any_fatbin_ends_in_a_result_or_an_error(tail: bytes) -> None:
    for image in (
        struct.pack("<I", 0xBA55ED50) + tail,
        fatbin(tail),
        fatbin(entry(tail, flags=0x2000, size=64)),
        fatbin(entry(tail, flags=0x8000, size=64)),
    ):
        try:
            assert isinstance(extract_ptx(image), bytes)
        except CompileError:
            continue
