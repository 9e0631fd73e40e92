"""iceoryx2: publish and subscribe in both directions, both sides polling."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from typing import Any

from bench.peers.end import MESSAGE, End

_DEPTH = 1024  # samples a subscriber may hold: messages are not overwritten, the sender waits
_PATIENCE = 30.0


class Peer(End):
    def prepare(self, message: bytes) -> Any:
        return ctypes.create_string_buffer(message, MESSAGE)

    def meet(self, exchange: Callable[[str], str]) -> None:
        import iceoryx2

        iceoryx2.set_log_level(iceoryx2.LogLevel.Fatal)
        self._node = iceoryx2.NodeBuilder.new().create(iceoryx2.ServiceType.Ipc)
        mine = str(os.getpid())
        theirs = exchange(mine)
        name = f"bench-{mine if self.client else theirs}"

        def service(direction: str, depth: int) -> Any:
            named = self._node.service_builder(iceoryx2.ServiceName.new(f"{name}/{direction}"))
            kind = named.publish_subscribe(iceoryx2.Slice[ctypes.c_uint8])
            return kind.subscriber_max_buffer_size(depth).enable_safe_overflow(False).open_or_create()

        there, back, bulk = service("there", _DEPTH), service("back", _DEPTH), service("bulk", 2)
        out, into = (there, back) if self.client else (back, there)
        self._publisher = out.publisher_builder().initial_max_slice_len(MESSAGE).create()
        self._subscriber = into.subscriber_builder().create()
        if self.client:
            self._bulk = bulk.publisher_builder().initial_max_slice_len(self.largest).create()
        else:
            self._bulk = bulk.subscriber_builder().create()
        exchange("open")  # both subscribe before either publishes

    def _publish(self, publisher: Any, source: Any, size: int) -> None:
        sample = publisher.loan_slice_uninit(size)
        ctypes.memmove(sample.payload_ptr, source, size)
        sample.assume_init().send()

    def _poll(self, subscriber: Any) -> Any:
        receive = subscriber.receive
        sample = receive()
        if sample is None:
            deadline = time.monotonic() + _PATIENCE
            while sample is None:
                for _ in range(1000):
                    sample = receive()
                    if sample is not None:
                        return sample
                if time.monotonic() > deadline:
                    raise TimeoutError("no sample came")
        return sample

    def _send(self, message: Any) -> None:
        self._publish(self._publisher, message, MESSAGE)

    def _receive(self) -> int:
        sample = self._poll(self._subscriber)
        number = ctypes.cast(sample.payload_ptr, ctypes.POINTER(ctypes.c_uint8))[0]
        sample.delete()
        return int(number)

    def put(self, size: int) -> None:
        self._publish(self._bulk, self.source.ctypes.data, size)
        self._receive()

    def take(self, size: int) -> None:
        """What came is used where it lies, as its users do."""
        self._poll(self._bulk).delete()
        self._send(self.messages[0])

    def bulk_sink(self, count: int, size: int) -> None:
        for _ in range(count):
            self.take(size)
        last = self._poll(self._bulk)
        self._send(self.messages[0])  # the client's time ends here; what follows is for the checksum
        ctypes.memmove(self.target.ctypes.data, last.payload_ptr, size)
        last.delete()
