"""OpenTelemetry's variables on HTTP spans: excluded URLs, known methods, captured headers.

`variables` corrects a wrong value before it is read here.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

from opentelemetry.semconv.attributes.http_attributes import (
    HTTP_REQUEST_HEADER_TEMPLATE,
    HTTP_RESPONSE_HEADER_TEMPLATE,
)

from assisters_otel.api import limits, redaction
from assisters_otel.records import Record
from assisters_otel.semconv import environment

if TYPE_CHECKING:
    from collections.abc import Iterable

KNOWN_METHODS: Final = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"}
)
"""The methods that the conventions know. Source: RFC 9110, RFC 5789, RFC 10008."""


class HttpVariables(Record):
    """The values of the variables for one client.

    Attributes:
        excluded_urls: A pattern of the URLs that have no span, or None if all have one.
        known_methods: The methods that are reported as sent, or None for all of them.
        request_headers: The captured headers of requests, or None if there are none.
        response_headers: The captured headers of responses, or None if there are none.
    """

    excluded_urls: re.Pattern[str] | None
    known_methods: frozenset[str] | None
    request_headers: CapturedHeaders | None
    response_headers: CapturedHeaders | None


def read(client: str) -> HttpVariables:
    """Return the values that the variables have now.

    Args:
        client: The client's name in ``OTEL_PYTHON_{NAME}_EXCLUDED_URLS``.
    """
    return HttpVariables(_excluded_urls(client), _known_methods(), *_captured_headers())


def _excluded_urls(client: str) -> re.Pattern[str] | None:
    # A client's own variable takes the place of the common one.
    own = os.environ.get(environment.OTEL_EXCLUDED_URLS_OF.format(client))
    return _pattern(os.environ.get(environment.OTEL_EXCLUDED_URLS, "") if own is None else own, 0)


def _known_methods() -> frozenset[str] | None:
    if os.environ.get(environment.OTEL_CAPTURE_ALL_METHODS):
        return None
    known = os.environ.get(environment.OTEL_KNOWN_METHODS, "")
    given = frozenset(filter(None, map(str.strip, known.split(","))))
    return given or KNOWN_METHODS


class CapturedHeaders(Record):
    """The headers of requests, or of responses, that are attributes of the span.

    Attributes:
        template: The attribute's name without the header's.
        pattern: The pattern of the headers' names.
        sanitized: The pattern of the names whose values are not shown, or None.
    """

    template: str
    pattern: re.Pattern[str]
    sanitized: re.Pattern[str] | None

    def shown(
        self, headers: Iterable[tuple[str, str]], secrets: Iterable[str] = ()
    ) -> dict[str, list[str]]:
        """Return the attributes, without keys.

        Args:
            headers: All headers of a request or a response, one pair for each line.
            secrets: Further texts that must not be shown.
        """
        found: dict[str, list[str]] = {}
        for name, value in headers:
            if self.pattern.fullmatch(name):
                shown = redaction.without(self._shown(name, value), secrets)
                found.setdefault(f"{self.template}.{name.lower()}", []).append(shown)
        return found

    def _shown(self, name: str, value: str) -> str:
        if self.sanitized is not None and self.sanitized.search(name):
            return "[REDACTED]"  # as OpenTelemetry's HTTP instrumentations write it
        if redaction.is_secret(name.lower()):
            return redaction.REDACTED
        return redaction.clean(value, limits.MAX_TEXT)


def _captured_headers() -> tuple[CapturedHeaders | None, CapturedHeaders | None]:
    sanitized = _names(environment.OTEL_SANITIZE_FIELDS)
    requests = _names(environment.OTEL_CAPTURE_REQUEST_HEADERS)
    responses = _names(environment.OTEL_CAPTURE_RESPONSE_HEADERS)
    return (
        requests and CapturedHeaders(HTTP_REQUEST_HEADER_TEMPLATE, requests, sanitized),
        responses and CapturedHeaders(HTTP_RESPONSE_HEADER_TEMPLATE, responses, sanitized),
    )


def _names(variable: str) -> re.Pattern[str] | None:
    return _pattern(os.environ.get(variable, ""), re.IGNORECASE)


def _pattern(listed: str, flags: int) -> re.Pattern[str] | None:
    """Return one pattern of the comma-separated patterns, or None if there are none."""
    listed = "|".join(filter(None, map(str.strip, listed.split(","))))
    return re.compile(listed, flags) if listed else None
