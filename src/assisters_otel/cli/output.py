"""How a command's output fits a terminal: a table, or blocks where a table would be a ribbon.

In a pipe nothing is cut or broken into lines: what reads it looks for whole ones.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from rich.console import Console, Group
from rich.padding import Padding

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

NARROW: Final = 75
"""Below so many columns there are blocks: beside the longest name of a metric and a number,
``rate_limit_exceeded,`` fits no more."""


_LONGEST: Final = 10_000
"""The columns of a pipe: more than any line has."""


def console() -> Console:
    """Return what a command prints with: as wide as the terminal, or as ``COLUMNS`` says."""
    made = Console(highlight=False)
    if made.is_terminal or "COLUMNS" in os.environ:
        return made
    return Console(highlight=False, width=_LONGEST)


def show(console: Console, *parts: RenderableType, crop: bool = True) -> None:
    """Print; in a pipe, without the blanks that fill the last column of a table."""
    if console.width < _LONGEST:
        for part in parts:
            console.print(part, crop=crop)
        return
    with console.capture() as captured:
        for part in parts:
            console.print(part, crop=crop)
    for line in captured.get().splitlines():
        print(line.rstrip())


def block(head: Text, told: RenderableType, indent: int = 2) -> RenderableType:
    """Give what is told below its head, which has the whole line for itself."""
    return Group(head, Padding.indent(told, indent))
