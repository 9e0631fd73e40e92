"""The client of tests/transport/independent.py over a queue pair: by docs/protocol.md and pyverbs alone."""

from __future__ import annotations

import ipaddress
import socket
import struct
import time
from typing import Any

from tests.rdma.inside.reliable import PSN, End
from tests.transport.independent import (
    COMPLETED,
    CREDIT,
    DEVICE,
    MAX_MESSAGE,
    MESSAGE_HEAD,
    QUEUE_PAIR,
    REGION_KEY,
    VERBS,
    Client,
    Gone,
    Kernel,
    frame,
    read_frame,
    shake_hands,
)

RECEIVES = 64
SENDS = 64
MTU_1024 = 3  # what End asks for
PAIR_REST = struct.Struct("<IIIIII")  # of QUEUE_PAIR, behind the gid
SENT = 1000  # ids of SENDs begin here; those of receives are their places


class QueuePair(Client):
    """A session by SEND and RECV, READ and WRITE."""

    def __init__(self, context: Any, gid_index: int, host: str, port: int) -> None:
        from pyverbs.addr import GID

        super().__init__()
        self.socket = socket.create_connection((host, port), 120)
        self.welcome = shake_hands(self.socket, DEVICE | VERBS)
        assert self.welcome.features == DEVICE | VERBS
        theirs = self._read_pair()
        gid, number, sequence, lid, mtu, self.peer_receives, reads = theirs
        assert lid == 0 and 1 <= mtu <= 5 and 16 <= self.peer_receives <= 65536 and 1 <= reads <= 255
        assert mtu >= MTU_1024  # then the lesser is ours
        self.end = End(context, gid_index, depth=SENDS)
        self.end.connect(number, GID(ipaddress.IPv6Address(gid).exploded), psn=sequence, local_psn=PSN)
        self._came = self.end.memory(RECEIVES * MAX_MESSAGE)
        self._goes = self.end.memory(SENDS * MAX_MESSAGE)
        for place in range(RECEIVES):
            self._receive_into(place)
        self.socket.sendall(frame(QUEUE_PAIR, self._pair()))
        assert self._read_pair() == theirs  # the same one again: ready
        self.credit = self.peer_receives
        self.spent = 0  # ever
        self.credits_returned = 0  # CREDIT messages that this side sent
        self._owed = 0
        self._sent = self._gone = 0

    def _pair(self) -> bytes:
        gid = ipaddress.IPv6Address(self.end.gid.gid).packed
        return gid + PAIR_REST.pack(self.end.number, PSN, 0, MTU_1024, RECEIVES, 16)

    def _read_pair(self) -> tuple[bytes, int, int, int, int, int, int]:
        kind, fixed, text = read_frame(self.socket)
        assert (kind, len(fixed), text) == (QUEUE_PAIR, 40, "")
        number, sequence, lid, mtu, receives, reads = PAIR_REST.unpack(fixed[16:])
        return fixed[:16], number, sequence, lid, mtu, receives, reads

    # ------------------------------------------------------------ messages

    def send(self, message: bytes, payload: bytes = b"") -> None:
        """An ordinary message: while more than a quarter of the credit is left. No payload goes with it."""
        assert not payload
        self._send(message, self.peer_receives // 4)

    def link(self, op: int, body: bytes, least: int) -> None:
        self._send(MESSAGE_HEAD.pack(0, 16 + len(body), op, 0, 0, 0) + body, least)

    def _send(self, message: bytes, least: int) -> None:
        self.until(lambda: self.credit > least and self._sent - self._gone < SENDS)
        offset = self._sent % SENDS * MAX_MESSAGE
        self._goes.write(message, len(message), offset)
        self.end.post("SEND", self._goes, len(message), offset=offset, id=SENT + self._sent % SENDS)
        self._sent += 1
        self.credit -= 1
        self.spent += 1

    def _receive_into(self, place: int) -> None:
        self.end.receive(self._came, MAX_MESSAGE, offset=place * MAX_MESSAGE, id=place)

    def receive(self, limit: float) -> None:
        deadline = time.monotonic() + limit
        while True:
            hung_up = self._hung_up()  # before the queue is looked at: what came before it still counts
            count, found = self.end.completions.poll(1)
            if count:
                return self._judge(found[0])
            if hung_up:
                raise Gone
            if time.monotonic() > deadline:
                return None
            time.sleep(0.001)

    def _hung_up(self) -> bool:
        self.socket.setblocking(False)
        try:
            said = self.socket.recv(1)
        except BlockingIOError:
            return False
        except OSError:
            return True
        assert said == b"", "the socket carries nothing after the handshake"
        return True

    def _judge(self, completion: Any) -> None:
        if completion.status != 0:
            self.status = completion.status
            raise Gone(f"status {completion.status}")
        if completion.wr_id >= SENT:
            self._gone += 1
            return
        place, size = completion.wr_id, completion.byte_len
        message = self._came.read(size, place * MAX_MESSAGE)
        self._receive_into(place)
        self._owed += 1
        op = self.take(message)
        assert op <= COMPLETED or op == CREDIT
        if op == CREDIT:
            more, reserved = struct.unpack("<II", message[16:])
            assert more > 0 and reserved == 0 and self.credit + more <= self.peer_receives
            self.credit += more
        if self._owed >= RECEIVES // 8 and self.credit > 0:
            returned, self._owed = self._owed, 0
            self.credits_returned += 1
            self.link(CREDIT, struct.pack("<II", returned, 0), 0)

    # ------------------------------------------------------------ regions

    def offer(self, number: int, memory: Any, size: int, access: int = 3, *, wrong: int = 0) -> int:
        """REGION_KEY and REGION_ADD. `wrong`: what is added to the key."""
        key = struct.pack("<QII", memory.buf, number, (memory.rkey + wrong) & 0xFFFFFFFF)
        self.link(REGION_KEY, key, self.peer_receives // 8)
        return self.add_region(number, size, access)

    def load_image(self, number: int, image: bytes, region: int, memory: Any) -> list[Kernel]:
        memory.write(image, len(image))
        return self.load(number, region, 0, len(image))

    def close(self) -> None:
        self.socket.close()
        self.end.close()

    def __enter__(self) -> QueuePair:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
