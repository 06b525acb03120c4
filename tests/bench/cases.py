"""What is measured: requests through httpx's own transport, answered from memory."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from contextlib import ExitStack, contextmanager, redirect_stderr
from functools import partial
from pathlib import Path
from statistics import median
from sys import maxsize
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple
from unittest import mock

import httpcore
import httpcore2
import httpx
import httpx2
import openai
from opentelemetry.instrumentation.httpx import HTTPX2ClientInstrumentor, HTTPXClientInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import SpanKind, StatusCode

import assisters_otel
from assisters_otel.semconv import metrics as metric_names
from assisters_otel.sinks import failure_log
from assisters_otel.testing import answers

if TYPE_CHECKING:
    from collections.abc import Iterator

API = "https://api.assisters.dev/v1/chat/completions"
OTHER = "https://example.org/v1/chat/completions"
_QUESTION = b'{"model": "assisters-chat-v1", "messages": [{"role": "user", "content": "Hi %05d"}]}'
_OK = (200, b'{"id": "chatcmpl-1", "object": "chat.completion", "choices": []}')
_USED = (
    200,
    (
        b'{"id": "chatcmpl-1", "object": "chat.completion", "created": 1, '
        b'"model": "assisters-chat-v1", "choices": [{"index": 0, "message": {"role": "assistant", '
        b'"content": "Hello."}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 9, '
        b'"completion_tokens": 5, "total_tokens": 14, "prompt_tokens_details": '
        b'{"cached_tokens": 0}}}'
    ),
)
_MESSAGES = [{"role": "user", "content": "Hi"}]
_LIMITS = {"max_tokens": 50, "temperature": 0.5}
_LIMITED = (429, answers.envelope(429, "rate_limit_exceeded", param="requests"))
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
        again: Whether each request is the one before once more; else each has another body.
        sdk: How many requests each is of: a call of `openai`, of which all but the last are
            answered with a 429; 0 for a plain request of httpx.
        tokens: Whether a call names two limits, and its answer has choices and a usage.
        peer: The module of a GenAI instrumentation that is on as well.
        floor: The SDK's own calls that the contract asks for, with values made beforehand, in
            a hook of OpenTelemetry's instrumentation: nothing can cost less, whoever makes them.
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
    again: bool = False
    sdk: int = 0
    tokens: bool = False
    peer: str | None = None
    floor: bool = False
    log: logging.Handler | None = None


class Row(NamedTuple):
    """One path of a request, as a row of the table of costs.

    Attributes:
        name: As it stands in the table.
        alone: What all of it may cost where the span is ours, over a bare request.
        on_top: What it may cost beyond the app's own HTTP instrumentation.
        what: The attributes of its cases.
    """

    name: str
    alone: float
    on_top: float
    what: dict[str, Any]


ROWS = (
    Row("200", 0.45, 0.25, {}),
    Row("429", 0.80, 0.65, {"limited": True}),
    Row("429 again", 0.95, 0.80, {"limited": True, "again": True}),
    Row("openai", 0.95, 0.80, {"sdk": 1}),
    Row("openai, 429, 429, 200", 1.05, 0.90, {"sdk": 3}),
    Row("openai, tokens", 1.25, 1.05, {"sdk": 1, "tokens": True}),
    Row("other host", 0.01, 0.01, {"url": OTHER}),
)
BARE, OTEL = 0, len(ROWS)
"""The first row's cases without us. What the second adds to the first is the unit."""

_BARE = tuple(Case(f"{row.name}, bare", **row.what) for row in ROWS)
_OTEL = tuple(
    Case(f"{row.name}, OpenTelemetry's", n, theirs=True, **row.what) for n, row in enumerate(ROWS)
)
_ALONE = tuple(
    Case(f"{row.name}, alone", n, row.alone, ours=True, **row.what) for n, row in enumerate(ROWS)
)
_ON_TOP = tuple(
    Case(f"{row.name}, on top", OTEL + n, row.on_top, theirs=True, ours=True, **row.what)
    for n, row in enumerate(ROWS)
)
_FLOORS = tuple(
    Case(f"{row.name}, the SDK's calls alone", OTEL + n, theirs=True, floor=True, **row.what)
    for n, row in enumerate(ROWS)
    if row.what.keys() <= {"limited", "sdk"}
)
_LINES = tuple(
    Case(f"429, a line each, {name}", OTEL + 1, theirs=True, ours=True, limited=True, log=handler)
    for name, handler in (("NullHandler", logging.NullHandler()), ("stderr", logging.lastResort))
)
CASES = (*_BARE, *_OTEL, *_ALONE, *_ON_TOP, *_FLOORS, *_LINES)

_GEN_AI = (
    "opentelemetry.instrumentation.genai.openai",
    "openinference.instrumentation.openai",
    "opentelemetry.instrumentation.openai",
)
LOGFIRE = "logfire"
"""It stands for OpenTelemetry's instrumentation, so its base is a bare request. It brings a plug-in
for pytest that loads into every run, so it is measured only where it is installed."""

PEERS = tuple(
    Case(f"{ROWS[n].name}, {module}", OTEL + n, theirs=True, peer=module, **ROWS[n].what)
    for module in _GEN_AI
    for n in (3, 4, 5)
)
if importlib.util.find_spec(LOGFIRE) is not None:
    PEERS += tuple(
        Case(f"{ROWS[n].name}, {LOGFIRE}", n, peer=LOGFIRE, **ROWS[n].what) for n in (0, 1, 6)
    )
"""They do not all take out again what they have put in: each in a process of its own."""

OURS = tuple(case for case in CASES if case.ours)
ALL = CASES + PEERS


class Pool:
    """Stands in the place of the transport's connection pool."""

    def __init__(self, core: Any = httpcore) -> None:
        self.answer = _OK
        self.limited = 0
        self._core = core

    def handle_request(self, _request: Any) -> Any:
        status, body = self.answer
        if self.limited:
            self.limited -= 1
            status, body = _LIMITED
        headers = [*_HEADERS, (b"Content-Length", b"%d" % len(body))]
        if status != _OK[0]:
            headers.append((b"Retry-After", b"12"))
        return self._core.Response(
            status, headers=headers, content=body, extensions={"http_version": b"HTTP/1.1"}
        )


class Spans(SpanProcessor):
    """Counts and drops."""

    ended = 0

    def on_end(self, _span: Any) -> None:
        self.ended += 1


class Floor:
    """Makes the SDK's calls that the contract asks for, as cheaply as they can be made."""

    _place: ClassVar[dict[str, Any]] = {
        "server.address": "api.assisters.dev",
        "url.template": "/v1/chat/completions",
    }
    _told: ClassVar[dict[str, Any]] = {
        "url.template": "/v1/chat/completions",
        "assisters.request.id": "req_01JZK4T9V3M8Q2",
        "http.response.header.x-request-id": ("req_01JZK4T9V3M8Q2",),
        "assisters.server.duration": 0.412,
    }
    _failed: ClassVar[dict[str, Any]] = {
        "error.type": "rate_limit_error",
        "error.code": "rate_limit_exceeded",
        "error.param": "requests",
        "assisters.error.retryable": True,
        "assisters.retry_after": 12.0,
        "assisters.ratelimit.requests.limit": 60,
        "assisters.ratelimit.requests.remaining": 59,
        "assisters.ratelimit.requests.reset": 3.5,
        "assisters.ratelimit.tokens.limit": 100000,
        "assisters.ratelimit.tokens.remaining": 98411,
    }
    _resent: ClassVar[dict[str, Any]] = {
        "http.request.resend_count": 1,
        "assisters.retry.reason": "rate_limit_exceeded",
        "assisters.retry.delay": 0.5,
        "assisters.retry.early": True,
        "assisters.retry.futile": False,
    }
    _retry: ClassVar[dict[str, Any]] = {
        "assisters.retry.reason": "rate_limit_exceeded",
        "assisters.retry.early": True,
        "assisters.retry.futile": False,
    }
    _call: ClassVar[dict[str, Any]] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "assisters-chat-v1",
        "assisters.call.outcome": "ok",
    }

    def __init__(self, tracers: TracerProvider, meters: MeterProvider) -> None:
        meter = meters.get_meter("floor")
        bounds = {"explicit_bucket_boundaries_advisory": metric_names.DURATION_BOUNDARIES}
        self._tracer = tracers.get_tracer("floor")
        self._duration = meter.create_histogram("a", **bounds)
        self._call_duration = meter.create_histogram("b", **bounds)
        self._call_attempts = meter.create_histogram("c", **bounds)
        self._errors = meter.create_counter("d")
        self._retries = meter.create_counter("e")
        self._before: Any = None
        self._attributes = {
            status: {**self._place, "http.response.status_code": status, **more}
            for status, more in (
                (200, {}),
                (429, {"error.type": "rate_limit_error", "error.code": "rate_limit_exceeded"}),
            )
        }

    def hook(self, span: Any, _request: Any, response: Any) -> None:
        """Do what an attempt asks for; OpenTelemetry's instrumentation calls it."""
        status = response.status_code
        shared = self._attributes[status]
        span.update_name("POST /v1/chat/completions")
        if self._before is not None:  # within an SDK's call
            span.set_attributes(self._resent)
            span.add_link(self._before)
            self._retries.add(1, {**self._place, **self._retry})
        if status == _OK[0]:
            span.set_attributes(self._told)
        else:
            span.set_attributes({**self._told, **self._failed})
            span.set_status(StatusCode.ERROR, "rate_limit_exceeded")
            self._errors.add(1, {**shared, "assisters.error.retryable": True})
        self._duration.record(0.1, {**shared, "http.request.method": "POST"})

    def hook_in_call(self, span: Any, request: Any, response: Any) -> None:
        """Do the same, and remember it for the attempt that follows in the call."""
        self.hook(span, request, response)
        self._before = span.get_span_context()

    def call(self, create: Any, **options: Any) -> None:
        """Do what a call asks for, around it."""
        self._before = None
        with self._tracer.start_as_current_span(
            "chat assisters-chat-v1",
            kind=SpanKind.CLIENT,
            attributes={
                "gen_ai.provider.name": "assisters",
                "server.address": "api.assisters.dev",
                "gen_ai.operation.name": "chat",
                "gen_ai.request.model": "assisters-chat-v1",
            },
        ) as span:
            create(**options)
            span.set_attributes(
                {
                    "assisters.call.outcome": "ok",
                    "assisters.retry.count": 0,
                    "assisters.retry.wait": 0.0,
                    "assisters.request.id": "req_01JZK4T9V3M8Q2",
                }
            )
            shared = {**self._place, **self._call}
            self._call_duration.record(0.1, shared)
            self._call_attempts.record(1, shared)


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
        self._retries = case.sdk - 1
        self._again = case.again
        self._limits = _LIMITS if case.tokens else {}
        self.send = self._send_calls if case.sdk else self._send_requests
        transport = httpx.HTTPTransport(verify=False)
        self._pool = transport._pool = Pool()  # type: ignore[assignment]
        self._pool.answer = _LIMITED if case.limited else _OK
        self._client = httpx.Client(transport=transport)
        transport2 = httpx2.HTTPTransport(verify=False)
        self._pool2 = transport2._pool = Pool(httpcore2)  # type: ignore[assignment]
        if case.tokens:
            self._pool2.answer = _USED
        self._sdk = openai.OpenAI(
            base_url=API.removesuffix("/chat/completions"),
            api_key="ask_bench",
            http_client=httpx2.Client(transport=transport2),
        )
        self._floor: Floor | None = None
        stack.enter_context(
            mock.patch.object(openai.OpenAI, "_calculate_retry_timeout", return_value=0.0)
        )
        tracers = TracerProvider(sampler=ALWAYS_ON, shutdown_on_exit=False)
        tracers.add_span_processor(self.spans)
        meters = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
        stack.callback(meters.shutdown)
        if case.theirs:
            kind = HTTPX2ClientInstrumentor if case.sdk else HTTPXClientInstrumentor
            theirs = kind()
            hooks = {}
            if case.floor:
                self._floor = floor = Floor(tracers, meters)
                hooks["response_hook"] = floor.hook_in_call if case.sdk else floor.hook
            theirs.instrument(tracer_provider=tracers, meter_provider=meters, **hooks)
            stack.callback(theirs.uninstrument)
        if case.peer == LOGFIRE:
            logfire = importlib.import_module(LOGFIRE)
            logfire.configure(
                send_to_logfire=False,
                console=False,
                inspect_arguments=False,
                additional_span_processors=[self.spans],
            )
            logfire.instrument_httpx()
        elif case.peer is not None:
            peer = importlib.import_module(case.peer).OpenAIInstrumentor()
            peer.instrument(tracer_provider=tracers, meter_provider=meters)
        if case.log is not None:
            stack.enter_context(mock.patch.object(failure_log, "MAX_SINGLE_LINES", maxsize))
            logger = logging.getLogger("assisters_otel")
            stack.enter_context(mock.patch.object(logger, "handlers", [case.log]))
        if case.limited or case.sdk > 1:
            # What pytest puts on the root logger is not what an app has.
            stack.enter_context(mock.patch.object(logging.getLogger(), "handlers", []))
            nowhere = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - the stack closes it
            stack.enter_context(redirect_stderr(nowhere))
        if case.ours:
            self.telemetry = stack.enter_context(
                assisters_otel.init(tracer_provider=tracers, meter_provider=meters)
            )

    def run(self, requests: int) -> None:
        """Send: a function of the class, as the benchmark wants one."""
        self.send(requests)

    def _send_calls(self, calls: int, _every: int = 0) -> None:
        create, pool = self._sdk.chat.completions.create, self._pool2
        if self._floor is not None:
            create = partial(self._floor.call, create)
        for _ in range(calls):
            pool.limited = self._retries
            create(model="assisters-chat-v1", messages=_MESSAGES, **self._limits)

    def _send_requests(self, requests: int, every: int = 0) -> None:
        """Send requests one by one; of *every* so many, one is answered with a 429."""
        post, url = self._client.post, self._url
        step = 0 if self._again else 1
        for number in range(requests):
            if every:
                self._pool.answer = _OK if number % every else _LIMITED
            post(url, content=_QUESTION % (number * step))


@contextmanager
def switched_on(case: Case) -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(case, stack)


def over_base(
    rounds: list[list[float]], unit: float
) -> list[tuple[str, float, float, float | None]]:
    """Give the rows of a table: a case, what it costs over its base, that as a ratio, the goal.

    Args:
        rounds: What one request of each of `ALL` costs, or one call of `openai`; one list a round.
            The medians of the rounds' differences count, so that the machine's drift cancels.
        unit: What the second column is counted in.
    """
    added = median(costs[OTEL] - costs[BARE] for costs in rounds)
    rows = []
    for number, case in enumerate(ALL):
        base = (0.0 if case.base is None else costs[case.base] for costs in rounds)
        more = median(costs[number] - b for costs, b in zip(rounds, base, strict=True))
        rows.append((case.name, more / unit, more / added / (case.sdk or 1), case.goal))
    return rows


def table(rows: list[tuple[str, float, float, float | None]], unit: str, title: str) -> str:
    """Write the rows: a case, its whole cost, ours as a ratio, the goal."""
    lines = [title, f"{'case':54} {unit:>9} {'ratio':>7} {'goal':>6}"]
    lines += [
        f"{name:54} {whole:9.1f} {ratio:7.3f} {'' if goal is None else goal:>6}"
        for name, whole, ratio, goal in rows
    ]
    return "\n".join(lines)
