"""The arguments of a call."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from assisters_otel.api.gen_ai_request import Value
    from assisters_otel.api.identity import Entries
    from assisters_otel.api.request import ApiRequest


class CallRequest(NamedTuple):
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
