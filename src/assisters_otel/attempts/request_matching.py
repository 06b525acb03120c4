"""The rules by which a request that is sent in a call's scope is one of the call's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

if TYPE_CHECKING:
    from assisters_otel.api.request import ApiRequest, RequestReader

_SDK_MARK: Final = "x-stainless-lang"  # a header of SDKs by Stainless, such as `openai`


def is_same_path(path: str, asked: str) -> bool:
    """Return True if two paths are equal when decoded."""
    return path == asked or unquote(path) == unquote(asked)


def is_of_call(asked: ApiRequest, request: ApiRequest) -> bool:
    """Return True if a request goes where that of a call was to go."""
    if request.method != asked.method or request.template != asked.template:
        return False
    return request.template is not None or is_same_path(request.path, asked.path)


def is_sdk_request(message: RequestReader, own: RequestReader) -> bool:
    """Return True if a request is the one that the SDK has built, also if a hook has changed it."""
    if message == own:  # the same object, as nearly always: no body is read
        return True
    body = message.body()
    if body and body == own.body():
        return True
    if own.header(_SDK_MARK) is not None and message.header(_SDK_MARK) is not None:
        return True
    # Requests without a body differ in their client. Those with a body that can be read only once
    # differ in its boundary.
    name = "content-type" if body is None else "user-agent"
    return body == own.body() and message.header(name) == own.header(name)
