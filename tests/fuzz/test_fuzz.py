"""The fuzz targets, for a few seconds each: the corpus, then mutations of it, guided by what they reach.

`make fuzz` runs them for longer; GPUDISAGG_FUZZ_SECONDS says how long each target takes here.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fuzz import fuzzing

SECONDS = float(os.environ.get("GPUDISAGG_FUZZ_SECONDS", "8"))
MISSING = {toolchain: fuzzing.missing(toolchain) for toolchain in ("gcc", "clang")}
TOOLCHAINS = [
    pytest.param(name, marks=pytest.mark.skipif(why is not None, reason=why or ""))
    for name, why in MISSING.items()
]
USABLE = [name for name, why in MISSING.items() if why is None]


@pytest.mark.parametrize("toolchain", TOOLCHAINS)
@pytest.mark.parametrize("name", fuzzing.TARGETS)
@pytest.mark.timeout(SECONDS + 400)
def test_no_input_breaks_the_invariant(name: str, toolchain: str, tmp_path: Path) -> None:
    target = fuzzing.TARGETS[name]
    binary = fuzzing.build(name, toolchain, tmp_path / "built")
    seconds = SECONDS / len(USABLE)
    seeds = fuzzing.CORPUS / name
    assert any(seeds.iterdir())
    done = fuzzing.fuzz(binary, tmp_path / "found", seeds, seconds, 1, target.max_len)
    assert done.returncode == 0, fuzzing.explain(done, tmp_path)


# ---------------------------------------------------------------- the driver for gcc is a fuzzer

PLANTED = """
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>
int planted(const uint8_t *data, size_t size);
int planted(const uint8_t *data, size_t size)
{
  static void *volatile hidden;
  static volatile uint32_t turns;
  if (size > 4 && data[0] == 'w')
    if (data[1] == 'o' && data[2] != 'x')
      if (data[2] == 'r')
        if (data[3] == 'd')
          FAULT
  return hidden != NULL && turns;
}
"""
TARGET = """
#include "fuzz.h"
int planted(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) { return planted(data, size) & 0; }
"""
# What is planted behind four bytes that no blind search finds, and what the driver calls it.
FAULTS = {
    "an over-read": ("turns += data[size];", "crash", "heap-buffer-overflow"),
    "an overflow": (
        "{ volatile int most = 0x7fffffff; most += data[4]; }",
        "crash",
        "signed integer overflow",
    ),
    "a wild pointer": ("*(volatile char *)(uintptr_t)(4096 + data[4]) = 1;", "crash", "SEGV"),
    "an abort": ("abort();", "crash", "signal 6"),
    "an exit": ("exit(0);", "crash", "the target ended the process"),
    "a hang": ("while (*(volatile const uint8_t *)data) turns++;", "timeout", "an input ran for 2 s"),
    "a leak": ("{ hidden = malloc(7); hidden = NULL; }", "crash", "detected memory leaks"),
}


@pytest.mark.skipif(MISSING["gcc"] is not None, reason=MISSING["gcc"] or "")
@pytest.mark.parametrize("fault", FAULTS)
def test_the_driver_finds_what_is_planted_and_keeps_the_input(fault: str, tmp_path: Path) -> None:
    code, kind, words = FAULTS[fault]
    source, target = tmp_path / "planted.c", tmp_path / "target.c"
    source.write_text(PLANTED.replace("FAULT", code))
    target.write_text(TARGET)
    binary = fuzzing.build_file(target, (source,), "gcc", tmp_path / "built")
    done = fuzzing.fuzz(binary, tmp_path / "found", None, 20, 1, 16, timeout=2)
    assert done.returncode != 0, done.stderr
    assert words in done.stderr
    (artifact,) = tmp_path.glob(f"{kind}-*")
    if fault != "a leak":  # that is noticed now and then, so it was one of many inputs
        assert artifact.read_bytes()[:4] == b"word"
        assert fuzzing.replay(binary, [artifact], timeout=2).returncode != 0


@pytest.mark.skipif(MISSING["gcc"] is not None, reason=MISSING["gcc"] or "")
def test_merging_keeps_the_shortest_inputs_that_reach_everything(tmp_path: Path) -> None:
    source, target, corpus = tmp_path / "planted.c", tmp_path / "target.c", tmp_path / "corpus"
    source.write_text(PLANTED.replace("FAULT", "turns++;"))
    target.write_text(TARGET)
    corpus.mkdir()
    inputs = [b"", b"other", b"wword", b"wo...", b"wo..........", b"word.", b"word....", b"worse"]
    for number, data in enumerate(inputs):
        (corpus / str(number)).write_bytes(data)
    binary = fuzzing.build_file(target, (source,), "gcc", tmp_path / "built")
    done = fuzzing.merge(binary, tmp_path / "merged", [corpus])
    assert done.returncode == 0, done.stderr
    kept = {path.read_bytes() for path in (tmp_path / "merged").iterdir()}
    assert kept == {b"", b"other", b"wword", b"wo...", b"worse", b"word."}
