"""A moment by two clocks."""

from __future__ import annotations

import time
from typing import NamedTuple


class Moment(NamedTuple):
    """A moment by two clocks: `time.perf_counter` and Unix nanoseconds."""

    steady_s: float
    unix_ns: int

    @staticmethod
    def now() -> Moment:
        """Read both."""
        return Moment(time.perf_counter(), time.time_ns())

    @staticmethod
    def ago(seconds: float) -> Moment:
        """Return the moment that was *seconds* ago."""
        now = Moment.now()
        return Moment(now.steady_s - seconds, now.unix_ns - int(seconds * 1e9))
