"""The same table in instructions, which are steadier than time: python tests/bench/instructions.py.

One interpreter under callgrind imports everything and then forks a child for each case, for N
and for 2 N requests: start-up, set-up and warm-up are the same in both, so they cancel.
"""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from cases import BARE, OTEL, PEERS, switched_on, table
from cases import CASES as OURS_AND_BASES

CASES = OURS_AND_BASES + PEERS
_WARM_UP = 20
_REQUESTS = 40


def _child(number: int, requests: int, folder: Path) -> None:
    """Fork, send in the child, and keep the name that callgrind gives the child's counts."""
    pid = os.fork()
    if pid == 0:
        with switched_on(CASES[number]) as bench:
            bench.send(_WARM_UP)
            gc.collect()
            bench.send(requests)
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    if status:
        raise SystemExit(f"{CASES[number].name}: the child failed")
    (folder / f"out.{pid}").rename(folder / f"{number}.{requests}")


def _run_all(folder: Path) -> None:
    for number in range(len(CASES)):
        for requests in (_REQUESTS, 2 * _REQUESTS):
            _child(number, requests, folder)


def _count(file: Path) -> int:
    found = re.search(r"^(?:summary|totals): (\d+)", file.read_text(), re.MULTILINE)
    if found is None:
        raise SystemExit(f"callgrind wrote no total into {file}")
    return int(found[1])


def _measure() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run(
            [  # noqa: S607 - valgrind is looked for on PATH
                "valgrind",
                "--tool=callgrind",
                f"--callgrind-out-file={folder}/out.%p",
                "--quiet",
                sys.executable,
                __file__,
                name,
            ],
            env={**os.environ, "PYTHONHASHSEED": "0"},
            check=True,
        )
        cost = [
            (_count(folder / f"{n}.{2 * _REQUESTS}") - _count(folder / f"{n}.{_REQUESTS}"))
            / _REQUESTS
            for n in range(len(CASES))
        ]
    added = cost[OTEL] - cost[BARE]
    rows = [
        (
            case.name,
            (cost[n] - (0 if case.base is None else cost[case.base])) / 1e3,
            (cost[n] - (0 if case.base is None else cost[case.base])) / added / (case.sdk or 1),
            case.goal,
        )
        for n, case in enumerate(CASES)
    ]
    title = "Thousands of instructions; ratios to what OpenTelemetry's instrumentation adds"
    sys.stdout.write(table(rows, "k instr", title) + "\n")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _run_all(Path(sys.argv[1]))
    else:
        _measure()
