"""The tcp endpoint under the sanitizers: order, bytes behind commands, the engine behind it, bad peers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest
import sanitized

FOLDER = Path(__file__).parent
SANITIZERS = ["thread", "address"]
STRESS = {"exchange": 20000, "threads": 6000, "completion": 3000, "ends": 6, "last_words": 30}
Compiled = Callable[[str, str], list[Path]]


def scenarios(program: str) -> list[str]:
    """As the program lists them."""
    return re.findall(r"^\s+SCENARIO\((\w+)\)", (FOLDER / f"{program}.c").read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """The objects of csrc/<folder> under a sanitizer, compiled once for all programs."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or "cc"
    includes = [f"-I{sanitized.ROOT / 'csrc' / folder}" for folder in ("transport", "engine")]

    @cache
    def objects(folder: str, sanitizer: str) -> list[Path]:
        into = tmp_path_factory.mktemp(f"{folder}-{sanitizer}")
        sources = {"transport": sanitized.TRANSPORT, "engine": sanitized.ENGINE}[folder]

        def compile_one(source: Path) -> Path:
            made = into / f"{source.stem}.o"
            how = [*sanitized.FLAGS, *sanitized.SANITIZERS[sanitizer], *includes]
            subprocess.run([compiler, *how, "-c", str(source), "-o", str(made)], check=True)
            return made

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(compile_one, sources))

    return objects


def built(program: str, sanitizer: str, objects: list[Path], factory: pytest.TempPathFactory) -> Path:
    return sanitized.build(program, sanitizer, objects, factory.mktemp(program))


@pytest.fixture(scope="module", params=SANITIZERS)
def stress(
    request: pytest.FixtureRequest, compiled: Compiled, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    objects = compiled("transport", request.param)
    return built("tcp_stress", request.param, objects, tmp_path_factory)


@pytest.mark.parametrize("scenario", sorted(STRESS))
def test_connection_where_both_sides_may_spin(stress: Path, scenario: str) -> None:
    sanitized.run(stress, scenario, str(STRESS[scenario]))


@pytest.mark.parametrize("scenario", sorted(STRESS))
def test_connection_where_every_wait_is_a_sleep(stress: Path, scenario: str) -> None:
    sanitized.run(stress, scenario, str(STRESS[scenario] // 3), "alone")


@pytest.fixture(scope="module", params=SANITIZERS)
def payload(
    request: pytest.FixtureRequest, compiled: Compiled, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    objects = compiled("transport", request.param)
    return built("tcp_payload", request.param, objects, tmp_path_factory)


@pytest.mark.parametrize("scenario", scenarios("tcp_payload"))
def test_bytes_behind_commands(payload: Path, scenario: str) -> None:
    sanitized.run(payload, scenario)


@pytest.fixture(scope="module", params=SANITIZERS)
def hostile(
    request: pytest.FixtureRequest, compiled: Compiled, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    objects = compiled("transport", request.param)
    return built("tcp_hostile", request.param, objects, tmp_path_factory)


@pytest.mark.parametrize("scenario", scenarios("tcp_hostile"))
def test_client_of_a_worker_that_is_not_ours(hostile: Path, scenario: str) -> None:
    sanitized.run(hostile, scenario)


@pytest.fixture(scope="module", params=SANITIZERS)
def engine(
    request: pytest.FixtureRequest, compiled: Compiled, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    objects = [one for folder in ("transport", "engine") for one in compiled(folder, request.param)]
    return built("tcp_engine", request.param, objects, tmp_path_factory)


@pytest.mark.parametrize("scenario", scenarios("tcp_engine"))
def test_engine_behind_a_socket(engine: Path, scenario: str) -> None:
    sanitized.run(engine, scenario)
