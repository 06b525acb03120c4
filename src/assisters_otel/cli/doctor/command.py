"""``assisters-otel doctor``: why do I see nothing?"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.text import Text

from assisters_otel.cli import output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from assisters_otel.cli.doctor.finding import Finding

HELP: Final = (
    "Answer why nothing is seen: look at the environment, the installed packages and the way "
    "to the collector, and send one span and one metric where an endpoint is named. Run it where "
    "your app runs, with its variables. Exits with 1 if it has found something to do, with 2 if "
    "it was called wrongly."
)


def doctor(
    *,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    endpoint: Annotated[
        str | None,
        typer.Option(metavar="URL", help="An OTLP receiver in place of the variables'."),
    ] = None,
) -> None:
    """Look, and print what was found.

    Raises:
        typer.Exit: There is something to do.
    """
    from assisters_otel.cli.captured_log import captured_log  # noqa: PLC0415
    from assisters_otel.cli.doctor import environment  # noqa: PLC0415

    with (
        output.status("Looking, and sending one span and one metric where an endpoint is named …"),
        captured_log(),
    ):
        found = list(
            environment.run_checks(endpoint, os.environ)
        )  # they say what the library would
    is_fine = all(one.fine for one in found)
    if json:
        output.show_json({"ok": is_fine, "findings": [one._asdict() for one in found]})
    else:
        _show(found)
    if not is_fine:
        raise typer.Exit(1)


def _show(found: Sequence[Finding]) -> None:
    wrong = sum(not one.fine for one in found)
    count = f"{wrong} thing{'' if wrong == 1 else 's'} to do"
    output.show(
        output.Listing(("", "", ""), list(map(_row, found)), indent=4),
        Text(f"\n{count if wrong else 'Nothing to do.'}", "bold"),
    )


def _row(one: Finding) -> output.Row:
    mark = Text("ok", "green") if one.fine else Text("!!", "bold red")
    told = Text(one.what)
    if one.to_do:
        told.append(f"\n{one.to_do}", "bold")
    return output.Row((mark, Text(one.check, "dim")), ((told,),))
