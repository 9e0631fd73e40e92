"""What fails, and how it ends: on a real server, with real processes killed and forked."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import gpudisagg
from gpudisagg import DeviceArray, Module, Session
from tests.client.conftest import KERNELS, PATIENCE, in_place_alone, serving

Run = Callable[..., "subprocess.Popen[str]"]


def test_a_wild_pointer_is_a_device_fault_that_names_the_kernel_and_the_next_session_works(
    lonely_server: str,
) -> None:
    with gpudisagg.connect(lonely_server, timeout=PATIENCE) as gpu:
        module = gpu.compile(KERNELS)
        module["nothing"][1, 1]()
        module["wild"][3, 1](0xDEAD0)
        module["nothing"][1, 1]()
        for _ in range(2):
            with pytest.raises(gpudisagg.DeviceFault, match="kernel wild ") as caught:
                gpu.synchronize()
            assert caught.value.kernel == "wild"
            assert caught.value.command == "LAUNCH"
            assert caught.value.address == 0xDEAD0
            assert caught.value.block in {(0, 0, 0), (1, 0, 0), (2, 0, 0)}
        with pytest.raises(gpudisagg.DeviceFault):
            gpu.zeros(3).get()
    with gpudisagg.connect(lonely_server, timeout=PATIENCE) as gpu:
        assert gpu.full(3, 2).get().tolist() == [2, 2, 2]


def test_a_null_pointer_is_a_device_fault_too(lonely_server: str) -> None:
    with gpudisagg.connect(lonely_server, timeout=PATIENCE) as gpu:
        gpu.compile(KERNELS)["wild"][1, 1](None)
        with pytest.raises(gpudisagg.DeviceFault):
            gpu.synchronize()


def test_a_command_with_an_address_that_is_not_the_session_s_is_refused_by_the_worker(
    lonely_server: str,
) -> None:
    with gpudisagg.connect(lonely_server, timeout=PATIENCE) as gpu:
        array = gpu.zeros(10)
        beyond = array.layout._replace(address=array.ptr + (1 << 30))
        DeviceArray(gpu, beyond, array.dtype, None).fill(1)
        with pytest.raises(gpudisagg.InvalidCommand, match="FILL") as caught:
            gpu.synchronize()
        assert caught.value.sequence > 0


HOLD = """
import sys, gpudisagg
gpu = gpudisagg.connect(sys.argv[1], timeout=60)
if len(sys.argv) > 2:
    stop = gpu.zeros(1, "i4")
    gpu.compile(sys.argv[2])["spin"][1, 1](stop)
print("holding", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("code", [None, KERNELS], ids=["idle", "in a kernel that never ends"])
def test_kill_9_of_a_client_frees_its_worker(lonely_server: str, run_python: Run, code: str | None) -> None:
    client = run_python(HOLD, lonely_server, *([code] if code else []))
    assert client.stdout is not None
    assert client.stdout.readline() == "holding\n"
    with pytest.raises((gpudisagg.ServerBusy, gpudisagg.DeadlineExceeded)):
        gpudisagg.connect(lonely_server, timeout=0.2)
    client.kill()
    with gpudisagg.connect(lonely_server, timeout=PATIENCE) as gpu:
        assert gpu.zeros(3).get().tolist() == [0, 0, 0]


def children(parent: int) -> set[int]:
    """The processes that `parent` has started and that are still there."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent:
                found.add(int(stat.parent.name))
    return found


@pytest.mark.parametrize("over", ["unix", "tcp"])
def test_kill_9_of_the_worker_is_a_lost_session(run_python: Run, over: str) -> None:
    before = children(os.getpid())
    with serving("--workers", "1", "--memory", "64MiB", "--threads", "1", over=over) as address:
        (daemon,) = children(os.getpid()) - before
        with gpudisagg.connect(address, timeout=PATIENCE) as gpu:
            stop = gpu.zeros(1, np.int32)
            gpu.compile(KERNELS)["spin"][1, 1](stop)
            failed: list[BaseException] = []
            waiting = threading.Event()

            def wait() -> None:
                waiting.set()
                try:
                    gpu.synchronize()
                except BaseException as error:
                    failed.append(error)

            thread = threading.Thread(target=wait)
            thread.start()
            waiting.wait(PATIENCE)
            for worker in children(daemon):
                os.kill(worker, signal.SIGKILL)
            thread.join(PATIENCE)
            assert [type(error) for error in failed] == [gpudisagg.SessionLost]
            assert "Connect again" in str(failed[0])
            for call in (gpu.synchronize, stop.get, lambda: gpu.compile("x"), lambda: gpu.empty(1 << 22)):
                with pytest.raises(gpudisagg.SessionLost):
                    call()
        with gpudisagg.connect(address, timeout=PATIENCE) as gpu:
            assert gpu.zeros(3).get().tolist() == [0, 0, 0]


@in_place_alone
def test_a_wait_for_a_kernel_that_never_ends_has_a_deadline(lonely_server: str) -> None:
    with gpudisagg.connect(lonely_server, timeout=PATIENCE) as gpu:
        stop = gpu.host_zeros(1, np.int32)
        gpu.compile(KERNELS)["spin"][1, 1](stop)
        for wait in (gpu.synchronize, gpu.default_stream.synchronize):
            with pytest.raises(gpudisagg.DeadlineExceeded):
                wait(timeout=0.05)
        event = gpu.event()
        event.record()
        assert not event.done
        with pytest.raises(gpudisagg.DeadlineExceeded):
            event.synchronize(0.05)
        stop[0] = 1
        event.synchronize()
        assert event.done


def test_a_forked_child_is_told_and_the_parent_s_session_goes_on(gpu: Session, module: Module) -> None:
    x = gpu.zeros(4, np.int32)
    host, event = gpu.host_zeros(4, np.int32), gpu.event()
    event.record()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        results = []
        for call in (
            lambda: x.get(), lambda: gpu.zeros(3), lambda: gpu.host_zeros(3), lambda: gpu.compile("x"),
            lambda: module["add"][1, 4](x, 4, 1), lambda: x.fill(1),
            gpu.synchronize, event.synchronize, gpu.stream, gpu.stats,
        ):  # fmt: skip
            try:
                call()
                results.append("nothing")
            except gpudisagg.ForkedSession:
                results.append("forked")
            except BaseException as error:
                results.append(repr(error))
        gpu.close()
        os.write(write, " ".join(results).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as told:
        assert told.read() == " ".join(["forked"] * 10)
    assert os.waitpid(child, 0)[1] == 0
    module["add"][1, 4](x, 4, 1)
    assert x.get(host).tolist() == [1] * 4
    x.set(host + 1)
    assert x.get().tolist() == [2] * 4


FORK_AND_EXIT = """
import os, sys, gpudisagg
gpu = gpudisagg.connect(sys.argv[1], timeout=60)
x = gpu.full(1000, 7.0)
host = gpu.host_zeros(10)
child = os.fork()
if child == 0:
    with gpudisagg.connect(sys.argv[1], timeout=60) as own:
        assert own.full(3, 5).get().tolist() == [5, 5, 5]
    del x, host
    sys.exit(3)  # with its exit handlers and finalizers
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
assert (x.get() == 7).all()
x.get(out=gpu.host_empty(1000))
gpu.close()
print("well")
"""


def test_a_child_may_connect_itself_and_its_exit_disturbs_nothing(server: str, run_python: Run) -> None:
    process = run_python(FORK_AND_EXIT, server)
    out, err = process.communicate(timeout=PATIENCE)
    assert (out, process.returncode) == ("well\n", 0), err


LEFT_OPEN = """
import sys, gpudisagg
gpu = gpudisagg.connect(sys.argv[1], timeout=60)
x = gpu.full(1000, 7)
y, host, stream, module = x[::2], gpu.host_zeros(10), gpu.stream(), gpu.compile(sys.argv[2])
kernel = module["nothing"]
kernel[1, 1]()
loop = [gpu, x, host]; loop.append(loop)
if sys.argv[3] == "collect":
    import gc
    del gpu, x, y, host, stream, module, kernel, loop
    gc.collect()
print("well")
"""


@pytest.mark.parametrize("how", ["exit", "collect"])
def test_a_session_left_open_ends_with_its_last_reference_or_the_program(
    lonely_server: str, run_python: Run, how: str
) -> None:
    process = run_python(LEFT_OPEN, lonely_server, KERNELS, how)
    out, err = process.communicate(timeout=PATIENCE)
    assert (out, process.returncode) == ("well\n", 0), err
    gpudisagg.connect(lonely_server, timeout=PATIENCE).close()


def test_a_server_without_a_free_worker_is_busy(lonely_server: str) -> None:
    with gpudisagg.connect(lonely_server, timeout=PATIENCE):
        with pytest.raises(gpudisagg.ServerBusy, match="no worker became free"):
            gpudisagg.connect(lonely_server, timeout=3)


COLLECTED_ANYWHERE = """
import gc, sys, threading, gpudisagg
gpu = gpudisagg.connect(sys.argv[1], timeout=60)
module = gpu.compile(sys.argv[2])
gc.set_threshold(1, 1, 1)

def drop_in_cycles(i):
    for thing in (gpu.zeros(9)[::2], gpu.host_zeros(100), gpu.stream(), gpu.stream().record()):
        cycle = [thing]
        cycle.append(cycle)
    large = gpu.asarray(bytes(70_000))
    module["nothing"][1, 1]()
    assert large.get().tobytes() == bytes(70_000)

def work():
    for i in range(25):
        drop_in_cycles(i)

threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
gc.collect()
gpu.synchronize()
assert gpu.stats()["device_used"] == 0, gpu.stats()
gpu.close()
print("well")
"""


def test_the_garbage_collector_may_come_at_any_moment(server: str, run_python: Run) -> None:
    process = run_python(COLLECTED_ANYWHERE, server, KERNELS)
    out, err = process.communicate(timeout=PATIENCE)
    assert (out, process.returncode) == ("well\n", 0), err


def test_nobody_there_is_refused_with_the_command_that_would_help(address: str) -> None:
    with pytest.raises(
        gpudisagg.SessionRefused, match=f"^nobody listens .*gpudisagg serve --listen {address}"
    ):
        gpudisagg.connect(address)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"address": "http://1.2.3.4:5"}, "no transport http"),
        ({"address": "tcp://1.2.3.4:0"}, "port 0"),
        ({"address": "/run/x.sock"}, "unix:///"),
        ({"address": "unix:///x", "memory": "lots"}, "is no size"),
        ({"address": "unix:///x", "timeout": 0}, "positive"),
        ({"address": "unix:///x", "timeout": float("inf")}, "positive number of seconds"),
        ({"address": "unix:///x", "timeout": float("nan")}, "positive number of seconds"),
    ],
)
def test_what_cannot_be_is_a_value_error(arguments: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        gpudisagg.connect(**arguments)  # type: ignore[arg-type]


INTERRUPTED = """
import sys, gpudisagg
with gpudisagg.connect(sys.argv[1], timeout=60) as gpu:
    stop = gpu.host_zeros(1, "i4")
    gpu.compile(sys.argv[2])["spin"][1, 1](stop)
    try:
        print("waiting", flush=True)
        gpu.synchronize()
    except KeyboardInterrupt:
        stop[0] = 1
        gpu.synchronize()
        print("interrupted, and well")
"""


@in_place_alone
def test_ctrl_c_ends_a_wait_and_the_session_goes_on(lonely_server: str, run_python: Run) -> None:
    process = run_python(INTERRUPTED, lonely_server, KERNELS)
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert out == "interrupted, and well\n", err


CLOSE_ANYWHERE = """
import sys, threading, gpudisagg
for moment in range(30):
    gpu = gpudisagg.connect(sys.argv[1], timeout=60)
    ends = []
    def work():
        try:
            while True:
                gpu.asarray(bytes(100_000)).get()
                gpu.host_zeros(100)
                gpu.full(100, 1.5)[::3].get()
                gpu.event().record()
                gpu.synchronize()
        except gpudisagg.SessionClosed:
            ends.append("closed")
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(moment):
        gpu.empty(100)
    gpu.close()
    for thread in threads:
        thread.join()
    assert ends == ["closed"] * 3, ends
print("well")
"""


def test_a_session_may_be_closed_under_threads_at_work(lonely_server: str, run_python: Run) -> None:
    process = run_python(CLOSE_ANYWHERE, lonely_server)
    out, err = process.communicate(timeout=PATIENCE)
    assert (out, process.returncode) == ("well\n", 0), err
