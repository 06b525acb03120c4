"""The copy of a request of requests that is sent, with the propagator's headers.

The app's own request does not get these headers. A redirect would carry them to another host, and
an app's adapter that answers by itself would show them.
"""

from __future__ import annotations

from copy import copy
from typing import Any

from assisters_otel.clients.classes import is_a
from assisters_otel.fail_safe import fail_safe
from assisters_otel.records import Record


class Outgoing(Record):
    """A copy of a request. The app may send the request itself in several threads at once.

    Attributes:
        raw: The app's request, or what the app's own adapter has made of it.
        copy: The copy, which has the injected headers.
        injected: The propagator's headers.
    """

    raw: Any
    copy: Any
    injected: dict[str, str]

    @classmethod
    def of(cls, raw: Any, headers: dict[str, str]) -> Outgoing | None:
        """Return a copy of *raw* with *headers*; None if there are none, or it cannot be copied."""
        # requests refuses a request that is not prepared, with a message of its own.
        if not headers or not is_a(raw, ("requests",), "PreparedRequest"):
            return None
        if not hasattr(raw.headers, "copy"):
            return None
        try:
            made = copy(raw)
        except (TypeError, NotImplementedError):  # a proxy around a request
            return None
        made.headers = raw.headers.copy()
        made.headers.update(headers)
        return cls(raw, made, headers)

    @fail_safe
    def restore(self, made: Any) -> None:
        """Restore the app's request in the response, and copy to it what the adapter has written.

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
