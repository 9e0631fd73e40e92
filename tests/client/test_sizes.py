"""Sizes as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpudisagg.sizes import format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [(0, 0), (4096, 4096), ("512", 512), ("2GiB", 2 << 30), ("2gib", 2 << 30), ("2Gi", 2 << 30),
     ("1.5 MiB", 3 << 19), ("10GB", 10**10), ("10k", 10_000), ("1TiB", 1 << 40), (" 7 B ", 7)],
)  # fmt: skip
def test_a_size_is_bytes_with_or_without_a_unit(text: int | str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "GiB", "-1", -1, "1e3", "2 GiB or so", "3XB", True, None, 1.5e30, "9" * 30, 1 << 63]
)
def test_anything_else_is_refused_with_what_would_be_right(text: object) -> None:
    with pytest.raises(ValueError, match=r"is no size"):
        parse_size(text)


@given(st.integers(0, 1 << 62))
def test_any_size_formats_to_something_close_that_parses(size: int) -> None:
    assert parse_size(format_size(size)) == pytest.approx(size, rel=1e-3)
