"""One daemon on several transports: what it tells who asks, which way auto:// takes, whom it lets in."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import gpudisagg
import transport
from tests.server.process import Server, read_frame, read_refusal
from tests.server.test_cli import run
from tests.server.test_session import SET, run_set
from transport import network, wire
from transport.address import parse
from transport.bootstrap import MAX_ASKS
from transport.ways import Way, ask, host_id, probe_verbs

Start = Callable[..., Server]
TCP = ("--listen", "tcp://127.0.0.1:0")

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def auto(tcp: str) -> str:
    return str(parse(tcp)._replace(scheme="auto"))


# ---------------------------------------------------------------- several addresses


def test_each_address_is_said_with_the_port_it_got_and_serves(start: Start) -> None:
    server = start("--workers", "1", *TCP, "--listen", "tcp://localhost:0")
    addresses = [server.address, server.also(), server.also()]
    assert [parse(address).scheme for address in addresses] == ["unix", "tcp", "tcp"]
    for address in addresses:
        with gpudisagg.connect(address) as gpu:
            assert gpu.zeros(3).get().tolist() == [0, 0, 0]
            expected = "shm" if address.startswith("unix") else "tcp"
            assert gpu.capabilities.transport == expected
            assert gpu.capabilities.ways == (Way(expected, "picked"),)
            assert f"over {expected}" in repr(gpu)


def test_who_asks_is_told_all_of_them_by_whichever_it_asks(start: Start) -> None:
    server = start("--workers", "1", *TCP)
    addresses = (server.address, server.also())
    answers = []
    for address in addresses:
        place = parse(address)
        one = socket.socket(socket.AF_UNIX) if place.scheme == "unix" else network.dial(place, 30)
        with one:
            if place.scheme == "unix":
                one.connect(place.path)
            answers += [ask(one, 30), ask(one, 30)]
            one.sendall(wire.encode_hello(wire.Hello(deadline_ms=60_000)))  # and then it is served
            assert wire.decode_welcome(read_frame(one)).session
        server.until_warm()
    assert all(answer == answers[0] for answer in answers)
    assert answers[0].addresses == addresses
    assert answers[0].host == host_id()


def test_who_asks_without_end_is_told_to_stop(start: Start) -> None:
    server = start("--workers", "1")
    with server.open() as client:
        for _ in range(MAX_ASKS):
            client.sendall(wire.encode_ask())
            wire.decode_ways(read_frame(client))
        assert read_refusal(client).status == wire.STATUS_PROTOCOL
    assert server.until_warm()["pending"] == 0


def test_a_verbs_hello_where_there_is_no_rdma_is_refused_in_words(start: Start) -> None:
    server = start("--workers", "1", *TCP)
    with network.dial(parse(server.also()), 30) as client:
        client.settimeout(60)
        client.sendall(wire.encode_hello(wire.Hello(deadline_ms=60_000, features=wire.FEATURE_VERBS)))
        refusal = read_refusal(client)
    assert refusal.status == wire.STATUS_UNSUPPORTED
    assert "does not serve rdma:// at this address" in refusal.reason
    assert server.status()["refused"] == {"UNSUPPORTED": 1}


def test_a_server_that_is_to_listen_on_rdma_without_a_device_says_why_and_ends() -> None:
    works, words = probe_verbs()
    if works:
        pytest.skip(f"this machine has RDMA: {words}")
    said = run("serve", "--listen", "rdma://127.0.0.1:0")
    assert said.returncode == 1
    assert words in said.stderr and "tcp:// works everywhere" in said.stderr
    assert "Traceback" not in said.stderr


# ---------------------------------------------------------------- auto


def test_auto_takes_shared_memory_on_the_same_host(start: Start) -> None:
    server = start("--workers", "1", *TCP)
    with gpudisagg.connect(auto(server.also())) as gpu:
        assert gpu.capabilities.ways == (("shm", "picked"),)
        assert gpu.capabilities.transport == "shm" and gpu.capabilities.host_map
        assert run_set(gpu, gpu.compile(SET, options=("-DVALUE=4",))) == [4] * 4


def test_auto_takes_tcp_where_there_is_nothing_better_and_says_why(start: Start) -> None:
    server = start("--workers", "1", *TCP)
    address = auto(server.also())
    server.path.rename(server.path.with_suffix(".gone"))
    try:
        with gpudisagg.connect(address) as gpu:
            shm, verbs, tcp = gpu.capabilities.ways
            assert shm.transport == "shm" and f"nobody listens on unix://{server.path}" in shm.why
            assert verbs == ("verbs", "the server listens on no rdma:// address")
            assert tcp == ("tcp", "picked")
            assert not gpu.capabilities.host_map
            assert run_set(gpu, gpu.compile(SET, options=("-DVALUE=4",))) == [4] * 4
    finally:
        server.path.with_suffix(".gone").rename(server.path)


def test_auto_does_not_take_another_servers_socket(start: Start) -> None:
    """Two containers on one host see one host's id, and each its own files."""
    server = start("--workers", "1", *TCP)
    address = auto(server.also())
    server.path.rename(server.path.with_suffix(".gone"))
    other = start("--workers", "1")
    other.path.rename(server.path)
    with gpudisagg.connect(address) as gpu:
        assert "another server listens" in gpu.capabilities.ways[0].why
        assert gpu.capabilities.transport == "tcp"


def test_the_environment_takes_auto_too(start: Start) -> None:
    server = start("--workers", "1", *TCP)
    program = "import gpudisagg\nwith gpudisagg.connect() as gpu: print(gpu.capabilities.transport)"
    said = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "GPUDISAGG_ADDRESS": auto(server.also())},
        capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip
    assert said.stdout == "shm\n"


def test_a_busy_server_is_busy_by_auto(start: Start) -> None:
    server = start("--workers", "1", "--queue-timeout", "0.1", *TCP)
    address = server.also()
    with transport.connect(address), pytest.raises(gpudisagg.ServerBusy):
        gpudisagg.connect(auto(address), timeout=30)


def test_doctor_says_by_which_way_and_how_fast(start: Start) -> None:
    server = start("--workers", "1", "--memory", "64MiB", *TCP)
    address = auto(server.also())
    server.path.unlink()
    report = json.loads(run("doctor", "--json", address).stdout)
    found = {finding["what"]: finding for finding in report["findings"]}
    assert found[f"server {address}"]["state"] == "ok"
    assert found["way shm"]["state"] == "absent" and "nobody listens" in found["way shm"]["detail"]
    assert found["way verbs"]["state"] == "absent"
    assert (found["way tcp"]["state"], found["way tcp"]["detail"]) == ("ok", "picked")
    assert "µs" in found["speed"]["detail"] and "GB/s" in found["speed"]["detail"]
    for what in ("RDMA verbs", "memlock limit", "kernel TLS"):
        assert found[what]["detail"]


# ---------------------------------------------------------------- who is let in

CONNECT_AS = """
import os, sys, transport
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    with transport.connect(sys.argv[1], timeout=30) as connection:
        print("session", connection.welcome.session)
except transport.Refused as refusal:
    print(refusal.status, refusal.reason)
"""


def connect_as_nobody(address: str, spawn: Callable[..., subprocess.Popen[str]]) -> str:
    out, _ = spawn(CONNECT_AS, address).communicate(timeout=60)
    return str(out)


@root_only
def test_another_user_of_the_host_is_refused_over_tcp_too(
    start: Start, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    server = start("--workers", "1", *TCP)
    address = server.also()
    for one in (address, auto(address)):
        assert connect_as_nobody(one, spawn).startswith(
            f"{wire.STATUS_DENIED} user 65534 may not use this server"
        )
    assert server.status()["refused"] == {"DENIED": 2}


@root_only
@pytest.mark.parametrize("allowed", [("--allow-uid", "65534"), ("--allow-network",)])
def test_who_is_allowed_may_connect_over_tcp(
    start: Start, spawn: Callable[..., subprocess.Popen[str]], allowed: tuple[str, ...]
) -> None:
    server = start("--workers", "1", *allowed, *TCP)
    assert connect_as_nobody(server.also(), spawn).startswith("session ")


def test_beyond_this_host_it_listens_once_it_is_told_to(start: Start) -> None:
    server = start("--workers", "1", "--allow-network", "--listen", "tcp://0.0.0.0:0")
    port = parse(server.also()).port
    with transport.connect(f"tcp://127.0.0.1:{port}", timeout=60):
        assert len(server.status()["sessions"]) == 1
    with network.dial(parse(f"tcp://127.0.0.1:{port}"), 30) as one:
        assert f"tcp://127.0.0.1:{port}" in ask(one, 30).addresses  # as this client reached it


# ---------------------------------------------------------------- TLS


def test_tls_is_refused_in_words_where_the_kernel_has_none(start: Start, tmp_path: Path) -> None:
    from transport import tls

    why = tls.available()
    if not why:
        pytest.skip("this kernel has TLS: tests/rdma tries it")
    server = start("--workers", "1", *TCP)
    context = ssl.create_default_context()
    with pytest.raises(gpudisagg.TlsUnavailable, match="this kernel has no TLS"):
        gpudisagg.connect(server.also(), tls=context)
    said = run("serve", "--listen", "tcp://127.0.0.1:0", "--tls-cert", str(tmp_path / "cert.pem"))
    assert said.returncode == 1
    assert "--tls-cert: this kernel has no TLS" in said.stderr
    assert "Traceback" not in said.stderr


@pytest.mark.parametrize("scheme", ["unix", "rdma"])
def test_tls_is_for_tcp(scheme: str) -> None:
    address = "unix:///x" if scheme == "unix" else "rdma://127.0.0.1:1"
    with pytest.raises(ValueError, match="TLS is for tcp://"):
        gpudisagg.connect(address, tls=ssl.create_default_context())
