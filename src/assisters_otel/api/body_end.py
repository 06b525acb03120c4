"""How a response body ended, and what that means for an event stream. Pure.

A client cannot tell whether a stream that ended was complete: the server may have stopped in the
middle. So the events decide first, and then the end of the body.

* A chat ends with ``data: [DONE]``. Some gateways drop that event. Then the finish reason of the
  only choice shows that nothing is missing. That holds for a body with chunks or a length alone:
  without them, a broken connection looks like an end.
* `responses` of the `openai` SDK ends with the event ``response.completed`` or
  ``response.incomplete``. An event ``response.failed`` is an error, as an event ``error`` is.
* For every other endpoint no end is documented, so a clean end is complete.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from assisters_otel.api import endpoints
from assisters_otel.semconv import attributes as names

if TYPE_CHECKING:
    from assisters_otel.api.event_stream import EventStreamScanner


class BodyEnd(Enum):
    """The ways in which a response body can end.

    Attributes:
        COMPLETE: Its last byte was read.
        BROKEN: An exception came in place of more of it.
        UNREADABLE: The client or an SDK raised an exception for what it had read, before the end.
        CLOSED: The client closed it before its end.
        COLLECTED: The garbage collector found it neither read to its end nor closed.
    """

    COMPLETE = "complete"
    BROKEN = "broken"
    UNREADABLE = "unreadable"
    CLOSED = "closed"
    COLLECTED = "collected"


def stream_outcome(
    events: EventStreamScanner, end: BodyEnd, template: str | None, *, is_delimited: bool
) -> str:
    """Return how a stream ended: the first of `names.STREAM_OUTCOMES` that applies.

    Args:
        events: The scanner that has read it.
        end: How its body ended.
        template: The documented path, or None.
        is_delimited: True if the response's headers show where its body ends.
    """
    events.finish()
    is_unreadable = end is BodyEnd.UNREADABLE  # what follows has been received, and is not read
    if is_unreadable or events.error is not None or events.last.responses_end == "failed":
        return names.STREAM_ERROR
    if events.done or events.last.responses_end:
        return names.COMPLETED
    if end is BodyEnd.COMPLETE:
        has_own_end = template == endpoints.CHAT or events.last.responses_end is not None
        is_finished = is_delimited and events.last.is_finished
        if not has_own_end or is_finished or events.is_undecodable:
            return names.COMPLETED
        return names.TRUNCATED
    if end is BodyEnd.BROKEN:
        return names.STREAM_ERROR
    return names.CANCELLED_STREAM if end is BodyEnd.CLOSED else names.ABANDONED
