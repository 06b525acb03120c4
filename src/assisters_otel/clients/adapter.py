"""What the adapters of the HTTP clients have in common."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from assisters_otel.clients.http_span import HttpSpans

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from assisters_otel.clients.patching import Target
    from assisters_otel.recording.recorder import Recorder


class Adapter(ABC):
    """An HTTP client's adapter.

    Attributes:
        scope: The module of OpenTelemetry's instrumentation, which is the scope of its spans.
        instrumentation: Its name in ``OTEL_PYTHON_DISABLED_INSTRUMENTATIONS``.
        variable: Its name in ``OTEL_PYTHON_{NAME}_EXCLUDED_URLS``.
        instrumentor: The class in its module that an app switches on.
        suppresses_others: True if no other HTTP instrumentation makes spans inside the library's:
            the client sends through another one.
        has_user_agent: True if OpenTelemetry's spans of this client have ``user_agent.original``.
        quotes_exceptions: True if the status of OpenTelemetry's spans says what an exception says,
            and not its class alone.
    """

    scope: ClassVar[str]
    instrumentation: str
    variable: ClassVar[str]
    instrumentor: str
    suppresses_others: ClassVar[bool] = False
    has_user_agent: ClassVar[bool] = False
    quotes_exceptions: ClassVar[bool] = True

    def __init__(
        self, module: str, recorder: Recorder, tracer_provider: TracerProvider | None
    ) -> None:
        """Prepare; nothing is imported and nothing is wrapped yet.

        Args:
            module: The client's top module.
            recorder: Gets what is seen.
            tracer_provider: For the library's HTTP spans; None for the global one.
        """
        self.module = module
        self._recorder = recorder
        self._spans = HttpSpans(
            self.variable,
            tracer_provider,
            suppresses_others=self.suppresses_others,
            has_user_agent=self.has_user_agent,
            quotes_exceptions=self.quotes_exceptions,
        )

    def make_no_spans(self) -> None:
        """Leave attempts of this client without an HTTP span, where the app makes none."""
        self._spans.is_off = True

    def makes_spans(self) -> bool:
        """Return True if attempts have a span of the library's, where the app makes none."""
        return not self._spans.is_off

    def theirs_is_on(self) -> bool:
        """Return True if the app has switched OpenTelemetry's instrumentation on itself."""
        instrumentor = getattr(sys.modules.get(self.scope), self.instrumentor, None)
        return instrumentor is not None and instrumentor().is_instrumented_by_opentelemetry

    @abstractmethod
    def targets(self) -> tuple[Target, ...]:
        """Return what to wrap."""
