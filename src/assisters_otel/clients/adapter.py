"""The base class of the HTTP clients' adapters.

An adapter knows one client. It lists the client's methods to wrap, opens an `Exchange` around each
request to a watched host, and passes the response's status and headers to the exchange.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from assisters_otel.clients.http_span import HttpSpans
from assisters_otel.clients.routes import Route, Routes

if TYPE_CHECKING:
    from collections.abc import Hashable
    from types import ModuleType

    from opentelemetry.trace import TracerProvider

    from assisters_otel.api.request import ApiRequest
    from assisters_otel.clients.http_variables import HttpVariables
    from assisters_otel.clients.patching import Target
    from assisters_otel.hosts import Host
    from assisters_otel.recording.recorder import Recorder


class ClientAdapter(ABC):
    """An HTTP client's adapter.

    Attributes:
        scope: The module of OpenTelemetry's instrumentation, which is the scope of its spans.
        instrumentation: The client's name in ``OTEL_PYTHON_DISABLED_INSTRUMENTATIONS``.
        instrumentor: The class in OpenTelemetry's module that an app switches on.
        suppresses_others: True if no other HTTP instrumentation may make spans inside the
            library's, because the client sends through another client.
        has_user_agent: True if OpenTelemetry's spans of this client have ``user_agent.original``.
        quotes_exceptions: True if the status of OpenTelemetry's spans has an exception's text, and
            not its class alone.
    """

    scope: ClassVar[str]
    instrumentation: str
    instrumentor: str
    suppresses_others: ClassVar[bool] = False
    has_user_agent: ClassVar[bool] = False
    quotes_exceptions: ClassVar[bool] = True

    def __init__(
        self,
        module: str,
        recorder: Recorder,
        tracer_provider: TracerProvider | None,
        variables: HttpVariables,
    ) -> None:
        """Prepare the adapter. It imports nothing, and wraps nothing yet.

        Args:
            module: The client's top module.
            recorder: The recorder of the attempts.
            tracer_provider: The provider for the library's HTTP spans; None for the global one.
            variables: The values of OpenTelemetry's variables on HTTP spans, as `init` read them.
        """
        self.module = module
        self._recorder = recorder
        self._app_module: ModuleType | None = None
        self._app_instrumentor: Any = None
        self._routes = Routes()
        self._spans = HttpSpans(
            variables,
            tracer_provider,
            suppresses_others=self.suppresses_others,
            has_user_agent=self.has_user_agent,
            quotes_exceptions=self.quotes_exceptions,
        )

    def _make_route(
        self, key: Hashable, hosts: tuple[Host, ...], request: ApiRequest, url: str, port: int
    ) -> Route:
        """Return the route of a request, and remember it under a key with its method and URL."""
        # Without a span if that step fails.
        bare = Route(hosts, request, url, None)
        route = self._spans.route(hosts, request, url, port) or bare
        self._routes.keep(key, route)
        return route

    def make_no_spans(self) -> None:
        """Start no HTTP spans for this client. Attempts have one only if the app makes it."""
        self._spans.is_off = True

    def makes_spans(self) -> bool:
        """Return True if the library makes an HTTP span for attempts of which the app has none."""
        return not self._spans.is_off

    def app_instrumentation_is_on(self) -> bool:
        """Return True if the app has switched on OpenTelemetry's instrumentation of the client."""
        module = sys.modules.get(self.scope)
        if module is not self._app_module:
            kind = getattr(module, self.instrumentor, None)
            if kind is None:
                return False
            # The instrumentor is one object for ever, so it is kept (``200, alone``).
            self._app_module, self._app_instrumentor = module, kind()
        return module is not None and self._app_instrumentor.is_instrumented_by_opentelemetry

    @abstractmethod
    def targets(self) -> tuple[Target, ...]:
        """Return the methods to wrap."""
