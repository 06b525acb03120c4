"""Reads the requests of OTLP/HTTP: protobuf and JSON, for traces, metrics and logs. Pure.

Source: the OTLP specification 1.x, "OTLP/HTTP" and "JSON Protobuf Encoding": ids are hexadecimal
there, where protobuf's own JSON has base64. What comes from outside is cleaned and masked before it
is shown: it may hold a key, or codes that drive a terminal.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import json
import zlib
from typing import TYPE_CHECKING, Final, TypeVar

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.semconv.attributes.exception_attributes import (
    EXCEPTION_MESSAGE,
    EXCEPTION_TYPE,
)

from assisters_otel import causes
from assisters_otel.api import redaction
from assisters_otel.api.limits import MAX_TEXT
from assisters_otel.records import Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
    from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage

M = TypeVar("M", bound=Message)

MAX_BODY: Final = 32 * 1024 * 1024
"""The longest body that is read, decompressed. The collector's batches are below 4 MiB."""

_ERROR: Final = 2  # Source: opentelemetry/proto/trace/v1/trace.proto, StatusCode
_IDS: Final = frozenset({"traceId", "spanId", "parentSpanId"})
_DEEPEST: Final = 100
_GZIP: Final = 16 + zlib.MAX_WBITS
_SERVICE: Final = "service.name"
_EXCEPTION: Final = "exception"
"""The name of an exception's event. Source: semantic conventions, "Exceptions"."""


class Span(Record):
    """A span as it was sent, cleaned.

    Attributes:
        trace_id: In hex.
        span_id: In hex.
        parent_id: In hex, or None for a root.
        name: Its name.
        start_ns: Unix time.
        end_ns: Unix time.
        has_failed: True if its status is an error.
        attributes: Texts, numbers, booleans, and lists of them as text.
        links: The ids of the spans that it is linked to.
        service: Of its resource.
        cause: Why a request had no answer, where the text of its exception shows it; or None.
    """

    trace_id: str
    span_id: str
    parent_id: str | None
    name: str
    start_ns: int
    end_ns: int
    has_failed: bool
    attributes: Mapping[str, object]
    links: tuple[str, ...]
    service: str
    cause: causes.Cause | None = None

    @property
    def duration_s(self) -> float:
        """Its duration in seconds."""
        return max(self.end_ns - self.start_ns, 0) / 1e9


class NotOtlpError(ValueError):
    """A body is no OTLP. The text of this error is the response to the client."""


def decompress(body: bytes, encoding: str) -> bytes:
    """Return a body without its content encoding.

    Args:
        body: The body as it was sent.
        encoding: The header Content-Encoding, or an empty text.

    Raises:
        NotOtlpError: It is no gzip, or longer than `MAX_BODY`.
    """
    if encoding in {"", "identity"}:
        return body
    if encoding != "gzip":
        raise NotOtlpError(f"the encoding {encoding[:20]!r} is none of OTLP: send gzip or none")
    reader = zlib.decompressobj(_GZIP)
    try:
        found = reader.decompress(body, MAX_BODY)
    except zlib.error as error:
        raise NotOtlpError("the body is no gzip") from error
    if not reader.eof:
        raise NotOtlpError("the body is longer than it may be, or cut off")
    return found


def traces(body: bytes, *, is_json: bool) -> list[Span]:
    """Return the spans of a request to ``/v1/traces``.

    Raises:
        NotOtlpError: It is none.
    """
    request = _read(ExportTraceServiceRequest(), body, is_json=is_json)
    found = []
    for resource in request.resource_spans:
        service = str(_attributes(resource.resource.attributes).get(_SERVICE, "unknown_service"))
        found += [_span(one, service) for scope in resource.scope_spans for one in scope.spans]
    return found


def count_metrics(body: bytes, *, is_json: bool) -> int:
    """Return the number of metrics in a request to ``/v1/metrics``.

    Raises:
        NotOtlpError: It is none.
    """
    request = _read(ExportMetricsServiceRequest(), body, is_json=is_json)
    return sum(len(s.metrics) for r in request.resource_metrics for s in r.scope_metrics)


def count_logs(body: bytes, *, is_json: bool) -> int:
    """Return the number of log records in a request to ``/v1/logs``.

    Raises:
        NotOtlpError: It is none.
    """
    request = _read(ExportLogsServiceRequest(), body, is_json=is_json)
    return sum(len(s.log_records) for r in request.resource_logs for s in r.scope_logs)


def _read(into: M, body: bytes, *, is_json: bool) -> M:
    if not is_json:
        try:
            into.ParseFromString(body)
        except DecodeError as error:
            raise NotOtlpError("the body is no protobuf of this signal") from error
        return into
    try:
        document = json.loads(body)
        json_format.ParseDict(
            _with_base64(document, 0), into, ignore_unknown_fields=True,
            max_recursion_depth=_DEEPEST,
        )  # fmt: skip
    except (ValueError, RecursionError, json_format.ParseError, TypeError, AttributeError) as error:
        raise NotOtlpError("the body is no JSON of this signal") from error
    return into


def _with_base64(value: object, depth: int) -> object:
    if depth > _DEEPEST:
        raise NotOtlpError("the body is too deep")
    if isinstance(value, list):
        return [_with_base64(one, depth + 1) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        name: _base64(one)
        if name in _IDS and isinstance(one, str)
        else _with_base64(one, depth + 1)
        for name, one in value.items()
    }


def _base64(text: str) -> str:
    try:
        return base64.b64encode(bytes.fromhex(text)).decode()
    except (ValueError, binascii.Error) as error:
        raise NotOtlpError("an id is no hexadecimal number") from error


def _span(message: SpanMessage, service: str) -> Span:
    return Span(
        message.trace_id.hex(),
        message.span_id.hex(),
        message.parent_span_id.hex() or None,
        redaction.clean(message.name),
        message.start_time_unix_nano,
        message.end_time_unix_nano,
        message.status.code == _ERROR,
        _attributes(message.attributes),
        tuple(link.span_id.hex() for link in message.links),
        service,
        _cause(message),
    )


def _cause(message: SpanMessage) -> causes.Cause | None:
    """Return the cause in the exceptions of a span that has failed, or in its status.

    Only the cause is kept, which is a few words: a text may have thousands of characters.
    """
    texts = [("", message.status.message)] if message.status.code == _ERROR else []
    for event in message.events:
        if event.name == _EXCEPTION:
            found = {pair.key: pair.value.string_value for pair in event.attributes}
            name = found.get(EXCEPTION_TYPE, "").rpartition(".")[2]
            texts.append((name, found.get(EXCEPTION_MESSAGE, "")))
    shown = ((name, text[:MAX_TEXT]) for name, text in texts)
    return next(filter(None, itertools.starmap(causes.of_text, shown)), None)


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, object]:
    return {redaction.clean(pair.key): _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> object:
    kind = value.WhichOneof("value")
    if kind == "string_value":
        return redaction.clean(value.string_value)
    if kind in {"bool_value", "int_value", "double_value"}:
        return getattr(value, kind)
    if kind == "array_value":
        return ", ".join(str(_value(one)) for one in value.array_value.values[:_DEEPEST])
    return ""
