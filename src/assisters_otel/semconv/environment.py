"""The environment variables that the library reads by name."""

from __future__ import annotations

from typing import Final

ASSISTERS_BASE_URL: Final = "ASSISTERS_BASE_URL"
"""A gateway's base URL, under the name that the API's documentation uses. Its host is watched."""

ASSISTERS_OTEL_HOSTS: Final = "ASSISTERS_OTEL_HOSTS"
"""Further hosts to watch: ``host[:port][/path-prefix]``, separated by commas."""

ASSISTERS_OTEL_CAPTURE_MESSAGE: Final = "ASSISTERS_OTEL_CAPTURE_MESSAGE"
"""``true`` writes the envelope's message to the span, redacted and cut. Off by default."""

ASSISTERS_OTEL_KEY_FINGERPRINT: Final = "ASSISTERS_OTEL_KEY_FINGERPRINT"
"""``false`` leaves out the fingerprint of the API key. On by default."""

ASSISTERS_OTEL_BAGGAGE: Final = "ASSISTERS_OTEL_BAGGAGE"
"""Entries of the baggage that become attributes: names, separated by commas."""

OTEL_SDK_DISABLED: Final = "OTEL_SDK_DISABLED"
"""``true`` turns the library off. Source: OpenTelemetry's environment variables."""

OTEL_CONFIG_FILE: Final = "OTEL_CONFIG_FILE"
"""The path of a file that describes the providers. Source: the same."""

OTEL_PYTHON_LOGGER_PROVIDER: Final = "OTEL_PYTHON_LOGGER_PROVIDER"
"""The global logger provider, by the name of its entry point. Source: the same."""

OTEL_DISABLED_INSTRUMENTATIONS: Final = "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"
"""Which instrumentations are off, by the names of their entry points, or ``*``.
Source: the same."""

OTEL_CAPTURE_REQUEST_HEADERS: Final = "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_REQUEST"
"""Which request headers HTTP instrumentation puts on spans. Source: the same."""

OTEL_CAPTURE_RESPONSE_HEADERS: Final = "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_RESPONSE"
"""The response headers that HTTP instrumentation writes to spans. Source: the same page."""

OTEL_SANITIZE_FIELDS: Final = "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SANITIZE_FIELDS"
"""Of which of these headers the values are not shown. Source: the same."""

OTEL_KNOWN_METHODS: Final = "OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS"
"""All HTTP methods that are named as they are. Source: the HTTP conventions."""

OTEL_CAPTURE_ALL_METHODS: Final = "OTEL_PYTHON_INSTRUMENTATION_HTTP_CAPTURE_ALL_METHODS"
"""Any value: all methods are. Source: OpenTelemetry's HTTP instrumentations for Python."""

OTEL_EXCLUDED_URLS: Final = "OTEL_PYTHON_EXCLUDED_URLS"
"""Which URLs have no HTTP span: patterns, separated by commas. Source: the same."""

OTEL_EXCLUDED_URLS_OF: Final = "OTEL_PYTHON_{}_EXCLUDED_URLS"
"""The same for one client: ``HTTPX``, ``REQUESTS``, ``AIOHTTP_CLIENT``. Source: the same."""

OTEL_PYTHON_LOGGER_CONFIGURATOR: Final = "OTEL_PYTHON_LOGGER_CONFIGURATOR"
"""The configurator of a logger provider. `init` creates none, so it only warns that this is unused.

Source: OpenTelemetry's SDK for Python."""
