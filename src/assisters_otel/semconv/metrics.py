"""Every instrument: its name, unit, description and labels.

The number of values of each label is bounded: see `sinks.label_values`. The entries of the app's
baggage that `init` names are labels of `ERRORS`, `CALL_ATTEMPTS` and `TOKEN_USAGE` as well.
"""

from __future__ import annotations

from typing import Final

from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.http_attributes import (
    HTTP_REQUEST_METHOD,
    HTTP_RESPONSE_STATUS_CODE,
)
from opentelemetry.semconv.attributes.server_attributes import SERVER_ADDRESS, SERVER_PORT

from assisters_otel.records import Record
from assisters_otel.semconv import gen_ai
from assisters_otel.semconv.attributes import (
    API_KEY_FINGERPRINT,
    CALL_OUTCOME,
    ERROR_CODE,
    ERROR_RETRYABLE,
    RETRY_EARLY,
    RETRY_FUTILE,
    RETRY_REASON,
    URL_TEMPLATE,
)


class Metric(Record):
    """One instrument.

    Attributes:
        name: The name, as exported.
        instrument: ``histogram``, ``counter`` or ``gauge`` (observable).
        unit: The unit in UCUM, as OpenTelemetry requires.
        description: The sentence that a backend shows beside the metric.
        attributes: The labels that its points may have.
    """

    name: str
    instrument: str
    unit: str
    description: str
    attributes: tuple[str, ...]


DURATION_BOUNDARIES: Final = (
    0.01,
    0.02,
    0.04,
    0.08,
    0.16,
    0.32,
    0.64,
    1.28,
    2.56,
    5.12,
    10.24,
    20.48,
    40.96,
    81.92,
)
"""Seconds. Source: semantic conventions, ``gen_ai.client.operation.duration``."""

REQUEST_DURATION: Final = Metric(
    "assisters.client.request.duration",
    "histogram",
    "s",
    "Time from sending a request to its response headers, or to its failure.",
    (
        HTTP_REQUEST_METHOD,
        URL_TEMPLATE,
        SERVER_ADDRESS,
        SERVER_PORT,
        HTTP_RESPONSE_STATUS_CODE,
        ERROR_TYPE,
        ERROR_CODE,
    ),
)
ERRORS: Final = Metric(
    "assisters.client.errors",
    "counter",
    "{error}",
    "Attempts that failed.",
    (
        ERROR_TYPE,
        ERROR_CODE,
        HTTP_RESPONSE_STATUS_CODE,
        URL_TEMPLATE,
        SERVER_ADDRESS,
        SERVER_PORT,
        ERROR_RETRYABLE,
        API_KEY_FINGERPRINT,
    ),
)
RETRIES: Final = Metric(
    "assisters.client.retries",
    "counter",
    "{retry}",
    "Attempts that were sent again after one that failed or was cancelled.",
    (RETRY_REASON, RETRY_EARLY, RETRY_FUTILE, URL_TEMPLATE, SERVER_ADDRESS, SERVER_PORT),
)
CALL_ATTEMPTS: Final = Metric(
    "assisters.client.call.attempts",
    "histogram",
    "{attempt}",
    "Attempts that an SDK's call took; a redirect's hop belongs to the attempt before it.",
    (
        gen_ai.OPERATION_NAME,
        gen_ai.REQUEST_MODEL,
        URL_TEMPLATE,
        SERVER_ADDRESS,
        SERVER_PORT,
        CALL_OUTCOME,
        ERROR_TYPE,
        ERROR_CODE,
    ),
)
ATTEMPTS_BOUNDARIES: Final = (1, 2, 3, 4, 5, 8)
"""Attempts. By default `openai` and `assisters` send a request three times at most."""

_OPERATION: Final = (
    gen_ai.OPERATION_NAME,
    gen_ai.PROVIDER_NAME,
    gen_ai.REQUEST_MODEL,
    gen_ai.RESPONSE_MODEL,
    SERVER_ADDRESS,
    SERVER_PORT,
)
OPERATION_DURATION: Final = Metric(
    "gen_ai.client.operation.duration",
    "histogram",
    "s",
    "Time from the start of an SDK's call, over its retries, to the end of its body.",
    (*_OPERATION, CALL_OUTCOME, ERROR_TYPE, ERROR_CODE),
)
FIRST_CHUNK: Final = Metric(
    "gen_ai.client.operation.time_to_first_chunk",
    "histogram",
    "s",
    "Time from the start of a call, or of a request outside one, to the first event of its stream.",
    (*_OPERATION, CALL_OUTCOME, ERROR_TYPE, ERROR_CODE),
)
TOKEN_USAGE: Final = Metric(
    "gen_ai.client.token.usage",
    "histogram",
    "{token}",
    "Tokens of a call, as its answer counts them.",
    (*_OPERATION, gen_ai.TOKEN_TYPE, CALL_OUTCOME, API_KEY_FINGERPRINT),
)
TOKEN_BOUNDARIES: Final = tuple(4**power for power in range(14))
"""Tokens, 1 to 67,108,864. Source: semantic conventions, ``gen_ai.client.token.usage``."""

_LIMIT: Final = (SERVER_ADDRESS, SERVER_PORT, API_KEY_FINGERPRINT)
REQUESTS_LIMIT: Final = Metric(
    "assisters.client.ratelimit.requests.limit",
    "gauge",
    "{request}",
    "Requests a minute that the last response allowed.",
    _LIMIT,
)
REQUESTS_REMAINING: Final = Metric(
    "assisters.client.ratelimit.requests.remaining",
    "gauge",
    "{request}",
    "Requests of this minute that the last response left.",
    _LIMIT,
)
TOKENS_LIMIT: Final = Metric(
    "assisters.client.ratelimit.tokens.limit",
    "gauge",
    "{token}",
    "Tokens a minute that the last response allowed.",
    _LIMIT,
)
TOKENS_REMAINING: Final = Metric(
    "assisters.client.ratelimit.tokens.remaining",
    "gauge",
    "{token}",
    "Tokens of this minute that the last response left.",
    _LIMIT,
)
METRICS: Final = (
    REQUEST_DURATION,
    ERRORS,
    RETRIES,
    CALL_ATTEMPTS,
    OPERATION_DURATION,
    TOKEN_USAGE,
    FIRST_CHUNK,
    REQUESTS_LIMIT,
    REQUESTS_REMAINING,
    TOKENS_LIMIT,
    TOKENS_REMAINING,
)
