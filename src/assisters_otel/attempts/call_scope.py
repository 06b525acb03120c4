"""Where the scope of a call is kept: what is sent in it may be an attempt of the call.

It is in OpenTelemetry's context, which the app's code passes from thread to thread, and in a
context variable: ddtrace's context keeps only the span and the baggage. A flag closes the scope
(`Call.is_open`): a task that was started in it, and outlives it, is no part of it.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

from opentelemetry import context

KEY: Final = context.create_key("assisters_otel-call")
"""The key of the call in OpenTelemetry's context."""

SCOPE: Final[ContextVar[object]] = ContextVar("assisters_otel-call", default=None)
"""The context variable with the call, or None."""
