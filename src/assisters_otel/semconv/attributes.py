"""Every attribute name that leaves the library, with its type, its unit and its signals.

A stable name of the semantic conventions is imported. A name that is still in development is typed
here with its source, because the package that holds it may change or drop it. The tables at the end
are those of docs/spans.md (tests/docs/tables.py writes them).
"""

from __future__ import annotations

from typing import Final

from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.http_attributes import (
    HTTP_REQUEST_RESEND_COUNT,
    HTTP_RESPONSE_HEADER_TEMPLATE,
)
from opentelemetry.semconv.attributes.server_attributes import SERVER_ADDRESS, SERVER_PORT
from opentelemetry.semconv.schemas import Schemas

from assisters_otel.semconv import gen_ai
from assisters_otel.semconv.tables import Attribute

SCOPE: Final = "assisters_otel"
"""The name of the library's meter, tracer and logger."""

SCHEMA_URL: Final = Schemas.V1_41_1.value
"""The version of the semantic conventions that the names follow."""

URL_TEMPLATE: Final = "url.template"
"""string. Source: semantic conventions, in development, so typed here."""

ERROR_CODE: Final = "error.code"
"""string. The envelope's code."""

ERROR_PARAM: Final = "error.param"
"""string, spans only. The parameter that caused the error."""

ERROR_RETRYABLE: Final = "assisters.error.retryable"
"""bool. True if the same request can succeed if it is sent again soon."""

ERROR_MESSAGE: Final = "assisters.error.message"
"""string, spans only, only with `capture_message`. The envelope's message, redacted and cut."""

REQUEST_ID: Final = "assisters.request.id"
"""string, spans only. The response's X-Request-ID, which support asks for."""

RESPONSE_HEADER_REQUEST_ID: Final = f"{HTTP_RESPONSE_HEADER_TEMPLATE}.x-request-id"
"""string[], spans only. The same value, in the semantic conventions' form."""

SERVER_DURATION: Final = "assisters.server.duration"
"""double, seconds, spans only. The processing time that the API reports."""

RETRY_AFTER: Final = "assisters.retry_after"
"""double, seconds, spans only. The wait that the response's Retry-After asks for."""

RATELIMIT: Final = "assisters.ratelimit.{}.{}"
"""int (reset: double, seconds from now), spans only: {requests,tokens}.{limit,remaining,reset}."""

RETRY_REASON: Final = "assisters.retry.reason"
"""string. The code of the previous attempt; else its type, its status or its exception."""

RETRY_DELAY: Final = "assisters.retry.delay"
"""double, seconds, spans only. From the end of the previous attempt to this send."""

RETRY_EARLY: Final = "assisters.retry.early"
"""bool. True if the delay is shorter than Retry-After asked, with the same Authorization."""

RETRY_FUTILE: Final = "assisters.retry.futile"
"""bool. True if no retry helps against the previous attempt's error."""

RETRY_COUNT: Final = "assisters.retry.count"
"""int, call spans only. The number of resends within the call."""

RETRY_WAIT: Final = "assisters.retry.wait"
"""double, seconds, call spans only. The total time between the call's attempts."""

API_KEY_FINGERPRINT: Final = "assisters.api_key.fingerprint"
"""string. The first 8 hexadecimal digits of the SHA-256 of the key that was sent."""

CALL_OUTCOME: Final = "assisters.call.outcome"
"""string. One of `OUTCOMES`."""

CALL_RESEND_COUNT: Final = "assisters.call.resend_count"
"""int, call spans only. The call's number as a repetition by the app's own loop, 1 or more."""

ATTEMPTS: Final = "assisters.attempts"
"""int, log only. The number of attempts of a failed call."""

FAILURES: Final = "assisters.failures"
"""int, log only. The number of failures that a line stands for."""

TRACE_ID: Final = "trace_id"
SPAN_ID: Final = "span_id"
"""string, log only. Hexadecimal, as backends show them. Source: OpenTelemetry, "Trace Context in
non-OTLP Log Formats"."""

OK: Final = "ok"
RECOVERED: Final = "recovered"
FAILED: Final = "failed"
CANCELLED_CALL: Final = "cancelled"
OUTCOMES: Final = (OK, RECOVERED, FAILED, CANCELLED_CALL)
"""The ways in which a call can end. A recovered call succeeded after a retry."""

CALL_SPAN: Final = "assisters.call"
"""The name of the span of a call that another instrumentation's span describes as an inference."""

STREAM_SPAN: Final = "assisters.stream"
"""The name of the span of an event stream outside an SDK's call, or of one that ends after the span
that another instrumentation has made for its call."""

STREAM_OUTCOME: Final = "assisters.stream.outcome"
"""string. One of `STREAM_OUTCOMES`."""

STREAM_CHUNKS: Final = "assisters.stream.chunks"
"""int. The number of data events received, without ``[DONE]``."""

STREAM_ERROR: Final = "error"
COMPLETED: Final = "completed"
TRUNCATED: Final = "truncated"
CANCELLED_STREAM: Final = "cancelled"
ABANDONED: Final = "abandoned"
STREAM_OUTCOMES: Final = (STREAM_ERROR, COMPLETED, TRUNCATED, CANCELLED_STREAM, ABANDONED)
"""The ways in which an event stream can end. The first one that applies is reported."""

DIGITS: Final = 6
"""The decimals of a span's doubles, all of them seconds. No clock here is finer than a microsecond,
and backends show what is sent."""

OTHER: Final = "_OTHER"
"""The value of a metric's label that is not in its closed set. Source: semantic conventions."""

CANCELLED: Final = "CancelledError"
"""``error.type`` of an attempt that its caller cancelled. Frameworks differ in the exception."""


ATTEMPT_ATTRIBUTES: Final = (
    Attribute(REQUEST_ID, "string", "the response has X-Request-ID", "its value"),
    Attribute(RESPONSE_HEADER_REQUEST_ID, "string[]", "same", "the conventions' form"),
    Attribute(URL_TEMPLATE, "string", "the path is documented", "`/v1/models/{id}` …"),
    Attribute(SERVER_DURATION, "double, s", "the response has X-Processing-Time-Ms", "its value"),
    Attribute(
        ERROR_TYPE,
        "string",
        "the attempt failed",
        "the envelope's `type`; else the status; else the exception's name",
    ),
    Attribute(ERROR_CODE, "string", "the envelope has it", "its `code`, as sent"),
    Attribute(ERROR_PARAM, "string", "the envelope has it", "its `param`"),
    Attribute(ERROR_RETRYABLE, "bool", "the attempt failed", "whether a retry can help"),
    Attribute(ERROR_MESSAGE, "string", "`capture_message`", "masked, 256 characters at most"),
    Attribute(
        API_KEY_FINGERPRINT,
        "string",
        "the attempt failed, with a key of 20 characters or more",
        "the first 8 digits of the key's SHA-256: which key it was",
    ),
    Attribute(RETRY_AFTER, "double, s", "Retry-After was sent", "seconds to wait"),
    Attribute(RATELIMIT.format("requests", "limit"), "int", "on 429", "requests a minute"),
    Attribute(RATELIMIT.format("requests", "remaining"), "int", "on 429", "what is left of them"),
    Attribute(RATELIMIT.format("requests", "reset"), "double, s", "on 429", "from now"),
    Attribute(RATELIMIT.format("tokens", "limit"), "int", "on 429", "tokens a minute"),
    Attribute(RATELIMIT.format("tokens", "remaining"), "int", "on 429", "what is left of them"),
    Attribute(RATELIMIT.format("tokens", "reset"), "double, s", "on 429", "from now"),
    Attribute(
        HTTP_REQUEST_RESEND_COUNT,
        "int",
        "it is a resend, or a redirect's hop",
        "which one, 1 or more; a hop has none of those below",
    ),
    Attribute(
        RETRY_REASON,
        "string",
        "it is a resend",
        "code, else type, status or exception of the attempt before",
    ),
    Attribute(RETRY_DELAY, "double, s", "same", "from the end of the attempt before to this send"),
    Attribute(
        RETRY_EARLY,
        "bool",
        "same, after a Retry-After",
        "sent sooner than the API asked, with the same Authorization",
    ),
    Attribute(
        RETRY_FUTILE,
        "bool",
        "it is a resend",
        "no retry helps against that error, and the Authorization is the same",
    ),
)

CALL_ATTRIBUTES: Final = (
    Attribute(
        gen_ai.OPERATION_NAME, "string", "the endpoint has one", "`chat`, `embeddings`, `rerank` …"
    ),
    Attribute(gen_ai.PROVIDER_NAME, "string", "always", f"`{gen_ai.PROVIDER}`"),
    Attribute(gen_ai.REQUEST_MODEL, "string", "the call names one", "as asked for"),
    Attribute(SERVER_ADDRESS, "string", "always", "the API's host"),
    Attribute(SERVER_PORT, "int", "always", "its port"),
    *gen_ai.REQUEST_ATTRIBUTES,
    *gen_ai.RESPONSE_ATTRIBUTES,
    Attribute(CALL_OUTCOME, "string", "always", ", ".join(f"`{one}`" for one in OUTCOMES)),
    Attribute(RETRY_COUNT, "int", "always", "resends within the call"),
    Attribute(RETRY_WAIT, "double, s", "always", "between its attempts, in all"),
    Attribute(REQUEST_ID, "string", "the last attempt has it", "its value"),
    Attribute(
        CALL_RESEND_COUNT,
        "int",
        "the app calls again after a failed call",
        "which repetition it is, with a link to that call",
    ),
    Attribute(ERROR_TYPE, "string", "the call failed", "the last attempt's; else the exception"),
    Attribute(ERROR_CODE, "string", "same, and it has one", "the last attempt's"),
    Attribute(ERROR_PARAM, "string", "same", "the last attempt's"),
    Attribute(ERROR_RETRYABLE, "bool", "the call failed", "the last attempt's; else `false`"),
    Attribute(ERROR_MESSAGE, "string", "same, and `capture_message`", "the last attempt's"),
    Attribute(API_KEY_FINGERPRINT, "string", "same", "the last attempt's"),
)

STREAM_ATTRIBUTES: Final = (
    Attribute(STREAM_OUTCOME, "string", "always", ", ".join(f"`{one}`" for one in STREAM_OUTCOMES)),
    Attribute(STREAM_CHUNKS, "int", "always", "data events but `[DONE]`"),
    Attribute(
        gen_ai.RESPONSE_FIRST_CHUNK,
        "double, s",
        "there was one",
        "from the start of the call or request",
    ),
    *gen_ai.RESPONSE_ATTRIBUTES,
    Attribute(
        ERROR_TYPE,
        "string",
        "outcome `error`, `truncated`",
        f"the event's `type`, else `{OTHER}`; the exception's name; `{TRUNCATED}`",
    ),
    Attribute(ERROR_CODE, "string", "the error event has it", "its `code`, as sent"),
    Attribute(ERROR_PARAM, "string", "the error event has it", "its `param`"),
    Attribute(ERROR_RETRYABLE, "bool", "outcome `error`, `truncated`", "whether a retry can help"),
    Attribute(ERROR_MESSAGE, "string", "same, and `capture_message`", "masked"),
    Attribute(API_KEY_FINGERPRINT, "string", "same", "as on the attempt"),
    Attribute(REQUEST_ID, "string", "the response has X-Request-ID", "its value"),
)

HTTP_URL: Final = "http.url"
HTTP_METHOD: Final = "http.method"
"""The old conventions' names. OpenTelemetry's HTTP instrumentation still writes them by default."""
