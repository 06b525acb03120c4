"""The printer of every command: text for people, one JSON document for machines.

A `Listing` is a table where the terminal is wide, and blocks where it is narrow. In a
pipe no line is cut or wrapped, since what reads it (``grep``) looks for whole lines.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Final

from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from assisters_otel.records import Record

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import ConsoleOptions, RenderableType
    from rich.status import Status

NARROW: Final = 75
"""Fewer columns make blocks. The metrics of the demo need 75: 45 for the longest name, 20 for
``rate_limit_exceeded,``, and a number and the blanks between."""

_PIPE_COLUMNS: Final = 10_000
"""The width of a pipe: more than the longest line of any command."""


class Row(Record):
    """One row of a `Listing`.

    Attributes:
        head: The cells that name the row. They are never wrapped.
        lines: The cells beside the head, one tuple per line. The last cell may wrap.
    """

    head: tuple[Text, ...]
    lines: tuple[tuple[Text, ...], ...]


class Listing(Record):
    """Rows that rich prints as a table, or as one block a row in a narrow terminal.

    A block is the row's head on a line of its own, and below it the row's lines, indented.

    Attributes:
        titles: One title per column. If all are empty, there is no title line.
        rows: The rows. All heads have the same number of cells, and so have all lines.
        indent: The blanks before each line of a block.
    """

    titles: tuple[str, ...]
    rows: Sequence[Row]
    indent: int = 2

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Render the listing for the width that *options* have."""
        return self._blocks() if options.max_width < NARROW else self._table()

    def _table(self) -> Iterator[RenderableType]:
        table = grid(*self.titles)
        for row in self.rows:
            first, *others = row.lines
            table.add_row(*row.head, *first)
            for line in others:
                table.add_row(*("" for _ in row.head), *line)
        yield table

    def _blocks(self) -> Iterator[RenderableType]:
        for at, row in enumerate(self.rows):
            titles = self.titles[: len(row.head)]
            if at == 0 and len(titles) > 1 and any(titles):  # one title alone explains nothing
                yield Text("  ".join(titles), "bold")
            lines = grid(*("" for _ in row.lines[0]))
            for line in row.lines:
                lines.add_row(*line)
            yield Text("  ").join(row.head)
            yield Padding.indent(lines, self.indent)


def grid(*titles: str) -> Table:
    """Return an empty table without borders, in which only the last column wraps.

    Args:
        titles: One title per column. If all are empty, there is no title line.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=any(titles))
    *heads, last = titles
    for title in heads:
        table.add_column(title, no_wrap=True)
    table.add_column(last, overflow="fold")  # a word that must be copied is not cut
    return table


def uncut(text: str) -> RenderableType:
    """Return *text* to be printed with whole lines, however narrow the terminal is.

    For commands to copy.
    """
    # In a group: `Console.print` joins bare texts into one, which loses their settings.
    return Group(Text(text, no_wrap=True, overflow="ignore"))


def show(*parts: RenderableType) -> None:
    """Print *parts* one below the other, as wide as the terminal or as ``COLUMNS`` says."""
    console = Console(highlight=False)
    if console.is_terminal or "COLUMNS" in os.environ:
        for part in parts:
            console.print(part, crop=False)  # so that `uncut` lines stay whole
        return
    pipe = Console(highlight=False, width=_PIPE_COLUMNS)
    with pipe.capture() as captured:
        for part in parts:
            pipe.print(part, crop=False)
    for line in captured.get().splitlines():
        print(line.rstrip())  # a table fills its last column with blanks
    sys.stdout.flush()


def show_json(document: object, *, in_one_line: bool = False) -> None:
    """Print *document* as JSON.

    Args:
        document: Any value that `json.dumps` can write.
        in_one_line: True for a reader that reads one line and does not wait for the end.
    """
    print(json.dumps(document, indent=None if in_one_line else 2), flush=True)


def status(text: str) -> Status:
    """Return a context manager that shows *text* and a spinner on stderr, if it is a terminal."""
    return Console(stderr=True).status(text)
