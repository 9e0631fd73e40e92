"""The tcp endpoint under the sanitizers: order, bytes behind commands, the engine behind it, bad peers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import sanitized

FOLDER = Path(__file__).parent
SANITIZERS = ["thread", "address"]
STRESS = {"exchange": 20000, "threads": 6000, "completion": 3000, "ends": 6, "last_words": 30}


def scenarios(program: str) -> list[str]:
    """As the program lists them."""
    return re.findall(r"^\s+SCENARIO\((\w+)\)", (FOLDER / f"{program}.c").read_text(), re.MULTILINE)


@pytest.fixture(scope="module", params=SANITIZERS)
def stress(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sanitized.build(
        "tcp_stress", request.param, sanitized.TRANSPORT, tmp_path_factory.mktemp("tcp_stress")
    )


@pytest.mark.parametrize("scenario", sorted(STRESS))
def test_connection_where_both_sides_may_spin(stress: Path, scenario: str) -> None:
    sanitized.run(stress, scenario, str(STRESS[scenario]))


@pytest.mark.parametrize("scenario", sorted(STRESS))
def test_connection_where_every_wait_is_a_sleep(stress: Path, scenario: str) -> None:
    sanitized.run(stress, scenario, str(STRESS[scenario] // 3), "alone")


@pytest.fixture(scope="module", params=SANITIZERS)
def payload(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sanitized.build(
        "tcp_payload", request.param, sanitized.TRANSPORT, tmp_path_factory.mktemp("tcp_payload")
    )


@pytest.mark.parametrize("scenario", scenarios("tcp_payload"))
def test_bytes_behind_commands(payload: Path, scenario: str) -> None:
    sanitized.run(payload, scenario)


@pytest.fixture(scope="module", params=SANITIZERS)
def hostile(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sanitized.build(
        "tcp_hostile", request.param, sanitized.TRANSPORT, tmp_path_factory.mktemp("tcp_hostile")
    )


@pytest.mark.parametrize("scenario", scenarios("tcp_hostile"))
def test_client_of_a_worker_that_is_not_ours(hostile: Path, scenario: str) -> None:
    sanitized.run(hostile, scenario)


@pytest.fixture(scope="module", params=SANITIZERS)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sanitized.build(
        "tcp_engine",
        request.param,
        [*sanitized.TRANSPORT, *sanitized.ENGINE],
        tmp_path_factory.mktemp("tcp_engine"),
    )


@pytest.mark.parametrize("scenario", scenarios("tcp_engine"))
def test_engine_behind_a_socket(engine: Path, scenario: str) -> None:
    sanitized.run(engine, scenario)
