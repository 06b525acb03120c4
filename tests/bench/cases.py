"""What is measured: requests through httpx's own transport, answered from memory."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack, contextmanager, redirect_stderr
from pathlib import Path
from sys import maxsize
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import mock

import httpcore
import httpx
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

import assisters_otel
from assisters_otel import logs
from assisters_otel.testing import answer

if TYPE_CHECKING:
    from collections.abc import Iterator

API = "https://api.assisters.dev/v1/chat/completions"
OTHER = "https://example.org/v1/chat/completions"
_QUESTION = b'{"model": "assisters-chat-v1", "messages": [{"role": "user", "content": "Hi"}]}'
_OK = (200, b'{"id": "chatcmpl-1", "object": "chat.completion", "choices": []}')
_LIMITED = (429, answer.envelope(429, "rate_limit_exceeded", param="requests"))
_HEADERS = [
    (b"Date", b"Mon, 06 Jul 2026 09:00:00 GMT"),
    (b"Content-Type", b"application/json"),
    (b"Connection", b"keep-alive"),
    (b"X-Request-ID", b"req_01JZK4T9V3M8Q2"),
    (b"X-Processing-Time-Ms", b"412"),
    (b"X-RateLimit-Limit-RPM", b"60"),
    (b"X-RateLimit-Remaining-RPM", b"59"),
    (b"X-RateLimit-Limit-TPM", b"100000"),
    (b"X-RateLimit-Remaining-TPM", b"98411"),
    (b"X-RateLimit-Reset-RPM", b"1783328460"),
    (b"Strict-Transport-Security", b"max-age=31536000; includeSubDomains"),
]


class Case(NamedTuple):
    """One path of a request.

    Attributes:
        name: As it stands in the table.
        base: Its position in `CASES`: what it costs beyond that is what it costs.
        goal: What it may cost, in what OpenTelemetry's instrumentation adds; None: no promise.
        theirs: Whether the app has switched OpenTelemetry's instrumentation on.
        ours: Whether `init` has been called.
        url: Where the request goes.
        limited: Whether the answer is a 429.
        log: Each 429 is a line, as if it were the first: to a ``NullHandler``, or to stderr,
            as it is by default. None: the storm is summed up.
    """

    name: str
    base: int | None = None
    goal: float | None = None
    theirs: bool = False
    ours: bool = False
    url: str = API
    limited: bool = False
    log: logging.Handler | None = None


BARE, OTEL, OTEL_LIMITED, OTEL_OTHER, BARE_OTHER = range(5)
CASES = (
    Case("bare"),
    Case("OpenTelemetry's", BARE, theirs=True),
    Case("OpenTelemetry's, 429", BARE, theirs=True, limited=True),
    Case("OpenTelemetry's, other host", BARE, theirs=True, url=OTHER),
    Case("bare, other host", BARE, url=OTHER),
    Case("other host, theirs and we", OTEL_OTHER, 0.01, theirs=True, ours=True, url=OTHER),
    Case("other host, we alone", BARE_OTHER, 0.02, ours=True, url=OTHER),
    Case("200, theirs and we", OTEL, 0.15, theirs=True, ours=True),
    Case("200, we alone, span included", BARE, 1.15, ours=True),
    Case("429, theirs and we", OTEL_LIMITED, 0.30, theirs=True, ours=True, limited=True),
    Case(
        "429, a line each, NullHandler",
        OTEL_LIMITED,
        theirs=True,
        ours=True,
        limited=True,
        log=logging.NullHandler(),
    ),
    Case(
        "429, a line each, to stderr",
        OTEL_LIMITED,
        theirs=True,
        ours=True,
        limited=True,
        log=logging.lastResort,
    ),
)
OURS = tuple(case for case in CASES if case.ours)


class Pool:
    """Stands in the place of the transport's connection pool."""

    def __init__(self) -> None:
        self.answer = _OK

    def handle_request(self, _request: httpcore.Request) -> httpcore.Response:
        status, body = self.answer
        headers = [*_HEADERS, (b"Content-Length", b"%d" % len(body))]
        if status != _OK[0]:
            headers.append((b"Retry-After", b"12"))
        return httpcore.Response(
            status, headers=headers, content=body, extensions={"http_version": b"HTTP/1.1"}
        )


class Spans(SpanProcessor):
    """Counts and drops."""

    ended = 0

    def on_end(self, _span: Any) -> None:
        self.ended += 1


class Bench:
    """A case, ready to be run.

    Attributes:
        spans: How many have ended.
        telemetry: Our handle, or None.
    """

    def __init__(self, case: Case, stack: ExitStack) -> None:
        self.spans = Spans()
        self.telemetry: Any = None
        self._url = case.url
        transport = httpx.HTTPTransport(verify=False)
        self._pool = transport._pool = Pool()  # type: ignore[assignment]
        self._pool.answer = _LIMITED if case.limited else _OK
        self._client = httpx.Client(transport=transport)
        tracers = TracerProvider(sampler=ALWAYS_ON, shutdown_on_exit=False)
        tracers.add_span_processor(self.spans)
        meters = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
        stack.callback(meters.shutdown)
        if case.theirs:
            theirs = HTTPXClientInstrumentor()
            theirs.instrument(tracer_provider=tracers, meter_provider=meters)
            stack.callback(theirs.uninstrument)
        if case.log is not None:
            stack.enter_context(mock.patch.object(logs, "LINES", maxsize))
            logger = logging.getLogger("assisters_otel")
            stack.enter_context(mock.patch.object(logger, "handlers", [case.log]))
        if case.limited:
            # What pytest puts on the root logger is not what an app has.
            stack.enter_context(mock.patch.object(logging.getLogger(), "handlers", []))
            nowhere = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - the stack closes it
            stack.enter_context(redirect_stderr(nowhere))
        if case.ours:
            self.telemetry = stack.enter_context(
                assisters_otel.init(tracer_provider=tracers, meter_provider=meters)
            )

    def send(self, requests: int, every: int = 0) -> None:
        """Send requests one by one; of *every* so many, one is answered with a 429."""
        post, url = self._client.post, self._url
        for number in range(requests):
            if every:
                self._pool.answer = _OK if number % every else _LIMITED
            post(url, content=_QUESTION)


@contextmanager
def switched_on(case: Case) -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(case, stack)


def table(rows: list[tuple[str, float, float, float | None]], unit: str, title: str) -> str:
    """Write the rows: a case, its whole cost, ours as a ratio, the goal."""
    lines = [title, f"{'case':32} {unit:>9} {'ratio':>7} {'goal':>6}"]
    lines += [
        f"{name:32} {whole:9.1f} {ratio:7.3f} {'' if goal is None else goal:>6}"
        for name, whole, ratio, goal in rows
    ]
    return "\n".join(lines)
