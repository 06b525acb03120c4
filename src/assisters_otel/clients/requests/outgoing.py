"""The copy of a request of requests that is sent, with the propagator's headers.

The app's own request does not get these headers. A redirect would carry them to another host, and
an app's adapter that answers by itself would show them.

The app may change its request while the copy is under way. For example, another thread renews a
token there, or the body's iterator keeps its progress. So `Outgoing.restore` compares the copy with
what it was at first. Only what the adapter has changed there, and the app has not, is handed over.
"""

from __future__ import annotations

from copy import copy
from typing import Any, Final

from assisters_otel.clients.classes import is_a
from assisters_otel.fail_safe import fail_safe
from assisters_otel.records import Record

_ABSENT: Final = object()


class Outgoing(Record):
    """A copy of a request. The app may send the request itself in several threads at once.

    Attributes:
        raw: The app's request, or what the app's own adapter has made of it.
        copy: The copy, which has the injected headers.
        injected: The propagator's headers.
        headers: The headers of *raw* when the copy was made.
        attributes: The attributes of the copy when it was made.
    """

    raw: Any
    copy: Any
    injected: dict[str, str]
    headers: dict[Any, Any]
    attributes: dict[str, Any]

    @classmethod
    def of(cls, raw: Any, injected: dict[str, str]) -> Outgoing | None:
        """Return a copy of *raw* with more headers; None if there are none, or it has no copy."""
        # requests refuses a request that is not prepared, with a message of its own.
        if not injected or not is_a(raw, ("requests",), "PreparedRequest"):
            return None
        if not hasattr(raw.headers, "copy"):
            return None
        try:
            made = copy(raw)
        except (TypeError, NotImplementedError):  # a proxy around a request
            return None
        made.headers = headers = raw.headers.copy()
        before = dict(headers.items())
        headers.update(injected)
        return cls(raw, made, injected, before, dict(vars(made)))

    @fail_safe
    def restore(self, made: Any) -> None:
        """Restore the app's request in the response, and copy to it what the adapter has written.

        Args:
            made: The response, or the exception in its place.
        """
        raw, sent = self.raw, self.copy
        if getattr(made, "request", None) is sent:
            made.request = raw
        told = sent.headers
        if dict(told.items()) != {**self.headers, **self.injected}:
            self._copy_headers(told)
        before, now, own = self.attributes, vars(sent), vars(raw)
        for name, value in now.items():
            was = before.get(name, _ABSENT)
            if value is not was and value is not told and own.get(name, _ABSENT) is was:
                setattr(raw, name, value)
        for name, was in before.items():
            if name not in now and own.get(name, _ABSENT) is was:
                delattr(raw, name)

    def _copy_headers(self, told: Any) -> None:
        """Copy to the app's headers what the adapter has set or deleted in *told*."""
        own = self.raw.headers
        before, now, sent = _by_lower_name(self.headers), _by_lower_name(own), _by_lower_name(told)
        copied = before | _by_lower_name(self.injected)
        for lower in {**copied, **sent}:
            name, value = sent.get(lower, (lower, _ABSENT))
            is_by_adapter = value != copied.get(lower, (lower, _ABSENT))[1]
            if is_by_adapter and now.get(lower) == before.get(lower):
                if value is not _ABSENT:
                    own[name] = value
                elif lower in now:
                    del own[now[lower][0]]


def _by_lower_name(headers: Any) -> dict[Any, tuple[Any, Any]]:
    return {name.lower(): (name, value) for name, value in headers.items()}
