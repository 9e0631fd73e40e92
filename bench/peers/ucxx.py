"""UCXX: tagged messages, the worker polled from Python. UCX_TLS says over what."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from bench.peers.end import End

_PATIENCE = 30.0


class Peer(End):
    def meet(self, exchange: Callable[[str], str]) -> None:
        from ucxx._lib import libucxx
        from ucxx._lib.arr import Array

        self._array = Array
        self._worker = libucxx.UCXWorker(libucxx.UCXContext())
        address = self._worker.address
        raw = bytes(address.get_buffer() if hasattr(address, "get_buffer") else memoryview(address))
        theirs = libucxx.UCXAddress.create_from_buffer(bytes.fromhex(exchange(raw.hex())))
        # Error handling off: its fastest.
        self._endpoint = libucxx.UCXEndpoint.create_from_worker_address(
            self._worker, theirs, endpoint_error_handling=False
        )
        there, back = libucxx.UCXXTag(1), libucxx.UCXXTag(2)
        self._mine, self._theirs = (there, back) if self.client else (back, there)
        self._full = libucxx.UCXXTagMaskFull
        self._into = np.zeros(64, np.uint8)
        self._into_array = Array(self._into)
        self.messages = [Array(np.frombuffer(message, np.uint8).copy()) for message in self.messages]
        self._views: dict[int, Any] = {}

    def _wait(self, request: Any) -> None:
        progress = self._worker.progress
        polls = 0
        while not request.completed:
            progress()
            polls += 1
            if polls == 1 << 16:
                deadline = time.monotonic() + _PATIENCE
            elif polls > 1 << 16 and polls % 4096 == 0 and time.monotonic() > deadline:
                raise TimeoutError("the request did not complete")
        request.check_error()

    def _send(self, message: Any) -> None:
        self._wait(self._endpoint.tag_send(message, self._mine))

    def _receive(self) -> int:
        self._wait(self._endpoint.tag_recv(self._into_array, self._theirs, self._full))
        return int(self._into[0])

    def _view(self, size: int) -> Any:
        if size not in self._views:
            self._views[size] = self._array((self.source if self.client else self.target)[:size])
        return self._views[size]

    def put(self, size: int) -> None:
        self._send(self._view(size))
        self._receive()

    def take(self, size: int) -> None:
        self._wait(self._endpoint.tag_recv(self._view(size), self._theirs, self._full))
        self._send(self.messages[0])
