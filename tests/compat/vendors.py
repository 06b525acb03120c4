"""Tries the library with other people's providers: python tests/compat/vendors.py.

Each has an environment of its own, since their pytest plug-ins would load into every run and some
of them replace parts of OpenTelemetry, and is tried with `init` before it and after it.
"""

from __future__ import annotations

import argparse
import sys
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

from environments import (
    PROJECT,
    NotMadeError,
    end_all_on_sigterm,
    environment,
    run_for,
    try_each,
)

if TYPE_CHECKING:
    from pathlib import Path

NEEDS = {
    "logfire": "logfire==5.4.0",
    "ddtrace": "ddtrace==4.16.0",
    "ddtrace-auto": "ddtrace==4.16.0",
    "sentry": "sentry-sdk[opentelemetry-otlp]==2.75.0",
    "azure": "azure-monitor-opentelemetry==1.8.11",
}
"""What is installed for each; `ddtrace-auto` patches the clients besides."""

CLIENTS = ("aiohttp>=3.14,<4", "httpx>=0.27,<1", "httpx2>=2,<3", "openai>=3,<4", "requests>=2.26")
QUIET = {
    "APPLICATIONINSIGHTS_STATSBEAT_DISABLED_ALL": "true",
    "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
    "DD_REMOTE_CONFIGURATION_ENABLED": "false",
    "DD_TRACE_OTEL_ENABLED": "true",
}
"""Nothing asks a server of the vendor's."""


class Cell(NamedTuple):
    """What is tried: ``Cell("ddtrace", "before")``, where `init` comes before the provider."""

    vendor: str
    when: str

    def __str__(self) -> str:
        return "-".join(self)


CELLS = tuple(Cell(*one) for one in product(NEEDS, ("after", "before")))


def arguments(cell: Cell) -> list[str]:
    """What uv is to install before the package itself."""
    return ["-r", "pyproject.toml", "--extra", "testing", *CLIENTS, NEEDS[cell.vendor]]


def attempt(cell: Cell, python: Path, built: Path) -> tuple[bool, str]:
    """Try one cell; what went wrong, or the version that it was."""
    tests = PROJECT / "tests"
    name = f"vendor-{cell.vendor.partition('-')[0]}"
    try:
        with environment(name, python, built, arguments(cell)) as inside:
            done = run_for(
                inside, "-W", "error:::assisters_otel", tests / "compat" / "check_vendors.py",
                *cell, PYTHONPATH=str(tests), timeout_s=120, **QUIET,
            )  # fmt: skip
    except NotMadeError as error:
        return False, str(error)
    if done.returncode:
        return False, "\n".join((done.stdout + done.stderr).splitlines()[-25:])
    return True, NEEDS[cell.vendor]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("cell", nargs="*", help="some of them, for example ddtrace-auto-before")
    asked = parser.parse_args(argv)
    chosen = [one for one in CELLS if not asked.cell or str(one) in asked.cell]
    if not chosen:
        parser.error(f"there is none of these here; there are {', '.join(map(str, CELLS))}")
    return try_each("vendors", chosen, attempt)


if __name__ == "__main__":
    end_all_on_sigterm()
    sys.exit(main())
