"""``assisters-otel errors``: the documented errors, one row each."""

from __future__ import annotations

from typing import Annotated, Final

import typer
from rich.text import Text

from assisters_otel import catalog
from assisters_otel.cli import output

HELP: Final = "List the documented errors: status, type, whether a retry helps, what to do."


def errors(
    *, json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False
) -> None:
    """Print every record of `catalog.ERRORS`."""
    if json:
        output.show_json([error._asdict() for error in catalog.ERRORS])
        return
    titles = ("Code", "Status", "Retry", "What to do")
    output.show(output.Listing(titles, [_row(error) for error in catalog.ERRORS]))


def _row(error: catalog.Error) -> output.Row:
    retry = Text("helps", "green") if error.retryable else Text("no use", "red")
    head = (Text(error.code, "bold"), Text(str(error.status)), retry)
    return output.Row(head, ((Text(error.advice),),))
