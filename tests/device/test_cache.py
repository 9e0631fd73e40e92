"""Code is compiled once; damaged or foreign cache entries are ignored; variables always start fresh."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpudisagg.device.cache import DiskCache
from gpudisagg.device.cpu import compiler as compiler_module
from gpudisagg.device.cpu.compiler import CpuCompiler
from tests.device.elementwise import HEADER
from tests.device.harness import launch

COUNTER = (
    HEADER
    + """
.global .u32 count = 5;
.entry bump(.param .u64 out) {
  .reg .b32 %r<3>; .reg .b64 %rd<2>;
  ld.param.u64 %rd1, [out];
  ld.global.u32 %r1, [count]; add.u32 %r2, %r1, 1; st.global.u32 [count], %r2; st.global.u32 [%rd1], %r1;
  ret;
}"""
).encode()


def bump(module: compiler_module.LoadedModule) -> int:
    out = np.zeros(1, np.uint32)
    launch(module.kernels["bump"], 1, 1, out)
    return int(out[0])


@pytest.fixture
def fail_on_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("compiled although it was cached")

    monkeypatch.setattr(CpuCompiler, "_compile", refuse)


def test_each_load_has_its_own_variables(tmp_path: Path) -> None:
    compiler = CpuCompiler(tmp_path)
    first, second = compiler.load(COUNTER), compiler.load(COUNTER)
    assert [bump(first), bump(first), bump(second)] == [5, 6, 5]
    assert first.globals["count"].address != second.globals["count"].address
    first.close()
    assert bump(second) == 6


def test_modules_without_variables_share_code(tmp_path: Path) -> None:
    compiler = CpuCompiler(tmp_path)
    text = (HEADER + ".entry k() { ret; }").encode()
    first, second = compiler.load(text), compiler.load(text)
    assert first.kernels["k"].entry == second.kernels["k"].entry
    first.close()
    first.close()
    launch(second.kernels["k"], 1, 1)


def test_another_process_finds_the_code(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    CpuCompiler(tmp_path).load(COUNTER)
    request.getfixturevalue("fail_on_compile")
    assert bump(CpuCompiler(tmp_path).load(COUNTER)) == 5


def test_the_cache_is_private(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "b"
    CpuCompiler(directory).load(COUNTER)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert [path.suffix for path in directory.iterdir()] == [".code"]


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "magic"])
def test_damaged_entries_are_replaced(tmp_path: Path, damage: str) -> None:
    CpuCompiler(tmp_path).load(COUNTER)
    (entry,) = tmp_path.iterdir()
    good = entry.read_bytes()
    bad = {
        "truncate": good[:-1],
        "flip": good[:-9] + bytes([good[-9] ^ 1]) + good[-8:],
        "empty": b"",
        "magic": b"x" + good[1:],
    }[damage]
    entry.write_bytes(bad)
    assert bump(CpuCompiler(tmp_path).load(COUNTER)) == 5
    assert len(entry.read_bytes()) == len(good)


def test_an_unwritable_directory_costs_only_the_caching(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    assert bump(CpuCompiler(blocker / "cache").load(COUNTER)) == 5


def test_options_and_content_are_part_of_the_key(tmp_path: Path) -> None:
    compiler = CpuCompiler(tmp_path)
    source = b"__global__ void k(int *x) { *x = V; }"
    for value in (1, 2):
        out = np.zeros(1, np.int32)
        launch(compiler.load(source, options=(f"-DV={value}",)).kernels["k"], 1, 1, out)
        assert out[0] == value


def test_the_oldest_entries_go_first(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, limit=3000)
    for index in range(4):
        cache.put(f"k{index}", {}, bytes(800))
        os.utime(tmp_path / f"k{index}.code", (index, index))
    cache.put("new", {}, bytes(800))
    assert cache.get("k0") is None and cache.get("k1") is None
    assert cache.get("new") == ({}, bytes(800))


def test_an_entry_over_the_limit_is_not_stored(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, limit=100)
    cache.put("big", {}, bytes(800))
    assert cache.get("big") is None


@given(st.binary(max_size=300))
def test_any_bytes_are_a_miss(data: bytes) -> None:
    from gpudisagg.device.cache import _decode

    assert _decode(data) is None
