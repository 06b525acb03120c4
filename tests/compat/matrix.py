"""Tries the package in many environments: python tests/compat/matrix.py.

One for each interpreter of this machine, the lowest and the newest versions of every range, and
each install: without extras, with each extra alone, with those that bring nothing, and with
everything a part of the tests; and clients older than any range. By itself it tries the install
without extras; `--all` tries all.
"""

from __future__ import annotations

import argparse
import sys
import time
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

from environments import (
    PROJECT,
    NotMadeError,
    end_all_on_sigterm,
    environment,
    interpreters,
    run_for,
    wheel,
)

if TYPE_CHECKING:
    from pathlib import Path

RESOLUTIONS = {"newest": "highest", "lowest": "lowest-direct"}
OLD = "old"
OLD_CLIENTS = {"core": ("aiohttp==3.8.6", "httpx==0.23.0", "requests==2.26.0")}
"""Below any range of ours, and there in long-lived apps; tried on the oldest Python alone."""
EXTRAS = ("auto", "grpc", "config", "testing", "cli", "demo")
EMPTY = "empty"
EMPTY_EXTRAS = ("aiohttp", "requests")
"""The extras that bring nothing: names that still install. Tried as one install."""
CLIENTS = {
    "core": ("aiohttp>=3.14,<4", "httpx>=0.27,<1", "httpx2>=2,<3", "openai>=3,<4"),
    "auto": ("httpx>=0.27,<1",),
    "grpc": ("httpx>=0.27,<1",),
    "config": ("httpx>=0.27,<1",),
    EMPTY: ("aiohttp>=3.14,<4",),
    "testing": ("httpx>=0.27,<1", "pytest>=8.3"),
    "cli": (),
    "demo": (),
}
"""What an app has beside the package, with the ranges of pyproject.toml's group `dev`. requests is
everywhere: OpenTelemetry's exporter needs it."""
TESTS = (
    "tests/clients/test_contract.py", "tests/clients/test_http_span.py",
    "tests/clients/test_setups.py", "tests/clients/test_patch.py",
    "tests/test_spans.py", "tests/test_metrics.py",
    "tests/test_streams.py", "tests/test_logs.py", "tests/test_config.py",
)  # fmt: skip
"""What is run of this project's tests where everything is installed: a minute's worth."""


class Cell(NamedTuple):
    """One environment: ``Cell("3.13", "lowest", "grpc")``."""

    version: str
    resolution: str
    install: str

    def __str__(self) -> str:
        return "-".join(self)


def cells(versions: list[str], *, everything: bool) -> list[Cell]:
    """Choose what is tried."""
    if everything:
        installs = ("core", EMPTY, *EXTRAS, "all")
        found = [Cell(*one) for one in product(versions, RESOLUTIONS, installs)]
        return found + [Cell(versions[0], OLD, install) for install in OLD_CLIENTS]
    newest = [Cell(one, "newest", "core") for one in versions]
    return [*newest, Cell(versions[0], "lowest", "core")]


def arguments(cell: Cell) -> list[str]:
    """What uv is to install before the package itself."""
    resolution = RESOLUTIONS.get(cell.resolution, "highest")
    chosen = ["--resolution", resolution, "-r", "pyproject.toml"]
    if cell.install == "all":
        return [*chosen, "--all-extras", "--group", "dev"]
    extras = {"core": (), EMPTY: EMPTY_EXTRAS}.get(cell.install, (cell.install,))
    asked = [word for extra in extras for word in ("--extra", extra)]
    clients = OLD_CLIENTS if cell.resolution == OLD else CLIENTS
    return [*chosen, *asked, *clients[cell.install]]


def attempt(cell: Cell, python: Path, built: Path) -> tuple[bool, str]:
    """Try one cell; what went wrong, or the versions that it was."""
    tests = PROJECT / "tests"
    try:
        with environment(str(cell), python, built, arguments(cell)) as inside:
            if cell.install == "all":
                options = ("-q", "-W", "default")
                done = run_for(inside, "-m", "pytest", *options, *TESTS, cwd=PROJECT)
            else:
                script = tests / "compat" / "check.py"
                done = run_for(
                    inside, "-W", "error:::assisters_otel", script, cell.install,
                    PYTHONPATH=str(tests), timeout_s=120,
                )  # fmt: skip
    except NotMadeError as error:
        return False, str(error)
    if done.returncode:
        return False, "\n".join((done.stdout + done.stderr).splitlines()[-25:])
    return True, (done.stdout.splitlines() or [""])[-1]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("cell", nargs="*", help="some of them, for example 3.13-lowest-grpc")
    parser.add_argument("--all", action="store_true", help="every install, not the bare one alone")
    asked = parser.parse_args(argv)
    pythons = interpreters()
    found = cells(list(pythons), everything=asked.all or bool(asked.cell))
    chosen = [one for one in found if not asked.cell or str(one) in asked.cell]
    if not chosen:
        parser.error(f"there is none of these here; there are {', '.join(map(str, found))}")
    try:
        built = wheel()
    except NotMadeError as error:
        sys.exit(f"[matrix] {error}")
    bad = []
    for cell in chosen:
        begun = time.monotonic()
        good, told = attempt(cell, pythons[cell.version], built)
        mark = "ok    " if good else "FAILED"
        took = f"{time.monotonic() - begun:4.0f} s"
        print(f"{mark} {cell!s:22} {took}  {told if good else ''}", flush=True)
        if not good:
            bad.append((cell, told))
            print(f"{told}\n", flush=True)
    print(f"{len(chosen) - len(bad)} passed, {len(bad)} failed")
    return 1 if bad else 0


if __name__ == "__main__":
    end_all_on_sigterm()
    sys.exit(main())
