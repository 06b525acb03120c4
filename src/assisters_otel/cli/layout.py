"""How a command's output fits a terminal: a table, or blocks where a table would be a ribbon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.console import Group
from rich.padding import Padding

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

NARROW: Final = 75
"""Below so many columns there are blocks: beside the longest name of a metric and a number,
``rate_limit_exceeded,`` fits no more."""


def block(head: Text, told: RenderableType, indent: int = 2) -> RenderableType:
    """Give what is told below its head, which has the whole line for itself."""
    return Group(head, Padding.indent(told, indent))
