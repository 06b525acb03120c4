"""Finds the error in an answer that has a status of success, and is none. Pure.

A gateway may answer 200 with an error envelope, or with its login page. Such an answer is
*unusable*: it is no result, and the SDK raises nothing for it.

Rules.

* An error envelope is a JSON object that has an ``error``, an object or a text, and none of the
  members that each result of the API has one of.
* A page is an answer of the type ``text/html`` where JSON or an event stream was asked for.
* Everything else is a success: texts, bytes, an empty body, JSON of any other form.

An SDK's own result is judged where there is one. Otherwise `BodyBeginning` keeps the first bytes of
the body while the app reads it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from assisters_otel.api import error_body
from assisters_otel.api.content_encoding import decode_body
from assisters_otel.api.headers import CONTENT_ENCODING, CONTENT_TYPE
from assisters_otel.api.limits import MAX_BYTES
from assisters_otel.api.raw_answer import of_content

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from assisters_otel.api.answer import Answer
    from assisters_otel.api.error_body import Envelope

_RESULT_MEMBERS: Final = frozenset({"id", "object", "choices", "data"})
"""The members of a result. One that has any of them may have an ``error`` that is a part of it, as
a failed response of `openai` has. Source: the API's public docs, openai's `Response.error`."""

_PAGE: Final = b"text/html"
_ERROR: Final = b'"error"'


def is_page(headers: Mapping[bytes, bytes]) -> bool:
    """Return True if an answer is a page for a browser.

    Args:
        headers: The headers that `known_headers` selected.
    """
    return headers.get(CONTENT_TYPE, b"").lstrip().lower().startswith(_PAGE)


def error_in_result(result: Mapping[str, object]) -> Envelope | None:
    """Return the error that a parsed answer has in place of a result, or None.

    Args:
        result: The members of the JSON object, without those that the SDK has added.
    """
    error = result.get("error")
    # An empty one reports no error, as in the events of a good stream.
    if not error or not _RESULT_MEMBERS.isdisjoint(result):
        return None
    return error_body.envelope_of(error)


class BodyBeginning:
    """The first bytes of a body, as the caller reads it.

    Attributes:
        size: The number of bytes that are kept.
    """

    __slots__ = ("_parts", "size")

    def __init__(self) -> None:
        """Start with no bytes."""
        self._parts: list[bytes] = []
        self.size = 0

    def feed(self, chunk: bytes) -> None:
        """Keep the next bytes, as sent."""
        part = chunk[: MAX_BYTES + 1 - self.size]
        if part:
            self._parts.append(part)
            self.size += len(part)

    def error(self, headers: Mapping[bytes, bytes]) -> Envelope | None:
        """Return the error that the body has in place of a result, or None.

        Args:
            headers: The headers that `known_headers` selected. They say how the body was sent.
        """
        if self.size > MAX_BYTES:
            return error_body.parse_truncated_event(b"".join(self._parts))
        # Looked for before the body is parsed: nearly every one is a result, which has no error.
        suspected = (content for content in self._contents(headers) if _ERROR in content)
        found = (error_in_result(error_body.parse_object(content)) for content in suspected)
        return next(filter(None, found), None)

    def answer(self, headers: Mapping[bytes, bytes]) -> Answer | None:
        """Return the record of the answer, or None. A body of more than `MAX_BYTES` has none.

        Args:
            headers: The headers that `known_headers` selected. They say how the body was sent.
        """
        if self.size > MAX_BYTES:
            return None
        return next(filter(None, map(of_content, self._contents(headers))), None)

    def _contents(self, headers: Mapping[bytes, bytes]) -> Iterator[bytes]:
        """Yield the bytes as they came, which may be decoded already, then the decoded ones."""
        content = b"".join(self._parts)
        yield content
        encoding = headers.get(CONTENT_ENCODING)
        if encoding is not None:
            yield decode_body(content, encoding) or b""
