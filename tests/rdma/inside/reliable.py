"""One end of a reliable RDMA connection by pyverbs, with its own completion queue, for tests in the guest.

pyverbs is imported where it is used, as this module is collected on machines without it. Use the fixture
`pyverbs` before, or one that does.
"""

from __future__ import annotations

import time
from typing import Any

PSN = 0x123456


class End:
    """`a.connect(b.number, b.gid)` and the other way round; then post and await."""

    def __init__(self, context: Any, gid_index: int, *, depth: int = 64, inline: int = 0) -> None:
        from pyverbs import enums
        from pyverbs.cq import CQ, CompChannel
        from pyverbs.pd import PD
        from pyverbs.qp import QP, QPCap, QPInitAttr

        self.context = context
        self._gid_index = gid_index
        self.gid = context.query_gid(1, gid_index)
        self.domain = PD(context)
        self.channel = CompChannel(context)
        self.completions = CQ(context, 2 * depth, None, self.channel)
        size = QPCap(
            max_send_wr=depth, max_recv_wr=depth, max_send_sge=1, max_recv_sge=1, max_inline_data=inline
        )
        kind = QPInitAttr(
            qp_type=enums.IBV_QPT_RC, scq=self.completions, rcq=self.completions, cap=size, sq_sig_all=1
        )
        self.pair = QP(self.domain, kind)
        self.number: int = self.pair.qp_num
        self._open: list[Any] = [self.pair]

    def connect(
        self, number: int, gid: str, *, psn: int = PSN, local_psn: int = PSN, retries: int = 3
    ) -> None:
        """To the queue pair `number` at `gid`: up to ready to send."""
        from pyverbs import enums
        from pyverbs.addr import AHAttr, GlobalRoute
        from pyverbs.qp import QPAttr

        how = QPAttr(port_num=1)
        how.qp_access_flags = (
            enums.IBV_ACCESS_LOCAL_WRITE | enums.IBV_ACCESS_REMOTE_READ | enums.IBV_ACCESS_REMOTE_WRITE
        )
        self.pair.to_init(how)
        how.path_mtu = enums.IBV_MTU_1024
        how.dest_qp_num, how.rq_psn, how.sq_psn = number, psn, local_psn
        how.max_rd_atomic = how.max_dest_rd_atomic = 16
        how.min_rnr_timer = 12
        how.timeout, how.retry_cnt, how.rnr_retry = 14, retries, retries
        route = GlobalRoute(dgid=gid, sgid_index=self._gid_index)
        route.hop_limit = 64
        how.ah_attr = AHAttr(gr=route, is_global=1, port_num=1)
        self.pair.to_rts(how)

    def memory(self, size: int, *, remote_write: bool = True) -> Any:
        """Registered memory that the other end may read, and write unless told otherwise."""
        from pyverbs import enums
        from pyverbs.mr import MR

        access = enums.IBV_ACCESS_LOCAL_WRITE | enums.IBV_ACCESS_REMOTE_READ
        region = MR(self.domain, size, access | (enums.IBV_ACCESS_REMOTE_WRITE if remote_write else 0))
        self._open.append(region)
        return region

    def receive(self, region: Any, length: int, *, offset: int = 0, id: int = 0) -> None:
        """Posts room for one message."""
        from pyverbs.wr import SGE, RecvWR

        place = SGE(region.buf + offset, length, region.lkey)
        self.pair.post_recv(RecvWR(wr_id=id, num_sge=1, sg=[place]))

    def post(
        self,
        operation: str,
        region: Any,
        length: int,
        *,
        offset: int = 0,
        remote: tuple[int, int] | None = None,
        inline: bool = False,
        id: int = 0,
    ) -> None:
        """`operation` is SEND, RDMA_WRITE or RDMA_READ; `remote` an address and its rkey."""
        from pyverbs import enums
        from pyverbs.wr import SGE, SendWR

        flags = enums.IBV_SEND_SIGNALED | (enums.IBV_SEND_INLINE if inline else 0)
        place = SGE(region.buf + offset, length, region.lkey)
        opcode = getattr(enums, f"IBV_WR_{operation}")
        request = SendWR(wr_id=id, opcode=opcode, num_sge=1, sg=[place], send_flags=flags)
        if remote is not None:
            address, rkey = remote
            request.set_wr_rdma(rkey, address)
        self.pair.post_send(request)

    def completion(self, limit: float = 20) -> Any:
        """The next, whatever its status."""
        deadline = time.monotonic() + limit
        while True:
            count, found = self.completions.poll(1)
            if count:
                return found[0]
            if time.monotonic() > deadline:
                raise TimeoutError(f"no completion in {limit} s")

    def close(self) -> None:
        for thing in self._open:
            thing.close()
        for thing in self.completions, self.channel, self.domain:
            thing.close()
