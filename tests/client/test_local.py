"""The server that is started where none is named: one for each process, and gone with it."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.client.conftest import PATIENCE

Run = Callable[..., "subprocess.Popen[str]"]
NO_ADDRESS = {"GPUDISAGG_ADDRESS": None}

TWO_SESSIONS = """
import gpudisagg
with gpudisagg.connect() as gpu, gpudisagg.connect() as other:
    assert gpu.full(4, 2).get().tolist() == [2] * 4
    assert other.address == gpu.address
    print(gpu.address, gpu.device)
"""


def run(run_python: Run, program: str, **environment: str | None) -> tuple[str, str]:
    process = run_python(program, environment={**NO_ADDRESS, **environment})
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    return out, err


def path_of(address: str) -> Path:
    return Path(address.removeprefix("unix://"))


def test_connecting_without_an_address_starts_one_server_says_so_once_and_leaves_nothing(
    run_python: Run,
) -> None:
    out, err = run(run_python, TWO_SESSIONS)
    address, device = out.split(" ", 1)
    assert device.startswith("cpu")
    (line,) = err.splitlines()
    assert line.startswith("gpudisagg: no GPUDISAGG_ADDRESS set, started a local server (cpu device, ")
    assert not path_of(address).parent.exists()


def test_the_environment_names_a_server_instead(server: str, run_python: Run) -> None:
    out, err = run(run_python, TWO_SESSIONS, GPUDISAGG_ADDRESS=server)
    assert out.split(" ")[0] == server
    assert err == ""


PRINT_SERVER = """
import os, subprocess, sys, gpudisagg
gpu = gpudisagg.connect()
listing = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", f"{os.getpid()}"], text=True, stdout=-1)
server, = [line.split()[0] for line in listing.stdout.splitlines() if " serve " in line]
print(server, os.stat(gpu.address[7:].rpartition("/")[0]).st_mode & 0o777, flush=True)
sys.stdin.read()
"""


def test_its_directory_is_private(run_python: Run) -> None:
    process = run_python(PRINT_SERVER, environment=NO_ADDRESS)
    assert process.stdout is not None
    assert int(process.stdout.readline().split()[1]) == 0o700


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_ends_when_its_process_does_whatever_ends_it(run_python: Run, how: signal.Signals) -> None:
    process = run_python(PRINT_SERVER, environment=NO_ADDRESS)
    assert process.stdout is not None
    server = int(process.stdout.readline().split()[0])
    watch = os.pidfd_open(server)
    process.send_signal(how)
    assert select.select([watch], [], [], PATIENCE)[0], "the server outlived its process"
    os.close(watch)


FORKED = """
import os, sys, gpudisagg
gpu = gpudisagg.connect()
child = os.fork()
if child == 0:
    with gpudisagg.connect() as own:
        assert own.address != gpu.address
        assert own.full(3, 5).get().tolist() == [5] * 3
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
assert gpu.full(3, 4).get().tolist() == [4] * 3
with gpudisagg.connect() as again:
    assert again.address == gpu.address
gpu.close()
"""


def test_a_forked_child_has_its_own_and_the_parent_s_goes_on(run_python: Run) -> None:
    run(run_python, FORKED)


KILLED = """
import os, signal, subprocess, gpudisagg
gpu = gpudisagg.connect()
first = gpu.address
listing = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", f"{os.getpid()}"], text=True, stdout=-1)
server, = [int(line.split()[0]) for line in listing.stdout.splitlines() if " serve " in line]
gpu.close()
os.kill(server, signal.SIGKILL)
os.waitid(os.P_PID, server, os.WEXITED | os.WNOWAIT)
with gpudisagg.connect() as again:
    assert again.address != first
    assert again.full(3, 4).get().tolist() == [4] * 3
"""


def test_a_server_that_died_is_replaced_at_the_next_connect(run_python: Run) -> None:
    run(run_python, KILLED)


PRINT_LOG = """
import os, gpudisagg
with gpudisagg.connect(name="whoever asks") as gpu:
    print(open(os.path.dirname(gpu.address.removeprefix("unix://")) + "/server.log").read())
"""


def test_its_log_lies_beside_its_socket_and_what_killed_processes_left_is_removed(
    run_python: Run, short_path: Path
) -> None:
    for name, files in (
        ("dead", ["server.log"]), ("live", ["server.log", "s.sock"]), ("else", ["file"]), ("new", []),
    ):  # fmt: skip
        folder = short_path / f"gpudisagg-{name}"
        folder.mkdir()
        for file in files:
            (folder / file).touch()
        if name != "new":
            os.utime(folder, (0, 0))
    out, _ = run(run_python, PRINT_LOG, TMPDIR=str(short_path))
    assert "'whoever asks'" in out
    left = {path.relative_to(short_path).as_posix() for path in short_path.rglob("*") if path.is_file()}
    assert left == {"gpudisagg-live/server.log", "gpudisagg-live/s.sock", "gpudisagg-else/file"}
    assert sorted(path.name for path in short_path.iterdir()) == [
        "gpudisagg-else", "gpudisagg-live", "gpudisagg-new",
    ]  # fmt: skip


BROKEN = """
import sys, gpudisagg
sys.executable = sys.argv[1]
try:
    gpudisagg.connect(timeout=30)
except gpudisagg.SessionRefused as error:
    print(error)
"""


def test_a_server_that_cannot_start_is_refused_with_what_it_said(run_python: Run, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho the disk is full >&2\nexit 7\n")
    python.chmod(0o755)
    process = run_python(BROKEN, str(python), environment=NO_ADDRESS)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert "status 7" in out
    assert "the disk is full" in out


MISSING = """
import importlib.util, sys
import gpudisagg, gpudisagg.local
gpudisagg.local.find_spec = lambda name: None if name == "llvmlite" else importlib.util.find_spec(name)
try:
    gpudisagg.connect()
except gpudisagg.SessionRefused as error:
    print(error)
"""


def test_without_the_server_s_parts_it_says_what_to_install(run_python: Run) -> None:
    out, _ = run(run_python, MISSING)
    assert "pip install 'gpudisagg[server]'" in out
    assert "llvmlite" in out


LIGHT = """
import sys, gpudisagg
heavy = {"asyncio", "subprocess", "tempfile", "click", "llvmlite", "cuda.bindings"}
heavy |= {"gpudisagg.server", "gpudisagg.device", "gpudisagg.local"}
print(sorted(heavy & set(sys.modules)))
"""


def test_importing_the_client_imports_no_server_and_nothing_heavy(run_python: Run) -> None:
    process = run_python("import numpy, sys; print(sorted({'subprocess', 'tempfile'} & set(sys.modules)))")
    numpys_own = process.communicate(timeout=PATIENCE)[0]
    out, _ = run(run_python, LIGHT)
    assert out == numpys_own
