"""Reads the last two events of a stream: how the answer ended, and its tokens. Pure.

The usage stands in the last event, and before it the event with the finish reason. `responses` of
the `openai` SDK have one last event with the whole answer.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from assisters_otel.api import answer, raw_answer
from assisters_otel.api.error_body import parse_object
from assisters_otel.api.patterns import pattern
from assisters_otel.records import Record

if TYPE_CHECKING:
    from collections.abc import Iterable

    from assisters_otel.api.answer import Answer
    from assisters_otel.api.gen_ai_request import Value

_RESPONSES: Final = "response."
_RESPONSES_ENDS: Final = frozenset({"completed", "incomplete", "failed"})

_LONG_TYPE: Final = pattern(rb'\s*\{\s*"type"\s*:\s*"([a-z_.]{1,64})"')


class LastEvents(Record):
    """The record of the last events of a stream.

    Attributes:
        answer: The answer, or None if they say nothing of it.
        is_finished: True if one of them has a finish reason, and the stream has one choice.
        responses_end: For a stream of `responses` its end, ``completed``, ``incomplete`` or
            ``failed``; an empty text before its end. None for every other stream.
    """

    answer: Answer | None = None
    is_finished: bool = False
    responses_end: str | None = None


def shortened(name: bytes, beginning: bytes, tail: bytes) -> bytes:
    """Return the event that stands for one that is too long to be kept.

    The last event of `responses` repeats the instructions, the tools and the whole output. Without
    it the stream would look broken off, and its tokens would be lost.

    Args:
        name: The event's name, or an empty text.
        beginning: The beginning of its data.
        tail: The end of its data, as far as that was kept.

    Returns:
        The event's type and usage as an event of `responses`. Empty for every other event.
    """
    match = _LONG_TYPE.match(beginning)
    kind = name if match is None else match[1]
    end = kind.decode("latin-1").removeprefix(_RESPONSES)
    if not kind.startswith(_RESPONSES.encode()) or end not in _RESPONSES_ENDS:
        return b""
    response = {"object": "response", "status": end, "usage": raw_answer.last_usage(tail)}
    try:
        return json.dumps({"type": _RESPONSES + end, "response": response}).encode()
    except RecursionError:
        return b""


def of_events(events: Iterable[bytes]) -> LastEvents:
    """Return the record of the last events of a stream.

    Args:
        events: Their data, in their order. What stands before the JSON object is skipped.
    """
    id_ = model = None
    usage: dict[str, Value] = {}
    reasons: dict[int, str] = {}
    responses_end: str | None = None
    has_one_choice = True
    for data in events:
        document = parse_object(data[data.find(b"{") :])
        kind = document.get("type")
        body: object = document
        if isinstance(kind, str) and kind.startswith(_RESPONSES):
            end = kind.removeprefix(_RESPONSES)
            responses_end = end if end in _RESPONSES_ENDS else responses_end or ""
            body = document.get("response")
            reasons |= dict(enumerate(answer.finish_reasons(body)))
        id_ = answer.clean_text(answer.member(body, "id")) or id_
        model = answer.clean_model(answer.member(body, "model")) or model
        usage = answer.usage_attributes(answer.member(body, "usage")) or usage
        choices = answer.member(body, "choices")
        for choice in (choices if isinstance(choices, list) else ())[: answer.MAX_CHOICES]:
            index = answer.count(answer.member(choice, "index")) or 0
            has_one_choice &= index == 0
            if reason := answer.clean_text(answer.member(choice, "finish_reason")):
                reasons[index] = reason
    # Without those of the choices before them they would be taken for these.
    is_whole = reasons.keys() == set(range(len(reasons)))
    told = tuple(reasons[index] for index in sorted(reasons)) if is_whole else ()
    return LastEvents(
        answer.of_parts(id_, model, told, usage),
        bool(reasons) and has_one_choice and responses_end is None,
        responses_end,
    )
