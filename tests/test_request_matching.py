"""Which request that is sent in a call's scope is the call's own."""

from __future__ import annotations

import pytest

from assisters_otel.api.request import ApiRequest
from assisters_otel.attempts.request_matching import is_of_call, is_sdk_request

CHAT = ApiRequest("POST", "/v1/chat/completions", "/v1/chat/completions", "api.test", 443)
UNKNOWN = ApiRequest("POST", "/v1/of%20late", None, "api.test", 443)


class Message:
    def __init__(self, body, **headers):
        self._body = body
        self._headers = headers

    def body(self):
        return self._body

    def header(self, name):
        return self._headers.get(name.replace("-", "_"))


@pytest.mark.parametrize(
    ("asked", "sent", "is_own"),
    [
        (CHAT, CHAT, True),
        (CHAT, CHAT._replace(path="/gateway/v1/chat/completions"), True),
        (CHAT, CHAT._replace(method="GET"), False),
        (CHAT, CHAT._replace(template="/v1/embeddings"), False),
        (CHAT, CHAT._replace(template=None), False),
        (UNKNOWN, UNKNOWN, True),
        (UNKNOWN, UNKNOWN._replace(path="/v1/of late"), True),
        (UNKNOWN, UNKNOWN._replace(path="/v1/of"), False),
        (UNKNOWN, UNKNOWN._replace(method="GET"), False),
    ],
)
def test_a_request_with_another_method_or_path_is_none_of_a_call_s(asked, sent, is_own):
    assert is_of_call(asked, sent) is is_own


@pytest.mark.parametrize(
    ("sent", "built", "is_own"),
    [
        (Message(b"{}"), Message(b"{}"), True),
        (Message(b"{}"), Message(b"[]"), False),
        (Message(b"{}", user_agent="sdk"), Message(b"[]", user_agent="sdk"), False),
        (Message(b"{}", x_stainless_lang="x"), Message(b"[]", x_stainless_lang="x"), True),
        (Message(b"{}"), Message(b"[]", x_stainless_lang="x"), False),
        (Message(b"{}", x_stainless_lang="x"), Message(b"[]"), False),
        (Message(b"", user_agent="sdk"), Message(b"", user_agent="sdk"), True),
        (Message(b"", user_agent="sdk"), Message(b"", user_agent="hook"), False),
        (Message(b"", user_agent="sdk"), Message(b"[]", user_agent="sdk"), False),
        (Message(None, content_type="b=1"), Message(None, content_type="b=1"), True),
        (Message(None, content_type="b=1"), Message(None, content_type="b=2"), False),
        (Message(None, user_agent="sdk"), Message(None, user_agent="sdk", content_type="b"), False),
        (Message(None, content_type="b=1"), Message(b"{}", content_type="b=1"), False),
    ],
)
def test_a_request_that_the_sdk_has_not_built_is_none_of_its_call_s(sent, built, is_own):
    assert is_sdk_request(sent, built) is is_own


def test_the_request_that_the_sdk_has_built_is_recognised_without_its_body():
    class Unread(Message):
        def body(self):
            raise AssertionError("read")

    message = Unread(None)

    assert is_sdk_request(message, message)
