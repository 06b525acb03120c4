"""The library's own HTTP client span, for an attempt of which the app makes none.

It follows the stable HTTP conventions. Under these it has the attributes that the newest version of
OpenTelemetry's own HTTP instrumentations writes. A test compares the two, and gives the reason for
each difference (tests/clients/test_http_span.py).
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from opentelemetry import context, trace
from opentelemetry.context import (
    _SUPPRESS_HTTP_INSTRUMENTATION_KEY,
    _SUPPRESS_INSTRUMENTATION_KEY,
)
from opentelemetry.instrumentation.utils import (
    _SUPPRESS_INSTRUMENTATION_KEY_PLAIN,
    is_http_instrumentation_enabled,
)
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
from assisters_otel.clients.propagation import propagated_headers
from assisters_otel.clients.routes import Route, SpanStart
from assisters_otel.fail_safe import fail_safe
from assisters_otel.foreign_exceptions import is_cancellation
from assisters_otel.records import Record
from assisters_otel.semconv import attributes as names
from assisters_otel.sinks import foreign_span
from assisters_otel.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry.context import Context
    from opentelemetry.trace import Span, TracerProvider
    from opentelemetry.util.types import AttributeValue

    from assisters_otel.api.request import ApiRequest, RequestReader
    from assisters_otel.clients.http_variables import HttpVariables
    from assisters_otel.hosts import Host


_SUPPRESSING: Final = frozenset(
    {
        _SUPPRESS_INSTRUMENTATION_KEY,
        _SUPPRESS_INSTRUMENTATION_KEY_PLAIN,
        _SUPPRESS_HTTP_INSTRUMENTATION_KEY,
    }
)
"""The keys by which a context suppresses HTTP spans."""


class OwnSpan(Record):
    """A span of the library's, with what its exchange needs.

    Attributes:
        span: The span. It may be sampled out.
        parent_span: The span that was current before it.
        outer: The context that was current before it.
        context: The context in which the request is sent.
        headers: The headers that the propagator adds to the request.
    """

    span: Span
    parent_span: Span
    outer: Context
    context: Context
    headers: dict[str, str]

    def abandon(self, end_ns: int | None) -> None:
        """End the span and leave its context, if that has been interrupted.

        A signal handler may raise an exception at any moment, also in the code that does the two
        (test_an_interrupt_at_any_moment_leaves_nothing_behind).

        Args:
            end_ns: The time of the end, or None for now.
        """
        if self.span.is_recording():
            self.span.end(end_ns)
        if context.get_current() is self.context:
            context.attach(self.outer)


class HttpSpans:
    """Creates the spans of one client's attempts.

    Attributes:
        is_off: True if no spans are created.
    """

    def __init__(
        self,
        variables: HttpVariables,
        tracer_provider: TracerProvider | None,
        *,
        suppresses_others: bool = False,
        has_user_agent: bool = False,
        quotes_exceptions: bool = True,
    ) -> None:
        """Start without a span.

        Args:
            variables: The values of OpenTelemetry's variables on HTTP spans for the client.
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
        self._excluded, self._methods = variables.excluded_urls, variables.known_methods
        self._request_headers = variables.request_headers
        self._response_headers = variables.response_headers

    @fail_safe
    def route(
        self, hosts: tuple[Host, ...], request: ApiRequest, url: str, port: int
    ) -> Route | None:
        """Return what all requests of this method and URL have in common.

        Args:
            hosts: The watched hosts of the request's host.
            request: The request that is about to be sent.
            url: The whole URL.
            port: The port that it goes to.
        """
        start = None
        if masked_url(url, request.template) == url:
            request = request._replace(clean_url=url)
        if not self.is_off and (self._excluded is None or not self._excluded.search(url)):
            method = self._method(request.method)
            name = "HTTP" if method == names.OTHER else method  # Source: the conventions
            if request.template is not None:
                name = f"{name} {request.template}"
            start = SpanStart(name, _attributes(method, request, url, port))
        return Route(hosts, request, url, start)

    @fail_safe
    def start(
        self, route: Route, reader: RequestReader, parent_span: Span | None = None
    ) -> OwnSpan | None:
        """Start the span of an attempt, not yet current.

        Args:
            route: The route of the request that is about to be sent.
            reader: The reader of its headers, which is called if some are captured.
            parent_span: The current span, if the caller has it.

        Returns:
            The span. None if spans are off or suppressed, or the URL is excluded.
        """
        start = route.span_start
        if start is None:
            return None
        outer = context.get_current()
        # Without one of them the function need not be asked, which looks up each (``200, alone``).
        if not _SUPPRESSING.isdisjoint(outer) and not is_http_instrumentation_enabled():
            return None
        attributes = start.attributes.copy()  # a sampler of the app's gets it
        if self._has_user_agent or self._request_headers is not None:
            attributes |= self._attributes_of_headers(reader)
        if parent_span is None:
            parent_span = trace.get_current_span(outer)
        span = self._tracer.start_span(start.name, None, SpanKind.CLIENT, attributes)
        try:
            within = trace.set_span_in_context(span, outer)
            headers = propagated_headers(within)
            if self._suppresses_others:
                within = context.set_value(_SUPPRESS_HTTP_INSTRUMENTATION_KEY, True, within)
            return OwnSpan(span, parent_span, outer, within, headers)
        except BaseException:  # a foreign exception, which `fail_safe` lets pass
            span.end()
            raise

    def _attributes_of_headers(self, reader: RequestReader) -> dict[str, AttributeValue]:
        attributes: dict[str, AttributeValue] = {}
        if self._has_user_agent:
            agent = reader.header("user-agent")
            if agent:
                attributes[USER_AGENT_ORIGINAL] = redaction.clean(agent, limits.MAX_TEXT)
        if self._request_headers is not None:
            attributes |= self._request_headers.shown(reader.headers())
        return attributes

    @fail_safe
    def answer_attributes(
        self,
        status: int,
        version: str | None,
        headers: Iterable[tuple[bytes, bytes, bytes]],
        secrets: Callable[[], Iterable[str]],
    ) -> dict[str, AttributeValue]:
        """Return the status, version and captured headers of an answer.

        Args:
            status: The HTTP status.
            version: The version of HTTP, ``1.1``, or None if it is not known.
            headers: The names as sent, the names in lower case, and the values.
            secrets: A function that returns the keys in the request's headers. A response may
                quote them.
        """
        attributes: dict[str, AttributeValue] = {HTTP_RESPONSE_STATUS_CODE: status}
        if version is not None:
            attributes[NETWORK_PROTOCOL_VERSION] = version
        if self._response_headers is not None:
            how = "latin-1"
            texts = [(name.decode(how), value.decode(how)) for name, _, value in headers]
            attributes |= self._response_headers.shown(texts, secrets())
        return attributes

    @fail_safe
    def raised(self, span: Span, error: Exception, *, is_outcome: bool) -> None:
        """Write an exception of the client: an event, and the status. A cancellation has none.

        Args:
            span: A span of `start`, open.
            error: The exception that the client raises.
            is_outcome: True if it came in place of an answer; otherwise the status is the answer's.
        """
        if not span.is_recording() or is_cancellation(error):
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


def _attributes(method: str, request: ApiRequest, url: str, port: int) -> dict[str, AttributeValue]:
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
    return attributes


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
