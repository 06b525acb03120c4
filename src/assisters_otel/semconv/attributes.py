"""Every attribute name that leaves the library, and the values of closed sets."""

from __future__ import annotations

from typing import Final, NamedTuple

from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.http_attributes import (
    HTTP_REQUEST_RESEND_COUNT,
    HTTP_RESPONSE_HEADER_TEMPLATE,
)
from opentelemetry.semconv.attributes.server_attributes import SERVER_ADDRESS, SERVER_PORT
from opentelemetry.semconv.schemas import Schemas

SCOPE: Final = "assisters_otel"
"""The name of our meter, our tracer and our logger."""

SCHEMA_URL: Final = Schemas.V1_41_1.value
"""The semantic conventions that our names follow."""

URL_TEMPLATE: Final = "url.template"
"""string. Source: semantic conventions, in development, so typed here."""

ERROR_CODE: Final = "error.code"
"""string. The envelope's code."""

ERROR_PARAM: Final = "error.param"
"""string, spans only. The parameter that caused the error."""

ERROR_RETRYABLE: Final = "assisters.error.retryable"
"""bool. Whether the same request can succeed if it is sent again soon."""

ERROR_MESSAGE: Final = "assisters.error.message"
"""string, spans only, only on request. The envelope's message, masked."""

REQUEST_ID: Final = "assisters.request.id"
"""string, spans only. What to quote to support."""

RESPONSE_HEADER_REQUEST_ID: Final = f"{HTTP_RESPONSE_HEADER_TEMPLATE}.x-request-id"
"""string[], spans only. The same, in the semantic conventions' form."""

SERVER_DURATION: Final = "assisters.server.duration"
"""double, seconds, spans only. How long the API says that it took."""

RETRY_AFTER: Final = "assisters.retry_after"
"""double, seconds, spans only. How long the API asks to wait."""

RATELIMIT: Final = "assisters.ratelimit.{}.{}"
"""int (reset: double, seconds from now), spans only: {requests,tokens}.{limit,remaining,reset}."""

RETRY_REASON: Final = "assisters.retry.reason"
"""string. The code, else the type, the status or the exception of the attempt before."""

RETRY_DELAY: Final = "assisters.retry.delay"
"""double, seconds, spans only. From the end of the attempt before to this send."""

RETRY_EARLY: Final = "assisters.retry.early"
"""bool. Whether that is sooner than the API asked, with the same Authorization."""

RETRY_FUTILE: Final = "assisters.retry.futile"
"""bool. Whether no retry could have helped."""

GEN_AI_OPERATION_NAME: Final = "gen_ai.operation.name"
GEN_AI_PROVIDER_NAME: Final = "gen_ai.provider.name"
GEN_AI_REQUEST_MODEL: Final = "gen_ai.request.model"
"""string. Source: GenAI conventions, in development and marked deprecated in the package that
holds the constants, since they move; so typed here."""

PROVIDER: Final = "assisters"
"""``gen_ai.provider.name`` of our call spans."""

RETRY_COUNT: Final = "assisters.retry.count"
"""int, call spans only. Resends within the call."""

RETRY_WAIT: Final = "assisters.retry.wait"
"""double, seconds, call spans only. What went by between its attempts, in all."""

CALL_OUTCOME: Final = "assisters.call.outcome"
"""string. One of `OUTCOMES`."""

CALL_RESEND_COUNT: Final = "assisters.call.resend_count"
"""int, call spans only. Which resend of the same call, by the app's own loop, it is."""

ATTEMPTS: Final = "assisters.attempts"
"""int, log only. How many attempts a failed call took."""

FAILURES: Final = "assisters.failures"
"""int, log only. How many failures a line stands for."""

TRACE_ID: Final = "trace_id"
SPAN_ID: Final = "span_id"
"""string, log only. In hex, as backends show them. Source: OpenTelemetry, "Trace Context in
non-OTLP Log Formats"."""

OK: Final = "ok"
RECOVERED: Final = "recovered"
FAILED: Final = "failed"
CANCELLED_CALL: Final = "cancelled"
OUTCOMES: Final = (OK, RECOVERED, FAILED, CANCELLED_CALL)
"""How a call can end; recovered is ok after a retry."""

STREAM_SPAN: Final = "assisters.stream"
"""The name of the span of an event stream outside an SDK's call."""

STREAM_OUTCOME: Final = "assisters.stream.outcome"
"""string. One of `STREAM_OUTCOMES`."""

STREAM_CHUNKS: Final = "assisters.stream.chunks"
"""int. Data events that came, ``[DONE]`` not counted."""

STREAM_FIRST_CHUNK: Final = "assisters.stream.time_to_first_chunk"
"""double, seconds. From the start of the call, or outside one of the request, to the first
data event. Source: GenAI conventions, ``gen_ai.client.operation.time_to_first_chunk``."""

STREAM_ERROR: Final = "error"
COMPLETED: Final = "completed"
TRUNCATED: Final = "truncated"
CANCELLED_STREAM: Final = "cancelled"
ABANDONED: Final = "abandoned"
STREAM_OUTCOMES: Final = (STREAM_ERROR, COMPLETED, TRUNCATED, CANCELLED_STREAM, ABANDONED)
"""How an event stream can end; the first of them that applies."""

OTHER: Final = "_OTHER"
"""What a metric says in place of a value outside its closed set. Source: semantic conventions."""

CANCELLED: Final = "CancelledError"
"""``error.type`` of an attempt that its caller cancelled, whatever the framework calls it."""


class Attribute(NamedTuple):
    """One row of the contract's tables of a span's attributes.

    Attributes:
        name: As it is sent.
        type: OpenTelemetry's type, and the unit if there is one.
        when: When it is there.
        value: What it says.
    """

    name: str
    type: str
    when: str
    value: str


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
    Attribute(GEN_AI_OPERATION_NAME, "string", "the conventions have one", "`chat`, `embeddings`"),
    Attribute(GEN_AI_PROVIDER_NAME, "string", "always", f"`{PROVIDER}`"),
    Attribute(GEN_AI_REQUEST_MODEL, "string", "the call names one", "as asked for"),
    Attribute(SERVER_ADDRESS, "string", "always", "the API's host"),
    Attribute(SERVER_PORT, "int", "it is not 443", "its port"),
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
    Attribute(ERROR_RETRYABLE, "bool", "same", "the last attempt's"),
    Attribute(ERROR_MESSAGE, "string", "same, and `capture_message`", "the last attempt's"),
)

STREAM_ATTRIBUTES: Final = (
    Attribute(STREAM_OUTCOME, "string", "always", ", ".join(f"`{one}`" for one in STREAM_OUTCOMES)),
    Attribute(STREAM_CHUNKS, "int", "always", "data events but `[DONE]`"),
    Attribute(
        STREAM_FIRST_CHUNK, "double, s", "there was one", "from the start of the call or request"
    ),
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
    Attribute(REQUEST_ID, "string", "the response has X-Request-ID", "its value"),
)

HTTP_URL: Final = "http.url"
HTTP_METHOD: Final = "http.method"
"""The names of the old conventions, which the HTTP instrumentation still writes by default."""
