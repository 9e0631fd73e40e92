"""What the tests in the guest use. A test here imports at its top only what every machine has."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.rdma.inside.reliable import End

DEBIAN = Path("/usr/lib/python3/dist-packages")


@pytest.fixture(scope="session")
def rdma_device() -> str:
    """The guest's verbs device."""
    return "rxe0"


@pytest.fixture(scope="session")
def gid_index() -> int:
    """Its GID for RoCE v2 over IPv4."""
    return 1


@pytest.fixture(scope="session")
def rdma_address() -> str:
    """Where a listener can be reached by the device's own network."""
    return "10.77.0.1"


@pytest.fixture(scope="session")
def pyverbs() -> ModuleType:
    """Debian's pyverbs, and nothing else of Debian's Python."""
    folder = DEBIAN / "pyverbs"
    if not folder.is_dir():
        pytest.skip("no pyverbs: apt-get install python3-pyverbs")
    if not any((folder / f"device{suffix}").exists() for suffix in importlib.machinery.EXTENSION_SUFFIXES):
        built = ", ".join(path.name for path in folder.glob("device.*.so"))
        pytest.skip(f"pyverbs is built for another Python ({built}), this is {sys.version.split()[0]}")
    if "pyverbs" not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            "pyverbs", folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["pyverbs"] = module
        spec.loader.exec_module(module)
    return sys.modules["pyverbs"]


@pytest.fixture
def verbs_context(pyverbs: ModuleType, rdma_device: str) -> Iterator[Any]:
    from pyverbs.device import Context

    context = Context(name=rdma_device)
    yield context
    context.close()


@pytest.fixture
def unconnected_ends(verbs_context: Any, gid_index: int) -> Iterator[tuple[End, End]]:
    """Two ends of a connection to be, both in this process."""
    ends = End(verbs_context, gid_index), End(verbs_context, gid_index)
    yield ends
    for end in ends:
        end.close()


@pytest.fixture
def ends(unconnected_ends: tuple[End, End]) -> tuple[End, End]:
    """Two connected ends, both in this process."""
    one, other = unconnected_ends
    one.connect(other.number, other.gid)
    other.connect(one.number, one.gid)
    return one, other


@pytest.fixture
def rdma_objects(rdma_device: str) -> Callable[[], dict[str, int]]:
    """Counts what the kernel holds of each kind of verbs object, for all processes: what stays is a leak."""

    def count() -> dict[str, int]:
        command = ["rdma", "--json", "resource", "show", rdma_device]
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
        (device,) = json.loads(said)
        return {kind: device[kind] for kind in ("pd", "cq", "qp", "mr", "ctx")}

    return count
