"""What every endpoint does alike, over verbs: the suites of tests/transport, each test under its own name.

What they do a million times, they do less often here (tests.transport.conftest.LESS): the guest is slow.
"""

from __future__ import annotations

import inspect
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.transport import conftest, test_conformance, test_regions
from tests.transport.conftest import Endpoint, Pairs

OF_ENDPOINTS = {"pair", "endpoint", "remote", "reaching", "reaching_pair"}


def over_verbs(module: Any) -> dict[str, Callable[..., None]]:
    """The tests of `module` that run over each endpoint."""
    found = {}
    for name, test in vars(module).items():
        if name.startswith("test_") and OF_ENDPOINTS & set(inspect.signature(test).parameters):
            found[name] = test
    return found


globals().update(over_verbs(test_conformance))
globals().update(over_verbs(test_regions))


SIZES = test_conformance.test_a_message_of_any_size_arrives_whole.pytestmark[0].args[1]  # type: ignore[attr-defined]


def test_a_message_of_any_size_arrives_whole(pair: Any) -> None:
    """Each size over one connection: here it is making one that takes long."""
    for size in SIZES:
        test_conformance.test_a_message_of_any_size_arrives_whole(pair, size)


def test_there_is_something_to_run() -> None:
    for module in (test_conformance, test_regions):
        assert len(over_verbs(module)) > 10


@pytest.fixture
def short_path() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="gpud-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def endpoint(rdma_address: str, short_path: Path) -> Endpoint:
    return Endpoint(f"rdma://{rdma_address}", short_path)


@pytest.fixture
def remote(endpoint: Endpoint) -> Endpoint:
    return endpoint


@pytest.fixture
def reaching(endpoint: Endpoint) -> Endpoint:
    return endpoint


@pytest.fixture
def pair(endpoint: Endpoint) -> Pairs:
    yield from conftest._open(endpoint)


@pytest.fixture
def reaching_pair(pair: tuple[Any, Any]) -> tuple[Any, Any]:
    return pair
