"""The table of targets is whole, and measuring it gives what it promises. Nothing here looks at a speed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import __main__ as command
from bench.row import Effort, Measured, Target, run
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


def test_every_row_belongs_to_a_bench_that_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == 0
    listed = capsys.readouterr().out
    benches = command.benches()
    assert all(name in listed for name in benches)
    of_modules = [row for name, (_, rows) in benches.items() if name != "targets" for row in rows]
    assert sorted(row.name for row in of_modules) == sorted(row.name for row in TARGETS)


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
        assert set(row) == {"name", "value", "unit", "target", "holds"}
        assert isinstance(row["value"], float | int), said.out + said.err
        assert isinstance(row["holds"], bool)
        assert row["name"] in said.out
    assert status == 0
