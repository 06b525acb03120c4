"""``assisters-otel doctor``: why do I see nothing?"""

from __future__ import annotations

import json as json_
import logging
import os
from typing import Annotated, Final

import typer

HELP: Final = (
    "Answer why nothing is seen: look at the environment, the installed packages and the way "
    "to the collector, and send one span and one metric. Run it where your app runs, with its "
    "variables. Exits with 1 if it has found something to do."
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
    from rich.console import Console  # noqa: PLC0415 - the extra's
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    from assisters_otel.cli import checks  # noqa: PLC0415

    logging.getLogger("assisters_otel").addHandler(logging.NullHandler())  # findings say it
    with Console(stderr=True).status("Looking, and sending one span and one metric …"):
        found = list(checks.every(endpoint, os.environ))
    wrong = [one for one in found if not one.fine]
    if json:
        document = {"ok": not wrong, "findings": [one._asdict() for one in found]}
        typer.echo(json_.dumps(document, indent=2))
    else:
        table = Table.grid(padding=(0, 2, 0, 0))
        for one in found:
            mark = Text("ok", "green") if one.fine else Text("!!", "bold red")
            told = Text(one.what)
            if one.to_do:
                told.append(f"\n{one.to_do}", "bold")
            table.add_row(mark, Text(one.check, "dim"), told)
        console = Console(highlight=False)
        console.print(table)
        count = f"{len(wrong)} thing{'' if len(wrong) == 1 else 's'} to do"
        console.print(Text(f"\n{count if wrong else 'Nothing to do.'}", "bold"))
    if wrong:
        raise typer.Exit(1)
