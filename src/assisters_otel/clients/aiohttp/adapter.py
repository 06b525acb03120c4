"""aiohttp: each attempt of a `ClientSession`, also one that it sends again by itself.

The package's docstring describes the way of a request. OpenTelemetry's trace configuration makes
one span around all attempts of a request. The library's own span is around each attempt.
What would break it: a reference to an exception after its report, because its traceback refers to
frames of the library. Also a coroutine that is created and never awaited.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from assisters_otel.attempts import control_flow
from assisters_otel.clients.adapter import ClientAdapter
from assisters_otel.clients.aiohttp import stream_reader
from assisters_otel.clients.aiohttp.exceptions import is_transient
from assisters_otel.clients.aiohttp.pending_call import pending_call, with_names_of
from assisters_otel.clients.aiohttp.request_reader import AiohttpRequestReader
from assisters_otel.clients.aiohttp.session_request import (
    SessionRequest,
    has_failed,
    is_instrumented,
    put_headers,
    put_headers_back,
    read_ahead_s,
)
from assisters_otel.clients.classes import is_a
from assisters_otel.clients.exchange import Exchange
from assisters_otel.clients.patching import Target, as_coroutine_function, as_function
from assisters_otel.fail_safe import fail_safe
from assisters_otel.sinks import foreign_span

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Token

    from opentelemetry.trace import TracerProvider

    from assisters_otel.api.request import ApiRequest
    from assisters_otel.clients.http_variables import HttpVariables
    from assisters_otel.recording.recorder import Recorder

MODULE: Final = "aiohttp"
SCOPE: Final = "opentelemetry.instrumentation.aiohttp_client"
"""The HTTP instrumentation's module, which is the scope of its spans."""


class AiohttpAdapter(ClientAdapter):
    """The adapter."""

    scope = SCOPE
    instrumentation = "aiohttp-client"
    instrumentor = "AioHttpClientInstrumentor"
    quotes_exceptions = False

    def __init__(
        self, recorder: Recorder, tracer_provider: TracerProvider | None, variables: HttpVariables
    ) -> None:
        """Prepare, as `ClientAdapter` does."""
        super().__init__(MODULE, recorder, tracer_provider, variables)
        self._asked: ContextVar[SessionRequest | None] = ContextVar(
            "assisters_otel-aiohttp", default=None
        )

    def targets(self) -> tuple[Target, ...]:
        """Return the methods to wrap."""
        return (
            Target(MODULE, "ClientSession._request", self._wrap),
            Target(MODULE, "connector.BaseConnector.connect", self._wrap_connect),
            Target(MODULE, "client_reqrep.ClientRequest.send", self._wrap_send),
            Target(MODULE, "client_reqrep.ClientResponse.start", self._wrap_start),
            Target(MODULE, "client_reqrep.ClientResponse.raise_for_status", self._wrap_raise),
        )

    # -- one request of the app -------------------------------------------------------------------

    def _wrap(self, original: Callable[..., Any]) -> Callable[..., Any]:
        prepare = pending_call(original)

        # A plain function: a request to another host awaits the client's own coroutine.
        def request(session: Any, /, *args: Any, **kwargs: Any) -> Any:
            send = prepare(session, args, kwargs)
            asked = self._begin(session, args, kwargs)
            if asked is None:
                return send()
            return with_names_of(original, self._request(send, asked))

        return as_coroutine_function(request)

    async def _request(self, send: Callable[[], Any], asked: SessionRequest) -> Any:
        asked.began_s = time.monotonic()
        token = self._asked.set(asked)
        response = None
        try:
            try:
                sending = send()
                del send  # it has the body, which the session may drop earlier
                response = await sending
                asked.end(response)
            except BaseException as error:
                self._failed(asked, error)
                raise
        except BaseException:
            asked.abandon(response)
            raise
        finally:
            self._leave(asked, token)
        return response

    @fail_safe
    def _begin(self, session: Any, args: Any, kwargs: Any) -> SessionRequest | None:
        url = args[1] if len(args) > 1 else kwargs.get("str_or_url")
        try:
            url = session._build_url(url)  # noqa: SLF001 - as the session
        except (TypeError, ValueError, AssertionError):  # the session itself raises it again
            return None
        return None if self._watched("", url) is None else SessionRequest(session, kwargs)

    @fail_safe
    def _leave(self, asked: SessionRequest, token: Token[SessionRequest | None] | None) -> None:
        asked.forget()
        if token is not None:
            with suppress(ValueError):  # the garbage collector closes it in another context
                self._asked.reset(token)

    @fail_safe
    def _failed(self, asked: SessionRequest, error: BaseException) -> None:
        """Report the exception that the app gets in place of an answer, once."""
        exchange, asked.exchange = asked.exchange, None
        if exchange is not None:
            exchange.end(error)
        elif asked.last is not None and is_a(error, (MODULE,), "ClientResponseError"):
            asked.last.raised_for_status(error)  # the session itself has raised it

    # -- one attempt ------------------------------------------------------------------------------

    def _wrap_connect(self, original: Callable[..., Any]) -> Callable[..., Any]:
        prepare = pending_call(original)

        # The attempt is of the task that calls this: a connector of the app's may await it in
        # another one, as `asyncio.wait_for` does.
        def connect(connector: Any, /, *args: Any, **kwargs: Any) -> Any:
            connecting = prepare(connector, args, kwargs)
            asked = self._attempt(args, kwargs)
            if asked is None:
                return connecting()
            return with_names_of(original, self._keep_error(connecting, asked))

        return as_coroutine_function(connect)

    def _wrap_send(self, original: Callable[..., Any]) -> Callable[..., Any]:
        prepare = pending_call(original)

        async def sent(sending: Callable[[], Any], asked: SessionRequest, raw: Any) -> Any:
            injected = asked.injected
            own = put_headers(raw.headers, injected)
            try:
                response = await self._keep_error(sending, asked)
            finally:
                put_headers_back(raw.headers, injected, own)
            if asked.hop is raw:  # a middleware's task may outlive the request
                asked.response = response
            return response

        def send(raw: Any, /, *args: Any, **kwargs: Any) -> Any:
            sending = prepare(raw, args, kwargs)
            asked = self._asked.get()
            if asked is None or asked.hop is not raw:
                return sending()
            return with_names_of(original, sent(sending, asked, raw))

        return as_coroutine_function(send)

    def _wrap_start(self, original: Callable[..., Any]) -> Callable[..., Any]:
        prepare = pending_call(original)

        def start(response: Any, /, *args: Any, **kwargs: Any) -> Any:
            starting = prepare(response, args, kwargs)
            asked = self._asked.get()
            if asked is None or asked.response is not response:
                return starting()
            return with_names_of(original, self._started(starting, asked, response))

        return as_coroutine_function(start)

    @fail_safe
    def _attempt(self, args: Any, kwargs: Any) -> SessionRequest | None:
        raw = args[0] if args else kwargs.get("req")
        # A test makes the coroutine without a loop, or of a mock, whose URL cannot be read.
        if asyncio._get_running_loop() is None or type(raw).__module__ == "unittest.mock":  # noqa: SLF001 - exported; `get_running_loop` raises without a loop
            return None
        request = self._watched(raw.method, raw.url)
        if request is None:
            return None
        asked = self._asked.get()
        if asked is None or not asked.is_told_of:
            # A redirect from a host that is not watched. So each step reports its own exception.
            if asked is not None and asked.task is asyncio.current_task():
                self._leave(asked, asked.token)  # of a response class that does it all itself
            asked = SessionRequest()
        if asked.exchange is not None and asked.error is not None:
            # The pooled connection had gone stale. The session sends again by itself.
            with control_flow.one_send():
                self._failed(asked, asked.error)
                asked.error = None
                self._start(asked, request, raw)
            return asked
        asked = asked.for_another()
        if not asked.is_told_of:
            asked.token = self._asked.set(asked)
        if asked.last is None:
            self._find_app_span(asked, raw)
        self._start(asked, request, raw)
        return asked

    @fail_safe
    def _find_app_span(self, asked: SessionRequest, raw: Any) -> None:
        url, session = raw.url, asked.session
        if session is None:
            is_on = self.app_instrumentation_is_on()
            asked.app_makes_spans = is_on or foreign_span.is_in_app_span(SCOPE)
        else:
            asked.app_makes_spans = is_instrumented(session)
        asked.span = foreign_span.find_app_span(SCOPE, raw.method, url.raw_host, str(url))
        if asked.span is not None and session is not None:
            foreign_span.on_recorded_exception(asked.span, lambda error: self._failed(asked, error))

    def _start(self, asked: SessionRequest, request: ApiRequest, raw: Any) -> None:
        asked.start(raw)
        reader, url = AiohttpRequestReader(raw), raw.url
        of = (raw.method, url), self._recorder.watched.by_name.get(url.raw_host, ())
        route = self._routes.find(*of) or self._make_route(*of, request, str(url), url.port)
        told = route.request, reader, is_transient, asked.span
        exchange = Exchange(self._recorder, self._spans, *told)
        try:
            if asked.span is None and not asked.app_makes_spans:
                exchange.own = self._spans.start(route, reader)
            asked.injected = exchange.own.headers if exchange.own is not None else {}
            asked.exchange = asked.last = exchange.start()
        except BaseException:
            exchange.abandon()
            raise

    def _watched(self, method: str, url: Any) -> ApiRequest | None:
        hosts = self._recorder.watched.by_name.get(url.raw_host or "")
        if hosts is None:
            return None
        return self._recorder.watched.request(hosts, method, url.port, url.raw_path.encode())

    async def _keep_error(self, step: Callable[[], Any], asked: SessionRequest) -> Any:
        try:
            return await step()
        except BaseException as error:
            if asked.is_told_of:
                asked.error = error
                if asked.exchange is not None:  # a middleware's task may have a context of its own
                    asked.exchange.leave()
                raise
            try:
                self._failed(asked, error)
            except BaseException:
                asked.abandon(None)
                raise
            finally:
                self._leave(asked, asked.token)
            raise

    async def _started(self, step: Callable[[], Any], asked: SessionRequest, response: Any) -> Any:
        result = await self._keep_error(step, asked)
        exchange, asked.exchange = asked.exchange, None
        asked.hop = asked.response = asked.task = None
        try:
            if exchange is not None and has_failed(asked, exchange, response):
                read_s = read_ahead_s(asked, exchange, response)
                if read_s is not None:
                    await stream_reader.wait_for_read_ahead(response.content, read_s)
        finally:
            if exchange is not None:
                exchange.end(None)
            if not asked.is_told_of:
                self._leave(asked, asked.token)
        return result

    def _wrap_raise(self, original: Callable[..., Any]) -> Callable[..., Any]:
        call = as_function(original)

        def raise_for_status(response: Any, /, *args: Any, **kwargs: Any) -> Any:
            try:
                return call(response, *args, **kwargs)
            except Exception as error:
                self._recorder.raised_for(response, error)
                raise

        return raise_for_status
