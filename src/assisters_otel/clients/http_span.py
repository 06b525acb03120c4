"""The library's own HTTP client span, for an attempt of which the app makes none.

It follows the stable HTTP conventions. Under these it has the attributes that the newest version of
OpenTelemetry's own HTTP instrumentations writes. A test compares the two, and gives the reason for
each difference (tests/clients/test_http_span.py).
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, NamedTuple

from opentelemetry import baggage, context, trace
from opentelemetry.context import _SUPPRESS_HTTP_INSTRUMENTATION_KEY
from opentelemetry.instrumentation.utils import is_http_instrumentation_enabled
from opentelemetry.propagate import get_global_textmap
from opentelemetry.semconv.attributes.http_attributes import (
    HTTP_REQUEST_METHOD,
    HTTP_REQUEST_METHOD_ORIGINAL,
    HTTP_RESPONSE_STATUS_CODE,
)
from opentelemetry.semconv.attributes.network_attributes import (
    NETWORK_PEER_ADDRESS,
    NETWORK_PEER_PORT,
    NETWORK_PROTOCOL_VERSION,
)
from opentelemetry.semconv.attributes.server_attributes import SERVER_ADDRESS, SERVER_PORT
from opentelemetry.semconv.attributes.url_attributes import URL_FULL
from opentelemetry.semconv.attributes.user_agent_attributes import USER_AGENT_ORIGINAL
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.util.http import redact_url

from assisters_otel.api import limits, redaction
from assisters_otel.api.endpoints import masked_url
from assisters_otel.clients import http_variables
from assisters_otel.fail_safe import fail_safe
from assisters_otel.semconv import attributes as names
from assisters_otel.sinks import foreign_span
from assisters_otel.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from opentelemetry.context import Context
    from opentelemetry.propagators.textmap import TextMapPropagator
    from opentelemetry.trace import Span, TracerProvider
    from opentelemetry.util.types import AttributeValue

    from assisters_otel.api.request import ApiRequest, RequestReader

BAGGAGE: Final = ("baggage", "uberctx-", "ot-baggage-")
"""The starts of the names of headers with baggage: of W3C, Jaeger and OpenTracing. Source: the
propagators' `inject`."""

_HEADER_NAME: Final = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
"""The form of a header's name. Source: RFC 9110, section 5.1."""


class OwnSpan(NamedTuple):
    """A span of the library's, with what its exchange needs.

    Attributes:
        span: The span. It may be sampled out.
        parent_span: The span that was current before it.
        headers: The headers that the propagator adds to the request.
        suppresses_others: True if no other HTTP instrumentation makes spans inside it.
    """

    span: Span
    parent_span: Span
    headers: dict[str, str]
    suppresses_others: bool

    def context(self) -> Context:
        """Return the context in which the request is sent."""
        within = trace.set_span_in_context(self.span)
        if self.suppresses_others:
            within = context.set_value(_SUPPRESS_HTTP_INSTRUMENTATION_KEY, True, within)
        return within


class HttpSpans:
    """Creates the spans of one client's attempts.

    The environment's variables on HTTP spans are read when this object is created.

    Attributes:
        is_off: True if no spans are created.
    """

    def __init__(
        self,
        name: str,
        tracer_provider: TracerProvider | None,
        *,
        suppresses_others: bool = False,
        has_user_agent: bool = False,
        quotes_exceptions: bool = True,
    ) -> None:
        """Read the environment.

        Args:
            name: The client's name in ``OTEL_PYTHON_{NAME}_EXCLUDED_URLS``.
            tracer_provider: The provider of the spans; None for the global one.
            suppresses_others: True if no other HTTP instrumentation makes spans inside these: the
                client sends through another client, as requests does through urllib3.
            has_user_agent: True if the spans have ``user_agent.original``, as OpenTelemetry's have.
            quotes_exceptions: True if a status has an exception's text, and not its class alone, as
                OpenTelemetry's have.
        """
        self.is_off = False
        self._suppresses_others = suppresses_others
        self._has_user_agent = has_user_agent
        self._quotes_exceptions = quotes_exceptions
        self._tracer = trace.get_tracer(names.SCOPE, __version__, tracer_provider, names.SCHEMA_URL)
        self._excluded = http_variables.excluded_urls(name)
        self._methods = http_variables.known_methods()
        self._request_headers, self._response_headers = http_variables.captured_headers()

    @fail_safe
    def start(
        self, request: ApiRequest, url: str, port: int, reader: RequestReader
    ) -> OwnSpan | None:
        """Start the span of an attempt, not yet current.

        Args:
            request: The request that is about to be sent.
            url: The whole URL.
            port: The port that it goes to.
            reader: The reader of its headers, which is called if some are captured.

        Returns:
            The span. None if spans are off or suppressed, or the URL is excluded.
        """
        if self.is_off or not is_http_instrumentation_enabled():
            return None
        if self._excluded is not None and self._excluded.search(url):
            return None
        method = self._method(request.method)
        attributes = self._attributes(method, request, url, port, reader)
        name = "HTTP" if method == names.OTHER else method  # Source: the conventions
        if request.template is not None:
            name = f"{name} {request.template}"
        parent_span = trace.get_current_span()
        span = self._tracer.start_span(name, None, SpanKind.CLIENT, attributes)
        try:
            return OwnSpan(span, parent_span, _propagated(span), self._suppresses_others)
        except BaseException:  # a foreign exception, which `fail_safe` lets pass
            span.end()
            raise

    def _attributes(
        self, method: str, request: ApiRequest, url: str, port: int, reader: RequestReader
    ) -> dict[str, AttributeValue]:
        attributes: dict[str, AttributeValue] = {
            HTTP_REQUEST_METHOD: method,
            URL_FULL: masked_url(_redacted(url), request.template),
            SERVER_ADDRESS: request.address,
            SERVER_PORT: port,
        }
        if method != request.method:
            attributes[HTTP_REQUEST_METHOD_ORIGINAL] = redaction.clean(request.method)
        if request.template is not None:
            attributes[names.URL_TEMPLATE] = request.template
        if _is_address(request.address):
            attributes[NETWORK_PEER_ADDRESS] = request.address
            attributes[NETWORK_PEER_PORT] = port
        if self._has_user_agent:
            agent = reader.header("user-agent")
            if agent:
                attributes[USER_AGENT_ORIGINAL] = redaction.clean(agent, limits.MAX_TEXT)
        if self._request_headers is not None:
            attributes |= self._request_headers.shown(reader.headers())
        return attributes

    @fail_safe
    def answered(
        self,
        span: Span,
        status: int,
        version: str | None,
        headers: Sequence[tuple[bytes, bytes]],
        secrets: Callable[[], Iterable[str]],
    ) -> None:
        """Write the status, version and captured headers of an answer.

        Args:
            span: A span of `start`, open.
            status: The HTTP status.
            version: The version of HTTP, ``1.1``, or None if it is not known.
            headers: The response's headers, which are read only if some are captured.
            secrets: A function that returns the keys in the request's headers. A response may
                quote them.
        """
        attributes: dict[str, AttributeValue] = {HTTP_RESPONSE_STATUS_CODE: status}
        if version is not None:
            attributes[NETWORK_PROTOCOL_VERSION] = version
        if self._response_headers is not None:
            how = "latin-1"
            texts = [(name.decode(how), value.decode(how)) for name, value in headers]
            attributes |= self._response_headers.shown(texts, secrets())
        span.set_attributes(attributes)

    @fail_safe
    def raised(self, span: Span, error: Exception, *, is_outcome: bool) -> None:
        """Write an exception of the client: an event, and the status.

        Args:
            span: A span of `start`, open.
            error: The exception that the client raises.
            is_outcome: True if it came in place of an answer; otherwise the status is the answer's.
        """
        if not span.is_recording():
            return
        foreign_span.record_masked_exception(span, error)
        if is_outcome:
            text = type(error).__qualname__
            if self._quotes_exceptions:
                text = redaction.clean(f"{type(error).__name__}: {error}", limits.MAX_TEXT)
            span.set_status(StatusCode.ERROR, text)

    def _method(self, sent: str) -> str:
        sent = sent.strip()
        method, known = sent.upper(), self._methods
        if known is None or method in known:
            return method
        return sent if sent in known else names.OTHER


def _propagated(span: Span) -> dict[str, str]:
    """Return the headers that the global propagator adds for a span.

    The app may plug in propagators. One that raises, or writes a header that no client can send,
    costs its own headers alone. The app's baggage is not sent, whichever propagator writes it.
    """
    carrier: dict[str, str] = {}
    bare = baggage.clear(trace.set_span_in_context(span))
    # A propagator may read the current context in place of the one that it gets.
    token = context.attach(bare)
    try:
        _inject(get_global_textmap(), carrier, bare)
    finally:
        context.detach(token)
    return {name: value for name, value in carrier.items() if _is_name(name) and _is_value(value)}


@fail_safe
def _inject(propagator: TextMapPropagator, carrier: dict[str, str], bare: Context) -> None:
    try:
        propagator.inject(carrier, bare)
    except Exception:
        # A composite one ends with its first member that raises. The members are private: read with
        # OpenTelemetry 1.44 and 1.45 (test_a_propagator_that_raises_costs_its_own_headers_alone).
        members = getattr(propagator, "_propagators", None)
        if not members:
            raise
        for member in members:
            _inject(member, carrier, bare)


@lru_cache(maxsize=64)  # a propagator has the same names each time
def _is_name(name: object) -> bool:
    """Return True if a client sends a header of this name, and it holds none of the app's baggage.

    A client would refuse the whole request for a wrong one.
    """
    if not isinstance(name, str) or name.lower().startswith(BAGGAGE):
        return False
    return _HEADER_NAME.fullmatch(name) is not None


def _is_value(value: object) -> bool:
    """Return True if every client sends a header of this value."""
    if not isinstance(value, str):
        return False
    return value.isascii() and value.isprintable() and value.strip() == value


def _redacted(url: str) -> str:
    """Return a URL redacted as OpenTelemetry's own instrumentations redact it."""
    return redact_url(url) if "@" in url or "?" in url else url


def _is_address(host: str) -> bool:
    """Return True if a host is an IP address. Then it is the peer's address."""
    if not (host[:1].isdigit() or ":" in host):
        return False
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
