"""The tests in inside/ run in the guest."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rdma.guest import send_to_guest

INSIDE = Path(__file__).with_name("inside")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    send_to_guest(items, [item for item in items if INSIDE in item.path.parents])
