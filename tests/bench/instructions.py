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
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cases import ALL, Case, over_base, switched_on, table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    Sender = AbstractContextManager[Callable[[int], object]]

_WARM_UP = 8
_REQUESTS = 16


def count_all(senders: list[Callable[[], Sender]], folder: Path) -> None:
    """Send in forked children, and keep what valgrind counts in each.

    Args:
        senders: For each row a function that sets up what sends so many requests. It is called in
            the child.
        folder: Where valgrind writes, and what it has written is kept.
    """
    for number, start in enumerate(senders):
        for requests in (_REQUESTS, 2 * _REQUESTS):
            pid = os.fork()
            if pid == 0:
                with start() as send:
                    send(_WARM_UP)
                    gc.collect()
                    send(requests)
                    os._exit(0)
            _, status = os.waitpid(pid, 0)
            if status:
                raise SystemExit(f"row {number}: the child failed")
            (folder / f"out.{pid}").rename(folder / f"{number}.{requests}")


def _count(file: Path) -> int:
    found = re.search(r"^(?:summary|totals): (\d+)", file.read_text(), re.MULTILINE)
    if found is None:
        raise SystemExit(f"callgrind wrote no total into {file}")
    return int(found[1])


def counted(script: str, rows: int) -> list[float]:
    """Give the instructions of one request of each row.

    Args:
        script: The script that calls `count_all` with the folder that is its argument.
        rows: The number of its rows.
    """
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
                script,
                name,
            ],
            env={**os.environ, "PYTHONHASHSEED": "0"},
            check=True,
            stderr=subprocess.DEVNULL,  # valgrind names the cache that it does not simulate
        )
        return [
            (_count(folder / f"{n}.{2 * _REQUESTS}") - _count(folder / f"{n}.{_REQUESTS}"))
            / _REQUESTS
            for n in range(rows)
        ]


def measure() -> list[float]:
    """Give the instructions of one request of each case, or of one call of `openai`."""
    return counted(__file__, len(ALL))


@contextmanager
def sender(case: Case) -> Iterator[Callable[[int], object]]:
    with switched_on(case) as bench:
        yield bench.send


def main() -> None:
    title = "Thousands of instructions; ratios to what OpenTelemetry's instrumentation adds"
    sys.stdout.write(table(over_base([measure()], 1e3), "k instr", title) + "\n")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        count_all([partial(sender, case) for case in ALL], Path(sys.argv[1]))
    else:
        main()
