"""Tests of what is between two hosts run on this machine where it has network namespaces and, for tests
marked `netem`, network emulation; in the guest of tests/rdma where it has not.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.network.link import Link, linked, why_no_link, why_no_netem
from tests.rdma.guest import IN_GUEST, send_to_guest

HERE = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "netem(how): the link emulates delay and loss as tc-netem(8) has it")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ours = [item for item in items if HERE in item.path.parents]
    if not IN_GUEST:
        send_to_guest(items, [item for item in ours if needs(item) is not None])


def needs(item: pytest.Item) -> str | None:
    """What this machine lacks of what the test needs."""
    return why_no_netem() if item.get_closest_marker("netem") else why_no_link()


@pytest.fixture
def link(request: pytest.FixtureRequest) -> Iterator[Link]:
    """Two namespaces and their cable; `@pytest.mark.netem("delay 5ms loss 1%")` says how bad it is."""
    if (lack := needs(request.node)) is not None:
        pytest.skip(lack)
    marker = request.node.get_closest_marker("netem")
    with linked(*marker.args if marker else ()) as made:
        yield made
