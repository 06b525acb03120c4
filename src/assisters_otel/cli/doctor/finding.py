"""One thing that `doctor` has looked at."""

from __future__ import annotations

from typing import NamedTuple


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes:
        check: What was looked at.
        fine: Whether it is as it should be.
        what: What was found.
        to_do: What to do about it; empty if it is fine.
    """

    check: str
    fine: bool
    what: str
    to_do: str = ""
