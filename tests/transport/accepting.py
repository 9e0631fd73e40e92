"""A thread that lets clients in, and ends without anybody's waiting for a clock."""

from __future__ import annotations

import queue
import threading
from typing import Any

import transport


class Accepting:
    """Accepts whoever may connect, until a client named "stop" does."""

    def __init__(self, listener: transport.Listener, **granted: Any) -> None:
        self.listener = listener
        self.accepted: queue.Queue[transport.Connection] = queue.Queue()
        self.thread = threading.Thread(target=self.run, kwargs=granted)

    def run(self, **granted: Any) -> None:
        while True:
            connection = self.listener.accept(100, **granted)
            self.accepted.put(connection)
            assert connection.hello is not None
            if connection.hello.name == "stop":
                return

    def result(self, timeout: float) -> transport.Connection:
        return self.accepted.get(timeout=timeout)

    def __enter__(self) -> Accepting:
        self.thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        transport.connect(str(self.listener.address), name="stop", timeout=60).close()
        self.thread.join(60)
        while not self.accepted.empty():
            self.accepted.get().close()
