"""Who may have a session, and with how much."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpudisagg.server.admission import admit, check_user
from gpudisagg.server.config import ServerConfig, resolve
from transport import wire
from transport.errors import Refused

MIB = 1 << 20


def config(**flags: object) -> ServerConfig:
    return resolve({"listen": ("unix:///x",), "memory": "64MiB", "host_memory": "32MiB", **flags}, {})


def test_who_asks_for_nothing_gets_the_limits() -> None:
    grant = admit(wire.Hello(deadline_ms=1500), config())
    assert (grant.memory, grant.host_memory, grant.wait) == (64 * MIB, 32 * MIB, 1.5)


def test_who_asks_for_less_gets_that() -> None:
    grant = admit(wire.Hello(memory=MIB, host_memory=1), config())
    assert (grant.memory, grant.host_memory, grant.wait) == (MIB, 1, 0.0)


def test_the_wait_is_the_shorter_of_the_clients_and_the_servers() -> None:
    assert admit(wire.Hello(deadline_ms=90_000), config(queue_timeout="2")).wait == 2.0


@pytest.mark.parametrize(
    ("field", "limit", "flag"), [("memory", 64 * MIB, "--memory"), ("host_memory", 32 * MIB, "--host-memory")]
)
def test_who_asks_for_too_much_is_told_both_numbers_and_what_to_do(field: str, limit: int, flag: str) -> None:
    with pytest.raises(Refused) as refusal:
        admit(wire.Hello(**{field: limit + 1}), config())
    assert refusal.value.status == wire.STATUS_OUT_OF_MEMORY
    assert refusal.value.retry_ms == 0
    for word in (str(limit), str(limit + 1), "ask for less", flag):
        assert word in refusal.value.reason


@pytest.mark.parametrize(("low", "high"), [(wire.VERSION + 1, wire.VERSION + 3), (0, wire.VERSION - 1)])
def test_no_common_version_is_refused_with_both_ranges(low: int, high: int) -> None:
    with pytest.raises(Refused) as refusal:
        admit(wire.Hello(version_min=low, version_max=high), config())
    assert refusal.value.status == wire.STATUS_VERSION
    assert f"{low} to {high}" in refusal.value.reason


def test_the_own_user_root_and_those_named_may_connect() -> None:
    stranger = 54321
    for uid in (os.geteuid(), 0):
        check_user(uid, config())
    check_user(stranger, config(allow_uid=(str(stranger),)))
    with pytest.raises(Refused) as refusal:
        check_user(stranger, config())
    assert refusal.value.status == wire.STATUS_DENIED
    assert f"--allow-uid {stranger}" in refusal.value.reason


def test_who_the_kernel_does_not_know_may_not() -> None:
    with pytest.raises(Refused) as refusal:
        check_user(None, config())
    assert refusal.value.status == wire.STATUS_DENIED
    assert "--allow-network" in refusal.value.reason


u16, u32, u64 = (st.integers(0, 2**bits - 1) for bits in (16, 32, 64))


@given(st.builds(wire.Hello, u16, u16, u32, u64, u64, u64, st.text(max_size=50)))
def test_no_hello_gets_more_than_the_limits_or_waits_longer_than_allowed(hello: wire.Hello) -> None:
    limits = config()
    try:
        grant = admit(hello, limits)
    except Refused as refusal:
        assert refusal.status in (wire.STATUS_VERSION, wire.STATUS_OUT_OF_MEMORY)
        return
    assert 0 < grant.memory <= limits.memory
    assert 0 < grant.host_memory <= limits.host_memory
    assert 0 <= grant.wait <= limits.queue_timeout
