"""The books of a fake API: the tokens that it has reported to its clients. Pure.

A client learns of the usage with the last bytes of an answer. So what was broken off or cancelled
is not in the books, whatever the answer would have said.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from assisters_otel.records import Record
from assisters_otel.testing.answers import EVENTS, sent_json

if TYPE_CHECKING:
    from assisters_otel.testing.answers import Received, SampleBody

# The fields of a chat's and an embedding's usage, and those of openai's `responses`.
_INPUT = ("prompt_tokens", "input_tokens")
_OUTPUT = ("completion_tokens", "output_tokens")


class SentUsage(Record):
    """The usage in one answer that was sent to its end.

    Attributes:
        path: The path of the request, with the prefix: ``"/v1/chat/completions"``.
        model: The model that was asked for, or None.
        input_tokens: The tokens of the request; 0 if the answer does not say.
        output_tokens: The tokens of the answer; 0 if the answer does not say.
    """

    path: str
    model: str | None
    input_tokens: int
    output_tokens: int


def sent_usage(received: Received, content: SampleBody) -> SentUsage | None:
    """Return the usage that an answer reports, or None if it reports none.

    Args:
        received: The request.
        content: The status and the body of its answer.
    """
    read = _usage_of_events if content.content_type == EVENTS else _usage_of
    usage = read(content.body)
    if not isinstance(usage, dict):
        return None
    counts = [_count(usage, names) for names in (_INPUT, _OUTPUT)]
    if counts == [None, None]:
        return None
    model = sent_json(received).get("model")
    return SentUsage(
        received.path, model if isinstance(model, str) else None, counts[0] or 0, counts[1] or 0
    )


def _count(usage: dict[str, object], names: tuple[str, ...]) -> int | None:
    """Return the first whole number under one of *names*, or None."""
    for name in names:
        value = usage.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return None


def _usage_of_events(body: bytes) -> object:
    """Return the usage in the last event that has one, or None."""
    for line in reversed(body.splitlines()):
        if line.startswith(b"data:"):
            usage = _usage_of(line.removeprefix(b"data:"))
            if usage is not None:
                return usage
    return None


def _usage_of(text: bytes) -> object:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # a script may send any bytes
        return None
    if not isinstance(value, dict):
        return None
    # The last event of openai's `responses` holds the whole response.
    response = value.get("response")
    return (response if isinstance(response, dict) else value).get("usage")
