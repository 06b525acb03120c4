"""aiohttp: whatever goes through a `ClientSession`, and what it sends again by itself.

An attempt starts where a connection is asked for and ends with the response's headers. What
becomes of it without an answer, only the session knows. The HTTP span of OpenTelemetry's trace
configuration is around all attempts that a session makes of one request; the library's own, where
the app has not given the session one, is around each.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final

from assisters_otel.attempts import control_flow
from assisters_otel.causes import OF_FILES, is_of_dead_loop
from assisters_otel.clients.adapter import Adapter
from assisters_otel.clients.aiohttp import stream_reader
from assisters_otel.clients.aiohttp.request_reader import _Message
from assisters_otel.clients.aiohttp.session_request import _Asked
from assisters_otel.clients.classes import is_a
from assisters_otel.clients.exchange import Exchange
from assisters_otel.clients.patching import Target, unbound
from assisters_otel.fail_safe import fail_safe
from assisters_otel.outcomes import FIRST_ERROR
from assisters_otel.sinks import attempt_span, foreign_span

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextvars import Token

    from opentelemetry.trace import TracerProvider

    from assisters_otel.api.request import ApiRequest
    from assisters_otel.clients.http_span import OwnSpan
    from assisters_otel.recording.recorder import Observer

MODULE: Final = "aiohttp"
SCOPE: Final = "opentelemetry.instrumentation.aiohttp_client"
"""The HTTP instrumentation's module, which is the scope of its spans."""

_ENCODING: Final = b"content-encoding"


class Aiohttp(Adapter):
    """The adapter."""

    scope = SCOPE
    instrumentation = "aiohttp-client"
    variable = "AIOHTTP_CLIENT"
    instrumentor = "AioHttpClientInstrumentor"
    quotes_exceptions = False

    def __init__(self, observer: Observer, tracer_provider: TracerProvider | None) -> None:
        """Prepare, as `Adapter` does."""
        super().__init__(MODULE, observer, tracer_provider)
        self._asked: ContextVar[_Asked | None] = ContextVar("assisters_otel-aiohttp", default=None)

    def targets(self) -> tuple[Target, ...]:
        """Say what to wrap."""
        return (
            Target(MODULE, "ClientSession._request", self._wrap),
            Target(MODULE, "connector.BaseConnector.connect", self._wrap_connect),
            Target(MODULE, "client_reqrep.ClientRequest.send", self._wrap_send),
            Target(MODULE, "client_reqrep.ClientResponse.start", self._wrap_start),
            Target(MODULE, "client_reqrep.ClientResponse.raise_for_status", self._wrap_raise),
        )

    # -- one request of the app's -----------------------------------------------------------------

    def _wrap(self, original: Callable[..., Any]) -> Callable[..., Any]:
        call = unbound(original)
        is_plain = type(original) is FunctionType and bool(
            original.__code__.co_flags & inspect.CO_COROUTINE
        )

        # No coroutine function: what is not watched has no frame of ours in it.
        def request(session: Any, *args: Any, **kwargs: Any) -> Any:
            sent = call(session, *args, **kwargs)
            asked = self._begin(session, args, kwargs)
            if asked is None:
                return sent
            if not is_plain:  # a mock, which has taken note of the call
                return self._request(lambda: sent, asked)
            # Ours may end before its first step, in a task that is cancelled, and nobody would
            # await this one. It has shown that the arguments are right.
            sent.close()
            ours: Any = self._request(partial(call, session, *args, **kwargs), asked)
            ours.__name__, ours.__qualname__ = sent.__name__, sent.__qualname__
            return ours

        return _marked(request)

    async def _request(self, send: Callable[[], Any], asked: _Asked) -> Any:
        token = self._asked.set(asked)
        try:
            response = await send()
        except BaseException as error:
            self._failed(asked, error)
            asked.error = None  # its traceback knows this frame
            raise
        finally:
            self._leave(token)
        self._succeeded(asked, response)
        asked.error = None
        return response

    @fail_safe
    def _begin(self, session: Any, args: Any, kwargs: Any) -> _Asked | None:
        url = args[1] if len(args) > 1 else kwargs.get("str_or_url")
        try:
            url = session._build_url(url)  # noqa: SLF001 - as the session
        except (TypeError, ValueError, AssertionError):  # the session says so, in its own words
            return None
        return None if self._watched("", url) is None else _Asked(session, url, kwargs)

    @fail_safe
    def _leave(self, token: Token[_Asked | None]) -> None:
        with suppress(ValueError):  # closed in another context, by whoever found the coroutine
            self._asked.reset(token)

    @fail_safe
    def _failed(self, asked: _Asked, error: BaseException) -> None:
        """Take what the app gets in place of an answer; told of it again, do nothing."""
        exchange, asked.exchange = asked.exchange, None
        if exchange is not None:
            exchange.end(error)
        elif asked.last is not None and is_a(error, (MODULE,), "ClientResponseError"):
            asked.last.raised_for_status(error)  # by the session itself

    @staticmethod
    @fail_safe
    def _succeeded(asked: _Asked, response: Any) -> None:
        if asked.span is not None:
            foreign_span.on_recorded_exception(asked.span, None)
        exchange, asked.exchange = asked.exchange, None
        if exchange is not None:  # of a request or response class that does it all itself
            try:
                exchange.answered(response, response.status, None, _headers_of(response))
            finally:
                exchange.end(None)

    # -- one attempt ------------------------------------------------------------------------------

    def _wrap_connect(self, original: Callable[..., Any]) -> Callable[..., Any]:
        call = unbound(original)

        def connect(connector: Any, *args: Any, **kwargs: Any) -> Any:
            connecting = call(connector, *args, **kwargs)
            asked = self._attempt(args[0] if args else kwargs["req"])
            return connecting if asked is None else self._met(connecting, asked)

        return _marked(connect)

    def _wrap_send(self, original: Callable[..., Any]) -> Callable[..., Any]:
        call = unbound(original)

        async def sent(sending: Any, asked: _Asked, raw: Any) -> Any:
            own = _put(raw.headers, asked.injected)
            try:
                asked.response = response = await self._met(sending, asked)
            finally:
                _put_back(raw.headers, asked.injected, own)
            return response

        def send(raw: Any, *args: Any, **kwargs: Any) -> Any:
            sending = call(raw, *args, **kwargs)
            asked = self._asked.get()
            if asked is None or asked.hop is not raw:
                return sending
            return sent(sending, asked, raw)

        return _marked(send)

    def _wrap_start(self, original: Callable[..., Any]) -> Callable[..., Any]:
        call = unbound(original)

        def start(response: Any, *args: Any, **kwargs: Any) -> Any:
            starting = call(response, *args, **kwargs)
            asked = self._asked.get()
            if asked is None or asked.response is not response:
                return starting
            return self._started(starting, asked, response)

        return _marked(start)

    @fail_safe
    def _attempt(self, raw: Any) -> _Asked | None:
        request = self._watched(raw.method, raw.url)
        if request is None:
            return None
        asked = self._asked.get()
        if asked is None or asked.session is None:
            # What another host has redirected here. No session tells how it ends.
            asked = _Asked()
            self._asked.set(asked)
        if asked.exchange is not None and asked.error is not None:
            # A connection that had gone stale: the session sends again by itself.
            with control_flow.one_send():
                self._failed(asked, asked.error)
                asked.error = None
                self._start(asked, request, raw)
            return asked
        if asked.last is None:
            self._find_app_span(asked, raw)
        self._start(asked, request, raw)
        return asked

    @fail_safe
    def _find_app_span(self, asked: _Asked, raw: Any) -> None:
        url, session = raw.url, asked.session
        if session is None:
            asked.app_makes_spans = self.theirs_is_on() or attempt_span.is_in_app_span(SCOPE)
        else:
            asked.app_makes_spans = _has_theirs(session)
        asked.span = attempt_span.find_app_span(SCOPE, raw.method, url.raw_host, url)
        if asked.span is not None and session is not None:
            foreign_span.on_recorded_exception(asked.span, lambda error: self._failed(asked, error))

    def _start(self, asked: _Asked, request: ApiRequest, raw: Any) -> None:
        asked.hop, asked.response = raw, None
        reader = _Message(raw)
        own: OwnSpan | None = None
        if asked.span is None and not asked.app_makes_spans:
            own = self._spans.start(request, str(raw.url), raw.url.port, reader)
        asked.injected = {} if own is None else own.headers
        asked.exchange = asked.last = exchange = Exchange(
            self._observer, self._spans, request, reader, _is_transient, asked.span, own
        )
        exchange.start()

    def _watched(self, method: str, url: Any) -> ApiRequest | None:
        hosts = self._observer.hosts(url.raw_host or "")
        if hosts is None:
            return None
        return self._observer.request(hosts, method, url.port, url.raw_path.encode())

    async def _met(self, step: Any, asked: _Asked) -> Any:
        try:
            return await step
        except BaseException as error:
            if asked.session is None:
                self._failed(asked, error)
            else:
                asked.error = error
                if asked.exchange is not None:
                    # A middleware of the app's may send in a task of its own, which has a context
                    # of its own (test_a_middleware_may_send_in_a_task_of_its_own).
                    asked.exchange.leave()
            raise

    async def _started(self, starting: Any, asked: _Asked, response: Any) -> Any:
        result = await self._met(starting, asked)
        exchange, asked.exchange = asked.exchange, None
        asked.hop = asked.response = None
        if exchange is None:
            return result
        try:
            if self._answered(asked, exchange, response):
                read_s = self._read_limit(asked, exchange, response)
                if read_s is not None:
                    await stream_reader.wait_for_beginning(response.content, read_s)
        finally:
            exchange.end(None)
        return result

    @staticmethod
    @fail_safe
    def _answered(asked: _Asked, exchange: Exchange, response: Any) -> bool:
        """Take an answer's headers; return True if it has failed."""
        headers = _headers_of(response)
        unpacks = asked.options.get("auto_decompress")
        if unpacks is None:
            unpacks = getattr(asked.session, "_auto_decompress", True)
        if unpacks and response.status < FIRST_ERROR:
            headers = [header for header in headers if header[0].lower() != _ENCODING]
        if exchange.answered(response, response.status, _version_of(response), headers):
            if exchange.may_be_read_ahead():
                exchange.read_beginning = partial(stream_reader.beginning, response.content)
            return True
        body = exchange.body(response)
        if body is not None:
            stream_reader.watch(response.content, body)
        return False

    @staticmethod
    @fail_safe
    def _read_limit(asked: _Asked, exchange: Exchange, response: Any) -> float | None:
        """Return for how long a failed body is waited for, or None if it may not be read ahead."""
        may_be_read = exchange.may_be_read_ahead() and stream_reader.can_be_waited_for(
            response.content
        )
        return _read_limit(asked) if may_be_read else None

    def _wrap_raise(self, original: Callable[..., Any]) -> Callable[..., Any]:
        call = unbound(original)

        def raise_for_status(response: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return call(response, *args, **kwargs)
            except Exception as error:
                self._observer.raised_for(response, error)
                raise

        return raise_for_status


@fail_safe
def _is_transient(error: BaseException) -> bool:
    # Not a bad URL, and not what the app's own body has raised.
    cause = error.__cause__
    if type(error).__name__ in {"ClientConnectionError", "ClientOSError"} and cause is not None:
        network = (OSError, asyncio.TimeoutError, asyncio.CancelledError)
        is_theirs = isinstance(cause, network) or is_a(cause, (MODULE,), "ClientError")
        return is_theirs and not isinstance(cause, OF_FILES)
    kinds = ("ClientConnectionError", "ClientPayloadError", "ClientResponseError")
    is_theirs = is_a(error, (MODULE,), *kinds) or isinstance(error, asyncio.TimeoutError)
    return is_theirs or is_of_dead_loop(error)


def _has_theirs(session: Any) -> bool:
    """Say whether the app has given a session OpenTelemetry's trace configuration."""
    return any(
        getattr(told, "__module__", None) == SCOPE
        for config in session._trace_configs  # noqa: SLF001 - the property is newer
        for told in config.on_request_start
    )


def _read_limit(asked: _Asked) -> float:
    """Give for how long a failed body may be waited for: the caller's own limit for a read."""
    timeout = asked.options.get("timeout")
    if not hasattr(timeout, "sock_read") and not isinstance(timeout, (int, float)):
        timeout = getattr(asked.session, "timeout", None)
    read_s = getattr(timeout, "sock_read", None)
    if not isinstance(read_s, (int, float)) or read_s <= 0:  # 0 is no limit
        return stream_reader.READ_AHEAD_S
    return float(read_s)


def _headers_of(response: Any) -> Sequence[tuple[bytes, bytes]]:
    """Give the headers as they were sent, or what a class of the app's own has in their place."""
    raw: Sequence[tuple[bytes, bytes]] | None = response.raw_headers
    if raw is not None:
        return raw
    how = "utf-8", "surrogateescape"  # as aiohttp has decoded them
    return [(name.encode(*how), value.encode(*how)) for name, value in response.headers.items()]


def _version_of(response: Any) -> str | None:
    version = response.version
    return None if version is None else f"{version.major}.{version.minor}"


@fail_safe
def _put(headers: Any, injected: dict[str, str]) -> list[tuple[str, str]]:
    """Add headers for the moment in which they are written; return the app's own of these names."""
    own: list[tuple[str, str]] = []
    if any(name in headers for name in injected):
        names = {name.lower() for name in injected}
        own = [header for header in headers.items() if header[0].lower() in names]
    headers.update(injected)
    return own


@fail_safe
def _put_back(headers: Any, injected: dict[str, str], own: list[tuple[str, str]] | None) -> None:
    """Take them away again: the app finds its own in the response's `request_info`."""
    for name in injected:
        headers.popall(name, None)
    for name, value in own or ():
        headers.add(name, value)


def _marked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Have a function that returns a coroutine taken for a coroutine function, as it was."""
    if sys.version_info >= (3, 12):
        inspect.markcoroutinefunction(function)
    else:
        # What `asyncio.iscoroutinefunction` looks for, and mocks ask.
        vars(function)["_is_coroutine"] = getattr(asyncio.coroutines, "_is_coroutine", None)
    return function
