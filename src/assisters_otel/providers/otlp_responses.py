"""Reads the response to a request of OTLP over HTTP: taken, or why not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urljoin, urlsplit

from google.protobuf import json_format
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from assisters_otel.api import redaction
from assisters_otel.providers.bounded_body import MAX_BYTES
from assisters_otel.providers.failures import ExportFailure, rejection
from assisters_otel.records import Record

if TYPE_CHECKING:
    from requests import Response

_PAGES: Final = frozenset({"text/html", "application/xhtml+xml"})

_RESPONSES: Final = {"traces": ExportTraceServiceResponse, "metrics": ExportMetricsServiceResponse}


class Hop(Record):
    """A redirect that was followed: the status of the response, and the URL that it named."""

    status: int
    url: str


def failure_in(response: Response, signal: str, hops: list[Hop]) -> ExportFailure | None:
    """Return why a request was not taken, or not as a whole; None if it was.

    Args:
        response: The last one to the request. Its body is read.
        signal: ``traces`` or ``metrics``.
        hops: The redirects before it.
    """
    return _refusal(response, hops) or rejection(_parsed(response, signal))


def _refusal(response: Response, hops: list[Hop]) -> ExportFailure | None:
    """Return the failure that the status or the kind of body shows, or None."""
    status = response.status_code
    if not response.ok:
        reason = f"HTTP {status}"
    elif status >= 300:  # noqa: PLR2004 - a redirect that is not followed
        reason = redirect_text(response)
    elif _is_page(response):
        reason = f"HTTP {status} with an HTML page"
    else:
        return None
    place = f" from {shown_url(hops[-1].url)}, after a redirect" if hops else ""
    return ExportFailure(f"{reason}{place}", was_answered=True)


def _is_page(response: Response) -> bool:
    kind = _content_type(response)
    return kind in _PAGES or (not kind and response.content[:64].lstrip().startswith(b"<"))


def _parsed(response: Response, signal: str) -> object:
    """Return the OTLP message in the body of *response*; None if there is none.

    A 2xx has taken the request, whatever else the body holds.
    """
    message: Any = _RESPONSES[signal]()
    body = response.content if len(response.content) <= MAX_BYTES else b""
    try:
        if _content_type(response) == "application/json":
            json_format.Parse(body, message, ignore_unknown_fields=True)
        else:
            message.ParseFromString(body)
    except (DecodeError, json_format.ParseError, RecursionError):
        return None
    return message


def _content_type(response: Response) -> str:
    header: str = response.headers.get("Content-Type", "")
    return header.partition(";")[0].strip().lower()


def shown_url(url: str) -> str:
    """Return a URL as a warning may show it: without user, password, query and fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "what is no URL"
    place = parts.netloc.rpartition("@")[2]
    scheme = f"{parts.scheme}:" if parts.scheme else ""
    return redaction.clean(f"{scheme}//{place}{parts.path}" if place else f"{scheme}{parts.path}")


def redirect_text(response: Response) -> str:
    """Return ``HTTP 302 to https://sso.test/login``."""
    url = target(response)
    return f"HTTP {response.status_code}{f' to {shown_url(url)}' if url else ''}"


def target(response: Response) -> str | None:
    """Return where a response of any 3xx leads. requests reads some of them only."""
    location = response.headers.get("Location")
    if not location or response.status_code < 300:  # noqa: PLR2004 - 201 has one, too
        return None
    try:
        return urljoin(str(response.url), location.encode("latin-1").decode("utf-8"))
    except ValueError:
        return None
