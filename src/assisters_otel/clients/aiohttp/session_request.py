"""What one `ClientSession._request` has in flight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from assisters_otel.recording.attempt import Attempt


class _Asked:
    """One request of the app's, with all the attempts that its session makes of it.

    Attributes:
        session: Whose it is; None for an attempt that was met without one.
        options: What the session was called with.
        url: Where to, as the app has it.
        hop: The session's own form of the last attempt.
        response: What it was answered with, as long as its headers are not there.
        attempt: The last one, until it is reported.
        last: The same, for ever.
        error: What the last one has met, if that is not yet known to be the end.
        span: The HTTP span around all of them, or None.
        around: What was current before it, if it is ours.
        ours: If it is ours, what makes it: a trace, its context, and what it was begun with.
        injected: The headers to send with what is watched, if it is ours.
    """

    __slots__ = (
        "around",
        "attempt",
        "error",
        "hop",
        "injected",
        "last",
        "options",
        "ours",
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
        self.attempt: Attempt | None = None
        self.last: Attempt | None = None
        self.error: BaseException | None = None
        self.span: Span | None = None
        self.around: Span | None = None
        self.ours: tuple[Any, Any, tuple[Any, ...]] | None = None
        self.injected: dict[str, str] = {}
