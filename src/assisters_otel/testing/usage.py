"""The books of a fake API: the tokens that it has reported to its clients. Pure.

A client learns of the usage with the last bytes of an answer. So what was broken off or cancelled
is not in the books, whatever the answer would have said.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from assisters_otel.testing.answers import EVENTS, sent_json

if TYPE_CHECKING:
    from assisters_otel.testing.answers import Received, SampleBody

# The fields of a chat's and an embedding's usage, and those of openai's `responses`.
_INPUT = ("prompt_tokens", "input_tokens")
_OUTPUT = ("completion_tokens", "output_tokens")


class SentUsage(NamedTuple):
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
    usage = _usage_of_events(content.body) if content.content_type == EVENTS else None
    if content.content_type != EVENTS:
        usage = _usage_of(content.body)
    if not isinstance(usage, dict):
        return None
    counts = [next((usage[name] for name in of if name in usage), 0) for of in (_INPUT, _OUTPUT)]
    if not any(name in usage for name in (*_INPUT, *_OUTPUT)):
        return None
    model = sent_json(received).get("model")
    return SentUsage(received.path, model if isinstance(model, str) else None, *counts)


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
    except ValueError:
        return None
    if not isinstance(value, dict):
        return None
    # The last event of openai's `responses` holds the whole response.
    response = value.get("response")
    return (response if isinstance(response, dict) else value).get("usage")
