"""requests: each send of its `HTTPAdapter`, and each resend by urllib3's `Retry` inside one.

Four methods are wrapped, from the outside to the inside:

* `Session.send` sends the request and the hops of its redirects. It sets ``elapsed``, and reads the
  body unless the app asks for a stream. The HTTP span of OpenTelemetry's instrumentation is here.
* `HTTPAdapter.send` sends one hop. An attempt starts and is answered here, in an exchange. The
  library's own span is here.
* `HTTPConnectionPool.urlopen` of urllib3 gets a copy of the headers with the propagator's. requests
  before 2.29 sends a body in chunks without it, so without those headers.
* `Retry.increment` is called by urllib3 before it waits for a resend, and before it gives up. So
  the attempt is reported here. The next one starts in the same span, at the next `urlopen`.

A failed answer is reported when `Session.send` returns: then the body that requests has read is at
hand, and nothing is read ahead that requests reads anyway. Until then the exchange waits in the
`SessionSend`. An app's own call of an adapter has no session, and is reported at once.

What would break it.

* Headers added to the app's own request: a redirect would carry them to another host.
* A copy of it: adapters know requests by identity, and the app changes its own meanwhile.
* Reading ahead in `HTTPAdapter.send` (test_elapsed_ends_with_the_headers).
* A reference from the session to a reported exchange (test_a_request_that_is_over_is_in_no_cycle).
"""

from __future__ import annotations

import sys
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit
from weakref import ref as weakref

from assisters_otel.api.headers import with_lower_names
from assisters_otel.attempts import control_flow
from assisters_otel.clients.adapter import ClientAdapter
from assisters_otel.clients.patching import Target, as_function
from assisters_otel.clients.requests.exceptions import AS_REQUESTS_RAISES
from assisters_otel.clients.requests.exchange import (
    HTTP_VERSIONS,
    SCOPE,
    RequestsExchange,
    SessionSend,
    beginning_of,
    find_app_span,
    headers_of,
    is_export,
    mask_redirect_target,
    read_ahead,
    read_limit_s,
    wrap_urlopen,
)
from assisters_otel.clients.requests.urllib3_response import watch
from assisters_otel.fail_safe import fail_safe

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import TracerProvider

    from assisters_otel.clients.http_variables import HttpVariables
    from assisters_otel.clients.routes import Route
    from assisters_otel.recording.recorder import Recorder
    from assisters_otel.recording.response_body import ResponseBody

MODULE: Final = "requests"
_URLOPEN: Final = "urllib3.connectionpool.HTTPConnectionPool.urlopen"
_TOLD: Final = ("method", "url", "response", "error", "_pool")
"""The parameters of `Retry.increment`, in this order."""


class RequestsAdapter(ClientAdapter):
    """The adapter."""

    scope = SCOPE
    instrumentation = "requests"
    instrumentor = "RequestsInstrumentor"
    suppresses_others = True  # requests sends through urllib3
    has_user_agent = True

    def __init__(
        self, recorder: Recorder, tracer_provider: TracerProvider | None, variables: HttpVariables
    ) -> None:
        """Prepare, as `ClientAdapter` does."""
        super().__init__(MODULE, recorder, tracer_provider, variables)
        self._exchange: ContextVar[RequestsExchange | None] = ContextVar(
            "assisters_otel-requests", default=None
        )
        self._sending: ContextVar[SessionSend | None] = ContextVar(
            "assisters_otel-session", default=None
        )

    def targets(self) -> tuple[Target, ...]:
        """Return the methods to wrap."""
        return (
            Target(MODULE, "Session.send", self._wrap_session),
            Target(MODULE, "adapters.HTTPAdapter.send", self._wrap),
            Target(MODULE, "adapters.Retry.increment", self._wrap_increment),
            Target(MODULE, _URLOPEN, partial(wrap_urlopen, self._exchange)),
        )

    # -- one request ------------------------------------------------------------------------

    def _wrap_session(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap `Session.send`: failed attempts are reported when it returns."""
        call = as_function(original)
        sending = self._sending

        def send(session: Any, /, *args: Any, **kwargs: Any) -> Any:
            one = SessionSend(outer := sending.get())
            try:
                token = sending.set(one)
                try:
                    return call(session, *args, **kwargs)
                except BaseException as error:
                    one.leave_unread(error)
                    raise
                finally:
                    sending.reset(token)
                    if one.failed:
                        one.report()
            except BaseException:
                if sending.get() is one:  # an interrupt came before the reset
                    sending.set(outer)
                one.abandon()
                raise

        return send

    def _wrap(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap `HTTPAdapter.send`: an exchange is around it."""
        call = as_function(original)

        def send(adapter: Any, /, request: Any, *args: Any, **kwargs: Any) -> Any:
            before, response = self._exchange.get(), None
            exchange = self._open(adapter, request, partial(read_limit_s, *args, **kwargs))
            if exchange is None:
                return self._send_unwatched(call, adapter, request, *args, **kwargs)
            try:
                self._start(exchange)
                token = self._exchange.set(exchange)
                try:
                    response = call(adapter, request, *args, **kwargs)
                except BaseException as error:
                    exchange.end(error)
                    raise
                finally:
                    self._exchange.reset(token)
                if self._is_reported_later(exchange, response):
                    exchange.leave()
                else:
                    exchange.end(None)
            except BaseException:
                if self._exchange.get() is exchange:  # an interrupt came before the reset
                    self._exchange.set(before)
                exchange.abandon()
                if response is not None:
                    response.close()  # the caller will not get the response
                raise
            return response

        return send

    def _send_unwatched(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        if self._exchange.get() is None:
            return call(*args, **kwargs)
        # The body of a watched request is being made of what another host answers.
        token = self._exchange.set(None)
        try:
            return call(*args, **kwargs)
        finally:
            self._exchange.reset(token)

    @fail_safe
    def _open(
        self, adapter: Any, raw: Any, read_limit: Callable[[], float | None]
    ) -> RequestsExchange | None:
        """Return the exchange of a request that is watched, or None."""
        route = self._route(raw)
        if route is None:
            return None
        app_span = find_app_span(raw)
        told = adapter, raw, app_span, read_limit
        exchange = RequestsExchange(self._recorder, self._spans, route.request, *told)
        # The app's instrumentation is around `Session.send`, and does not see an adapter's call.
        is_theirs = self.app_instrumentation_is_on() and self._sending.get() is not None
        if app_span is None and not is_theirs:
            try:
                exchange.start_span(route)
            except BaseException:
                exchange.abandon()
                raise
        return exchange

    @fail_safe
    def _start(self, exchange: RequestsExchange) -> None:
        sending = self._sending.get()
        failed = [] if sending is None else sending.with_failed()
        if not failed:
            exchange.start()
            return
        # A hook of the app sends again, as an auth handler does. So those before it failed.
        with control_flow.one_send():
            for one in failed:
                one.report()
            exchange.start()

    @fail_safe
    def _is_reported_later(self, exchange: RequestsExchange, response: Any) -> bool:
        """Record an answer's headers. Return True if it has failed and its session reports it."""
        span = exchange.app_span
        if span is not None and response.is_redirect:
            mask_redirect_target(span)
        version = HTTP_VERSIONS.get(getattr(response.raw, "version", 0))
        headers = with_lower_names(headers_of(response))
        if not exchange.answered(response, response.status_code, version, headers):
            exchange.watch_body(response, self._watch, response)
            return False
        exchange.read_beginning = partial(beginning_of, response, exchange)
        one = self._sending.get()
        if one is None:  # the app itself calls the adapter
            return False
        one.failed.append((exchange, response))
        return True

    def _watch(self, response: Any, body: ResponseBody) -> None:
        watch(response.raw, body, partial(self._broke, body, weakref(response)))

    @fail_safe
    def _broke(
        self, body: ResponseBody, response: Callable[[], object], error: BaseException
    ) -> None:
        # Record the exception that requests raises in place of urllib3's.
        kind = AS_REQUESTS_RAISES.get(type(error).__name__)
        errors = sys.modules[MODULE].exceptions
        body.broke(error if kind is None else getattr(errors, kind)(error))
        self._recorder.raised_for(response(), error)

    # -- resends by urllib3 ----------------------------------------------------------------------

    def _wrap_increment(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap `Retry.increment`: an attempt ends, and another one is awaited unless it raises."""
        call = as_function(original)

        def increment(retry: Any, /, *args: Any, **kwargs: Any) -> Any:
            exchange = self._exchange.get()
            if exchange is None:
                return call(retry, *args, **kwargs)
            told = dict(zip(_TOLD, args, strict=False)) | kwargs
            if not exchange.sends_through(told.get("_pool")):
                return call(retry, *args, **kwargs)
            response, error = told.get("response"), told.get("error")
            try:
                result = call(retry, *args, **kwargs)
            except Exception:
                # urllib3 gives up. Its last exception reaches the app. A last answer does as well,
                # unless urllib3 raises in place of it.
                if response is not None and retry.raise_on_status:
                    self._report_hidden_attempt(exchange, response, None)
                    exchange.refuse()
                raise
            send = object()
            with control_flow.one_send(send):
                exchange.expect_another()
                self._report_hidden_attempt(exchange, response, error)
            exchange.awaited = send
            return result

        return increment

    @fail_safe
    def _report_hidden_attempt(self, exchange: RequestsExchange, response: Any, error: Any) -> None:
        """Report an attempt whose answer or exception urllib3 keeps to itself."""
        attempt = exchange.attempt
        if attempt is None:
            return
        if response is not None:
            body = None
            headers = with_lower_names(headers_of(response))
            if self._recorder.answered(attempt, response.status, headers):
                body = read_ahead(response, exchange)
            self._recorder.report(attempt, body)
        elif error is not None:
            self._recorder.raised(attempt, error, transient=True)

    # -- both --------------------------------------------------------------------------------------

    @fail_safe
    def _route(self, raw: Any) -> Route | None:
        url = urlsplit(raw.url)
        hosts = self._recorder.watched.by_name.get(url.hostname or "")
        if hosts is None or is_export(raw):
            return None
        key = raw.method, raw.url
        if (route := self._routes.find(key, hosts)) is not None:
            return route if self._recorder.watched.may_record() else None
        port, target = url.port or (443 if url.scheme == "https" else 80), url.path or "/"
        request = self._recorder.watched.request(hosts, raw.method, port, target.encode())
        return request and self._make_route(key, hosts, request, raw.url, port)
