"""printf: every thread's texts come in its order, with the arguments it gave."""

from __future__ import annotations

import ctypes
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpudisagg.device import CompileError
from tests.device.elementwise import HEADER
from tests.device.harness import PRINT, Launch, compiler, load_file


class Printer:
    """Takes what kernels print: the format and a packed buffer."""

    def __init__(self, arguments: str) -> None:
        self.layout = struct.Struct(arguments)
        self.got: list[tuple[bytes, tuple[int | float, ...]]] = []
        self.function = PRINT(self._print)

    def _print(self, context: int, format_: int, buffer: int) -> int:
        text = ctypes.string_at(format_)
        self.got.append((text, self.layout.unpack(ctypes.string_at(buffer, self.layout.size))))
        return len(self.got[-1][1])


def run(name: str, printer: Printer, grid: int, block: int, *arguments: object) -> None:
    launch = Launch(load_file("printing.cu").kernels[name], (grid, 1, 1), (block, 1, 1), arguments)
    launch.print_to(printer.function)
    launch.run()
    launch.check_guards()


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 3), st.sampled_from([1, 5, 32, 33, 70]), st.integers(0, 200))
def test_every_thread_prints_its_own(grid: int, block: int, n: int) -> None:
    printer = Printer("<iiQd")
    run("plain", printer, grid, block, np.int32(n))
    want = min(n, grid * block)
    assert [got[1][0] for got in printer.got] == list(range(want))
    for text, (i, total, word, half) in printer.got:
        assert text == b"thread %d of %d: %s %f\n" and total == n and half == i * 0.5
        assert ctypes.string_at(word) == (b"odd" if i & 1 else b"even")


@settings(max_examples=10, deadline=None)
@given(st.sampled_from([1, 31, 32, 64, 100]), st.integers(0, 2**32 - 1))
def test_printing_among_barriers_and_warp_operations(block: int, seed: int) -> None:
    x = np.random.default_rng(seed).integers(-5, 6, block).astype(np.int32)
    out = np.zeros(block, np.int32)
    printer = Printer("<iii")
    run("meeting", printer, 1, block, x, out)
    where = np.flatnonzero(x > 0)
    assert [got[1][0] for got in printer.got] == where.tolist()
    for _, (t, value, total) in printer.got:
        warp = x[t // 32 * 32 : t // 32 * 32 + 32]
        assert value == x[t] and total == warp[warp > 0].sum()
    assert (out == 3 * len(where)).all()


def test_functions_print_too() -> None:
    out = np.zeros(6, np.int32)
    printer = Printer("<q")
    run("called", printer, 1, 6, out)
    assert [got[1][0] >> 40 for got in printer.got] == [3, 4, 5]
    np.testing.assert_array_equal(out, np.arange(1, 7))


@pytest.mark.parametrize(
    ("name", "advice"), [("cudaLaunchDeviceV2", "from the host"), ("cudaGetParameterBuffer", "from the host")]
)
def test_what_the_runtime_does_not_have_is_refused(name: str, advice: str) -> None:
    text = HEADER + f".extern .func (.param .b64 r) {name} (.param .b64 n);\n.entry k() {{\n"
    text += f".param .b64 x; .param .b64 y;\ncall (y), {name}, (x);\nret; }}"
    with pytest.raises(CompileError, match=advice) as caught:
        compiler().load(text.encode())
    assert caught.value.line == 7
