"""``assisters-otel explain CODE``: what one error means, and what to do about it."""

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
    """Print the explanation.

    Raises:
        typer.BadParameter: The code is not documented.
    """
    code = code.strip().lower()
    if catalog.find(code) is None:
        raise typer.BadParameter(f"{code!r} is no documented code. {_hint(code)}")
    told = explanation.explain(code)
    if json:
        output.show_json(told._asdict())
        return
    helps = ("a retry helps", "bold green") if told.retryable else ("no retry helps", "bold red")
    head = Text.assemble((code, "bold"), f"  {told.status} {told.type}  ", helps)
    facts = output.grid("", "")
    for name, value in (
        ("Whose side", told.side),
        ("What to do", told.advice),
        ("For users", told.user_message),
    ):
        facts.add_row(Text(name, "dim"), Text(value))
    output.show(head, facts)


def _hint(text: str) -> str:
    alike = [row.code for row in catalog.ERRORS if text in {row.type, str(row.status)}]
    if alike:
        what = "status" if text.isdecimal() else "type"
        return f"It is the {what} of {', '.join(alike)}."
    known = [row.code for row in catalog.ERRORS]
    near = get_close_matches(text, known, n=1)
    return f"Did you mean {near[0]}?" if near else f"Write one of {', '.join(known)}."
