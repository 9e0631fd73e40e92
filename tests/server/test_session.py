"""A session as its worker serves it: modules compiled or refused with a reason, nothing left for the next."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpudisagg
import transport
from tests.server.conftest import LISTEN
from tests.server.process import DEADLINE, Server
from transport import wire

SET = 'extern "C" __global__ void set(int *x) { x[threadIdx.x] = VALUE; }'


@pytest.fixture(scope="module", params=["unix", "tcp"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="gpud-"))
    server = Server(folder, ("--workers", "1", "--memory", "64MiB"), {}, LISTEN[request.param]).wait_ready()
    yield server
    server.stop()
    assert server.process.stdout is not None
    server.process.stdout.close()
    shutil.rmtree(folder)


@pytest.fixture
def gpu(server: Server) -> Iterator[gpudisagg.Session]:
    with gpudisagg.connect(server.address) as session:
        yield session


def run_set(gpu: gpudisagg.Session, module: gpudisagg.Module) -> list[int]:
    array = gpu.zeros((4,), "int32")
    module["set"][1, 4](array)
    values: list[int] = array.get().tolist()
    return values


def test_compile_options_reach_the_compiler(gpu: gpudisagg.Session) -> None:
    assert run_set(gpu, gpu.compile(SET, options=("-DVALUE=7",))) == [7] * 4
    assert run_set(gpu, gpu.compile(SET, options=("-D", "VALUE=8"))) == [8] * 4


def test_a_source_that_does_not_compile_is_refused_with_the_log_and_the_session_goes_on(
    gpu: gpudisagg.Session,
) -> None:
    with pytest.raises(gpudisagg.errors.CompileError) as error:
        gpu.compile("__global__ void broken() { nonsense; }")
    assert "nonsense" in error.value.log
    assert run_set(gpu, gpu.compile(SET, options=("-DVALUE=1",))) == [1] * 4


def test_a_log_longer_than_a_message_arrives_from_its_beginning(gpu: gpudisagg.Session) -> None:
    lines = "\n".join(f"undeclared_{n};" for n in range(2000))
    with pytest.raises(gpudisagg.errors.CompileError) as error:
        gpu.compile(f"__global__ void broken() {{ {lines} }}")
    assert "undeclared_0" in error.value.log


def test_any_bytes_for_an_image_are_compiled_or_refused_and_the_worker_stays(server: Server) -> None:
    (pid,) = server.until_warm()["pids"]
    with gpudisagg.connect(server.address) as gpu:
        ptx = ".version 8.0\n.target sm_80\n.address_size 64\n"
        images = st.binary(min_size=1, max_size=400) | st.text(min_size=1, max_size=200).map(
            lambda text: (ptx + text).encode()
        )

        @settings(max_examples=60)
        @given(images)
        def attack(image: bytes) -> None:
            try:
                gpu.compile(image)
            except gpudisagg.errors.CompileError as error:
                assert str(error)

        attack()
        assert run_set(gpu, gpu.compile(SET, options=("-DVALUE=3",))) == [3] * 4
    assert server.until_warm()["pids"] == [pid]


def test_modules_of_one_session_do_not_disturb_each_other(gpu: gpudisagg.Session) -> None:
    modules = [gpu.compile(SET, options=(f"-DVALUE={value}",)) for value in range(8)]
    assert [run_set(gpu, module)[0] for module in modules] == list(range(8))


def test_the_next_session_finds_nothing_of_the_last(server: Server) -> None:
    (pid,) = server.until_warm()["pids"]
    count = (48 << 20) // 4
    with gpudisagg.connect(server.address) as gpu:
        secret = gpu.full((count,), 0x5EC2E7, "int32")
        address = secret.ptr
        gpu.synchronize()
    server.until_warm()
    with gpudisagg.connect(server.address) as gpu:
        found = gpu.empty((count,), "int32")
        assert found.ptr == address
        assert not found.get().any()
        assert list(server.status()["sessions"].values()) == [pid]


@pytest.mark.parametrize("spoil", ["wild", "trap"])
def test_a_session_after_a_fault_has_a_sound_worker(server: Server, spoil: str) -> None:
    bodies: dict[str, str] = {"wild": "*(int *)16 = 1;", "trap": "__trap();"}
    with gpudisagg.connect(server.address) as gpu:
        kernel = gpu.compile(f'extern "C" __global__ void {spoil}() {{ {bodies[spoil]} }}')[spoil]
        kernel[1, 1]()
        with pytest.raises(gpudisagg.errors.DeviceFault, match=spoil):
            gpu.synchronize()
    with gpudisagg.connect(server.address) as gpu:
        assert run_set(gpu, gpu.compile(SET, options=("-DVALUE=5",))) == [5] * 4


def test_the_worker_enforces_the_memory_limit_on_a_client_that_does_not(server: Server) -> None:
    with transport.connect(server.address, memory=8 << 20) as connection:
        welcome = connection.welcome
        assert welcome is not None
        connection.post(wire.OP_MAP, 0, wire.Map(welcome.window_base, 8 << 20).pack())
        over = connection.post(
            wire.OP_MAP, 0, wire.Map(welcome.window_base + (8 << 20), welcome.granularity).pack()
        )
        fault = wire.decode(connection.receive(DEADLINE), from_client=False).body
        assert (fault.status, fault.sequence) == (wire.STATUS_OUT_OF_MEMORY, over)


def test_what_a_session_did_is_logged_when_it_ends(server: Server) -> None:
    with gpudisagg.connect(server.address, name="by its name") as gpu:
        run_set(gpu, gpu.compile(SET, options=("-DVALUE=4",)))
    server.until_warm()
    opened, over = [
        line for line in server.log.read_text().splitlines() if " session " in line and "daemon" in line
    ][-2:]
    assert "'by its name'" in opened
    assert "over (closed)" in over and "launches 1" in over
