"""A request of requests on its way through a span of ours: the app's own stays as it is.

OpenTelemetry's instrumentation writes headers on the request that it is given. It gets a copy, and
what it has written goes out on another copy, in the moment in which an adapter sends.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from opentelemetry import trace

from assisters_otel.clients.adapter import BAGGAGE
from assisters_otel.clients.classes import find_base
from assisters_otel.fail_safe import fail_safe

if TYPE_CHECKING:
    from collections.abc import Callable

_ROUTED: Final = "_assisters_otel_routed"
"""On a copy of a request: what it is a copy of."""


class Routed:
    """A request of the app's that goes through a span of ours.

    Attributes:
        request: The app's own.
        plain: Sends it, as it was before us.
        around: The span under which it is sent, whether ours is recorded or not.
        copy: What OpenTelemetry's instrumentation gets in its place, with headers of its own.
        injected: Those that it has added, but the baggage.
    """

    __slots__ = ("around", "copy", "injected", "is_sent", "plain", "request")

    def __init__(self, request: Any, plain: Callable[..., Any]) -> None:
        """Make the copy.

        Args:
            request: The app's own.
            plain: Sends it, as it was before us.
        """
        self.request = request
        self.plain = plain
        self.around = trace.get_current_span()
        # No subclass of the app's: OpenTelemetry asks for method, URL and headers.
        self.copy: Any = object.__new__(find_base(request, "PreparedRequest", type(request)))
        headers = request.headers.copy()
        self.copy.__dict__.update(
            vars(request), method=request.method, url=request.url, headers=headers
        )
        self.copy.__dict__[_ROUTED] = self
        self.injected: dict[str, str] = {}
        self.is_sent = False

    def goes_out_as(self, raw: Any) -> bool:
        """Say whether this is what is sent: the app's own, or at first an adapter's copy of it."""
        own, is_first, self.is_sent = self.request, not self.is_sent, True
        return raw is own or (is_first and (raw.method, raw.url) == (own.method, own.url))

    @fail_safe
    def take_injected(self) -> None:
        """See what OpenTelemetry's instrumentation has added to its copy."""
        own = list(self.request.headers.items())  # by pairs: a name may be there more than once
        self.injected = {
            name: value
            for name, value in self.copy.headers.items()
            if (name, value) not in own and not name.lower().startswith(BAGGAGE)
        }

    def wire(self, raw: Any) -> Wire | None:
        """Give what an adapter is to send in place of what it was about to, if it is this one."""
        if not self.injected or not self.goes_out_as(raw):
            return None
        try:
            sent = copy(raw)
        except (TypeError, NotImplementedError):  # a proxy around one
            return None
        sent.headers = raw.headers.copy()
        sent.headers.update(self.injected)
        return Wire(raw, sent, self.injected)


class Wire(NamedTuple):
    """A copy of a request for the wire. The app may have the request itself in several threads.

    Attributes:
        raw: The app's own, or what its adapter has made of it.
        sent: The copy, with headers more.
        injected: Those.
    """

    raw: Any
    sent: Any
    injected: dict[str, str]

    @fail_safe
    def hand_back(self, made: Any) -> None:
        """Leave the app with its own request, and with what its adapter has written on the copy.

        Args:
            made: The response, or the exception in its place.
        """
        raw, sent = self.raw, self.sent
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


def routed_as(copy: Any) -> Routed:
    """Give what a copy is of, once: it must not know that for longer, or both were in a ring."""
    routed: Routed = vars(copy).pop(_ROUTED)
    return routed
