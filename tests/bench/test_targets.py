"""The table of targets is whole, and measuring it gives what it promises. Nothing here looks at a speed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import __main__ as command
from bench.row import Effort, Measured, NotHere, Target, run
from bench.targets import TARGETS

# What the project has promised so far. A target may be added; one that is dropped or loosened fails here.
PROMISED = {
    "C, 64-byte command and reply, two processes, peer-death detection on": "≤ 1.15",
    "Python transport round trip, C echo server": "≤ 1.5",
    "Python: post a launch of an empty kernel (no wait)": "≤ 1.5",
    "Python: launch an empty kernel and synchronise": "≤ 3",
    "alloc + free of 1 MiB after warm-up": "0",
    "numpy → device, warm, 64 MiB": "≥ 0.9",
    "numpy → device, warm, 1 GiB": "≥ 0.9",
    "HostArray as kernel argument": "0",
    "session open to first result, warm worker, cached kernel": "≤ 5",
    "idle session, both sides": "0",
    "client killed, its worker free": "≤ 1",
    "client killed in an endless kernel, its worker's place free": "≤ 1",
    "worker killed, its client told": "≤ 1",
    "shm: C, 64-byte round trip with peer-death detection": "≤ 1.1",
    "shm: C, 64-byte round trip with peer-death detection, and UCX's without": "≤ 1",
    "shm: one-way 64 B from C": "≥ 1",
    "shm: Python round trip, and UCXX's": "≥ 6",
    "shm: Python round trip, and NIXL's without error handling": "≥ 6",
    "shm: Python round trip, and gRPC streaming's": "≥ 300",
    "shm: bulk of 64 MiB from numpy, warm": "≥ 0.95",
    "shm: bulk of 64 MiB from numpy, warm, and UCX put": "≥ 1.4",
    "shm: bulk of 64 MiB from numpy, warm, and NIXL without error handling": "≥ 1.4",
    "shm: first transfer into a pooled buffer, 64 MiB": "≥ 0.9",
    "tcp: bulk of 64 MiB on the loopback": "≥ 0.95",
    "tcp: bulk of 64 MiB on the loopback, and UCX over tcp": "≥ 1",
    "tcp: C, 64-byte round trip": "≤ 1.2",
    "tcp: C, 64-byte round trip, and UCX's over tcp": "≤ 1",
    "verbs: upload of 1 MiB, several at once": "≥ 0.9",
    "verbs: download of 1 MiB, several at once": "≥ 0.9",
    "tcp: 1,000 launches and one synchronise at 1 ms emulated round trip, "
    "beyond what they take without": "≤ 1.1",
    "shm: C, 64-byte round trip in which both sides sleep": "≤ 1.15",
    "cpu device: saxpy, 16M": "≥ 1",
    "cpu device: softmax, 1024²": "≥ 1",
    "cpu device: histogram, 16 MiB": "≥ 1",
    "cpu device: tiled matmul, 1024": "≥ 1",
    "cpu device: stencil, 4096²": "≥ 1",
    "cpu device: batched 3 × 3 convolution": "≥ 1",
    "cpu device: shuffle reduction, 16M": "≤ 4",
    "cpu device: launch of an empty kernel": "≤ 2",
    "cpu device: translation and JIT, median kernel": "≤ 80",
    "cpu device: the same from the cache": "≤ 1",
    "cpu device: growth by 10,000 loads and unloads": "≤ 1",
}


def test_every_promised_target_has_a_row_as_strict_as_promised() -> None:
    rows = {target.name: target.target for target in TARGETS}
    assert PROMISED.items() <= rows.items()
    assert len(rows) == len(TARGETS), "two rows of one name"


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_holds_is_what_the_target_says(target: Target) -> None:
    bound = float(target.target.strip("≤≥ "))
    assert target.holds(bound)
    worse = bound - 0.2 if target.target.startswith("≥") else bound + 0.2
    better = bound + 0.2 if target.target.startswith("≥") else bound - 0.2
    assert not target.holds(worse)
    assert target.holds(better)


def test_a_row_that_fails_is_a_result_that_does_not_hold_and_says_why(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(_effort: Effort) -> Measured:
        raise RuntimeError("no such machine")

    result = run(Target("a row", "µs", "≤ 1", broken, lambda value: value <= 1), Effort.smoke())
    assert result.value is None
    assert result.holds is False
    assert "no such machine" in result.note
    assert "no such machine" in capsys.readouterr().err


def test_a_row_whose_rival_is_not_here_says_so_and_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(_effort: Effort) -> Measured:
        raise NotHere("Rival is not installed: pip install rival")

    row = Target("a row", "× Rival's", "≤ 1", absent, lambda value: value <= 1)
    result = run(row, Effort.smoke())
    assert result.verdict == "n/a"
    assert result.as_json()["note"] == "n/a: Rival is not installed: pip install rival"
    assert "pip install rival" in result.as_markdown()
    monkeypatch.setattr(command, "benches", lambda: {"targets": ("one row", (row,))})
    assert command.main(["targets"]) == 0
    said = capsys.readouterr()
    assert "0 of 0 targets hold (1 more cannot be measured here)" in said.out
    assert "Traceback" not in said.err


def test_every_row_belongs_to_a_bench_that_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == 0
    listed = capsys.readouterr().out
    benches = command.benches()
    assert all(name in listed for name in benches)
    beside = ("targets", "typical")  # of what is in typical, no target was ever promised
    of_modules = [row for name, (_, rows) in benches.items() if name not in beside for row in rows]
    assert sorted(row.name for row in of_modules) == sorted(row.name for row in TARGETS)


@pytest.mark.timeout(600)  # two processes that spin, on cores that other tests need
def test_all_rows_run_and_the_file_has_the_promised_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "Effort", Effort.smoke)
    path = tmp_path / "targets.json"
    status = command.main(["targets", "--json", str(path)])
    written = json.loads(path.read_text(encoding="utf-8"))
    said = capsys.readouterr()
    assert [row["name"] for row in written] == [target.name for target in TARGETS]
    for row in written:
        absent = {"note"} if row["value"] is None else set()
        assert set(row) == {"name", "value", "unit", "target", "holds"} | absent
        if absent:  # only for want of what it is compared with, and said in words
            assert row["note"].startswith("n/a: "), said.out + said.err
            assert row["holds"] is False
        else:
            assert isinstance(row["value"], float | int)
        assert isinstance(row["holds"], bool)
        assert row["name"] in said.out
    assert status == 0
