"""aiohttp: whatever goes through a `ClientSession`, and what it sends again by itself.

An attempt begins where a connection is asked for and ends with the response's headers; what
becomes of it without an answer, only the session says. The HTTP span is that of OpenTelemetry's
trace configuration. A session that the app has not given one gets its callbacks from us, for
what is watched alone.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import sys
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context, trace

from assisters_otel.attempts import control_flow
from assisters_otel.causes import OF_FILES, is_of_dead_loop
from assisters_otel.clients.adapter import BAGGAGE, Adapter
from assisters_otel.clients.aiohttp import stream_reader
from assisters_otel.clients.aiohttp.request_reader import _Message
from assisters_otel.clients.aiohttp.session_request import _Asked
from assisters_otel.clients.classes import is_a
from assisters_otel.clients.patching import Target, unbound
from assisters_otel.fail_safe import fail_safe
from assisters_otel.otel_api import http_spans, providers
from assisters_otel.outcomes import FIRST_ERROR
from assisters_otel.sinks import attempt_span, foreign_span
from assisters_otel.variables.corrections import corrected

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable
    from contextvars import Token

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider

    from assisters_otel.api.request import ApiRequest
    from assisters_otel.recording.attempt import Attempt
    from assisters_otel.recording.recorder import Observer

MODULE: Final = "aiohttp"
SCOPE: Final = "opentelemetry.instrumentation.aiohttp_client"
"""The HTTP instrumentation's module, which is the scope of its spans."""

_ENCODING: Final = b"content-encoding"


class Aiohttp(Adapter):
    """The adapter."""

    scope = SCOPE

    def __init__(
        self,
        observer: Observer,
        tracer_provider: TracerProvider | None,
        meter_provider: MeterProvider | None,
    ) -> None:
        """Prepare, as `Adapter` does."""
        name = "AioHttpClientInstrumentor"
        super().__init__(MODULE, name, observer, tracer_provider, meter_provider)
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

    # -- the HTTP span ------------------------------------------------------------------------

    @corrected()
    def _make(self) -> Any:
        """Make the trace configuration of OpenTelemetry's instrumentation."""
        return _trace_config(self._tracer_provider, self._meter_provider)

    @fail_safe
    def _open(self, asked: _Asked, raw: Any) -> None:
        """Find the span around the app's request, or make it."""
        url, session = raw.url, asked.session
        self.switch_on_again()
        if session is None or not self.is_on() or _has_theirs(session):
            asked.span = attempt_span.find_app_span(SCOPE, raw.method, url.raw_host, url)
            if asked.span is None:
                self.tell_of_no_span()
            elif session is not None:
                foreign_span.on_recorded_exception(
                    asked.span, lambda error: self._failed(asked, error)
                )
            return
        headers = session._prepare_headers(asked.options.get("headers"))  # noqa: SLF001 - as the session
        before = headers.copy()  # no dict: a header may be there more than once
        config = self._maker
        whole = asked.url.update_query(asked.options.get("params") or {})
        kept = config.trace_config_ctx(trace_request_ctx=asked.options.get("trace_request_ctx"))
        made = importlib.import_module("aiohttp.tracing").Trace(session, config, kept)
        asked.around = trace.get_current_span()
        told = raw.method, whole, headers
        _run(made.send_request_start(*told))
        asked.ours = made, kept, told
        if kept.span is not None and kept.span.is_recording():
            asked.span = kept.span
            own = http_spans.made(kept.span)
            if own is not kept.span:  # until the instrumentation detaches its own
                context.attach(trace.set_span_in_context(own))
        asked.injected = {
            name: value
            for name, value in headers.items()
            if value not in before.getall(name, ()) and not name.lower().startswith(BAGGAGE)
        }

    @fail_safe
    def _close(self, asked: _Asked, response: Any, error: BaseException | None) -> None:
        if asked.ours is None:
            return
        (made, kept, told), asked.ours = asked.ours, None
        if not _is_current(kept.span):
            kept.token = None  # a coroutine that nobody awaits any more, closed somewhere else
        if error is None:
            _run(made.send_request_end(*told, response))
            return
        if asked.span is not None:
            foreign_span.mask_recorded_exception(asked.span, error)
        _run(made.send_request_exception(*told, error))

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
            self._close(asked, None, error)
            asked.error = None  # its traceback knows this frame
            raise
        finally:
            self._leave(token)
        self._succeeded(asked, response)
        self._close(asked, response, None)
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
        attempt, asked.attempt = asked.attempt, None
        if attempt is not None:
            attempt.raised(error, transient=bool(_is_transient(error)))
        elif asked.last is not None and is_a(error, (MODULE,), "ClientResponseError"):
            asked.last.is_what_became_of(error)  # of the session's own `raise_for_status`

    @staticmethod
    @fail_safe
    def _succeeded(asked: _Asked, response: Any) -> None:
        if asked.span is not None and asked.ours is None:
            foreign_span.on_recorded_exception(asked.span, None)
        attempt, asked.attempt = asked.attempt, None
        if attempt is not None:  # of a request or response class that does it all itself
            attempt.answered(response.status, _headers_of(response))
            attempt.ended()

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
                _put_back(raw.headers, own)
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
        if asked.attempt is not None and asked.error is not None:
            # A connection that had gone stale: the session sends again by itself.
            with control_flow.one_send():
                self._failed(asked, asked.error)
                asked.error = None
                self._start(asked, request, raw)
            return asked
        if asked.last is None:
            self._open(asked, raw)
        self._start(asked, request, raw)
        return asked

    def _start(self, asked: _Asked, request: ApiRequest, raw: Any) -> None:
        asked.hop, asked.response = raw, None
        attempt = self._observer.start(request, _Message(raw), asked.span, asked.around)
        asked.attempt = asked.last = attempt

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
            raise

    async def _started(self, starting: Any, asked: _Asked, response: Any) -> Any:
        result = await self._met(starting, asked)
        attempt, asked.attempt = asked.attempt, None
        asked.hop = asked.response = None
        if attempt is None:
            return result
        if not self._answered(asked, attempt, response):
            self._passed(attempt, response)
            return result
        read_s = self._read_limit(asked, attempt, response)
        try:
            if read_s is not None:
                await stream_reader.wait_for_beginning(response.content, read_s)
        finally:
            self._refused(attempt, response)
        return result

    @staticmethod
    @fail_safe
    def _answered(asked: _Asked, attempt: Attempt, response: Any) -> bool:
        headers = _headers_of(response)
        unpacks = asked.options.get("auto_decompress")
        if unpacks is None:
            unpacks = getattr(asked.session, "_auto_decompress", True)
        # A stream is fed as the client has decoded it.
        if unpacks and response.status < FIRST_ERROR:
            headers = [header for header in headers if header[0].lower() != _ENCODING]
        return attempt.answered(response.status, headers)

    @fail_safe
    def _passed(self, attempt: Attempt, response: Any) -> None:
        """Report an answer that is no failure; how its body ends, the reader tells."""
        attempt.ended()
        body = attempt.body(_is_transient, response) if attempt.is_to_be_watched else None
        if body is not None:
            stream_reader.watch(response.content, body)

    @fail_safe
    def _refused(self, attempt: Attempt, response: Any) -> None:
        """Report a failed answer, with what its reader holds of its body."""
        read = attempt.body_may_be_read()
        attempt.ended(stream_reader.beginning(response.content) if read else None)
        attempt.is_what_became_of(response)

    @staticmethod
    @fail_safe
    def _read_limit(asked: _Asked, attempt: Attempt, response: Any) -> float | None:
        """Give for how long a failed body is waited for, or None if it may not be read ahead."""
        may_be_read = attempt.body_may_be_read() and stream_reader.can_be_waited_for(
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


def _is_current(span: Span | None) -> bool:
    return span is not None and providers.are_same(
        span.get_span_context(), trace.get_current_span().get_span_context()
    )


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


def _trace_config(
    tracer_provider: TracerProvider | None, meter_provider: MeterProvider | None
) -> Any:
    """Make OpenTelemetry's trace configuration, as its instrumentor makes it for a session."""
    otel: Any = importlib.import_module(SCOPE)
    convention = otel._OpenTelemetrySemanticConventionStability  # noqa: SLF001 - as its instrumentor
    convention._initialize()  # noqa: SLF001 - as above
    kind = otel._OpenTelemetryStabilitySignalType.HTTP  # noqa: SLF001 - as above
    options = {
        "tracer_provider": tracer_provider,
        "meter_provider": meter_provider,
        "sem_conv_opt_in_mode": convention._get_opentelemetry_stability_opt_in_mode(kind),  # noqa: SLF001 - as above
    }
    for name, variable in (
        ("captured_request_headers", "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_REQUEST"),
        ("captured_response_headers", "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_RESPONSE"),
        ("sensitive_headers", "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SANITIZE_FIELDS"),
    ):
        options[name] = otel.get_custom_headers(variable)
    config = otel.create_trace_config(**options)
    config.freeze()
    return config


def _read_limit(asked: _Asked) -> float:
    """Give for how long a failed body may be waited for: the caller's own limit for a read."""
    timeout = asked.options.get("timeout")
    if not hasattr(timeout, "sock_read") and not isinstance(timeout, (int, float)):
        timeout = getattr(asked.session, "timeout", None)
    read_s = getattr(timeout, "sock_read", None)
    if not isinstance(read_s, (int, float)) or read_s <= 0:  # 0 is no limit
        return stream_reader.READ_AHEAD_S
    return float(read_s)


def _headers_of(response: Any) -> Iterable[tuple[bytes, bytes]]:
    """Give the headers as they were sent, or what a class of the app's own has in their place."""
    raw: Iterable[tuple[bytes, bytes]] | None = response.raw_headers
    if raw is not None:
        return raw
    how = "utf-8", "surrogateescape"  # as aiohttp has decoded them
    return [(name.encode(*how), value.encode(*how)) for name, value in response.headers.items()]


def _run(told: Coroutine[Any, Any, object]) -> None:
    """Run one of the instrumentation's callbacks, which wait for nothing."""
    try:
        told.send(None)
    except StopIteration:
        return
    told.close()


@fail_safe
def _put(headers: Any, injected: dict[str, str]) -> dict[str, str | None]:
    """Add headers for the moment in which they are written; give what was there before."""
    own = {name: headers.get(name) for name in injected}
    headers.update(injected)
    return own


@fail_safe
def _put_back(headers: Any, own: dict[str, str | None] | None) -> None:
    """Take them away again: the app finds its own in the response's `request_info`."""
    for name, value in (own or {}).items():
        if value is None:
            headers.pop(name, None)
        else:
            headers[name] = value


def _marked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Have a function that returns a coroutine taken for a coroutine function, as it was."""
    if sys.version_info >= (3, 12):
        inspect.markcoroutinefunction(function)
    else:
        # What `asyncio.iscoroutinefunction` looks for, and mocks ask.
        vars(function)["_is_coroutine"] = getattr(asyncio.coroutines, "_is_coroutine", None)
    return function
