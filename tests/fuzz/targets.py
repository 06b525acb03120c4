"""What is fuzzed: functions from any bytes to checks. hypothesis and atheris share them.

A target takes the way that the bytes of a server take in an app: the parsers, and from there the
observer, the real SDK's spans and instruments, and the encoder of OTLP. It raises if any of that
raises, or if something that was promised of every input is not so.
"""

from __future__ import annotations

import gzip
import io
import itertools
import logging
import math
import re
import time
import zlib
from contextlib import suppress
from http.client import HTTPException, HTTPResponse
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import brotli
import httpx
import urllib3
import zstandard
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from urllib3.exceptions import HTTPError

from assisters_otel import catalog
from assisters_otel.api import body_end, endpoints, error_body, event_stream, redaction
from assisters_otel.api import headers as response_headers
from assisters_otel.api.content_encoding import decode_body
from assisters_otel.api.headers import (
    header_integer,
    header_number,
    header_text,
    known_headers,
    may_be_read_ahead,
    rate_limit_reset_s,
    retry_after_s,
    with_lower_names,
)
from assisters_otel.api.limits import MAX_BYTES, MAX_MESSAGE, MAX_VALUE
from assisters_otel.clients.httpx import request_reader
from assisters_otel.clients.requests import read_ahead as requests_read_ahead
from assisters_otel.config import Config
from assisters_otel.fail_safe import own_errors
from assisters_otel.hosts import Host
from assisters_otel.recording.recorder import Recorder
from assisters_otel.semconv import attributes as names
from assisters_otel.semconv import gen_ai
from assisters_otel.semconv import metrics as metric_names
from assisters_otel.sinks import foreign_span
from assisters_otel.sinks.label_values import MAX_EXTRA_VALUES, MAX_MODELS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opentelemetry.sdk.trace import ReadableSpan

MAX_INPUT: Final = 2 * MAX_BYTES
MAX_CPU_S: Final = 2.0
"""For one input. An ordinary one takes a thousandth; what is not linear takes far more."""

NOW: Final = 1_800_000_000.0
_HOST: Final = "api.assisters.dev"
_HTTPX: Final = "opentelemetry.instrumentation.httpx"
_KEY: Final = re.compile(r"(?<![A-Za-z0-9])(?:ask_|sk-|asst_sk_)[A-Za-z0-9_\-]{6,}")
# A few bytes more than what is kept: a name and an event's own, which are bounded too.
_MAX_KEPT: Final = event_stream.MAX_BYTES + event_stream.MAX_NAME


def run(target: Callable[[bytes], None], data: bytes) -> None:
    """Give one input to a target, and see that it took no time."""
    began_s = time.process_time()
    target(data[:MAX_INPUT])
    took_s = time.process_time() - began_s
    assert took_s < MAX_CPU_S, f"{len(data)} bytes took {took_s:.1f} s"


def _is_clean(text: str, limit: int) -> None:
    assert text.isprintable()
    assert len(text) <= limit
    assert not _KEY.search(text)
    assert AnyValue(string_value=text).SerializeToString()


# -- parsers ----------------------------------------------------------------------------------


def body(data: bytes) -> None:
    """The body of an error, as sent: the first byte says how it is encoded."""
    encodings = (b"", b"gzip", b"deflate", b"br", b"zstd", b"gzip, br", b"br, zstd, deflate", b"x")
    encoding = encodings[data[0] % len(encodings)] if data else b""
    plain = decode_body(data[1:], encoding)
    assert plain is None or len(plain) <= max(MAX_BYTES, len(data))
    for found in (
        error_body.parse_error_body(plain or b""),
        error_body.parse_error_event(plain or b""),
    ):
        if found is not None:
            for name in ("type", "code", "param"):
                value = getattr(found, name)
                if value is not None:
                    assert value
                    _is_clean(value, MAX_VALUE)
            _is_clean(redaction.clean(found.message or "", MAX_MESSAGE), 256)
            assert "message" not in repr(found)


def headers(data: bytes) -> None:
    """A response's headers, one a line."""
    picked = known_headers(_headers(data.split(b"\n")))
    assert len(picked) <= len(response_headers._PICKED)
    response_headers.is_event_stream(picked)
    may_be_read_ahead(picked)
    for value in (data, *picked.values()):
        text = header_text(value)
        if text is not None:
            _is_clean(text, MAX_VALUE)
        whole = header_integer(value)
        assert whole is None or 0 <= whole < 2**63
        for number in (
            header_number(value),
            retry_after_s(value, NOW),
            rate_limit_reset_s(value, NOW),
        ):
            assert number is None or (number >= 0 and math.isfinite(number))


def _headers(lines: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    for line in lines:
        name, _, value = line.partition(b":")
        yield name, value.strip()


SECRET: Final = "0123456789abcdef"
_FORMS: Final = (
    f"ask_live_{SECRET}",
    f"sk-{SECRET}",
    f"asst_sk_{SECRET}",
    f"Bearer {SECRET}",
    f"bearer%20{SECRET}",
    f"BEARER\t+{SECRET}",
    f"Bearer Bearer {SECRET}",
    f'Bearer "{SECRET}"',
)


def secrets(data: bytes) -> None:
    """A text of a server, with a secret planted where the first byte says."""
    first = data[0] if data else 0
    text = data[1:].decode("utf-8", "replace").replace(SECRET, "")
    at = (first >> 4) * len(text) // 16
    before, after = text[:at], text[at:]
    if re.search(r"[A-Za-z0-9]\Z", before):
        before += " "  # within a word it is none: task_0123456789
    planted = before + _FORMS[first % len(_FORMS)] + after
    for limit in (MAX_VALUE, MAX_MESSAGE, len(planted)):
        cleaned = redaction.clean(planted, limit)
        _is_clean(cleaned, limit)
        assert SECRET not in cleaned
    assert SECRET not in redaction.redact(planted)


def events(data: bytes) -> None:
    """An event stream: two bytes say how it is encoded and cut; then it itself."""
    encodings = (b"", b"gzip", b"deflate", b"br", b"zstd", b"x")
    head, rest = data[:2].ljust(2, b"\0"), data[2:]
    encoding = encodings[head[0] % len(encodings)]
    told = []
    for size in (head[1] % 64 + 1, MAX_INPUT):
        watched = event_stream.EventStreamScanner(encoding)
        for at in range(0, len(rest), size):
            chunk = rest[at : at + size]
            if not watched.skip_plain_event(chunk):
                watched.feed(chunk)
            if at % 64 == 0:
                assert kept(watched) <= _MAX_KEPT
                assert len(watched._previous) + len(watched._last) <= event_stream.MAX_BYTES
        assert kept(watched) <= _MAX_KEPT
        outcome = body_end.stream_outcome(
            watched, body_end.BodyEnd.COMPLETE, endpoints.CHAT, is_delimited=True
        )
        assert outcome in names.STREAM_OUTCOMES
        told.append((watched.chunks, watched.done, watched.error, outcome))
        if watched.error is not None:
            _is_clean(watched.error.code or "", MAX_VALUE)
    if not encoding:  # what is broken inside an encoding is broken where it was cut
        assert told[0] == told[1]


def kept(watched: event_stream.EventStreamScanner) -> int:
    """How many bytes of a stream are held."""
    return len(watched._line) + sum(map(len, watched._data)) + len(watched._event)


class _Socket:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, *_: Any) -> io.BufferedReader:
        return io.BufferedReader(io.BytesIO(self._data))  # type: ignore[arg-type]


def _read(data: bytes, *, ahead: bool) -> object:
    """Read an answer to its end; what http.client raises for it is a value here."""
    answered = HTTPResponse(_Socket(data), method="GET")  # type: ignore[arg-type]
    try:
        answered.begin()
        response = urllib3.HTTPResponse(
            answered,
            answered.headers.items(),
            answered.status,
            original_response=answered,
            preload_content=False,
        )
        if ahead:
            body = requests_read_ahead.peek(response, time.monotonic, 5.0)
            assert body is None or len(body) <= 2 * MAX_BYTES
        return response.status, b"".join(response.stream(decode_content=False))
    except (HTTPError, HTTPException, OSError, ValueError, MemoryError, OverflowError) as error:
        return type(error), str(error)
    finally:
        answered.close()


def framing(data: bytes) -> None:
    """An HTTP/1.1 answer on the wire: read ahead, it reads as it would have."""
    assert _read(data, ahead=True) == _read(data, ahead=False)


# -- sinks ------------------------------------------------------------------------------------


class _Lines(logging.Handler):
    """What is logged, checked in place of being written."""

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        assert text.isprintable()
        assert not _KEY.search(text)
        assert not _KEY.search(str(vars(record)))

    def handle(self, record: logging.LogRecord) -> bool:
        self.emit(record)  # and what that raises is raised
        return True


class Process:
    """An observer on the real SDK, and which labels it has seen.

    Attributes:
        inputs: How many it has had.
    """

    def __init__(self, *, capture_message: bool) -> None:
        self.inputs = 0
        self._capture_message = capture_message
        self._spans = InMemorySpanExporter()
        tracers = TracerProvider(shutdown_on_exit=False)
        tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        delta = AggregationTemporality.DELTA
        self._reader = InMemoryMetricReader({Counter: delta, Histogram: delta})
        self._meters = MeterProvider([self._reader], shutdown_on_exit=False)
        self.tracer = tracers.get_tracer(_HTTPX)
        config = Config(hosts=(Host(_HOST),), capture_message=capture_message)
        own_errors.start(strict=True)
        self.recorder = Recorder(config, tracers, self._meters)
        self._further: dict[str, set[str]] = {}

    def close(self) -> None:
        self.recorder.stop()
        self._meters.shutdown()

    def check(self) -> None:
        """Export everything, as a collector would get it."""
        self.recorder.deferred.run_all()
        told = self._spans.get_finished_spans()
        self._spans.clear()
        assert encode_spans(told).SerializeToString()
        for span in told:
            assert len(span.name) <= 2 * MAX_VALUE
            for name, value in (span.attributes or {}).items():
                self._check_attribute(name, value)
            assert not _KEY.search(_texts(span))
            assert self._capture_message or names.ERROR_MESSAGE not in (span.attributes or {})
        data = self._reader.get_metrics_data()
        if data is None:
            return
        assert encode_metrics(data).SerializeToString()
        for resource in data.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    for point in metric.data.data_points:
                        self._check_labels(metric.name, dict(point.attributes or {}))

    @staticmethod
    def _check_attribute(name: str, value: Any) -> None:
        if isinstance(value, float):
            assert math.isfinite(value), name
        values = value if isinstance(value, tuple) else (value,)
        if name.startswith(("assisters.", "error.", "http.response.header.", "gen_ai.")):
            for text in values:
                if isinstance(text, str):
                    _is_clean(text, MAX_MESSAGE)

    def _check_labels(self, metric: str, labels: dict[str, Any]) -> None:
        documented = {m.name: m.attributes for m in metric_names.METRICS}[metric]
        assert set(labels) <= set(documented)
        for name, value in labels.items():
            known = _KNOWN.get(name)
            if known is None or value in known:
                continue
            kind, form, most = _FURTHER[name]
            assert form.match(value), (name, value)
            self._further.setdefault(kind, set()).add(value)
            assert len(self._further[kind]) <= most, (name, self._further[kind])


def _texts(span: ReadableSpan) -> str:
    told = [span.name, span.status.description, *(span.attributes or {}).values()]
    for event in span.events:
        told += [event.name, *(event.attributes or {}).values()]
    return "\n".join(map(str, told))


_CODES: Final = {row.code for row in catalog.ERRORS} | {names.OTHER}
_TYPES: Final = {row.type for row in catalog.TYPES} | {
    names.OTHER,
    names.TRUNCATED,
    names.CANCELLED,
    *map(str, range(100, 600)),
}
_METHODS: Final = set(
    "GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH QUERY".split()  # noqa: SIM905 - words
)
_KNOWN: Final[dict[str, set[Any]]] = {
    "error.code": _CODES,
    "error.type": _TYPES,
    "assisters.retry.reason": _CODES | _TYPES,
    "assisters.error.retryable": {True, False},
    "assisters.retry.early": {True, False},
    "assisters.retry.futile": {True, False},
    "assisters.call.outcome": set(names.OUTCOMES),
    "http.request.method": _METHODS | {names.OTHER},
    "http.response.status_code": set(range(100, 1000)),
    "url.template": set(endpoints.TEMPLATES),
    "server.address": {_HOST},
    "server.port": {443},
    "gen_ai.operation.name": set(endpoints.OPERATIONS.values()) | {gen_ai.TEXT_COMPLETION},
    "gen_ai.provider.name": {gen_ai.PROVIDER},
    "gen_ai.request.model": {names.OTHER},
    "gen_ai.response.model": {names.OTHER},
    "gen_ai.token.type": {gen_ai.INPUT, gen_ai.OUTPUT},
}
_WORD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.<>]{0,99}\Z")
_FURTHER: Final = {
    "error.code": ("code", re.compile(r"[a-z][a-z0-9_]{0,63}\Z"), MAX_EXTRA_VALUES),
    # Envelopes' types and exceptions' names, each a set of its own.
    "error.type": ("type", _WORD, 2 * MAX_EXTRA_VALUES),
    "assisters.retry.reason": ("reason", _WORD, 3 * MAX_EXTRA_VALUES),
    # They share their places.
    "gen_ai.response.model": ("model", re.compile(r"[A-Za-z0-9][\x21-\x7e]{0,127}\Z"), MAX_MODELS),
    "gen_ai.request.model": ("model", re.compile(r"[A-Za-z0-9][\x21-\x7e]{0,127}\Z"), MAX_MODELS),
}
# So many inputs have one process: enough that its sets of labels are full.
_INPUTS: Final = 2000
_LINES: Final = _Lines()
_log: Final = logging.getLogger(names.SCOPE)
_process: list[Process] = []
_turn: Final = itertools.cycle((False, True))


def process() -> Process:
    """Give the process for one input more; a new one in place of one that has had many."""
    if _process and _process[0].inputs >= _INPUTS:
        end_process()
    if not _process:
        _log.addHandler(_LINES)
        _log.propagate = False
        _process.append(Process(capture_message=next(_turn)))
    _process[0].inputs += 1
    return _process[0]


def end_process() -> None:
    """End the process, if there is one, and leave the logger as it was."""
    while _process:
        _process.pop().close()
    _log.removeHandler(_LINES)
    _log.propagate = True


SEPARATOR: Final = b"\n==\n"
"""Between the answers of one input."""

_MAX_ANSWERS: Final = 6
_HEAD: Final = re.compile(rb"[1-9]\d\d\Z")


class _Sent:
    """What an app has in hand, and may be referred to weakly."""


def answers(data: bytes) -> None:
    """What an app asks for, a line; and what a server answers each of its attempts."""
    head, _, rest = data.partition(b"\n")
    words = head.decode("latin-1").split(" ", 3)
    kind, method, path, model = [*words, "", "", "", ""][:4]
    method = method if re.fullmatch("[A-Z]{1,20}", method) else "POST"
    target = quote(path or "/v1/chat/completions", safe="/?=&+%")[:1000]
    target = target if target.startswith("/") else f"/{target}"
    now = process()
    recorder = now.recorder
    call = None
    if kind == "call":
        path = target.partition("?")[0]
        hosts = recorder.watched.by_name.get(_HOST)
        asked = {"model": model or None, "stream": True, "max_tokens": len(rest)}
        call = recorder.calls.start_for_url(hosts, method, "https", None, path, asked)
    if call is not None:
        call.attach()
    error: Exception | None = None
    held: list[Any] = []
    try:
        for answer in rest.split(SEPARATOR)[:_MAX_ANSWERS]:
            error = _attempt(now, method, target, answer, held)
            if error is None:
                break
        if call is not None:
            call.returned(rest) if error is None else call.raised(error)
    finally:
        if call is not None:
            call.detach()
    for end in held:
        end()
    now.check()


def _attempt(
    now: Process, method: str, target: str, answer: bytes, held: list[Any]
) -> Exception | None:
    """Send once, as the httpx adapter does inside OpenTelemetry's span."""
    head, _, body = answer.partition(b"\n\n")
    first, *lines = head.split(b"\n")
    url = f"https://{_HOST}{target}"
    raw = httpx.Request(method, url, headers={"authorization": "Bearer ask_live_0123456789"})
    said = {"http.method": method, "http.url": url}
    error: Exception | None = None
    with (
        suppress(Exception if not _HEAD.match(first) else ()),
        now.tracer.start_as_current_span(method, kind=SpanKind.CLIENT, attributes=said) as span,
    ):
        found = foreign_span.find_app_span(_HTTPX, method, _HOST, url)
        recorder = now.recorder
        request = recorder.watched.request(
            recorder.watched.by_name.get(_HOST) or (), method, 443, raw.url.raw_path
        )
        assert found is span
        assert request is not None
        attempt = recorder.start(request, request_reader.HttpxRequestReader(raw), found)
        if not _HEAD.match(first):
            name = re.sub("[^A-Za-z]", "", first.decode("latin-1"))[:200] or "ReadTimeout"
            error = type(name, (Exception,), {})(body.decode("utf-8", "replace"))
            recorder.raised(attempt, error, transient=bool(len(body) & 1))
            raise error
        status = int(first)
        if recorder.answered(attempt, status, with_lower_names(_headers(lines))):
            recorder.report(attempt, body if may_be_read_ahead(attempt.headers) else None)
            # What the instrumentation writes when the transport has returned.
            span.set_attribute("error.type", str(status))
            span.set_status(StatusCode.ERROR)
            return RuntimeError("the SDK's own")
        recorder.report(attempt)
        sent = _Sent()
        watched = recorder.bodies.watch(attempt, lambda _: True, sent)
        if watched is not None:
            _pass(watched, body)
            way = (body[-1:] or b"\0")[0] % 4
            broken = OSError(body[:100].decode("latin-1"))
            ends = (watched.ended, watched.closed, lambda: watched.broke(broken), watched.dropped)
            held.append(ends[way])
    return error


def _pass(watched: Any, body: bytes) -> None:
    size = len(body) // 7 + 1
    for at in range(0, len(body), size):
        chunk = body[at : at + size]
        if watched.events is None or not watched.events.skip_plain_event(chunk):
            watched.feed(chunk)


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    one.__name__: one for one in (body, headers, secrets, events, framing, answers)
}
"""By name."""


def any_of_them(data: bytes) -> None:
    """One of the targets, by the first byte."""
    several = tuple(TARGETS.values())
    several[(data[0] if data else 0) % len(several)](data[1:])


_ENVELOPE: Final = (
    b'{"error": {"message": "You said ask_live_0123456789", "type": "rate_limit_error", '
    b'"code": "rate_limit_exceeded", "param": "model"}}'
)
_HEADERS: Final = (
    b"content-type: application/json\nx-request-id: req_1\nretry-after: 7\n"
    b"x-processing-time-ms: 12.5\nx-ratelimit-limit-rpm: 60\nx-ratelimit-remaining-rpm: 0\n"
    b"x-ratelimit-reset-rpm: 1800000030\nx-ratelimit-limit-tpm: 100000\n"
    b"x-ratelimit-remaining-tpm: 5\nx-ratelimit-reset-tpm: 1800000030\ncontent-length: 90\n"
    b"location: /v1/models"
)
_STREAM: Final = (
    b'data: {"choices": [{"delta": {"content": "hi"}}]}\n\n'
    b": a comment\r\nid: 1\r\n\r\nevent: error\ndata: " + _ENVELOPE + b"\n\ndata: [DONE]\n\n"
)
_FAILED: Final = b"429\n" + _HEADERS + b"\n\n" + _ENVELOPE
_STREAMED: Final = b"200\ncontent-type: text/event-stream\n\n" + _STREAM
SEEDS: Final[dict[str, tuple[bytes, ...]]] = {
    "body": (
        b"\0" + _ENVELOPE,
        b"\1" + gzip.compress(_ENVELOPE),
        b"\2" + zlib.compress(_ENVELOPE),
        b"\3" + brotli.compress(_ENVELOPE),
        b"\4" + zstandard.compress(_ENVELOPE),
        b"\5" + brotli.compress(gzip.compress(_ENVELOPE)),
        b'\0{"error": "a text"}',
    ),
    "headers": (
        _HEADERS,
        b"120",
        b"Fri, 15 Jan 2027 08:01:30 GMT",
        b"Friday, 15-Jan-27 08:01:30 GMT",
        b"Fri Jan 15 08:01:30 2027",
    ),
    "secrets": (b"\x80" + _ENVELOPE, b"\x41/v1/agent/stream?prompt=x Illegal header value b'x'"),
    "events": (
        b"\0\7" + _STREAM,
        b"\1\7" + gzip.compress(_STREAM),
        b"\2\7" + zlib.compress(_STREAM),
        b"\3\7" + brotli.compress(_STREAM),
        b"\4\7" + zstandard.compress(_STREAM),
    ),
    "framing": (
        b"HTTP/1.1 400 Bad\r\ncontent-length: 4\r\n\r\nbody",
        b"HTTP/1.1 400 Bad\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\na: b\r\n\r\n",
        b"HTTP/1.1 400 Bad\r\n\r\nto the end",
        b"HTTP/1.1 204 No\r\n\r\n",
    ),
    "answers": (
        b"one POST /v1/chat/completions\n" + SEPARATOR.join((_FAILED, _STREAMED)),
        b"call POST /v1/chat/completions assisters-chat-v1\n"
        + SEPARATOR.join((_FAILED, b"ReadTimeout\n\nBearer ask_live_0123456789", _STREAMED)),
        b"one GET /v1/agent/stream?prompt=hi\n302\nlocation: https://x/\n\n",
        b"call FROBNICATE /users/7f3a x\nConnectError\n\nIllegal header value b'Bearer x'",
    ),
}
"""Where a fuzzer begins: what the API does answer."""

SEEDS_OF_ANY: Final = tuple(
    bytes([n]) + seed for n, name in enumerate(TARGETS) for seed in SEEDS[name]
)

WORDS: Final = (
    *(row.code.encode() for row in catalog.ERRORS),
    *(row.type.encode() for row in catalog.TYPES),
    *(name + b": " for name in response_headers.RATELIMITS.values()),
    *(b"retry-after: ", b"x-request-id: ", b"content-type: text/event-stream", b"location: "),
    *(b"content-encoding: gzip", b"content-encoding: br", b"content-encoding: zstd"),
    *(b'{"error":', b'"code":', b'"type":', b'"param":', b'"message":', b"\\ud800", b"\\u0000"),
    *(b"data: ", b"data: [DONE]", b"event: error", b"\n\n", b"\r\n\r\n", b"\xef\xbb\xbf"),
    *(b"9223372036854775808", b"NaN", b"inf", b"1e999", b"-0500", b" GMT", b"\xff\xfe"),
    *(b"Bearer ", b"ask_live_", b"sk-", b"asst_sk_", b"/agent/stream?prompt=", SEPARATOR),
    *(b"transfer-encoding: chunked\r\n", b"content-length: ", b"call ", b"429\n", b"200\n"),
)
"""What the bytes that matter are made of."""
