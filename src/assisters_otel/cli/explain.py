"""``assisters-otel explain CODE``: what one error code means, and what to do about it."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated, Final

import typer
from rich.text import Text

from assisters_otel import catalog
from assisters_otel.cli import output
from assisters_otel.explanation import explain as explanation

HELP: Final = (
    "Explain an error code: whose side it is on, whether a retry helps, what to do next, and "
    "what a user may be told."
)


def explain(
    code: Annotated[
        str,
        typer.Argument(metavar="CODE", help="For example rate_limit_exceeded.", show_default=False),
    ],
    *,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Print the explanation of a code.

    Raises:
        typer.BadParameter: The API does not document the code.
    """
    code = code.strip().lower()
    if catalog.find(code) is None:
        raise typer.BadParameter(f"{code!r} is no documented code. {_hint(code)}")
    explained = explanation.explain(code)
    if json:
        output.show_json(explained._asdict())
        return
    retry = ("no retry helps", "bold red")
    if explained.retryable:
        retry = ("a retry helps", "bold green")
    head = Text.assemble((code, "bold"), f"  {explained.status} {explained.type}  ", retry)
    facts = output.grid("", "")
    for name, value in (
        ("Whose side", explained.side),
        ("What to do", explained.advice),
        ("For users", explained.user_message),
    ):
        facts.add_row(Text(name, "dim"), Text(value))
    output.show(head, facts)


def _hint(text: str) -> str:
    """Return what to write in place of *text*, which is a status, a type or a misspelt code."""
    codes = [error.code for error in catalog.ERRORS if text in {error.type, str(error.status)}]
    if codes:
        what = "status" if text.isdecimal() else "type"
        return f"It is the {what} of {', '.join(codes)}."
    known = [error.code for error in catalog.ERRORS]
    near = get_close_matches(text, known, n=1)
    return f"Did you mean {near[0]}?" if near else f"Write one of {', '.join(known)}."
