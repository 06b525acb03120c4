"""Reads the record of an answer from the result of an SDK's call, without a second parse. Pure.

Where the SDK has parsed the body, the record is made of its object. Where the SDK returns the body
raw, the record is made of the bytes that the client has decoded. The usage stands near the end of
them, so it is searched from the end. It alone is parsed, which is a few numbers.

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
from assisters_otel.api.limits import MAX_BYTES

if TYPE_CHECKING:
    from assisters_otel.api.answer import Answer

_JSON: Final = json.JSONDecoder()
_USAGE: Final = b'"usage"'
_FINISH_REASON: Final = b'"finish_reason"'
_CHOICES: Final = b'"choices"'
_MAX_USAGE: Final = 4096  # bytes; a usage with all its details has some 400
_MAX_HEAD: Final = 1024  # bytes before the first nested value: id, object, created, model
_NESTED: Final = re.compile(rb"[\[{]")
_COLON: Final = re.compile(rb"\s*:\s*")
_STRING: Final = re.compile(rb'\s*:\s*"([^"\\\x00-\x1f]{1,256})"')
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
    """Return the record of an answer from its decoded bytes, without parsing them.

    Args:
        content: The whole body. All but its first and its last 64 KiB is left alone.
    """
    beginning = content[: 2 * _MAX_HEAD].lstrip()
    if not beginning.startswith(b"{"):
        return None
    nested = _NESTED.search(beginning, 1)
    head = beginning[: _MAX_HEAD if nested is None else nested.start()]
    tail = content[-MAX_BYTES:]
    # Embeddings name the model behind their data.
    behind = tail[tail.rfind(b"]") + 1 :][:_MAX_HEAD]
    if _CHOICES in beginning:
        reasons = tuple(_strings_from_the_end(tail, _FINISH_REASON))
    else:
        reason = answer.REASON_BY_STATUS.get(_string(head, b'"status"') or "")
        reasons = () if reason is None else (reason,)
    model = _string(head, b'"model"') or _string(behind, b'"model"')
    return answer.of_parts(
        _string(head, b'"id"'), model, reasons, answer.usage_attributes(last_usage(tail))
    )


def _string(part: bytes, name: bytes) -> str | None:
    """Return the text of the first member *name* in a part of a JSON document, or None."""
    at = part.find(name)
    match = _STRING.match(part, at + len(name)) if at >= 0 else None
    return None if match is None else answer.clean_text(match[1].decode("utf-8", "replace"))


def _strings_from_the_end(part: bytes, name: bytes) -> list[str]:
    """Return the texts of the last `MAX_CHOICES` members *name*, in their order."""
    found: list[str] = []
    at = len(part)
    while len(found) < answer.MAX_CHOICES and (at := part.rfind(name, 0, at)) >= 0:
        text = _string(part[at : at + _MAX_HEAD], name)
        if text is not None:
            found.insert(0, text)
    return found


def last_usage(tail: bytes) -> object:
    """Return the last usage in the end of a body, parsed, or None. It may have any type."""
    at = len(tail)
    while (at := tail.rfind(_USAGE, 0, at)) >= 0:
        colon = _COLON.match(tail, at + len(_USAGE))
        if colon is None:
            continue
        start = colon.end()
        try:
            text = tail[start : start + _MAX_USAGE].decode("utf-8", "replace")
            usage: object = _JSON.raw_decode(text)[0]
        except (ValueError, RecursionError):
            return None
        return usage
    return None
