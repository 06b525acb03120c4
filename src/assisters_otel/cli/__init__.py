"""The command ``assisters-otel``; needs the extra ``cli``, some of it more. One file each."""

from __future__ import annotations

import io
import json
import sys
from itertools import takewhile
from typing import Final

from assisters_otel.version import __version__

_EXTRAS: Final = {
    **dict.fromkeys(("rich", "typer"), "cli"),
    **dict.fromkeys(("httpx", "openai"), "demo"),
    **dict.fromkeys(("starlette", "uvicorn"), "testing"),
}
"""Which extra brings what is imported; `demo` brings all of it."""


def main() -> None:
    """Run the command line; exits with 2 if it was called wrongly or the extra is missing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # an ASCII terminal gets a question mark
    options = list(takewhile(lambda text: text.startswith("-"), sys.argv[1:]))
    if "--version" in options:  # what a report of a bug quotes needs no extra
        told = json.dumps({"version": __version__})
        print(told if "--json" in options else f"assisters-otel {__version__}")
        sys.exit(0)
    try:
        from assisters_otel.cli.app import app  # noqa: PLC0415 - an optional dependency

        app()
    except ImportError as error:
        missing = _missing(error)
        extra = _EXTRAS.get(missing)
        if extra is None:
            raise
        if extra == "testing" and "demo" in sys.argv:
            extra = "demo"
        print(
            f"assisters-otel needs {missing}: pip install 'assisters-otel[{extra}]'",
            file=sys.stderr,
        )
        sys.exit(2)


def _missing(error: ImportError) -> str:
    """Name the package that could not be imported; `FakeApi` wraps that error in its own."""
    cause = error.__cause__
    name = error.name or (cause.name if isinstance(cause, ImportError) else None)
    return (name or "").partition(".")[0]
