"""The result of one check of `doctor`."""

from __future__ import annotations

from assisters_otel.records import Record


class Finding(Record):
    """The result of one check.

    Attributes:
        check: The name of the check.
        fine: True if there is nothing to do.
        what: The result in words.
        to_do: The advice; empty if there is nothing to do.
    """

    check: str
    fine: bool
    what: str
    to_do: str = ""
