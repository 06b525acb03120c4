"""The same table in instructions, which are steadier than time: python tests/bench/instructions.py.

One interpreter under valgrind imports everything and then forks a child for each case, for N
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

from cases import ALL as CASES
from cases import over_base, switched_on, table

_WARM_UP = 8
_REQUESTS = 16


def _child(number: int, requests: int, folder: Path) -> None:
    """Fork, send in the child, and keep what valgrind has counted in it."""
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


def measure() -> list[float]:
    """Give the instructions of one request of each case, or of one call of `openai`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run(
            [  # noqa: S607 - valgrind is looked for on PATH
                "valgrind",
                # It counts what callgrind counts, in a third of the time.
                "--tool=cachegrind",
                "--cache-sim=no",
                f"--cachegrind-out-file={folder}/out.%p",
                "--quiet",
                sys.executable,
                __file__,
                name,
            ],
            env={**os.environ, "PYTHONHASHSEED": "0"},
            check=True,
            stderr=subprocess.DEVNULL,  # valgrind names the cache that it does not simulate
        )
        return [
            (_count(folder / f"{n}.{2 * _REQUESTS}") - _count(folder / f"{n}.{_REQUESTS}"))
            / _REQUESTS
            for n in range(len(CASES))
        ]


def main() -> None:
    title = "Thousands of instructions; ratios to what OpenTelemetry's instrumentation adds"
    sys.stdout.write(table(over_base([measure()], 1e3), "k instr", title) + "\n")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _run_all(Path(sys.argv[1]))
    else:
        main()
