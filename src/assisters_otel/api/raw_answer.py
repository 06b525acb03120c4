"""Reads the record of an answer from the result of an SDK's call. Pure.

Where the SDK has parsed the body, the record is made of its object. Where the SDK returns the body
raw, the record is made of the bytes that the client has decoded. A body of up to `MAX_BYTES` is
parsed. Of a longer one the members before its long part are parsed, each for itself. What stands
behind that part is searched, and the usage from the end.

How the search stays exact: inside a JSON string each quotation mark has a backslash before it. So
``"usage"`` followed by a colon is a member's name, and never text of the model.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from assisters_otel.api import answer
from assisters_otel.api.error_body import parse_object
from assisters_otel.api.limits import MAX_BYTES

if TYPE_CHECKING:
    from assisters_otel.api.answer import Answer

_JSON: Final = json.JSONDecoder()
_USAGE: Final = b'"usage"'
_FINISH_REASON: Final = b'"finish_reason"'
_MAX_NESTED: Final = 4096  # bytes; a usage with all its details has some 400
_MAX_BEHIND: Final = 1024  # bytes behind the last nested value: id, object, created, model
_MAX_MEMBERS: Final = 64  # an answer of `responses` has some 30
_MAX_SEARCHES: Final = 1000  # names that are no member's, as texts of a list
_COLON: Final = re.compile(rb"\s*:\s*")
_TEXT: Final = rb'"[^"\\\x00-\x1f]*(?:\\.[^"\\\x00-\x1f]*)*"'
_NAME: Final = re.compile(rb'\s*[{,]\s*("[^"\\\x00-\x1f]{1,64}")\s*:\s*')
_LONG_TEXT: Final = re.compile(_TEXT)
_STRING: Final = re.compile(rb"\s*:\s*(" + _TEXT + rb")")
_NO_MEMBERS: Final = MappingProxyType[str, object]({})


def of_sdk_result(result: object) -> Answer | None:
    """Return the record of the answer in the result of an SDK's call, or None.

    Args:
        result: The parsed answer; or the SDK's wrapper of the client's response, whose content the
            app may not have read.
    """
    response = getattr(result, "__dict__", _NO_MEMBERS).get("http_response")
    if response is None:
        return answer.of_result(result)
    with suppress(RuntimeError):  # of the client: the content was not read, or was not kept
        content = getattr(response, "content", None)
        return of_content(content) if isinstance(content, bytes) else None
    return None


def of_content(content: bytes) -> Answer | None:
    """Return the record of an answer from its decoded bytes.

    Args:
        content: The whole body.
    """
    document = parse_object(content)
    if document:
        return answer.of_result(document)
    if not content[:_MAX_BEHIND].lstrip().startswith(b"{"):
        return None
    members, long_one = _members_before_long_one(content[: 2 * MAX_BYTES])
    tail = content[-MAX_BYTES:]
    # Embeddings name the model behind their data, as does a server that sorts the members.
    behind = tail[tail.rfind(b"]") + 1 :][:_MAX_BEHIND]
    reasons: tuple[str, ...] = ()
    if long_one == "choices":
        reasons = _strings(content, _FINISH_REASON)
    elif members.get("status") != "incomplete" or "incomplete_details" in members:
        reasons = answer.finish_reasons(members)
    return answer.of_parts(
        answer.clean_text(members.get("id")) or _string(behind, b'"id"'),
        answer.clean_model(members.get("model")) or _string(behind, b'"model"'),
        reasons,
        answer.usage_attributes(members.get("usage") or last_usage(tail)),
    )


def _members_before_long_one(beginning: bytes) -> tuple[dict[str, object], str | None]:
    """Return the first members of a JSON object, and the name of the one that is too long.

    A text may have any length within *beginning*, as the instructions of `responses` have. A nested
    value has at most `_MAX_NESTED` bytes.
    """
    members: dict[str, object] = {}
    at = 0
    while len(members) < _MAX_MEMBERS and (named := _NAME.match(beginning, at)) is not None:
        name, at = named[1][1:-1].decode("utf-8", "replace"), named.end()
        text = _LONG_TEXT.match(beginning, at)
        part = text[0] if text is not None else beginning[at : at + _MAX_NESTED]
        value, size = _value(part)
        if size is None:
            return members, name
        members[name], at = value, at + size
    return members, None


def _value(part: bytes) -> tuple[object, int | None]:
    """Return the JSON value at the start of *part*, and its bytes; None of them if it has none."""
    text = part.decode("utf-8", "surrogateescape")
    try:
        value, end = _JSON.raw_decode(text)
    except (ValueError, RecursionError):
        return None, None
    return value, len(text[:end].encode("utf-8", "surrogateescape"))


def _string(part: bytes, name: bytes) -> str | None:
    """Return the text of the first member *name* in a part of a JSON document, or None."""
    at = part.find(name)
    match = _STRING.match(part, at + len(name)) if at >= 0 else None
    return None if match is None else answer.clean_text(_value(match[1])[0])


def _strings(content: bytes, name: bytes) -> tuple[str, ...]:
    """Return the texts of the first `MAX_CHOICES` members *name*, in their order."""
    found: list[str] = []
    at = count = 0
    for _ in range(_MAX_SEARCHES):
        at = content.find(name, at)
        if at < 0 or count == answer.MAX_CHOICES:
            break
        at += len(name)
        if _COLON.match(content, at) is None:
            continue
        count += 1
        text = _string(content[at - len(name) : at + _MAX_BEHIND], name)
        if text is not None:
            found.append(text)
    return tuple(found)


def last_usage(tail: bytes) -> object:
    """Return the last usage in the end of a body, parsed, or None.

    It may have any type but a text: that is the app's own, in the metadata of `responses`.
    """
    at = len(tail)
    while (at := tail.rfind(_USAGE, 0, at)) >= 0:
        colon = _COLON.match(tail, at + len(_USAGE))
        if colon is None:
            continue
        usage, size = _value(tail[colon.end() : colon.end() + _MAX_NESTED])
        if size is None or not isinstance(usage, str):
            return usage
    return None
