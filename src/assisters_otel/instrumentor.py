"""`AssistersInstrumentor`: patches the clients, and creates no providers.

``opentelemetry-instrument`` finds it by its entry point. It turns the same `SWITCH` as `init`. So
`uninstrument` also takes out the patches of `init`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.instrumentation.instrumentor import (  # type: ignore[attr-defined]
    BaseInstrumentor,
)

from assisters_otel import config as configs
from assisters_otel.config import warn_of_wrong, with_environment
from assisters_otel.fail_safe import fail_safe, own_errors
from assisters_otel.instrumentation import SWITCH, Instrumentation
from assisters_otel.variables import corrections

if TYPE_CHECKING:
    from collections.abc import Collection


_SETTINGS: Final = frozenset({"hosts", "capture_message", "key_fingerprint", "baggage", "strict"})
_KEYWORDS: Final = _SETTINGS | {"tracer_provider", "meter_provider"}


class AssistersInstrumentor(BaseInstrumentor):  # type: ignore[misc] # it has no types
    """Instruments the clients of the Assisters API with the global providers, or with given ones.

    ``instrument`` takes, as any instrumentor's, ``tracer_provider`` and ``meter_provider``, and
    ``hosts``, ``capture_message``, ``key_fingerprint``, ``baggage`` and ``strict`` as `init` does.
    """

    @property
    def active(self) -> Instrumentation | None:
        """The instrumentation that is on, or None."""
        return SWITCH.active

    @property
    def _is_instrumented_by_opentelemetry(self) -> bool:
        """True if it is on: `BaseInstrumentor` keeps that in an attribute of this name."""
        return SWITCH.is_on

    @_is_instrumented_by_opentelemetry.setter
    def _is_instrumented_by_opentelemetry(self, is_on: bool) -> None:
        SWITCH.is_on = is_on

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return nothing: a client is patched when it is imported, and none is needed."""
        return ()

    def _instrument(self, **kwargs: Any) -> None:
        """Patch the clients.

        Args:
            **kwargs: ``tracer_provider`` and ``meter_provider``, as for any instrumentor.
                ``hosts``, ``capture_message``, ``key_fingerprint``, ``baggage`` and ``strict``, as
                for `init`.
        """
        unknown = ", ".join(sorted(kwargs.keys() - _KEYWORDS))
        if unknown:
            known = ", ".join(sorted(_KEYWORDS))
            raise ValueError(f"unknown: {unknown}. Write one of {known}")
        if configs.sdk_disabled(os.environ):
            return
        configs.check_provider("tracer_provider", kwargs.get("tracer_provider"), "get_tracer")
        configs.check_provider("meter_provider", kwargs.get("meter_provider"), "get_meter")
        settings = {name: kwargs[name] for name in _SETTINGS & kwargs.keys()}
        config = configs.from_arguments(**settings)
        own_errors.start(strict=config.strict)
        _start(config, kwargs)

    def _uninstrument(self, **_kwargs: Any) -> None:
        _stop()


@fail_safe
def _start(config: configs.Config, arguments: dict[str, Any]) -> None:
    config = with_environment(config, os.environ)
    warn_of_wrong(corrections.corrections(os.environ), set(), strict=config.strict)
    with corrections.corrected():
        instrumentation = Instrumentation(
            config, arguments.get("tracer_provider"), arguments.get("meter_provider")
        )
        instrumentation.expect_exit()
        SWITCH.on(instrumentation)


@fail_safe
def _stop() -> None:
    SWITCH.off()
