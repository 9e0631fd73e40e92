"""Whatever dies, whenever: its worker is free or replaced, others go on, and nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import gpudisagg
import transport
from gpudisagg.server.config import ServerConfig, resolve
from gpudisagg.server.daemon import Daemon
from gpudisagg.server.supervisor import START_ATTEMPTS, StartError
from tests.server.conftest import over_each
from tests.server.process import DEADLINE, Server, alive, read_frame, read_line, read_refusal, until
from transport import wire

Start = Callable[..., Server]
Spawn = Callable[..., subprocess.Popen[str]]

IDLE = """
import sys, transport
connection = transport.connect(sys.argv[1], timeout=60)
print("there", flush=True)
sys.stdin.read()
"""

QUEUED = """
import sys, transport
print("there", flush=True)
connection = transport.connect(sys.argv[1], timeout=60)
"""

# Says that it is there once all before its kernel is done, and that runs for ever.
IN_KERNEL = """
import sys, gpudisagg
gpu = gpudisagg.connect(sys.argv[1])
source = 'extern "C" __global__ void spin(volatile int *f) { while (*f == 0) {} }'
spin = gpu.compile(source)["spin"]
flag = gpu.zeros((1,), "int32")
before = gpu.event()
before.record()
spin[1, 1](flag)
before.synchronize()
print("there", flush=True)
sys.stdin.read()
"""

COMPILING = """
import sys, gpudisagg
gpu = gpudisagg.connect(sys.argv[1])
kernel = 'extern "C" __global__ void k%d(float *x) { for (int i = 0; i < %d; i++) x[i] = sinf(x[i]) * i; }'
source = "".join(kernel % (n, n) for n in range(400))
print("there", flush=True)
gpu.compile(source)
sys.stdin.read()
"""

UPLOADING = """
import sys, gpudisagg, numpy
gpu = gpudisagg.connect(sys.argv[1])
data = numpy.ones(1 << 24, numpy.float32)
device = gpu.empty_like(data)
print("there", flush=True)
while True:
    device.set(data)
"""


def add_one(gpu: gpudisagg.Session) -> None:
    """A kernel runs, and its result is right."""
    array = gpu.zeros((64,), "int32")
    source = 'extern "C" __global__ void add(int *x) { x[threadIdx.x] += threadIdx.x + 1; }'
    gpu.compile(source)["add"][1, 64](array)
    assert array.get().tolist() == list(range(1, 65))


def workers_gone(pids: set[int]) -> None:
    until(lambda: not [pid for pid in pids if alive(pid)], f"all of {sorted(pids)} gone")


@over_each
@pytest.mark.parametrize("phase", ["IDLE", "IN_KERNEL", "COMPILING", "UPLOADING"])
def test_a_killed_client_gives_its_worker_back(start: Start, spawn: Spawn, phase: str) -> None:
    server = start("--workers", "1", "--memory", "256MiB")
    client = spawn(globals()[phase], server.address)
    assert read_line(client) == "there\n"
    assert server.status()["workers"]["warm"] == 0
    client.kill()
    status = server.until_warm()
    assert status["sessions"] == {}
    with gpudisagg.connect(server.address) as gpu:
        add_one(gpu)


@over_each
def test_a_killed_client_in_the_queue_is_forgotten(start: Start, spawn: Spawn) -> None:
    server = start("--workers", "1")
    with transport.connect(server.address):
        client = spawn(QUEUED, server.address)
        server.until(lambda status: status["queued"] == 1, "one that queues")
        client.kill()
        server.until(lambda status: status["queued"] == 0, "none that queues")


@over_each
def test_a_client_that_freezes_and_is_killed_then(start: Start, spawn: Spawn) -> None:
    server = start("--workers", "1")
    client = spawn(IDLE, server.address)
    assert read_line(client) == "there\n"
    client.send_signal(signal.SIGSTOP)
    assert server.status()["workers"]["busy"] == 1
    client.kill()
    server.until_warm()


@over_each
def test_a_killed_worker_is_replaced_and_its_client_told(start: Start) -> None:
    server = start("--workers", "2")
    before = server.until_warm(2)["pids"]
    with transport.connect(server.address) as connection, gpudisagg.connect(server.address) as other:
        assert connection.welcome is not None
        victim = server.status()["sessions"][str(connection.welcome.session)]
        os.kill(victim, signal.SIGKILL)
        with pytest.raises(transport.PeerGone):
            while True:
                connection.receive(DEADLINE)
        add_one(other)  # who sits next to it does not notice
        status = server.until(
            lambda s: s if s["workers"]["warm"] == 1 and s["workers"]["busy"] == 1 else None, "a replacement"
        )
        assert victim in before and victim not in status["pids"]
        assert status["replaced"] == 1
    server.until_warm(2)


def test_a_killed_idle_worker_is_replaced(start: Start) -> None:
    server = start("--workers", "1")
    (victim,) = server.until_warm()["pids"]
    os.kill(victim, signal.SIGKILL)
    status = server.until(
        lambda s: s if s["workers"]["warm"] == 1 and s["pids"] != [victim] else None, "a new one"
    )
    assert status["replaced"] == 1
    with gpudisagg.connect(server.address) as gpu:
        add_one(gpu)


def test_a_client_that_comes_while_the_worker_is_dead_gets_the_next(start: Start) -> None:
    server = start("--workers", "1")
    (victim,) = server.until_warm()["pids"]
    os.kill(victim, signal.SIGSTOP)  # takes no session, and is not dead yet
    client = server.hello()
    server.until(lambda status: status["sessions"], "a session handed over")
    waiting = server.hello()
    server.until(lambda status: status["queued"] == 1, "one that queues")
    os.kill(victim, signal.SIGKILL)
    assert client.recv(1) == b""  # it was in the dead worker's hands
    assert wire.decode_welcome(read_frame(waiting)).session
    client.close()
    waiting.close()


@over_each
def test_a_faulting_kernel_costs_its_own_session_only(start: Start) -> None:
    server = start("--workers", "1")
    with gpudisagg.connect(server.address) as gpu:
        wild = gpu.compile('extern "C" __global__ void wild(int **p) { **p = 1; }')["wild"]
        pointers = gpu.asarray(__import__("numpy").array([16], "uint64"))
        wild[1, 1](pointers)
        with pytest.raises(gpudisagg.errors.DeviceFault, match="wild"):
            gpu.synchronize()
    with gpudisagg.connect(server.address) as gpu:
        add_one(gpu)


def test_a_spare_takes_the_place_of_a_dead_worker_and_no_more_sessions_are_served_than_were_said(
    start: Start,
) -> None:
    server = start("--workers", "1", "--spares", "1")
    server.until_warm(2)
    first = transport.connect(server.address)
    waiting = server.hello()
    server.until(lambda status: status["queued"] == 1, "one that queues, though a worker is warm")
    (victim,) = server.status()["sessions"].values()
    os.kill(victim, signal.SIGKILL)
    assert wire.decode_welcome(read_frame(waiting)).session
    status = server.until(lambda s: s if s["workers"]["warm"] == 1 else None, "a new spare")
    assert status["workers"]["busy"] == 1 and status["replaced"] == 1
    waiting.close()
    first.close()


# ---------------------------------------------------------------- shutdown


@over_each
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_leaves_nothing(start: Start, number: signal.Signals) -> None:
    server = start("--workers", "2")
    pids = set(server.until_warm(2)["pids"])
    connection = transport.connect(server.address)
    server.process.send_signal(number)
    message = wire.decode(connection.receive(DEADLINE), from_client=False)
    assert message.op == wire.OP_BYE
    assert message.body.status == wire.STATUS_SHUTDOWN
    with pytest.raises(transport.PeerGone):
        connection.receive(DEADLINE)
    assert server.process.wait(DEADLINE) == 0
    assert not server.path.exists()
    assert not [pid for pid in pids if alive(pid)]
    connection.close()


def test_a_signal_while_it_starts_leaves_nothing(start: Start) -> None:
    server = start("--workers", "2", ready=False)
    until(server.path.exists, "a socket")
    pids = server.status()["pids"]
    server.process.terminate()
    assert server.process.wait(DEADLINE) == 0
    assert not server.path.exists()
    assert not [pid for pid in pids if alive(pid)]


@over_each
def test_who_queues_at_shutdown_is_told(start: Start) -> None:
    server = start("--workers", "1")
    holder = transport.connect(server.address)
    client = server.hello()
    server.until(lambda status: status["queued"] == 1, "one that queues")
    server.process.terminate()
    assert read_refusal(client).status == wire.STATUS_SHUTDOWN
    assert server.process.wait(DEADLINE) == 0
    client.close()
    holder.close()


@over_each
def test_a_kernel_that_does_not_end_is_ended_with_the_server(start: Start, spawn: Spawn) -> None:
    server = start("--workers", "1", "--grace", "0.5")
    client = spawn(IN_KERNEL, server.address)
    assert read_line(client) == "there\n"
    pids = set(server.status()["pids"])
    server.process.terminate()
    assert server.process.wait(DEADLINE) == 0
    assert not [pid for pid in pids if alive(pid)]
    assert not server.path.exists()


def test_a_worker_that_hangs_is_killed_at_shutdown(start: Start) -> None:
    server = start("--workers", "1", "--grace", "0.1")
    (pid,) = server.until_warm()["pids"]
    os.kill(pid, signal.SIGSTOP)
    server.process.terminate()
    assert server.process.wait(DEADLINE) == 0
    assert not alive(pid)


def test_it_ends_with_whoever_holds_its_pipe(start: Start) -> None:
    reading, writing = os.pipe()
    server = start("--workers", "1", "--until-closed", str(reading), pass_fds=(reading,))
    os.close(reading)
    pids = set(server.until_warm()["pids"])
    os.write(writing, b"alive")  # news is no end
    with transport.connect(server.address):
        pass
    os.close(writing)
    assert server.process.wait(DEADLINE) == 0
    assert not server.path.exists()
    assert not [pid for pid in pids if alive(pid)]


def test_a_terminals_interrupt_reaches_no_worker(start: Start) -> None:
    server = start("--workers", "2")
    pids = server.until_warm(2)["pids"]
    assert {os.getsid(pid) for pid in pids}.isdisjoint({os.getsid(server.process.pid)})


@over_each
def test_sessions_outlive_a_killed_daemon_and_workers_end_with_them(start: Start) -> None:
    server = start("--workers", "2")
    pids = set(server.until_warm(2)["pids"])
    with gpudisagg.connect(server.address) as gpu:
        (busy,) = server.status()["sessions"].values()
        server.process.kill()
        server.process.wait()
        workers_gone(pids - {busy})
        add_one(gpu)
        assert alive(busy)
    workers_gone(pids)


def test_a_worker_without_a_daemon_still_ends_at_sigterm(start: Start) -> None:
    server = start("--workers", "1")
    connection = transport.connect(server.address)
    (pid,) = server.status()["pids"]
    server.process.kill()
    server.process.wait()
    os.kill(pid, signal.SIGTERM)
    message = wire.decode(connection.receive(DEADLINE), from_client=False)
    assert message.body.status == wire.STATUS_SHUTDOWN
    workers_gone({pid})
    connection.close()


def test_a_killed_daemons_socket_does_not_bar_the_next(start: Start) -> None:
    first = start("--workers", "1")
    pids = set(first.until_warm()["pids"])
    first.process.kill()
    first.process.wait()
    assert first.path.exists()
    workers_gone(pids)
    second = Server(first.folder, ("--workers", "1"), {}).wait_ready()
    with transport.connect(second.address):
        pass
    assert second.stop() == 0
    second.process.stdout.close()  # type: ignore[union-attr]


# ---------------------------------------------------------------- workers that do not start


def config(short_path: Path, **flags: object) -> ServerConfig:
    return resolve({"listen": (f"unix://{short_path}/s.sock",), "workers": "2", "spares": "0", **flags}, {})


def daemon_fails(settings: ServerConfig, command: Callable[[ServerConfig, int], list[str]]) -> str:
    async def attempt() -> str:
        daemon = Daemon(settings, command)
        with pytest.raises(StartError) as error:
            await daemon.start()
        assert sum(daemon.status()["workers"].values()) == 0
        return str(error.value)

    return asyncio.run(asyncio.wait_for(attempt(), DEADLINE))


def test_workers_that_cannot_start_are_not_started_for_ever(short_path: Path) -> None:
    starts = short_path / "starts"

    def command(_: ServerConfig, control: int) -> list[str]:
        return ["sh", "-c", f"echo >> {starts}; exit 3"]

    assert "exit status 3" in daemon_fails(config(short_path), command)
    assert START_ATTEMPTS <= len(starts.read_text().splitlines()) <= START_ATTEMPTS + 2
    assert not (short_path / "s.sock").exists()


def test_a_worker_that_hangs_while_starting_is_a_failure(short_path: Path) -> None:
    reason = daemon_fails(config(short_path, start_timeout="1"), lambda _, control: ["sleep", "1000"])
    assert "not ready within 1 s" in reason


def test_a_worker_that_talks_rubbish_is_killed(short_path: Path) -> None:
    rubbish = (
        "import socket, sys, time; socket.socket(fileno=int(sys.argv[1])).send(b'rubbish'); time.sleep(1000)"
    )
    reason = daemon_fails(config(short_path), lambda _, control: ["python3", "-c", rubbish, str(control)])
    assert "said something that it cannot" in reason


@pytest.mark.parametrize(
    ("raised", "says"),
    [
        ("ImportError('this llvmlite is broken')", "this llvmlite is broken"),
        ("ModuleNotFoundError('no such module')", "no such module; pip install 'gpudisagg[server]'"),
    ],
)
def test_the_reason_why_no_worker_starts_is_the_daemons_last_word(
    start: Start, short_path: Path, raised: str, says: str
) -> None:
    broken = short_path / "broken" / "llvmlite"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text(f"raise {raised}\n")
    server = start("--workers", "1", environ={"PYTHONPATH": str(broken.parent)}, ready=False)
    assert server.process.wait(DEADLINE) == 1
    assert read_line(server.process) == ""
    last = server.log.read_text().splitlines()[-1]
    assert last.startswith("gpudisagg serve: no worker can be started")
    assert says in last
    assert not server.path.exists()
