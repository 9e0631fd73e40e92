"""The soft-RoCE device that the tests beside this one use."""

from __future__ import annotations

import ipaddress
from pathlib import Path


def test_the_port_is_up(rdma_device: str) -> None:
    assert Path(f"/sys/class/infiniband/{rdma_device}/ports/1/state").read_text().split() == ["4:", "ACTIVE"]


def test_the_gid_is_that_of_the_ipv4_address_over_roce_v2(rdma_device: str, gid_index: int) -> None:
    port = Path(f"/sys/class/infiniband/{rdma_device}/ports/1")
    assert (port / f"gid_attrs/types/{gid_index}").read_text().strip() == "RoCE v2"
    gid = ipaddress.IPv6Address((port / f"gids/{gid_index}").read_text().strip())
    assert gid.ipv4_mapped == ipaddress.IPv4Address("10.77.0.1")
