"""A span for people: the lines that show an attempt, a call or a stream, from attributes alone.

Attributes may come from the SDK or from an OTLP request. No HTTP client is imported, nor
the fake API. So every command can show a span.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.http_attributes import (
    HTTP_REQUEST_RESEND_COUNT,
    HTTP_RESPONSE_STATUS_CODE,
)
from rich.console import Group
from rich.text import Text

from assisters_otel import catalog
from assisters_otel.semconv import attributes as names
from assisters_otel.semconv import gen_ai

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Attributes = Mapping[str, object]

_OLD_STATUS_CODE: Final = "http.status_code"
"""The status under the old conventions, which OpenTelemetry's HTTP instrumentations write by
default. The library's own HTTP spans never have it."""

_WINDOWS: Final = ("requests", "tokens")
"""The units of the API's rate limits."""

_COLOURS: Final = {
    **dict.fromkeys((names.OK, names.RECOVERED, names.COMPLETED), "green"),
    **dict.fromkeys((names.CANCELLED_CALL, names.ABANDONED), "yellow"),
}
"""The colours of the outcomes of calls and streams. All others are red."""


def error_name(attributes: Attributes) -> str | None:
    """Return ``error.code``, else ``error.type``, of a span or a metric point; None on success."""
    name = attributes.get(names.ERROR_CODE, attributes.get(ERROR_TYPE))
    return None if name is None else str(name)


def call_outcome(attributes: Attributes) -> str | None:
    """Return how an SDK's call ended; None if the attributes are of no call."""
    outcome = attributes.get(names.CALL_OUTCOME)
    return None if outcome is None else str(outcome)


def stream_outcome(attributes: Attributes) -> str | None:
    """Return how an event stream ended; None if the attributes are of no stream."""
    outcome = attributes.get(names.STREAM_OUTCOME)
    return None if outcome is None else str(outcome)


def http_status(attributes: Attributes) -> int | None:
    """Return the HTTP status of an attempt, or None if there was no answer."""
    status = attributes.get(HTTP_RESPONSE_STATUS_CODE, attributes.get(_OLD_STATUS_CODE))
    return status if isinstance(status, int) and status else None


def is_cancelled(attributes: Attributes) -> bool:
    """Return True if an attempt has neither an answer nor an error: its caller gave up."""
    return http_status(attributes) is None and error_name(attributes) is None


def retry_faults(attributes: Attributes) -> Iterator[str]:
    """Yield what is wrong with a retry, as its span or its metric point has it."""
    if attributes.get(names.RETRY_EARLY):
        yield "earlier than asked"
    if attributes.get(names.RETRY_FUTILE):
        yield "no use"


def attempt_text(name: str, attributes: Attributes, advised: set[str]) -> Group:
    """Return the lines of one HTTP attempt: outcome, resend, error, limits and advice.

    Args:
        name: The span's name.
        attributes: The span's attributes.
        advised: The codes whose advice has been shown. It is shown once; this adds to the set.
    """
    error, status = error_name(attributes), http_status(attributes)
    answer = str(status) if status else "no answer"
    colour = "red" if error else _COLOURS[names.OK]
    outcome = answer if error == answer else f"{answer} {error or names.OK}"
    if is_cancelled(attributes):
        outcome, colour = names.CANCELLED_CALL, _COLOURS[names.CANCELLED_CALL]
    lines = [Text.assemble((outcome, f"bold {colour}"), f"  {name}")]
    lines += _resend(attributes)
    lines += [Text(", ".join(facts)) for facts in _facts(attributes) if facts]
    known = catalog.find(error) if error and error not in advised else None
    if known:
        advised.add(known.code)
        lines.append(Text(f"to do: {known.advice}", "dim"))
    return Group(*lines)


def call_text(name: str, attributes: Attributes, *, has_facts: bool = False) -> Group:
    """Return the lines of an SDK's call or of an event stream: outcome, error, retries, chunks.

    A span that is neither has its name alone.

    Args:
        name: The span's name.
        attributes: The span's attributes.
        has_facts: True if the lines have the facts of the error, which no attempt's have.
    """
    outcome = call_outcome(attributes) or stream_outcome(attributes)
    if outcome is None:
        return Group(Text(name))
    colour = _COLOURS.get(outcome, "red")
    error = error_name(attributes)
    if error is not None and call_outcome(attributes) is not None:  # a stream names its own
        outcome = f"{outcome} {error}"
    head = Text.assemble((outcome, f"bold {colour}"), f"  {name}")
    facts = ", ".join(_error_facts(attributes)) if has_facts else ""
    lines = (*_call_retries(attributes), *_stream(attributes), *_usage(attributes))
    return Group(head, *([Text(facts)] if facts else []), *lines)


def _call_retries(attributes: Attributes) -> Iterator[Text]:
    retries = attributes.get(names.RETRY_COUNT)
    if retries:
        plural = "retry" if retries == 1 else "retries"
        wait = f"{attributes[names.RETRY_WAIT]:.2f} s"
        yield Text(f"{retries} {plural}, {wait} between the attempts")


def _stream(attributes: Attributes) -> Iterator[Text]:
    outcome = stream_outcome(attributes)
    if outcome is None:
        return
    error = error_name(attributes) if call_outcome(attributes) is None else None
    facts = [f"stream {outcome}" if error in (None, outcome) else f"stream {outcome}: {error}"]
    facts.append(f"{attributes[names.STREAM_CHUNKS]} chunks")
    if gen_ai.RESPONSE_FIRST_CHUNK in attributes:
        facts.append(f"the first after {attributes[gen_ai.RESPONSE_FIRST_CHUNK]:.2f} s")
    yield Text(", ".join(facts))
    if names.REQUEST_ID in attributes:
        yield Text(f"request id {attributes[names.REQUEST_ID]}")


def _usage(attributes: Attributes) -> Iterator[Text]:
    """Yield the tokens of a call, its key if it has failed, and whose it was."""
    facts = [
        f"{attributes[name]} {'token' if attributes[name] == 1 else 'tokens'} {way}"
        for name, way in ((gen_ai.USAGE_INPUT_TOKENS, "in"), (gen_ai.USAGE_OUTPUT_TOKENS, "out"))
        if name in attributes
    ]
    facts += _caller(attributes)
    if facts:
        yield Text(", ".join(facts))


def _caller(attributes: Attributes) -> Iterator[str]:
    """Yield the key's fingerprint, and the entries of the app's baggage.

    What the app names has no namespace; all other attributes have one.
    """
    if names.API_KEY_FINGERPRINT in attributes:
        yield f"key {attributes[names.API_KEY_FINGERPRINT]}"
    for name, value in attributes.items():
        if "." not in name:
            yield f"{name} {value}"


def _resend(attributes: Attributes) -> Iterator[Text]:
    """Yield which resend an attempt is, of what, and what is wrong with it."""
    number = attributes.get(HTTP_REQUEST_RESEND_COUNT)
    if not number:
        return
    line = Text(f"resend {number}")
    if names.RETRY_REASON in attributes:
        line.append(f" after {attributes[names.RETRY_REASON]}")
    if names.RETRY_DELAY in attributes:
        line.append(f", {attributes[names.RETRY_DELAY]:.2f} s later")
    for fault in retry_faults(attributes):
        line.append(", ").append(fault, "yellow")
    yield line


def _facts(attributes: Attributes) -> Iterator[list[str]]:
    """Yield the facts of an attempt's error, one list for each line."""
    yield list(_error_facts(attributes))
    # The limits of the minute say nothing where no retry helps, as with a month's tokens
    # (test_a_month_s_tokens_are_not_said_to_come_back_in_a_second).
    if attributes.get(names.ERROR_RETRYABLE):
        yield list(_limits(attributes))
    yield list(_caller(attributes))
    if names.REQUEST_ID in attributes:
        yield [f"request id {attributes[names.REQUEST_ID]}"]


def _error_facts(attributes: Attributes) -> Iterator[str]:
    """Yield the facts of an error beside its name: type, parameter, and whether a retry helps."""
    if names.ERROR_CODE in attributes and ERROR_TYPE in attributes:
        yield f"type {attributes[ERROR_TYPE]}"
    if names.ERROR_PARAM in attributes:
        yield f"param {attributes[names.ERROR_PARAM]}"
    if names.ERROR_RETRYABLE in attributes:
        yield f"retryable {'yes' if attributes[names.ERROR_RETRYABLE] else 'no'}"
    if names.RETRY_AFTER in attributes:
        yield f"retry after {attributes[names.RETRY_AFTER]} s"


def _limits(attributes: Attributes) -> Iterator[str]:
    for window in _WINDOWS:
        left = attributes.get(names.RATELIMIT.format(window, "remaining"))
        limit = attributes.get(names.RATELIMIT.format(window, "limit"))
        if left is not None and limit is not None:
            yield f"{left} of {limit} {window} left"
