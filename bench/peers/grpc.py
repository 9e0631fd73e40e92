"""gRPC: raw bytes over a Unix socket, by grpcio. Variants: stream, unary."""

from __future__ import annotations

import os
import queue
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from bench.peers.end import MESSAGE, End

_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def _bytes(data: bytes) -> bytes:
    return data


class Peer(End):
    """Handlers do the server's work, in gRPC's threads; the server's own thread only waits for them."""

    pinned = False

    def meet(self, exchange: Callable[[str], str]) -> None:
        import grpc

        self._path = Path(tempfile.gettempdir()) / f"bench-grpc-{os.getpid()}"
        if self.client:
            self._channel = grpc.insecure_channel(f"unix:{exchange('')}", _OPTIONS)
            self._unary = self._channel.unary_unary("/bench/unary", _bytes, _bytes)
            self._put = self._channel.unary_unary("/bench/put", _bytes, _bytes)
            self._sink = self._channel.stream_unary("/bench/sink", _bytes, _bytes)
            self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
            stream = self._channel.stream_stream("/bench/stream", _bytes, _bytes)
            self._replies = stream(iter(self._requests.get, None))
            return
        self._done: queue.SimpleQueue[int] = queue.SimpleQueue()  # a message for each put or sink
        one, streamed = grpc.unary_unary_rpc_method_handler, grpc.stream_stream_rpc_method_handler
        handlers = {
            "unary": one(lambda data, _: data, _bytes, _bytes),
            "put": one(self._on_put, _bytes, _bytes),
            "stream": streamed(lambda requests, _: iter(requests), _bytes, _bytes),
            "sink": grpc.stream_unary_rpc_method_handler(self._on_sink, _bytes, _bytes),
        }
        self._server = grpc.server(ThreadPoolExecutor(4), options=_OPTIONS)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench", handlers),))
        self._server.add_insecure_port(f"unix:{self._path}")
        self._server.start()
        exchange(str(self._path))

    def _on_put(self, data: bytes, _context: Any) -> bytes:
        self.target[: len(data)] = np.frombuffer(data, np.uint8)
        self._done.put(len(data))
        return b"k"

    def _on_sink(self, requests: Iterator[bytes], _context: Any) -> bytes:
        count = sum(len(request) == MESSAGE for request in requests)
        self._done.put(count)
        return count.to_bytes(8, "little")

    def _send(self, message: Any) -> None:
        if self.variant == "unary":
            self._reply = self._unary(message)
        else:
            self._requests.put(message)

    def _receive(self) -> int:
        return int((self._reply if self.variant == "unary" else next(self._replies))[0])

    def echo(self, count: int) -> None:
        """The handlers do it."""

    def one_way(self, count: int) -> None:
        messages = (self.messages[i % len(self.messages)] for i in range(count))
        got = int.from_bytes(self._sink(messages), "little")
        if got != count:
            raise RuntimeError(f"{got} of {count} messages arrived")

    def sink(self, count: int) -> None:
        self._done.get(timeout=60)

    def put(self, size: int) -> None:
        self._put(self.source[:size].tobytes())

    def take(self, size: int) -> None:
        self._done.get(timeout=60)

    def close(self) -> None:
        if self.client:
            self._requests.put(None)
            self._channel.close()
        else:
            self._server.stop(None)
            self._path.unlink(missing_ok=True)
