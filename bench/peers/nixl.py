"""NIXL: agents on its UCX backend. Round trips are of notifications, bulk is one-sided WRITE.

Variants: "" as it comes; "no-errors": without the detection of failed peers, so that UCX uses shared
memory.
"""

from __future__ import annotations

import base64
import importlib
import json
import os
import time
from collections.abc import Callable
from typing import Any

from bench.peers.end import End

_PATIENCE = 30.0


def _api() -> Any:
    for name in ("nixl_cu12", "nixl"):
        try:
            return importlib.import_module(name + "._api")
        except ImportError as error:
            failed = error
    raise failed


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


class Peer(End):
    def meet(self, exchange: Callable[[str], str]) -> None:
        api = _api()
        config = api.nixl_agent_config(enable_prog_thread=False, backends=[])
        self._agent = api.nixl_agent(f"bench-{os.getpid()}", config)
        options = {"ucx_error_handling_mode": "none"} if self.variant == "no-errors" else {}
        self._agent.create_backend("UCX", options)
        memory = self.source if self.client else self.target
        self._address = memory.ctypes.data
        self._agent.register_memory([(self._address, self.largest, 0, "bench")], "DRAM")
        metadata = base64.b64encode(self._agent.get_agent_metadata()).decode()
        theirs = json.loads(exchange(json.dumps([metadata, self._address])))
        self._other = _text(self._agent.add_remote_agent(base64.b64decode(theirs[0])))
        self._there = theirs[1]
        self._transfers: dict[int, Any] = {}
        self._inbox: list[bytes] = []
        exchange("open")

    def _send(self, message: Any) -> None:
        self._agent.send_notif(self._other, message)

    def _notification(self) -> bytes:
        if self._inbox:
            return self._inbox.pop()
        polls, look = 0, self._agent.get_new_notifs
        deadline = time.monotonic() + _PATIENCE
        while True:
            found = look()
            if found:
                self._inbox = [note for notes in found.values() for note in reversed(notes)]
                if self._inbox:
                    return self._inbox.pop()
            polls += 1
            if polls % 4096 == 0 and time.monotonic() > deadline:
                raise TimeoutError("no notification came")

    def _receive(self) -> int:
        return self._notification()[0]

    def put(self, size: int) -> None:
        if size not in self._transfers:
            here = self._agent.get_xfer_descs([(self._address, size, 0)], "DRAM")
            there = self._agent.get_xfer_descs([(self._there, size, 0)], "DRAM")
            self._transfers[size] = self._agent.initialize_xfer("WRITE", here, there, self._other, b"put")
        transfer = self._transfers[size]
        state = self._agent.transfer(transfer, b"put")
        while state == "PROC":
            state = self._agent.check_xfer_state(transfer)
        if state != "DONE":
            raise RuntimeError(f"the transfer ended as {state}")
        self._receive()

    def take(self, size: int) -> None:
        self._notification()
        self._send(self.messages[0])
