"""Whether memory stays flat over 100,000 requests, a tenth of them failing.

python tests/bench/memory_cost.py

Give another number of requests as an argument. With tracemalloc, which is what makes it slow.
"""

from __future__ import annotations

import gc
import os
import sys
import tracemalloc
from pathlib import Path

from cases import CASES, switched_on

_STEPS = 10
_WARM_UP = 2_000
_FAILING = 10


def _resident_kib() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


def main(requests: int) -> None:
    (case,) = (case for case in CASES if case.name == "200, alone")
    sys.stdout.write(f"{'requests':>9} {'traced KiB':>11} {'blocks':>9} {'resident KiB':>13}\n")
    with switched_on(case) as bench:
        bench.send(_WARM_UP, every=_FAILING)
        tracemalloc.start()
        for step in range(_STEPS + 1):
            gc.collect()
            traced = tracemalloc.get_traced_memory()[0] / 1024
            blocks = sys.getallocatedblocks()
            row = f"{step * requests // _STEPS:9} {traced:11.1f} {blocks:9} {_resident_kib():13}"
            sys.stdout.write(row + "\n")
            sys.stdout.flush()
            if step < _STEPS:
                bench.send(requests // _STEPS, every=_FAILING)
        status = bench.telemetry.status()
        sys.stdout.write(f"{status.attempts} attempts, {status.errors} failed\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
