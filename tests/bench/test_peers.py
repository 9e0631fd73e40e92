"""The comparison with peers: who is measured, that wrong bytes are noticed, each peer at its smallest."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import __main__ as command
from bench import comparison, peers, plot, verbs
from bench.peers import end, program, ucx
from bench.peers.pair import RoundTrips
from bench.row import NotHere

OWN = [kind for kind in peers.KINDS if not kind.package]
FOREIGN = [kind for kind in peers.KINDS if kind.package]


def test_names_are_unique_and_every_foreign_peer_says_how_to_get_it() -> None:
    names = [kind.name for kind in peers.KINDS]
    assert len(set(names)) == len(names)
    assert all(kind.install for kind in FOREIGN)
    assert {kind.role for kind in OWN} == {"ours", "floor"}


@pytest.mark.parametrize("kind", peers.KINDS, ids=lambda kind: kind.name)
def test_a_peer_measures_what_it_says_with_real_processes_and_checked_bytes(kind: peers.Kind) -> None:
    missing = kind.missing()
    if missing is not None:
        pytest.skip(missing)
    pair = kind.open(largest=1 << 20)
    try:
        if peers.MESSAGES in kind.does:
            trip = pair.round_trips(50)
            assert 0 < trip.p50 <= trip.p99
            assert trip.mean > 0
        if peers.ONE_WAY in kind.does:
            assert pair.one_way(300) > 0
        if peers.BULK in kind.does:
            assert pair.bulk(64, 2) > 0
            assert pair.bulk(1 << 20, 2) > 0
    finally:
        pair.close()


def test_what_is_not_installed_is_named_with_what_to_install() -> None:
    nowhere = peers.Kind("Nothing", "nothing", package="bench_no_such_package", install="nothing-at-all")
    with pytest.raises(NotHere, match="Nothing is not installed: pip install nothing-at-all"):
        nowhere.open()


def test_an_interpreter_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotHere, match="no Python interpreter"):
        peers.kind("UCXX").open(str(tmp_path / "python"))


class Loop(end.End):
    """A peer within this process: what is sent waits in a list."""

    def __init__(self) -> None:
        super().__init__(True, "", 4096)
        self.waiting: list[bytes] = []

    def _send(self, message: bytes) -> None:
        self.waiting.append(message)

    def _receive(self) -> int:
        return self.waiting.pop(0)[0]


def test_a_message_that_is_lost_or_changed_is_an_error_and_no_figure() -> None:
    loop = Loop()
    assert len(loop.round_trips(40)) == 40
    loop.waiting.append(b"\x07" * 64)
    with pytest.raises(end.WrongBytes):
        loop.round_trips(1)
    sink = Loop()
    sink.waiting = [sink.messages[i % len(sink.messages)] for i in range(20) if i != 11]
    with pytest.raises(end.WrongBytes, match="message 11"):
        sink.sink(20)


def test_bytes_that_change_on_the_way_are_an_error_and_no_figure() -> None:
    pair = peers.Kind("Liar", "tests.bench.lying_peer", "unix").open(largest=4096)
    with pytest.raises(peers.PeerFailed, match="other bytes arrived"):
        pair.bulk(4096, 1)


def test_a_peer_that_cannot_start_is_an_error_and_not_a_hang() -> None:
    with pytest.raises(peers.PeerFailed, match="no_such_module"):
        peers.Kind("Missing", "no_such_module").open(largest=64)


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=300))
def test_percentiles_are_of_the_times(times: list[int]) -> None:
    said = program.percentiles(times)
    assert min(times) <= said["p50"] <= said["p99"] <= max(times)
    assert min(times) * (1 - 1e-9) <= said["mean"] <= max(times) * (1 + 1e-9)
    assert sum(time <= said["p50"] for time in times) * 2 >= len(times)


@given(st.floats(1, 1e9), st.floats(1e-3, 1e12))
def test_as_many_are_measured_as_fill_a_slice(slice_ns: float, each: float) -> None:
    count = comparison.enough(slice_ns, each)
    assert 3 <= count <= 10_000_000
    assert count == 3 or count * each <= slice_ns * (1 + 1e-9)


def test_the_figures_of_ucx_perftest_are_read_by_their_names() -> None:
    printed = (
        "[1] some warning, with commas\n"
        "iterations,99.0_percentile_lat,avg_lat,overall_lat,avg_bw,overall_bw,avg_mr,overall_mr\n"
        "50000,0.160,0.232,0.231,263.26,263.20,4313308,4313300\n"
    )
    (row,) = ucx.parse(printed)
    assert (row["percentile"], row["overall_lat"], row["overall_bw"], row["overall_mr"]) == (
        *(0.16, 0.231, 263.2),
        4313300,
    )
    assert ucx.parse("connection refused, sorry") == []


def test_the_bandwidth_that_perftest_prints_is_read() -> None:
    printed = (
        " #bytes     #iterations    BW peak[Gb/sec]    BW average[Gb/sec]   MsgRate[Mpps]\n"
        " 1048576    64               0.58               0.56               0.000067\n"
    )
    assert verbs.parse_perftest(printed, 1 << 20) == pytest.approx(0.56e9 / 8)
    with pytest.raises(ValueError, match="no bandwidth"):
        verbs.parse_perftest("Couldn't connect", 1 << 20)


def test_an_rdma_device_is_found_by_its_ipv4_address(tmp_path: Path) -> None:
    with pytest.raises(NotHere, match="no RDMA device"):
        verbs.find(tmp_path)
    port = tmp_path / "rxe0/ports/1"
    for folder in ("gids", "gid_attrs/types"):
        (port / folder).mkdir(parents=True)
    gids = ["fe80:0000:0000:0000:0000:0000:0000:0001", "0000:0000:0000:0000:0000:ffff:0a4d:0001"]
    for index, gid in enumerate(gids):
        (port / "gids" / str(index)).write_text(gid + "\n")
        (port / "gid_attrs/types" / str(index)).write_text("RoCE v2\n")
    assert verbs.find(tmp_path) == verbs.Device("rxe0", 1, "10.77.0.1")


def test_a_comparison_leaves_out_who_is_missing_and_goes_on(tmp_path: Path) -> None:
    absent = peers.Kind("Nothing", "nothing", package="bench_no_such_package", install="nothing-at-all")
    broken = peers.Kind("Broken", "no_such_module")
    said: list[str] = []
    result = comparison.compare(
        [peers.kind("cache lines"), absent, broken, peers.kind("unix socket")],
        comparison.Extent.smoke(),
        say=said.append,
    )
    assert [series["name"] for series in result["series"]] == ["cache lines", "unix socket"]
    assert list(result["absent"]) == ["Nothing"]
    assert list(result["failed"]) == ["Broken"]
    table = comparison.table(result)
    assert "pip install nothing-at-all" in table
    assert "unix socket" in table
    lines, sockets = result["series"]
    assert lines["round_trip"]["p50"] > 0
    assert lines["bulk"] == {}
    assert set(sockets["bulk"]) == set(comparison.Extent.smoke().sizes)


def test_peers_are_measured_and_drawn_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "some.json"
    only = "cache lines; copy by libc; gpudisagg shm; gpudisagg shm, C"
    assert command.main(["peers", "--quick", "--only", only, "--json", str(file)]) == 0
    written = json.loads(file.read_text(encoding="utf-8"))
    assert written["machine"]["cpu"]
    assert [series["role"] for series in written["series"]] == ["ours", "ours", "floor", "floor"]
    assert command.main(["plot", str(file), "--into", str(tmp_path)]) == 0
    for name in ("bandwidth", "latency", "messages"):
        picture = (tmp_path / f"some-{name}.png").read_bytes()
        assert picture.startswith(b"\x89PNG")
        assert len(picture) > 10_000
    assert "some-bandwidth.png" in capsys.readouterr().out


def test_an_emulated_link_is_under_what_goes_over_tcp(tmp_path: Path) -> None:
    file = tmp_path / "slow.json"
    arguments = ["peers", "--quick", "--only", "tcp socket", "--emulate", "rtt=50ms", "--json", str(file)]
    assert command.main(arguments) == 0
    written = json.loads(file.read_text(encoding="utf-8"))
    (series,) = written["series"]
    assert series["round_trip"]["p50"] >= 50e6
    assert "rtt=50000000ns" in plot.subtitle(written)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["peers", "--only", "no such peer"], "no peer no such peer here; there is: gpudisagg shm"),
        (["peers", "--emulate", "rtt=20"], "one of the units"),
        (["peers", "--emulate", "rtt=1ms", "--only", "UCXX"], "no peer UCXX here"),
        (["plot", "/no/such/file.json"], "No such file"),
    ],
)
def test_a_mistake_on_the_command_line_is_told(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


@given(st.integers(0, 40))
def test_sizes_and_times_are_written_as_people_write_them(power: int) -> None:
    number, unit = comparison.size_text(1 << power).split()
    assert int(number) * {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}[unit] == 1 << power
    number, unit = comparison.time_text(10.0**power % 1e12 + 1).split()
    assert float(number) * {"ns": 1, "µs": 1e3, "ms": 1e6, "s": 1e9}[unit] == pytest.approx(
        10.0**power % 1e12 + 1, rel=0.01
    )


def test_middles_are_medians_of_the_rounds() -> None:
    rounds = [RoundTrips(1, 2, 3), RoundTrips(5, 6, 7), RoundTrips(2, 9, 4)]
    assert comparison.middle_of(rounds) == {"p50": 2, "p99": 6, "mean": 4}


def test_versions_are_those_of_the_interpreter_that_is_asked() -> None:
    found = peers.versions(sys.executable)
    assert set(found) <= {kind.install for kind in peers.KINDS}
