"""What the adapters of the HTTP clients have in common: who makes the HTTP spans."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Final

from assisters_otel import logger
from assisters_otel.fail_safe import fail_safe

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from assisters_otel.clients.patching import Target
    from assisters_otel.recording.recorder import Observer

BAGGAGE: Final = ("baggage", "uberctx-", "ot-baggage-")
"""How the names of headers with an app's baggage begin: of W3C, Jaeger and OpenTracing. Source:
the propagators' `inject`."""


class Adapter(ABC):
    """An HTTP client's adapter. Where the app makes no HTTP spans, what `_make` gives makes them.

    Attributes:
        module: The client's top module.
        scope: The HTTP instrumentation's module, which is the scope of its spans.
    """

    scope: ClassVar[str]

    def __init__(
        self,
        module: str,
        instrumentor: str,
        observer: Observer,
        tracer_provider: TracerProvider | None,
        meter_provider: MeterProvider | None,
    ) -> None:
        """Prepare; nothing is imported and nothing is wrapped yet.

        Args:
            module: The client's top module.
            instrumentor: The class in the HTTP instrumentation's module that an app uses.
            observer: Gets what is seen.
            tracer_provider: For the HTTP spans that we switch on; None for the global one.
            meter_provider: For the HTTP metrics that come with them; None for the global one.
        """
        self.module = module
        self._instrumentor = instrumentor
        self._observer = observer
        self._tracer_provider = tracer_provider
        self._meter_provider = meter_provider
        self._maker: Any = None
        self._is_put_off = False
        self._is_absent = False
        self._is_told = False
        self._is_off = False

    def switch_on(self) -> None:
        """Make our spans from now on, if the HTTP instrumentation is installed.

        If its module is what imports the client, it is not ready yet: then with the next request.
        """
        self._is_put_off = self._is_off = False
        if self._maker is not None:
            return
        spec = self._find()
        if spec is not None and getattr(spec, "_initializing", False):
            self._is_put_off = True
        elif spec is not None:
            self._maker = self._make()

    def _find(self) -> ModuleSpec | None:
        spec = find_spec(self.scope)
        self._is_absent = spec is None
        return spec

    def switch_on_again(self) -> None:
        """Make our spans where an attempt has none, for the app has switched its own off."""
        if not (self._maker or self._is_absent or self._is_off or self.theirs_is_on()):
            self.switch_on()

    def tell_of_no_span(self) -> None:
        """Say once, as an attempt is made, that this client's have no spans, and what is missing.

        Not before: the client may be there for another package, as requests is for an exporter.
        """
        if self._is_absent and not self._is_told:
            self._is_told = True
            logger.warning(
                "attempts of %s have metrics and log lines, but no spans: its HTTP instrumentation "
                "is not installed. pip install 'assisters-otel[%s]'",
                self.module,
                self.module,
            )

    @fail_safe
    def switch_off(self) -> None:
        """Make none any more."""
        self._is_off = True
        self._is_put_off = False
        maker, self._maker = self._maker, None
        if maker is not None:
            self._unmake(maker)

    def is_on(self) -> bool:
        """Say whether spans of ours are made."""
        if self._is_put_off:
            self.switch_on()
        return self._maker is not None

    def record_in(self, meter_provider: MeterProvider) -> None:
        """Make the HTTP metrics that come with our spans in another provider."""
        self._meter_provider = meter_provider
        if self._maker is not None:
            self._unmake(self._maker)
            self._maker = self._make()

    def forked(self) -> None:  # noqa: B027 - most hold no lock
        """Begin anew in a forked child, where another thread's locks are held for ever."""

    def theirs_is_on(self) -> bool:
        """Say whether the app has switched the HTTP instrumentation on itself."""
        instrumentor = getattr(sys.modules.get(self.scope), self._instrumentor, None)
        return instrumentor is not None and instrumentor().is_instrumented_by_opentelemetry

    @abstractmethod
    def targets(self) -> tuple[Target, ...]:
        """Say what to wrap."""

    @abstractmethod
    def _make(self) -> Any:
        """Make what makes our spans."""

    def _unmake(self, maker: Any) -> None:  # noqa: B027 - most have nothing to undo
        """Undo what `_make` has done beyond giving *maker*."""
