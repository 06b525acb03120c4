"""What is sent in place of a request of requests: a copy with the propagator's headers.

The app finds none of them on its own request: a redirect would carry them on, and an adapter of the
app's that answers by itself would show them.
"""

from __future__ import annotations

from copy import copy
from typing import Any, NamedTuple

from assisters_otel.clients.classes import is_a
from assisters_otel.fail_safe import fail_safe


class Outgoing(NamedTuple):
    """A copy of a request. The app may have the request itself in several threads.

    Attributes:
        raw: The app's own, or what its adapter has made of it.
        copy: The copy, with headers more.
        injected: Those.
    """

    raw: Any
    copy: Any
    injected: dict[str, str]

    @classmethod
    def of(cls, raw: Any, headers: dict[str, str]) -> Outgoing | None:
        """Return a copy of *raw* with *headers*; None if there are none, or it cannot be copied."""
        # What is not prepared is refused by requests, in its own words.
        if not headers or not is_a(raw, ("requests",), "PreparedRequest"):
            return None
        if not hasattr(raw.headers, "copy"):
            return None
        try:
            made = copy(raw)
        except (TypeError, NotImplementedError):  # a proxy around one
            return None
        made.headers = raw.headers.copy()
        made.headers.update(headers)
        return cls(raw, made, headers)

    @fail_safe
    def hand_back(self, made: Any) -> None:
        """Leave the app with its own request, and with what its adapter has written on the copy.

        Args:
            made: The response, or the exception in its place.
        """
        raw, sent = self.raw, self.copy
        if getattr(made, "request", None) is sent:
            made.request = raw
        own, told = raw.headers, sent.headers
        had = list(own.items())
        for name, value in told.items():
            if name not in self.injected and (name, value) not in had:
                own[name] = value
        for name in dict(had):
            if name not in told:
                own.pop(name, None)
        for name, value in vars(sent).items():
            if value is not told and vars(raw).get(name, sent) is not value:
                setattr(raw, name, value)
