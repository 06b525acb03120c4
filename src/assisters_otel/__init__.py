"""OpenTelemetry instrumentation for the Assisters API.

import assisters_otel

assisters_otel.init("checkout")

PYTEST_DONT_REWRITE: ``opentelemetry-instrument`` imports this before pytest, which would warn.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

from assisters_otel.variables import corrections

if TYPE_CHECKING:
    from assisters_otel import catalog
    from assisters_otel.explanation.explain import Explanation, explain
    from assisters_otel.explanation.retries import retry_after_s, retryable
    from assisters_otel.instrumentor import AssistersInstrumentor
    from assisters_otel.runtimes.flushed import flushed
    from assisters_otel.startup import init
    from assisters_otel.telemetry import Status, Telemetry
    from assisters_otel.version import __version__

__all__ = [
    "AssistersInstrumentor",
    "Explanation",
    "Status",
    "Telemetry",
    "__version__",
    "catalog",
    "explain",
    "flushed",
    "init",
    "retry_after_s",
    "retryable",
]

corrections.import_opentelemetry()

# Loaded when they are asked for: pytest imports this package, for its plug-in, in the test
# runs of everybody who has it, and they need not wait for OpenTelemetry's SDK.
_HOMES: Final = {
    "AssistersInstrumentor": "instrumentor",
    "Explanation": "explanation.explain",
    "Status": "telemetry",
    "Telemetry": "telemetry",
    "__version__": "version",
    "explain": "explanation.explain",
    "flushed": "runtimes.flushed",
    "init": "startup",
    "retry_after_s": "explanation.retries",
    "retryable": "explanation.retries",
}


def __getattr__(name: str) -> object:
    if name == "catalog":
        return importlib.import_module(f"{__name__}.catalog")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
