"""All that the library costs, in one run: python tests/bench/costs.py [--markdown]

Instructions, the thread's time, the chunks of a stream and the start of a process, each beside
what OpenTelemetry's own instrumentations and others add. With ``--markdown`` it writes the tables
of the documentation. It takes some minutes: valgrind counts the instructions.
"""

from __future__ import annotations

import gc
import importlib
import os
import struct
import sys
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import import_cost
import instructions

from cases import ALL, LOGFIRE, PEERS, ROWS, over_base, switched_on, table

if TYPE_CHECKING:
    from collections.abc import Callable

_ROUNDS = 9
_REQUESTS = 40
_WARM_UP = 10
_STREAMS = 9
_STARTS = 15
_CHUNK_GOAL_US = 1.0

Rows = list[tuple[str, float, float, float | None]]


def _in_child(measure: Callable[[], float]) -> float:
    """Measure in a forked child: not everything takes out again what it has put in."""
    reads, writes = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writes, struct.pack("d", measure()))
        os._exit(0)
    os.close(writes)
    with os.fdopen(reads, "rb") as pipe:
        (found,) = struct.unpack("d", pipe.read())
    os.waitpid(pid, 0)
    return float(found)


def _request_s(number: int) -> float:
    with switched_on(ALL[number]) as bench:
        bench.send(_WARM_UP)
        gc.collect()
        start = time.thread_time()  # what other processes do meanwhile is not in it
        bench.send(_REQUESTS)
        return (time.thread_time() - start) / _REQUESTS


def _chunk_us() -> list[tuple[str, float]]:
    """Give what a chunk costs more with us, read sync and async, in microseconds."""
    sys.path.append(str(Path(__file__).parents[1]))  # as pytest has it
    stream = importlib.import_module("bench.test_stream_cost")

    taken = []
    for read in (stream.read_stream, stream.read_async_stream):
        differences = []
        for _ in range(_STREAMS):
            both = []
            for case in (stream.WITHOUT_US, stream.WITH_US):
                with switched_on(case) as bench:
                    gc.collect()
                    start = time.thread_time()
                    read(bench)
                    both.append(time.thread_time() - start)
            differences.append(1e6 * (both[1] - both[0]) / stream.CHUNKS)
        taken.append((read.__name__, median(differences)))
    return taken


def _markdown(instructions: Rows, times: Rows) -> str:
    """Write the documentation's table: each row in instructions, and in time in brackets."""
    ratios = {name: ratio for name, _, ratio, _ in instructions}
    timed = {name: ratio for name, _, ratio, _ in times}

    def both(name: str) -> str:
        return f"{ratios[name]:.2f} ({timed[name]:.2f})" if name in ratios else ""

    lines = [
        "| path | alone | goal | on top | goal | OpenTelemetry's alone | others |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        others = [case for case in PEERS if case.name == f"{row.name}, {case.peer}"]
        told = "; ".join(
            f"{case.peer} {'' if case.peer == LOGFIRE else '+ '}{both(case.name)}"
            for case in others
        )
        cells = (
            row.name,
            both(f"{row.name}, alone"),
            f"{row.alone:.2f}",
            both(f"{row.name}, on top"),
            f"{row.on_top:.2f}",
            both(f"{row.name}, OpenTelemetry's"),
            told,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    counted = over_base([instructions.measure()], 1e3)
    rounds = [
        [_in_child(lambda at=number: _request_s(at)) for number in range(len(ALL))]  # type: ignore[misc]
        for _ in range(_ROUNDS)
    ]
    timed = over_base(rounds, 1e-6)
    out = [
        table(counted, "k instr", "Thousands of instructions; ratios to what OpenTelemetry's adds"),
        table(timed, "µs", "The thread's time; ratios to what OpenTelemetry's adds"),
    ]
    chunks = _chunk_us()
    starts = import_cost.measure(_STARTS)
    out += [f"{name}: {us:+.2f} µs a chunk (goal {_CHUNK_GOAL_US})" for name, us in chunks]
    out += [
        f"start, {name}: {more:.1f} ms more (goal {import_cost.GOAL_MS})"
        for name, (_, _, more) in starts.items()
    ]
    if "--markdown" in sys.argv[1:]:
        out.append(_markdown(counted, timed))
    sys.stdout.write("\n\n".join(out) + "\n")


if __name__ == "__main__":
    main()
