"""Addresses: what one is, and what is said of one that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from transport.address import parse


@pytest.mark.parametrize("text", ["unix:///run/gpu.sock", "unix:///a%20b.sock", "unix:///ü.sock"])
def test_an_address_is_a_scheme_and_a_path(text: str) -> None:
    assert parse(text).scheme == "unix"
    assert parse(text).path.startswith("/")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("/run/gpu.sock", "no scheme"),
        ("", "no scheme"),
        ("tcp://host:1", "unix://"),
        ("unix://relative.sock", "three slashes"),
        ("unix:relative", "absolute"),
        ("unix:///a?b=c", "nothing may follow"),
        ("unix:///" + "x" * 200, "107"),
        ("unix:///a%00b", "NUL"),
    ],
)
def test_an_address_that_cannot_be_is_a_value_error_that_says_what_would(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse(text)


@pytest.mark.parametrize("address", [Path("/run/gpu.sock"), b"unix:///run/gpu.sock", 42])
def test_an_address_that_is_no_text_is_a_type_error_that_shows_one(address: object) -> None:
    with pytest.raises(TypeError, match=r"'unix:///run/name\.sock', not"):
        parse(address)  # type: ignore[arg-type]
