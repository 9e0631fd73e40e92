"""Memory regions, their descriptors, and bulk transfers over a loop endpoint, under the sanitizers."""

from __future__ import annotations

from pathlib import Path

import pytest
import sanitized

SCENARIOS = [
    "both_sides_see_the_same_bytes",
    "access_is_kept_to",
    "a_number_in_use_is_refused_and_the_next_region_is_the_next",
    "a_region_at_an_address_leaves_the_reservation_whole",
    "an_echo_maps_nothing_at_an_address",
    "only_a_sealed_file_of_the_right_size_is_mapped",
    "descriptors_nobody_asked_for_are_closed",
    "a_descriptor_that_is_refused_makes_nobody_wait",
]


@pytest.fixture(scope="module")
def regions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sanitized.build("region_check", "address", sanitized.TRANSPORT, tmp_path_factory.mktemp("regions"))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(regions: Path, scenario: str) -> None:
    sanitized.run(regions, scenario)


@pytest.mark.parametrize("sanitizer", ["thread", "address"])
def test_what_several_threads_put_through_one_small_stage_comes_back(sanitizer: str, tmp_path: Path) -> None:
    sanitized.run(sanitized.build("bulk_stress", sanitizer, sanitized.TRANSPORT, tmp_path), "150")
