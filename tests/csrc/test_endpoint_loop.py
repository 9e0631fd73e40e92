"""Two threads over a loop endpoint, under the sanitizers: order, credit, and how every wait ends."""

from __future__ import annotations

from pathlib import Path

import pytest
import sanitized

COUNTS = {
    "exchange": 200000,
    "threads": 60000,
    "completion": 30000,
    "credit": 1,
    "ends": 40,
    "last_words": 400,
}


@pytest.fixture(scope="module", params=["thread", "address"])
def stress(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sanitized.build(
        "connection_stress", request.param, sanitized.TRANSPORT, tmp_path_factory.mktemp("connection")
    )


@pytest.mark.parametrize("scenario", sorted(COUNTS))
def test_scenario_where_both_sides_may_spin(stress: Path, scenario: str) -> None:
    sanitized.run(stress, scenario, str(COUNTS[scenario]))


@pytest.mark.parametrize("scenario", sorted(COUNTS))
def test_scenario_where_every_wait_is_a_sleep(stress: Path, scenario: str) -> None:
    sanitized.run(stress, scenario, str(COUNTS[scenario] // 3 or 1), "alone")
