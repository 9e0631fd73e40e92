"""auto:// where there is an RDMA device: shared memory on the same host, else the device."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.rdma.inside.serving import PATIENCE, serving

pytestmark = pytest.mark.timeout(300)  # starting a server in the guest is slow


def test_auto_takes_shared_memory_then_verbs(rdma_address: str) -> None:
    import numpy as np

    import gpudisagg

    data = np.arange(4096)
    with tempfile.TemporaryDirectory(prefix="gpud-") as folder:
        unix = Path(folder) / "s.sock"
        listen = (f"tcp://{rdma_address}:0", f"rdma://{rdma_address}:0", f"unix://{unix}")
        with serving(*listen) as (tcp, rdma, _):
            for where in tcp, rdma:
                with gpudisagg.connect("auto" + where[where.index(":") :], timeout=PATIENCE) as gpu:
                    assert gpu.capabilities.ways == (("shm", "picked"),)
                    assert np.array_equal(gpu.asarray(data).get(), data)
            unix.rename(unix.with_suffix(".hidden"))
            for where in tcp, rdma:
                with gpudisagg.connect("auto" + where[where.index(":") :], timeout=PATIENCE) as gpu:
                    shm, verbs = gpu.capabilities.ways
                    assert shm.transport == "shm" and "nobody listens" in shm.why
                    assert verbs == ("verbs", "picked")
                    assert gpu.capabilities.transport == "verbs"
                    assert np.array_equal(gpu.asarray(data).get(), data)
            unix.with_suffix(".hidden").rename(unix)
