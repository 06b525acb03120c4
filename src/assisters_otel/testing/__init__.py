"""For tests: a fake Assisters API, a recording of telemetry, and the proof of a retry policy.

All but `recorded` needs the extra ``testing``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from assisters_otel.testing.answers import Received
    from assisters_otel.testing.recorded_telemetry import Point, Recorded
    from assisters_otel.testing.recording import AssistersTelemetry, recorded
    from assisters_otel.testing.retry_policy.check import check_retries
    from assisters_otel.testing.retry_policy.report import RetryPolicyError, RetryReport, RetryRow
    from assisters_otel.testing.server import FakeApi
    from assisters_otel.testing.usage import SentUsage

__all__ = [
    "AssistersTelemetry",
    "FakeApi",
    "Point",
    "Received",
    "Recorded",
    "RetryPolicyError",
    "RetryReport",
    "RetryRow",
    "SentUsage",
    "check_retries",
    "recorded",
]

# Imported on first use: the pytest plug-in stands in this package and must load without the extra.
_HOMES: Final = {
    "AssistersTelemetry": "recording",
    "FakeApi": "server",
    "Point": "recorded_telemetry",
    "Received": "answers",
    "Recorded": "recorded_telemetry",
    "RetryPolicyError": "retry_policy.report",
    "RetryReport": "retry_policy.report",
    "RetryRow": "retry_policy.report",
    "SentUsage": "usage",
    "check_retries": "retry_policy.check",
    "recorded": "recording",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        home = importlib.import_module(f"{__name__}.{_HOMES[name]}")
    except ModuleNotFoundError as missing:
        raise ImportError(
            f"assisters_otel.testing.{name} needs {missing.name}: "
            "pip install 'assisters-otel[testing]'"
        ) from missing
    return getattr(home, name)
