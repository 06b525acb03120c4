"""The result of one check of `doctor`."""

from __future__ import annotations

from typing import NamedTuple


class Finding(NamedTuple):
    """The result of one check.

    Attributes:
        check: What was checked.
        fine: True if there is nothing to do.
        what: What was found.
        to_do: What to do about it; empty if there is nothing to do.
    """

    check: str
    fine: bool
    what: str
    to_do: str = ""
