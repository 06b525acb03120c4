"""``assisters-otel fingerprint``: the fingerprint of an API key, to be looked for in telemetry."""

from __future__ import annotations

import sys
from typing import Annotated, Final

import typer
from rich.text import Text

from assisters_otel.api.identity import KEY_FORMS, MIN_KEY_LENGTH, key_fingerprint
from assisters_otel.cli import output
from assisters_otel.semconv.attributes import API_KEY_FINGERPRINT

HELP: Final = (
    "Print the fingerprint of an API key, under which its failures are found. The key is asked "
    "for, or read from standard input."
)
CONTEXT: Final = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Arguments are taken, to be refused here: typer would quote one in its message."""

_MAX_BYTES: Final = 4096
"""The bytes of standard input that are read. A key has less than a hundred."""


def fingerprint(
    context: typer.Context,
    *,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Print the fingerprint of a key.

    Raises:
        typer.BadParameter: The key is an argument, or is no key of a documented form.
    """
    if context.args:
        raise typer.BadParameter(
            "a key is no argument: it would stay in the shell's history and be seen by other "
            'users. Run the command without it, or write: printf %s "$KEY" | assisters-otel '
            "fingerprint"
        )
    found = key_fingerprint(_read())
    if found is None:
        forms = f"{', '.join(KEY_FORMS[:-1])} or {KEY_FORMS[-1]}"
        raise typer.BadParameter(
            f"no API key: a key begins with {forms} and has {MIN_KEY_LENGTH} characters or more. "
            "Telemetry has no fingerprint of anything else"
        )
    if json:
        output.show_json({"fingerprint": found, "attribute": API_KEY_FINGERPRINT})
    else:
        output.show(Text(found))


def _read() -> str:
    """Return the first line of standard input, or what is typed without being shown."""
    if sys.stdin.isatty():
        typed: str = typer.prompt("API key", hide_input=True, err=True)
        return typed
    return sys.stdin.buffer.readline(_MAX_BYTES).decode("utf-8", "replace")
