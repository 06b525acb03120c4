"""The command line ``assisters-otel``: one module or package per command.

It needs the extra ``cli``, `fake-api` also ``testing``, `demo` the extra ``demo``. Without the
extra a command ends with one line that says what to install.
"""

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
"""The extra that installs each optional import. The extra ``demo`` installs all of them."""


def main() -> None:
    """Run the command line. Exit with 2 if a command is called wrongly or an extra is missing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # an ASCII terminal shows "?"
    options = list(takewhile(lambda text: text.startswith("-"), sys.argv[1:]))
    # Read here, not by typer: a bug report quotes the version, and needs no extra for that
    # (test_the_version_needs_no_extra).
    if "--version" in options:
        document = json.dumps({"version": __version__})
        print(document if "--json" in options else f"assisters-otel {__version__}")
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
    """Return the name of the package that could not be imported, or "".

    `FakeApi` raises an ImportError of its own from the one that has the name.
    """
    cause = error.__cause__
    name = error.name or (cause.name if isinstance(cause, ImportError) else None)
    return (name or "").partition(".")[0]
