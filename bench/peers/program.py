"""`python -m bench.peers.program MODULE VARIANT client|server CPU LARGEST`: one end of a peer, told what to
do line by line.

MODULE is one of bench.peers, or a whole name, with a dot in it. Needs numpy and the peer's own package,
nothing else of this project's: so it runs in the peer's interpreter.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from time import perf_counter_ns

from bench.peers.end import End

PACKAGE = "bench.peers."


def percentiles(times: list[int]) -> dict[str, float]:
    """What is said of many round trips, ns: p50, p99, and the mean of the middle four fifths."""
    ordered = sorted(times)
    cut = len(ordered) // 10
    middle = ordered[cut : len(ordered) - cut]
    return {
        "p50": float(ordered[len(ordered) // 2]),
        "p99": float(ordered[len(ordered) * 99 // 100]),
        "mean": sum(middle) / len(middle),
    }


def serve(end: End, what: str, count: int, size: int, ready: Callable[[], None]) -> dict[str, int | None]:
    """The server's part in one measurement; `ready` is called when the client may begin.

    After a bulk, and once the client is through, it is asked for the "checksum".
    """
    if what == "checksum":
        return {"checksum": end.checksum(size)}
    if what == "bulk":
        end.forget(size)
    ready()
    if what == "round_trips":
        end.echo(count)
    elif what == "one_way":
        end.sink(count)
    else:
        end.bulk_sink(count, size)
    return {}


def measure(end: End, what: str, count: int, size: int) -> dict[str, float | None]:
    """The client's part: the figures."""
    if what == "round_trips":
        return {**percentiles(end.round_trips(count))}
    if what == "one_way":
        begin = perf_counter_ns()
        end.one_way(count)
        return {"ns": float(perf_counter_ns() - begin) / count}
    spent, checksum = end.bulk(count, size)
    return {"ns": spent / count, "checksum": checksum}


def main(module: str, variant: str, role: str, cpu: int, largest: int) -> None:
    # What the peer's libraries print must not get between our lines.
    ours = os.dup(1)
    os.dup2(2, 1)

    def say(what: object) -> None:
        os.write(ours, json.dumps(what).encode() + b"\n")

    def exchange(mine: str) -> str:
        say({"meet": mine})
        return str(json.loads(sys.stdin.readline())["meet"])

    client = role == "client"
    try:
        end: End = importlib.import_module(module if "." in module else PACKAGE + module).Peer(
            client, variant, largest
        )
        end.meet(exchange)
        if end.pinned and cpu >= 0:
            os.sched_setaffinity(0, {cpu})
        say({"open": True})
        for line in sys.stdin:
            told = json.loads(line)
            arguments = (end, told["what"], told["count"], told["size"])
            say(measure(*arguments) if client else serve(*arguments, lambda: say({"ready": True})))
        end.close()
    except BaseException as error:
        traceback.print_exc()
        say({"error": f"{type(error).__name__}: {error}"})
        os._exit(1)  # its libraries may hang in their own ending
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:4], *map(int, sys.argv[4:6]))  # type: ignore[call-arg]
