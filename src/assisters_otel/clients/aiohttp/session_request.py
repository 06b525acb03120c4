"""What one `ClientSession._request` has in flight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from assisters_otel.clients.exchange import Exchange


class _Asked:
    """One request of the app's, with all the attempts that its session makes of it.

    Attributes:
        session: Whose it is; None for an attempt that was met without one.
        options: What the session was called with.
        url: Where to, as the app has it.
        hop: The session's own form of the last attempt.
        response: What it was answered with, as long as its headers are not there.
        exchange: The last attempt's, until it has ended.
        last: The same, for ever.
        error: What the last one has met, if that is not yet known to be the end.
        span: The app's HTTP span around all of them, or None.
        app_makes_spans: True if the app's HTTP instrumentation covers them, also where it has
            sampled its span out.
        injected: The headers to send with the last attempt, if its span is the library's.
    """

    __slots__ = (
        "app_makes_spans",
        "error",
        "exchange",
        "hop",
        "injected",
        "last",
        "options",
        "response",
        "session",
        "span",
        "url",
    )

    def __init__(self, session: Any = None, url: Any = None, options: Any = None) -> None:
        self.session = session
        self.url = url
        self.options = options or {}
        self.hop: Any = None
        self.response: Any = None
        self.exchange: Exchange | None = None
        self.last: Exchange | None = None
        self.error: BaseException | None = None
        self.span: Span | None = None
        self.app_makes_spans = False
        self.injected: dict[str, str] = {}
