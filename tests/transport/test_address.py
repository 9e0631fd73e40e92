"""Addresses: what one is, and what is said of one that cannot be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.address import Address, parse

ports = st.integers(1, 65535)
labels = st.from_regex(r"[a-z0-9_]([a-z0-9_-]{0,20}[a-z0-9_])?", fullmatch=True)
names = (
    st.lists(labels, min_size=1, max_size=4).map(".".join).filter(lambda n: not n.replace(".", "").isdigit())
)
hosts = names | st.ip_addresses().map(str) | st.just("fe80::1%eth0")
paths = (
    st.binary(min_size=1, max_size=100).filter(lambda b: b"\0" not in b).map(lambda b: os.fsdecode(b"/" + b))
)


@pytest.mark.parametrize("text", ["unix:///run/gpu.sock", "unix:///a%20b.sock", "unix:///ü.sock"])
def test_a_unix_address_is_an_absolute_path(text: str) -> None:
    assert parse(text).scheme == "unix"
    assert parse(text).path.startswith("/")
    assert str(parse(text)) == text


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("tcp://gpu-host.example.org:7777", Address("tcp", host="gpu-host.example.org", port=7777)),
        ("TCP://10.0.0.1:1", Address("tcp", host="10.0.0.1", port=1)),
        ("rdma://[2001:db8::1]:65535", Address("rdma", host="2001:db8::1", port=65535)),
        ("auto://[fe80::1%eth0]:7777", Address("auto", host="fe80::1%eth0", port=7777)),
    ],
)
def test_the_others_are_a_host_and_a_port(text: str, address: Address) -> None:
    assert parse(text) == address


@given(
    st.builds(Address, st.just("unix"), paths, st.just(""), st.just(0))
    | st.builds(Address, st.sampled_from(["tcp", "rdma", "auto"]), st.just(""), hosts, ports)
)
def test_the_text_of_an_address_parses_to_it(address: Address) -> None:
    assert parse(str(address)) == address


@given(
    st.text(max_size=40)
    | st.tuples(st.sampled_from(["unix", "tcp", "rdma", "auto"]), st.text()).map("://".join)
)
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    try:
        address = parse(text)
    except ValueError as error:
        assert str(error)
    else:
        assert parse(str(address)) == address


def test_only_who_listens_may_leave_the_port_to_the_kernel() -> None:
    assert parse("tcp://127.0.0.1:0", listening=True).port == 0
    with pytest.raises(ValueError, match="port 0"):
        parse("tcp://127.0.0.1:0")


def test_auto_is_for_clients() -> None:
    with pytest.raises(ValueError, match="is for clients"):
        parse("auto://127.0.0.1:7777", listening=True)


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("unix:///x", True),
        ("tcp://127.0.0.1:1", True),
        ("tcp://127.8.9.1:1", True),
        ("tcp://[::1]:1", True),
        ("tcp://localhost:1", True),
        ("tcp://0.0.0.0:1", False),
        ("tcp://[::]:1", False),
        ("rdma://10.0.0.1:1", False),
        ("tcp://a-name:1", False),
    ],
)
def test_what_only_this_host_can_reach(text: str, local: bool) -> None:
    assert parse(text).is_local is local


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("/run/gpu.sock", "no scheme"),
        ("", "no scheme"),
        ("http://host:1", "unix://, tcp://, rdma://, auto://"),
        ("unix://relative.sock", "three slashes"),
        ("unix:relative", "absolute"),
        ("unix:///a?b=c", "nothing may follow"),
        ("unix:///" + "x" * 200, "107"),
        ("unix:///a%00b", "NUL"),
        ("tcp://host", "no port"),
        ("tcp://:7777", "0.0.0.0"),
        ("tcp://host:", "from 1 to 65535"),
        ("tcp://host:http", "from 1 to 65535"),
        ("tcp://host:65536", "from 1 to 65535"),
        ("tcp://host:-1", "from 1 to 65535"),
        ("tcp://host:1/", "nothing may follow"),
        ("tcp://host:1/path", "nothing may follow"),
        ("tcp://::1:7777", "in brackets"),
        ("tcp://[::1:7777", "not closed"),
        ("tcp://[::1]", "from 1 to 65535"),
        ("tcp://[10.0.0.1]:1", "no IPv6"),
        ("tcp://300.1.1.1:1", "no IPv4"),
        ("tcp://1.2.3:1", "no IPv4"),
        ("tcp://user@host:1", "no host's name"),
        ("tcp://a..b:1", "no host's name"),
        ("tcp://" + "a" * 300 + ":1", "no host's name"),
    ],
)
def test_an_address_that_cannot_be_is_a_value_error_that_says_what_would(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse(text)


@pytest.mark.parametrize("address", [Path("/run/gpu.sock"), b"unix:///run/gpu.sock", 42])
def test_an_address_that_is_no_text_is_a_type_error_that_shows_one(address: object) -> None:
    with pytest.raises(TypeError, match=r"'unix:///run/name\.sock', not"):
        parse(address)  # type: ignore[arg-type]
