"""The arguments of a call, and the answer that its caller expects. Frozen and pure."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from assisters_otel.records import Record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from assisters_otel.api.error_body import Envelope
    from assisters_otel.api.gen_ai_request import Value
    from assisters_otel.api.identity import Entries
    from assisters_otel.api.request import ApiRequest


class CallRequest(Record):
    """The arguments of a call.

    Attributes:
        request: The request that the SDK will send.
        operation: The operation's ``gen_ai.operation.name``, or None.
        model: The model's name, cleaned, or None.
        attributes: The further GenAI attributes of the request.
        baggage: The entries of the app's baggage that the settings name, at the call's start.
    """

    request: ApiRequest
    operation: str | None
    model: str | None
    attributes: Mapping[str, Value] = MappingProxyType({})
    baggage: Entries = ()


class ExpectedAnswer(Record):
    """The answer that the caller of an SDK expects.

    Attributes:
        is_document: True if it is JSON or an event stream. False for texts and bytes, which the SDK
            returns as they are.
        is_read_by_app: True if the app, and not the SDK, reads or parses the body. Then the SDK has
            no result, and the first bytes of the body are kept.
        is_event_stream: True if the app has asked for an event stream.
    """

    is_document: bool = True
    is_read_by_app: bool = False
    is_event_stream: bool = False


RESULT: Final = ExpectedAnswer()
"""A result that the SDK parses before it returns."""

Judge = Callable[[ExpectedAnswer, object], "tuple[Envelope | None, bool] | None"]
"""A function of an SDK's adapter. It gets what is expected and the SDK's result. It returns the
error that the result has in place of what was asked for, or None; and True if the result is an
answer that the app parses itself. None if it could not judge: an object of the app's may raise."""
