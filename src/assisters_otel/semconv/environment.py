"""The environment variables that the library reads by name."""

from __future__ import annotations

from typing import Final

ASSISTERS_BASE_URL: Final = "ASSISTERS_BASE_URL"
"""A gateway's base URL, under the name that the API's documentation uses. Its host is watched."""

ASSISTERS_OTEL_HOSTS: Final = "ASSISTERS_OTEL_HOSTS"
"""Further hosts to watch: ``host[:port][/path-prefix]``, separated by commas."""

ASSISTERS_OTEL_CAPTURE_MESSAGE: Final = "ASSISTERS_OTEL_CAPTURE_MESSAGE"
"""``true`` writes the envelope's message to the span, redacted and cut. Off by default."""

OTEL_SDK_DISABLED: Final = "OTEL_SDK_DISABLED"
"""``true`` turns the library off. Source: OpenTelemetry's environment variables."""

OTEL_CAPTURE_RESPONSE_HEADERS: Final = "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_RESPONSE"
"""The response headers that HTTP instrumentation writes to spans. Source: the same page."""

OTEL_PYTHON_LOGGER_CONFIGURATOR: Final = "OTEL_PYTHON_LOGGER_CONFIGURATOR"
"""The configurator of a logger provider. `init` creates none, so it only warns that this is unused.

Source: OpenTelemetry's SDK for Python."""
