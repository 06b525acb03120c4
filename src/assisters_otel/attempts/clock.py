"""A moment by two clocks: the steady one gives durations, and Unix time gives the ends of spans."""

from __future__ import annotations

import time

from assisters_otel.records import Record


class Moment(Record):
    """A moment by two clocks: `time.perf_counter` and Unix nanoseconds."""

    steady_s: float
    unix_ns: int

    @staticmethod
    def now() -> Moment:
        """Return the current moment."""
        return Moment(time.perf_counter(), time.time_ns())

    @staticmethod
    def at(steady_s: float) -> Moment:
        """Return the moment that `time.perf_counter` has called *steady_s*."""
        now = Moment.now()
        return Moment(steady_s, now.unix_ns - int((now.steady_s - steady_s) * 1e9))
