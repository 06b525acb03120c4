"""The record of an answer: which model answered, why it stopped, and its tokens. Pure.

The members are read by attribute or by key, from an object of `openai`, a dictionary of `assisters`
or an event of a stream. A member may have any type: no SDK validates an answer.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING, Final

from assisters_otel.api.limits import MAX_VALUE
from assisters_otel.api.redaction import clean, without
from assisters_otel.records import Record
from assisters_otel.semconv import gen_ai

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from assisters_otel.api.gen_ai_request import Value

MAX_CHOICES: Final = 16
"""The finish reasons that are kept. A call asks for one choice, or for a few."""

_INT64: Final = 2**63

# The members of a usage: of chats and embeddings; of `responses`, images and transcriptions.
# Each with its attribute; then the member with its details, one of these, and that one's attribute.
_TOKENS: Final = tuple(
    (
        (
            *(asked, gen_ai.USAGE_INPUT_TOKENS),
            *(f"{asked}_details", "cached_tokens", gen_ai.USAGE_CACHE_READ_TOKENS),
        ),
        (
            *(made, gen_ai.USAGE_OUTPUT_TOKENS),
            *(f"{made}_details", "reasoning_tokens", gen_ai.USAGE_REASONING_TOKENS),
        ),
    )
    for asked, made in (("prompt_tokens", "completion_tokens"), ("input_tokens", "output_tokens"))
)

# Source: the shipping GenAI instrumentation of `openai`. It names the ends of `responses` by the
# finish reasons of chats.
REASON_BY_STATUS: Final = {"completed": "stop", "failed": "error", "cancelled": "error"}
_REASON_BY_LIMIT: Final = {"max_output_tokens": "length", "content_filter": "content_filter"}
# Values that need no cleaning.
_REASONS: Final = frozenset({"stop", "length", "tool_calls", "function_call", "content_filter"})
_USAGES: Final = frozenset(
    {
        gen_ai.USAGE_INPUT_TOKENS,
        gen_ai.USAGE_OUTPUT_TOKENS,
        gen_ai.USAGE_CACHE_READ_TOKENS,
        gen_ai.USAGE_REASONING_TOKENS,
    }
)


class Answer(Record):
    """The record of an answer.

    Attributes:
        model: The model that answered, cleaned, or None.
        attributes: The GenAI attributes of the answer, with its model and its tokens.
    """

    model: str | None
    attributes: Mapping[str, Value]

    def without_usage(self) -> Answer:
        """Return the same record without the tokens."""
        kept = {name: value for name, value in self.attributes.items() if name not in _USAGES}
        return Answer(self.model, kept)

    def without_keys(self, secrets: Sequence[str]) -> Answer:
        """Return the same record with *secrets* redacted: it may quote a key of the request's."""
        reasons = self.attributes.get(gen_ai.RESPONSE_FINISH_REASONS)
        texts = reasons if isinstance(reasons, tuple) else ()
        told = f"{self.attributes.get(gen_ai.RESPONSE_ID)}\n{self.model}\n{' '.join(texts)}"
        if without(told, secrets) == told:
            return self
        shown = {name: _without_keys(value, secrets) for name, value in self.attributes.items()}
        return Answer(None if self.model is None else without(self.model, secrets), shown)


def _without_keys(value: Value, secrets: Sequence[str]) -> Value:
    if isinstance(value, tuple):
        return tuple(without(one, secrets) for one in value)
    return without(value, secrets) if isinstance(value, str) else value


def of_parts(
    id_: str | None, model: str | None, reasons: tuple[str, ...], usage: Mapping[str, Value]
) -> Answer | None:
    """Return the record of what is known of an answer, or None if that is nothing.

    Args:
        id_: Its id, cleaned, or None.
        model: The model that answered, cleaned, or None.
        reasons: The finish reason of each choice.
        usage: The attributes of its tokens.
    """
    found: dict[str, Value] = {}
    if id_ is not None:
        found[gen_ai.RESPONSE_ID] = id_
    if model is not None:
        found[gen_ai.RESPONSE_MODEL] = model
    if reasons:
        found[gen_ai.RESPONSE_FINISH_REASONS] = reasons
    found |= usage
    return Answer(model, found) if found else None


def of_result(result: object) -> Answer | None:
    """Return the record of an answer that an SDK has parsed, or None if it says nothing.

    Args:
        result: An object of `openai`, or a dictionary of `assisters`. A member may have any type:
            no SDK validates an answer.
    """
    if result is None or isinstance(result, str | bytes):
        return None
    read = _reader(result)
    return of_parts(
        clean_text(read("id", None)),
        clean_model(read("model", None)),
        finish_reasons(result),
        usage_attributes(read("usage", None)),
    )


def _reader(value: object) -> Callable[[str, None], object]:
    """Return what reads the members of a value, with no step of Python (``openai, tokens``)."""
    return value.get if isinstance(value, dict) else partial(getattr, value)


def member(value: object, name: str) -> object:
    """Return a member of an object or a dictionary, or None if it has none of that name."""
    if isinstance(value, dict):
        return value.get(name)
    return getattr(value, name, None)


def clean_text(value: object) -> str | None:
    """Return a text that is fit for an attribute, or None."""
    if not isinstance(value, str):
        return None
    return value if value in _REASONS else clean(value).strip() or None


@lru_cache(64)
def _cleaned(model: str) -> str | None:
    return clean(model).strip() or None


def clean_model(value: object) -> str | None:
    """Return the name of a model that is fit for an attribute, or None."""
    return (
        _cleaned(value) if isinstance(value, str) and len(value) <= MAX_VALUE else clean_text(value)
    )


def finish_reasons(result: object) -> tuple[str, ...]:
    """Return the finish reasons of a chat's choices, or that of an answer of `responses`."""
    choices = member(result, "choices")
    if isinstance(choices, list):
        reasons = [member(one, "finish_reason") for one in choices[:MAX_CHOICES]]
        return tuple([text for reason in reasons if (text := clean_text(reason))])
    status = member(result, "status")
    if not isinstance(status, str) or member(result, "object") != "response":
        return ()
    if status != "incomplete":
        reason = REASON_BY_STATUS.get(status)
    else:
        limit = clean_text(member(member(result, "incomplete_details"), "reason"))
        reason = _REASON_BY_LIMIT.get(limit or "", limit or status)
    return () if reason is None else (reason,)


def count(value: object) -> int | None:
    """Return an integer of 0 or more that fits an int64, or None."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _INT64:
        return value
    return None


def usage_attributes(usage: object) -> dict[str, Value]:
    """Return the attributes of a usage. There are none if it counts something other than tokens."""
    found: dict[str, Value] = {}
    if usage is None:
        return found
    read = _reader(usage)
    for members in _TOKENS:
        for name, attribute, _, _, _ in members:
            if (tokens := count(read(name, None))) is not None:
                found[attribute] = tokens
        if found:
            for _, _, name, detail, attribute in members:
                details = read(name, None)
                if details is not None and (tokens := count(member(details, detail))) is not None:
                    found[attribute] = tokens
            break
    return found
