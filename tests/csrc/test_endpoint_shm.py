"""The shm endpoint between processes, under the sanitizers: handshake, death of either side, fork."""

from __future__ import annotations

from pathlib import Path

import pytest
import sanitized

SCENARIOS = [
    "messages_and_memory_reach_the_other_process",
    "without_a_window_nothing_is_mapped_at_an_address",
    "a_killed_client_is_noticed_although_its_child_holds_the_socket",
    "a_client_that_closes_is_noticed_although_its_child_holds_the_socket",
    "a_killed_worker_is_noticed_in_every_wait",
    "a_forked_child_forgets_and_its_parent_goes_on",
    "what_welcome_says_is_checked",
]


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sanitized.build("shm_processes", "address", sanitized.TRANSPORT, tmp_path_factory.mktemp("shm"))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(processes: Path, scenario: str) -> None:
    sanitized.run(processes, scenario)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sanitized.build("hostile_peer", "address", sanitized.TRANSPORT, tmp_path_factory.mktemp("hostile"))


@pytest.mark.parametrize("honest", ["client", "worker"])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_peer_that_scribbles_over_the_shared_memory_causes_errors_and_nothing_else(
    hostile: Path, honest: str, seed: int
) -> None:
    sanitized.run(hostile, honest, "5000", str(seed))


@pytest.fixture(scope="module", params=["address", "thread"])
def sessions(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    sources = [*sanitized.TRANSPORT, *sanitized.ENGINE]
    folder = tmp_path_factory.mktemp("sessions")
    return sanitized.build("hostile_session", request.param, sources, folder)


@pytest.mark.parametrize("honest", ["client", "worker"])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_hostile_process_ends_its_own_session_and_nothing_else(
    sessions: Path, honest: str, seed: int
) -> None:
    sanitized.run(sessions, honest, "300", str(seed))


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_each_word_made_wrong_has_the_one_outcome_the_protocol_gives_it(
    sanitizer: str, tmp_path: Path
) -> None:
    sanitized.run(sanitized.build("hostile_words", sanitizer, sanitized.TRANSPORT, tmp_path))
